"""Good calls of chapter 14: freezing and cached features, LoRA, recomputation."""
import tempfile
from pathlib import Path

import torch
from calls_binding import Letters  # read before this file
from fuzzed import good
from torch import nn

from mmtutor.freezing import FrozenReport, cached_features, encode, fingerprint, freeze, matcher, read_features, thaw
from mmtutor.lora import LoRALinear, LoRAReport, add_lora, lora_state, merge_lora
from mmtutor.recompute import recompute, recompute_layers
from mmtutor.transformer import Encoder, EncoderLayer, Tokens


class Loudness(nn.Module):
    "An encoder of sounds: the mean of each is its only token."
    def prepare(self, sounds):
        return (torch.stack([sound.float().mean() for sound in sounds]),)

    def forward(self, x):
        return Tokens(x[:, None, None], torch.ones(len(x), 1, dtype=torch.bool))


def _model():
    return nn.ModuleDict({"encoders": Encoder(2, 8, 2), "head": nn.Linear(8, 3)})


@good("freezing.matcher")
def _():
    def used(policy):
        chosen = matcher(_model(), policy)
        return [chosen(name) for name, _ in _model().named_parameters()]
    return used, dict(policy="encoders but last 1 of encoders.layers")


@good("freezing.FrozenReport")
def _():
    def used(**given):
        return str(FrozenReport(**given))
    return used, dict(frozen=("a", "b"), trainable=("c",), asleep=("a",), frozen_numbers=7, trainable_numbers=3)


@good("freezing.freeze")
def _():
    return freeze, dict(model=_model(), policy="encoders, head")


@good("freezing.thaw")
def _():
    model = _model()
    freeze(model, "all")
    return thaw, dict(model=model, policy="head")


@good("freezing.encode")
def _():
    return encode, dict(encoder=Letters(), raw=["one", "seven", "ten"], batch_size=2, progress=False)


@good("freezing.encode of sounds")
def _():
    return encode, dict(encoder=Loudness(), raw=[torch.randn(5), torch.randn(5)], batch_size=2)


@good("freezing.fingerprint")
def _():
    def used(weight):
        encoder = Letters()
        encoder.embedding.weight.data.fill_(weight)
        return fingerprint(encoder)
    return used, dict(weight=0.5)


@good("freezing.cached_features")
def _():
    def used(raw, key, batch_size):
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                found = cached_features(Letters(), raw, key=key, batch_size=batch_size, folder=folder)
        return found
    return used, dict(raw=["one", "seven", "ten"], key="numbers, first version", batch_size=2)


@good("freezing.cached_features of sounds")
def _():
    def used(raw):
        with tempfile.TemporaryDirectory() as folder:
            return cached_features(Loudness(), raw, key="noise", folder=folder, dtype=torch.float16)
    return used, dict(raw=[torch.randn(5), torch.randn(5)])


@good("freezing.read_features")
def _():
    def used(facts):
        with tempfile.TemporaryDirectory() as folder:
            cached_features(Letters(), ["one"], key="numbers", batch_size=2, folder=folder)
            (path,) = Path(folder).iterdir()
            return read_features(path, facts)
    return used, dict(facts={"key": "numbers", "count": 1, "batch_size": 2})


@good("freezing.read_features damaged")
def _():
    def used(where, what):
        with tempfile.TemporaryDirectory() as folder:
            cached_features(Letters(), ["one"], key="numbers", folder=folder)
            (path,) = Path(folder).iterdir()
            content = bytearray(path.read_bytes())
            content[where % len(content)] ^= what % 256
            path.write_bytes(content)
            return read_features(path, {})
    return used, dict(where=0, what=0)


@good("lora.LoRALinear")
def _():
    def used(**given):
        return LoRALinear(nn.Linear(4, 3), **given)(torch.randn(2, 4))
    return used, dict(rank=2, alpha=8.0)


@good("lora.LoRALinear forward")
def _():
    def used(x):
        return layer(x)
    layer = LoRALinear(nn.Linear(4, 3), 2)
    return used, dict(x=torch.randn(2, 5, 4))


@good("lora.LoRAReport")
def _():
    def used(**given):
        return str(LoRAReport(**given))
    return used, dict(wrapped=("a", "b"), trained=3, every=7)


@good("lora.add_lora")
def _():
    def used(policy, **given):
        model = _model()
        return add_lora(model, policy, **given), lora_state(model), model["encoders"](torch.randn(2, 3, 8))
    return used, dict(policy="encoders", rank=2, alpha=8.0)


def _corrected(weight):
    model = _model()
    add_lora(model, "head", rank=1)
    model["head"].up.data.fill_(weight)
    return model


@good("lora.lora_state")
def _():
    def used(weight):
        return lora_state(_corrected(weight))
    return used, dict(weight=0.5)


@good("lora.merge_lora")
def _():
    def used(weight):
        return merge_lora(_corrected(weight))
    return used, dict(weight=0.5)


@good("recompute.recompute")
def _():
    layer = EncoderLayer(8, 2, 8, dropout=0.1)

    def used(x, mask):
        x = x.clone().requires_grad_(x.is_floating_point())
        found = recompute(layer, x, mask)
        found.sum().backward()
        return found.detach(), x.grad
    return used, dict(x=torch.randn(2, 3, 8), mask=torch.tensor([[True] * 3, [True, True, False]]))


@good("recompute.recompute_layers")
def _():
    def used(x, wanted):
        model = Encoder(2, 8, 2)
        recompute_layers(model.layers, wanted)
        return model(x)
    return used, dict(x=torch.randn(2, 3, 8), wanted=True)
