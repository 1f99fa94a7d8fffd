"""The scripts of claims O1 and O2: verdicts follow the figures, the losses asked for are the losses given."""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_O1  # noqa: E402
import claim_O2  # noqa: E402

from mmtutor.multitask import GradNorm, UncertaintyWeighting  # noqa: E402
from mmtutor.objectives import MultiTaskLoss  # noqa: E402


def figures(**by_arm):
    "The same three values in every condition of an arm; 0.5 where none is given."
    found = {arm: by_arm.get(arm, [0.5, 0.5, 0.5]) for arm in claim_O1.ARMS}
    return {arm: {c: {"values": v} for c in claim_O1.CONDITIONS} for arm, v in found.items()}


def test_verdict_of_o1_follows_the_figures():
    assert claim_O1.verdict(figures()).startswith("not resolved")
    best, worst = [0.9, 0.91, 0.9], [0.1, 0.11, 0.1]
    every = {arm: best for arm in claim_O1.MANY}
    assert claim_O1.verdict(figures(**every)).startswith("holds: ahead")
    some = claim_O1.verdict(figures(**{"five tasks, GradNorm": best}))
    assert some.startswith("holds when") and "GradNorm on shifted" in some and "uncertainty" not in some
    both = claim_O1.verdict(figures(**{"five tasks, GradNorm": best, "five tasks, fixed sum": worst}))
    assert "ahead with GradNorm" in both and "behind with fixed sum" in both
    assert claim_O1.verdict(figures(**{"five tasks, GradNorm": worst})).startswith("fails")
    assert claim_O1.verdict(figures(**{"five tasks, GradNorm": [0.1, 0.9, 0.6]})).startswith("not resolved")


def test_verdict_of_o2_follows_the_figures():
    keys = [f"projection/R@10/{a} → {b}" for a, b in claim_O2.WAYS]
    words = dict.fromkeys([*keys, "projection/gap", "clean/group"], "not resolved")
    said = {"without odd": dict(words), "with odd": dict(words)}
    assert claim_O2.verdict(said).startswith("not resolved")
    for effect in said.values():
        effect.update(dict.fromkeys(keys, "ahead"))
    said["with odd"]["projection/gap"] = said["without odd"]["projection/gap"] = "behind"
    assert "in all six directions; the modality gap is smaller" in claim_O2.verdict(said)
    said["with odd"][keys[0]] = "not resolved"
    assert claim_O2.verdict(said).startswith("holds when")


def test_arms_differ_in_their_losses_only():
    assert [type(claim_O1.objective(*arm)) for arm in claim_O1.ARMS.values()] == [
        MultiTaskLoss, MultiTaskLoss, MultiTaskLoss, UncertaintyWeighting, GradNorm]
    assert all("degraded" not in tasks for arm, (tasks, _) in claim_O1.ARMS.items() if arm != claim_O1.CONTROL)
    for ours, theirs in claim_O2.EFFECTS.values():
        assert set(claim_O2.ARMS[ours]) - set(claim_O2.ARMS[theirs]) == {"name", "pairs"}


def test_geometry_of_one_point_and_of_perfect_pairs():
    torch.manual_seed(0)
    x = torch.randn(12, 6)
    found = claim_O2.geometry({"text": x, "picture": x, "sound": x})
    assert found["R@1"] == found["MRR"] == 1 and abs(found["gap"]) < 1e-9 and abs(found["alignment"]) < 1e-9
    assert claim_O2.geometry({m: x[:1].expand(12, 6) for m in ("text", "picture", "sound")})["R@10"] == 0
