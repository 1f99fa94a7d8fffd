"""A small model of transformers in a folder, copies of it, a hub that gives it or nothing, and what layers give."""
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn


def save_random(kind: str, folder: Path, **settings) -> nn.Module:
    "A random model, `Bert` say, with no parameter at its default; saved into the folder."
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                                                    intermediate_size=48, layer_norm_eps=1e-5, **settings)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return model


def copied(source: Path, target: Path, without: str = "") -> None:
    "The files of a model, for a test to damage."
    for path in source.iterdir():
        if path.name != without:
            shutil.copy(path, target)


def hub(monkeypatch, folder: Path | None) -> dict:
    "A hub that gives `folder` for any name, or cannot be reached; what it was asked is written into the dict."
    asked = {}

    def download(name: str, **options) -> str:
        if folder is None:
            raise ConnectionError("no route")
        asked.update(options, name=name)
        return str(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def layer_outputs(layers: Iterable[nn.Module], call: Callable[[], object]) -> list:
    "What these layers give while `call` runs."
    found = []
    hooks = [layer.register_forward_hook(lambda m, i, out: found.append(out)) for layer in layers]
    with torch.no_grad():
        call()
    [hook.remove() for hook in hooks]
    return found
