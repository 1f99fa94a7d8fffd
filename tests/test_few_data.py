"""The experiments behind claims T4 and T7: what is chosen, what is trained on, verdicts that follow the figures."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fusing import toy_bank

from mmtutor.course import records

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_T4  # noqa: E402
import claim_T7  # noqa: E402
import few_data  # noqa: E402


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    return {split: toy_bank(n) for split, n in (("train", 64), ("validation", 16), ("test", 16))}


def test_fit_learns_the_rows_it_is_given_and_repeats(found):
    rows, labels = np.arange(16), np.arange(16) % 8
    one, two = (few_data.fit(found, rows, labels, 0, steps=60) for _ in range(2))
    assert one == two and one["last/train"] > 0.9, "random features can be learned by heart, and only so"
    assert one["last/test"] < 0.5 and one["last/gap"] == pytest.approx(one["last/train"] - one["last/test"])
    other = few_data.fit(found, rows, (labels + 1) % 8, 0, steps=60)
    assert other["last/train"] > 0.9, "labels are learned as given"


def test_answers_may_be_held_to_some_groups(found):
    rows, among = torch.arange(16), torch.tensor([2, 5])
    model = few_data.Light(few_data.ASKED, few_data.FUSION)
    share = few_data.right(model, found["test"], rows, found["test"].group, among)
    assert share <= 0.25, "six of eight groups cannot be named"
    figures = few_data.fit(found, np.arange(8), np.full(8, 2), 0, steps=40, among=among)
    assert figures["last/test"] == pytest.approx(0.5), "asked about two groups, and always the first is said"


def test_features_weigh_both_modalities_alike(found):
    x = few_data.features(found["train"])
    picture = found["train"].kinds["clean"]["picture"].values.shape[-1]
    assert len(x) == 64 and np.square(x[:, :picture]).sum(1).mean() == pytest.approx(1)
    assert np.square(x[:, picture:]).sum(1).mean() == pytest.approx(1)


@pytest.mark.parametrize("rule", claim_T4.RULES)
def test_every_rule_chooses_different_rows(rule):
    rng = np.random.default_rng(0)
    rows = claim_T4.choose(rule, 8, np.arange(64) % 8, rng.normal(size=(64, 3)), np.random.default_rng(1))
    assert len(set(rows.tolist())) == 8
    if rule == "stratified":
        assert len(set((rows % 8).tolist())) == 8


def test_what_is_wrong_and_what_is_left_out(found, monkeypatch):
    seen = {}

    def note(banks, rows, labels, seed, *, steps, among=None):
        seen[len(seen)] = (np.asarray(rows), np.asarray(labels), among)
        return {"best/test": 0.5}
    monkeypatch.setattr(claim_T7, "fit", note)
    group = found["train"].group.numpy()
    names = list(claim_T7.quality(0, found))
    for name, (rows, labels, _) in zip(names, seen.values(), strict=True):
        percent = 0 if "none" in name else int(name.split(", ")[1].split(" %")[0])
        wrong = round(percent / 100 * 64)
        if name.startswith("all"):
            assert len(rows) == 64 and (labels != group[rows]).sum() == wrong
        else:
            assert len(rows) == 64 - wrong and (labels == group[rows]).all()
    seen.clear()
    asked = claim_T7.topic(group)
    for name, (rows, labels, among) in zip(claim_T7.relevance(0, found), seen.values(), strict=True):
        assert len(set(rows.tolist())) == len(rows) and torch.equal(among, torch.as_tensor(asked))
        off = ~np.isin(group[rows], asked)
        none, all_of_them = ("a quarter", "and as many of the same groups"), "and all of the other groups"
        assert off.sum() == (0 if name in none else 32 if name == all_of_them else 8)
        assert np.isin(labels, asked).all() == (not off.any() or "labelled as ours" in name)


def figure(mean):
    return records.spread([mean, mean + 0.01, mean - 0.01])


def t4(small, gap):
    rows = {f"{rule}, {p} %": {"best/test": figure(small), "best/gap": figure(gap)}
            for rule in claim_T4.RULES for p in claim_T4.PERCENT}
    return rows | {"all, 100 %": {"best/test": figure(0.6), "best/gap": figure(0.2)}}


def test_verdict_of_t4_follows_the_figures():
    say = lambda figures: claim_T4.verdict(figures, claim_T4.compared(figures))
    assert say(t4(0.4, 0.5)).startswith("fails: every small set was behind")
    assert say(t4(0.6, 0.2)).startswith("holds when the set is one of random, 5 %")
    mixed = t4(0.6, 0.5)
    assert say(mixed).startswith("holds when only accuracy is asked") and "in 9 of 9" in say(mixed)
    mixed["k-centre, 5 %"]["best/test"] = figure(0.9)
    assert "equal size: k-centre, 5 %" in say(mixed)


def test_verdict_of_t7_follows_the_figures():
    names = [f"{p} % wrong against {what}" for p in claim_T7.NOISE for what in ("none", "leaving them out")]
    words = dict.fromkeys(names, "behind") | {
        f"{what} added": word for what, word in (("as many of the same groups", "ahead"),
                                                  ("as many of other groups", "not resolved"),
                                                  ("as many of other groups, labelled as ours", "behind"))}
    assert claim_T7.verdict(words).startswith("holds: wrong labels were behind none at 10 %, 20 %, 40 %")
    some = words | {"10 % wrong against leaving them out": "not resolved"}
    assert claim_T7.verdict(some).startswith("holds when the labels are wrong enough")
    none = words | dict.fromkeys(names, "not resolved") | {"as many of other groups, labelled as ours added": "ahead"}
    assert claim_T7.verdict(none).startswith("not resolved at this scale") and "at no level" in claim_T7.verdict(none)
