"""Good calls of chapter 11: the assembled model, kept and read again."""
import json
import tempfile
from pathlib import Path

import torch
from fuzzed import good, left_out

from mmtutor.multimodal import MultimodalConfig, MultimodalModel, drop_modalities, load_model, save_model
from mmtutor.transformer import Tokens

left_out("a named tuple that holds what it is given: nothing is computed", "multimodal.Output")
WIDTHS = {"text": 5, "picture": 4}
SMALL = dict(dim=8, fusion="decoder", depth=1, heads=2, queries=2, ask=("text",), hidden=8, dropout=0.1,
             tasks={"group": 3, "odd": 4}, embedding=6, modality_dropout=0.2, feature_dropout=0.1, max_tokens=4)


def some(widths=WIDTHS):
    return {m: Tokens(torch.randn(2, 3, width), torch.ones(2, 3, dtype=torch.bool)) for m, width in widths.items()}


@good("multimodal.MultimodalConfig")
def _():
    def used(widths, **given):
        return MultimodalModel(MultimodalConfig(widths, **given))(some(widths))
    return used, dict(widths=WIDTHS, **SMALL)


@good("multimodal.drop_modalities", swallows=("share",))
def _():
    return drop_modalities, dict(tokens=some(), share=0.5)


@good("multimodal.MultimodalModel", swallows=("inputs", "present"))  # behind the masks
def _():
    present = {"text": torch.tensor([True, False])}
    return MultimodalModel(MultimodalConfig(WIDTHS, **SMALL)).eval(), dict(inputs=some(), present=present)


@good("multimodal.MultimodalModel of values")
def _():
    model = MultimodalModel(MultimodalConfig(WIDTHS, **SMALL)).eval()

    def used(text, picture):
        inputs = {"text": Tokens(text, torch.ones(2, 3, dtype=torch.bool)),
                  "picture": Tokens(picture, torch.ones(2, 3, dtype=torch.bool))}
        return model(inputs)
    return used, dict(text=torch.randn(2, 3, 5), picture=torch.randn(2, 3, 4))


@good("multimodal.MultimodalModel calibrated", swallows=("inputs",))  # behind the masks
def _():
    def used(inputs):
        model = MultimodalModel(MultimodalConfig(WIDTHS, **SMALL)).eval()
        model.calibrate(inputs)
        return model(some()), model.state_dict()
    return used, dict(inputs=some())


@good("multimodal.MultimodalModel one alone", swallows=("tokens",))  # behind the mask
def _():
    model = MultimodalModel(MultimodalConfig(WIDTHS, **SMALL)).eval()
    return model.embed, dict(modality="text", tokens=some()["text"])


@good("multimodal.save_model", raises=(OSError,))
def _():
    def used(folder):
        with tempfile.TemporaryDirectory() as home:
            model = MultimodalModel(MultimodalConfig(WIDTHS, **SMALL))
            return load_model(save_model(model, Path(home) / folder)).state_dict()
    return used, dict(folder="model")


@good("multimodal.load_model", raises=(OSError,))
def _():
    def used(folder):
        with tempfile.TemporaryDirectory() as home:
            save_model(MultimodalModel(MultimodalConfig(WIDTHS, **SMALL)), Path(home) / "model")
            return load_model(f"{home}/{folder}").state_dict()
    return used, dict(folder="model")


@good("multimodal.load_model of another configuration")
def _():
    def used(about):
        with tempfile.TemporaryDirectory() as home:
            save_model(model, home)
            (Path(home) / "config.json").write_text(json.dumps(about))
            return load_model(home).state_dict()
    model = MultimodalModel(MultimodalConfig(WIDTHS, **SMALL))
    with tempfile.TemporaryDirectory() as home:
        about = json.loads((save_model(model, home) / "config.json").read_text())
    return used, dict(about=about)


@good("multimodal.load_model damaged")
def _():
    def used(file, where, what):
        with tempfile.TemporaryDirectory() as home:
            path = save_model(model, home) / ("config.json", "weights.safetensors")[file % 2]
            content = bytearray(path.read_bytes())
            content[where % len(content)] ^= what % 256
            path.write_bytes(content)
            return load_model(home).state_dict()
    model = MultimodalModel(MultimodalConfig(WIDTHS, **SMALL))
    return used, dict(file=0, where=7, what=0)
