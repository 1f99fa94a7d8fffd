"""The experiments behind claims F1, F3 and F4: fair budgets, fair tasks, verdicts that follow the figures."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmtutor.inputs import MODALITIES, Bank, Cached
from mmtutor.transformer import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_F1  # noqa: E402
import claim_F3  # noqa: E402
import claim_F4  # noqa: E402
import fusing  # noqa: E402
import fusion_tasks  # noqa: E402


def toy_bank(items=12, levels=("high",)):
    "Random features of the right widths."
    def variant(m):
        width = sum(w for w, level in zip(fusing.WIDTHS[m], fusing.LEVELS) if level in levels)
        return Tokens(torch.randn(items, 3, width), torch.ones(items, 3, dtype=torch.bool))
    kinds = {kind: {m: Cached([variant(m), variant(m)]) for m in MODALITIES} for kind in ("clean", "degraded")}
    return Bank(None, torch.arange(items) % 8, torch.arange(items), kinds)


@pytest.mark.parametrize("name", claim_F3.VARIANTS)
def test_all_variants_have_the_same_budget(name):
    model = claim_F3.build(name)
    assert abs(model.trunk() - claim_F3.BUDGET) < 0.001 * claim_F3.BUDGET
    levels = claim_F3.VARIANTS[name][1]
    found = claim_F3.measures(model.eval(), toy_bank(levels=levels))
    assert set(found) == set(claim_F3.TASKS) and all(0 <= value <= 1 for value in found.values())


def test_levels_are_swapped_and_dropped_together():
    ready = {name: Tokens(torch.arange(8.0)[:, None, None].expand(8, 2, 1), torch.ones(8, 2, dtype=torch.bool))
             for name in ("text_low", "picture_low", "sound_low", *MODALITIES)}
    mixed, odd = fusing.swapped(ready, MODALITIES, torch.Generator().manual_seed(0))
    for i, m in enumerate(MODALITIES):
        changed = mixed[m].values[:, 0, 0] != torch.arange(8.0)
        assert torch.equal(changed, odd == i) and torch.equal(mixed[m].values, mixed[f"{m}_low"].values)
    left = fusing.without_some(ready, 0.5)
    assert all(torch.equal(left[m].mask, left[f"{m}_low"].mask) for m in MODALITIES)
    assert torch.stack([left[m].mask.any(1) for m in MODALITIES]).any(0).all()


def test_training_lowers_the_loss_and_repeats():
    items, losses = toy_bank(), []
    for _ in range(2):
        torch.manual_seed(0)
        model = fusing.train(fusing.Light(MODALITIES, "concat", hidden=8), items, seed=0, rate=3e-3, epochs=2)
        losses.append(fusing.loss_of(model, items, torch.arange(12), torch.Generator().manual_seed(1)).item())
    assert losses[0] == losses[1]


def test_noise_and_damage_reach_only_whom_they_should():
    a, b = (Tokens(torch.full((2, n, 1), float(n)), torch.ones(2, n, dtype=torch.bool)) for n in (2, 3))
    mixed = claim_F4.either(torch.tensor([True, False]), a, b)
    assert mixed.mask.sum(1).tolist() == [2, 3] and mixed.values[:, 0, 0].tolist() == [2.0, 3.0]
    worse = claim_F4.noisy(b, torch.tensor([0.0, 2.0]), 1.5, torch.Generator().manual_seed(0))
    assert torch.equal(worse.values[0], b.values[0]) and (worse.values[1] != b.values[1]).all()
    assert (worse.values[1] == worse.values[1, :1]).all(), "the same noise for all tokens of a sample"


def figures(**changed):
    return {"values": changed.get("values", [0.5, 0.5, 0.5]), "mean": float(np.mean(changed.get("values", [0.5])))}


def test_the_verdict_of_F1_follows_the_figures():
    found = {f"{split}/{task}/{'+'.join(s)}": figures() for split in ("validation", "test") for task in claim_F1.TASKS
             for s in claim_F1.SUBSETS}
    assert claim_F1.verdict(found).startswith("not resolved")
    found |= {key: figures(values=[0.7, 0.71, 0.72]) for key in found if key.endswith(claim_F1.ALL)}
    said = claim_F1.verdict(found)
    assert said.startswith("holds when") and "clean, text+picture" in said
    found |= {key: figures(values=[0.7, 0.71, 0.72]) for key in found if "+" in key}
    assert claim_F1.verdict(found).startswith("holds: every pair")


def test_the_verdict_of_F3_follows_the_figures():
    found = {f"{name}/test/{task}": figures() for name in claim_F3.VARIANTS for task in claim_F3.TASKS}
    assert claim_F3.verdict(found).startswith("not resolved")
    found["gated/test/odd"] = figures(values=[0.7, 0.71, 0.72])
    assert claim_F3.verdict(found).startswith("holds when") and "gated ahead in odd" in claim_F3.verdict(found)
    found["gated/test/clean"] = figures(values=[0.3, 0.31, 0.32])
    assert claim_F3.verdict(found).startswith("fails") and "behind in clean" in claim_F3.verdict(found)
    for name in ("hierarchical", "coattention", "gated"):
        found |= {f"{name}/test/{task}": figures(values=[0.7, 0.71, 0.72]) for task in claim_F3.TASKS}
    assert claim_F3.verdict(found).startswith("holds: each")


def test_the_verdict_of_F4_follows_the_figures():
    found = {f"gate/{way}/{m}/{level}": figures() for way in claim_F4.WAYS for m in MODALITIES
             for level in ("0", "4", "real")}
    assert claim_F4.verdict(found).startswith("not resolved")
    lower = figures(values=[0.2, 0.21, 0.22])
    found["gate/noise/text/4"] = lower
    assert "not for every modality" in claim_F4.verdict(found)
    found |= {f"gate/noise/{m}/4": lower for m in MODALITIES} | {f"gate/degraded/{m}/real": lower for m in MODALITIES}
    assert claim_F4.verdict(found).startswith("holds when such damage is met in training")
    found |= {f"gate/clean/{m}/{level}": lower for m in MODALITIES for level in ("4", "real")}
    assert claim_F4.verdict(found).startswith("holds: every gate fell")


def test_toy_tasks_are_what_they_claim():
    rng = torch.Generator().manual_seed(0)
    picture, sound, answer = fusion_tasks.lookup(500, rng)
    cell = (picture[..., :6] == sound).all(-1)
    assert (cell.sum(1) == 1).all()
    assert torch.equal(picture[..., 6:][cell].argmax(1), answer)
    picture, sound, same = fusion_tasks.agree(500, rng)
    assert torch.equal((picture[:, 0, :6] == sound[:, 0]).all(1).long(), same) and 0.4 < same.float().mean() < 0.6


@pytest.mark.parametrize("name", fusion_tasks.FUSIONS)
def test_toys_are_of_equal_size(name):
    size = sum(p.numel() for p in fusion_tasks.Toy(name).fusion.parameters())
    assert abs(size - fusion_tasks.BUDGET) < 0.005 * fusion_tasks.BUDGET
