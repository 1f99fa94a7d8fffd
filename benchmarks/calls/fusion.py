"""Good calls of chapter 9: the fusions, and what they are built of."""
import torch
from fuzzed import good

from mmtutor.crossmodal import BottleneckFusion, CoAttentionFusion, HierarchicalFusion, side_by_side
from mmtutor.fusion import SharedFusionDecoder, equal_hidden, fusion_cost, make_fusion
from mmtutor.pooled import (
    ConcatFusion,
    GatedFusion,
    ModalityTokens,
    ScoreFusion,
    mean_present,
    mean_token,
    real_tokens,
    same_width,
)
from mmtutor.transformer import Tokens

NAMES = ["text", "picture"]
HEADS = {"heads": 2, "hidden": 8, "dropout": 0.1}
OPTIONS = {
    ScoreFusion: {"hidden": 8, "dropout": 0.1},
    ConcatFusion: {"hidden": 8, "dropout": 0.1},
    GatedFusion: {"hidden": 6, "dropout": 0.1},
    CoAttentionFusion: {"depth": 1, **HEADS},
    BottleneckFusion: {"depth": 2, "bottlenecks": 2, **HEADS},
    HierarchicalFusion: {"levels": [["picture"], ["text"]], "depth": 1, "queries": 2, **HEADS},
    SharedFusionDecoder: {"depth": 1, "queries": 2, "ask": ["text"], **HEADS},
}


def some(widths=None, padded=True):
    "Tokens of two samples; the last one of the second text is padding."
    found = {m: Tokens(torch.randn(2, 3, width), torch.ones(2, 3, dtype=torch.bool))
             for m, width in (widths or dict.fromkeys(NAMES, 8)).items()}
    if padded:
        found["text"].mask[1, 2] = False
    return found


@good("pooled.real_tokens", swallows=("tokens",))  # behind the mask
def _():
    return real_tokens, dict(tokens=some(), widths=dict.fromkeys(NAMES, 8), operation="reading")


@good("pooled.same_width")
def _():
    return same_width, dict(operation="fusing", modalities=NAMES, dim=8, dropout=0.1, hidden=6)


@good("pooled.mean_token", swallows=("tokens",))  # behind the mask
def _():
    return mean_token, dict(tokens=some()["text"])


@good("pooled.mean_token of values", keep=("mask",))
def _():
    def used(values, mask):
        return mean_token(Tokens(values, mask))
    return used, dict(values=torch.randn(2, 3, 8), mask=torch.ones(2, 3, dtype=torch.bool))


@good("pooled.mean_present")
def _():
    present = torch.tensor([[True, False], [True, True], [False, False]])
    return mean_present, dict(states=torch.randn(3, 2, 4), present=present)


@good("pooled.ModalityTokens")
def _():
    def used(widths, dim, max_tokens):
        return ModalityTokens(widths, dim, max_tokens=max_tokens)(some(widths, padded=False))
    return used, dict(widths={"text": 5, "picture": 4}, dim=6, max_tokens=4)


@good("pooled.ModalityTokens forward", swallows=("tokens",))  # behind the mask
def _():
    widths = {"text": 5, "picture": 4}
    return ModalityTokens(widths, 6, max_tokens=4), dict(tokens=some(widths))


def fusion_calls(design, name, options):
    "The constructor with a use, the module, and the module of two modalities that hide nothing."
    @good(name)
    def _():
        def used(modalities, dim, **given):
            return design(modalities, dim, **given)(some(dict.fromkeys(modalities, dim), padded=False))
        return used, dict(modalities=NAMES, dim=8, **options)

    @good(f"{name} forward", swallows=("tokens",))  # behind the mask
    def _():
        return design(NAMES, 8, **options), dict(tokens=some(), need_weights=True)

    @good(f"{name} of values")
    def _():
        fusion, mask = design(NAMES, 8, **options).eval(), torch.ones(2, 3, dtype=torch.bool)

        def used(text, picture):
            return fusion({"text": Tokens(text, mask), "picture": Tokens(picture, mask)})
        return used, dict(text=torch.randn(2, 3, 8), picture=torch.randn(2, 3, 8))


for design, options in OPTIONS.items():
    fusion_calls(design, f"{design.__module__.rpartition('.')[2]}.{design.__name__}", options)


@good("crossmodal.side_by_side", swallows=("like",))  # only its shape counts
def _():
    return side_by_side, dict(tokens=list(some().values()), like=torch.randn(2, 3, 8))


@good("fusion.make_fusion")
def _():
    def used(name, modalities, dim, **given):
        return make_fusion(name, modalities, dim, **given)(some(dict.fromkeys(modalities, dim), padded=False))
    return used, dict(name="gated", modalities=NAMES, dim=8, hidden=6, dropout=0.1)


@good("fusion.fusion_cost", swallows=("tokens",))  # it counts, whatever the numbers are
def _():
    return fusion_cost, dict(fusion=SharedFusionDecoder(NAMES, 8, depth=1, heads=2, queries=2), tokens=some())


@good("fusion.equal_hidden")
def _():
    return equal_hidden, dict(name="decoder", modalities=NAMES, dim=8, parameters=3000, depth=1, heads=2, queries=2)
