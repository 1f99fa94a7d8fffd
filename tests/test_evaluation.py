"""Evaluation: counts against scikit-learn and torchmetrics, intervals against scipy and by simulation, bad input."""
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_reciprocal_rank

from mmtutor.evaluation import (
    SUMMARY,
    Estimate,
    bootstrap,
    by_class,
    compare,
    evaluate,
    in_units,
    resampled,
    retrieval,
    share,
    summary,
)
from mmtutor.retrieval import ranks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_T9 as bench  # noqa: E402

bad_input = pytest.mark.bad_input
quick = settings(deadline=None, max_examples=40)
NAN = math.nan
answered = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def some(items: int, classes: int, seed: int = 0, skill: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    knows = torch.rand(items, generator=generator) < skill
    return torch.where(knows, labels, torch.randint(classes, (items,), generator=generator)), labels


class TestCounts:
    @quick
    @given(answered)
    def test_scikit_learn_counts_the_same(self, pairs):
        guess, labels = torch.tensor(pairs).T
        there = sorted({*guess.tolist(), *labels.tolist()})
        expected = np.stack(precision_recall_fscore_support(labels, guess, labels=there, zero_division=0)[:3])
        found = by_class(guess, labels, 5)
        assert np.allclose(found[:, there], expected, atol=1e-12)
        absent = [c for c in range(5) if c not in there]
        assert found[:, absent].isnan().all() and not found[:, there].isnan().any()
        wanted = [accuracy_score(labels, guess), *expected.mean(1)]
        assert np.allclose(summary(guess, labels, 5), wanted, atol=1e-12)

    @quick
    @given(answered)
    def test_torchmetrics_counts_the_same(self, pairs):
        guess, labels = torch.tensor(pairs).T
        theirs = [f(guess, labels, 5, average="macro").item()
                  for f in (multiclass_precision, multiclass_recall, multiclass_f1_score)]
        assert np.allclose(summary(guess, labels, 5)[1:], theirs, atol=1e-6)

    @quick
    @given(answered, st.permutations(range(5)))
    def test_names_and_order_do_not_matter(self, pairs, names):
        guess, labels = torch.tensor(pairs).T
        renamed = torch.tensor(names)
        assert torch.allclose(summary(guess, labels, 5), summary(renamed[guess], renamed[labels], 5))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        assert torch.allclose(summary(guess, labels, 5), summary(guess[order], labels[order], 5))

    def test_the_ten_items_of_the_chapter(self):
        guess, labels = torch.tensor([0] * 6 + [1, 1, 0, 0]), torch.tensor([0] * 7 + [1, 1, 2])
        assert by_class(guess, labels, 3)[2].tolist() == pytest.approx([0.8, 0.5, 0.0])
        assert summary(torch.zeros(10, dtype=torch.long), labels, 3).tolist()[3] == pytest.approx(14 / 17 / 3)


class TestIntervals:
    def test_a_share_has_wilsons_interval_by_its_formula(self):
        for right, n in ((0, 7), (7, 7), (13, 40), (170, 259)):
            found, p, z = share(torch.arange(n) < right), right / n, stats.norm.ppf(0.975)
            middle, half = p + z**2 / 2 / n, z * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
            assert found.value == p
            assert (found.low, found.high) == pytest.approx(
                ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), abs=1e-9)

    def test_the_bootstrap_is_near_the_normal_interval_of_a_mean(self):
        values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found, error = bootstrap(lambda rows: values[rows].mean(), 400, resamples=4000), values.std() / 20
        assert found.value == pytest.approx(values.mean().item(), abs=1e-12)
        assert (found.high - found.low) == pytest.approx(2 * 1.96 * error.item(), rel=0.05)

    def test_it_agrees_with_scipy(self):
        values = np.random.default_rng(0).exponential(size=60)
        theirs = stats.bootstrap((values,), np.median, method="percentile", n_resamples=4000, rng=1).confidence_interval
        ours = bootstrap(lambda rows: np.median(values[rows.numpy()]), 60, resamples=4000)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.06)

    @pytest.mark.slow
    def test_it_holds_the_truth_as_often_as_it_says(self):
        "Macro F1 of 120 answers: 200 tests from one population; the truth is that of a million."
        def draw(items, seed):
            return some(items, 3, seed, skill=0.5)
        truth = summary(*draw(1_000_000, 999), 3)[3].item()
        held = 0
        for seed in range(200):
            guess, labels = draw(120, seed)
            found = bootstrap(lambda rows, g=guess, t=labels: summary(g[rows], t[rows], 3)[3], 120, resamples=200)
            held += found.low <= truth <= found.high
        assert 0.90 <= held / 200 <= 0.99

    def test_units_are_drawn_whole(self):
        units = ["b", "a", "b", "c", "a", "b"]
        parts = in_units(6, units, "x")
        assert [p.tolist() for p in parts] == [[0, 2, 5], [1, 4], [3]]
        for rows in resampled(parts, 20, 0):
            count = torch.bincount(rows, minlength=6)
            assert count[0] == count[2] == count[5] and count[1] == count[4] and count[[0, 1, 3]].sum() == 3

    def test_copies_change_nothing_when_they_are_units(self):
        right = (torch.rand(50, generator=torch.Generator().manual_seed(1)) < 0.6).double()
        once = bootstrap(lambda rows: right[rows].mean(), 50)
        copies = right.repeat_interleave(3)
        of = lambda rows: copies[rows].mean()
        assert bootstrap(of, 150, units=torch.arange(50).repeat_interleave(3)) == pytest.approx(once, abs=1e-12)
        narrow = bootstrap(of, 150)
        assert narrow.high - narrow.low < 0.7 * (once.high - once.low)

    def test_a_wider_level_is_wider_and_a_seed_repeats(self):
        values = torch.arange(30.0)
        of = lambda rows: values[rows].mean()
        one, same, other = (bootstrap(of, 30, seed=s) for s in (0, 0, 1))
        wide = bootstrap(of, 30, level=0.99)
        assert one == same != other and wide.low < one.low < one.high < wide.high

    def test_it_reads_well(self):
        assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
        assert str(Estimate(0.5, NAN, NAN)) == "0.500 [too few]" and str(Estimate(NAN, NAN, NAN)) == "none"


class TestEvaluate:
    def test_all_of_it_on_one_example(self):
        guess, labels = some(150, 4)
        scores = torch.nn.functional.one_hot(guess, 4).double()
        report = evaluate(scores, labels, classes=["a", "b", "c", "d"], resamples=200)
        assert torch.equal(report.confusion, torch.from_numpy(confusion_matrix(labels, guess)))
        assert [report.overall[m].value for m in SUMMARY] == pytest.approx(summary(guess, labels, 4).tolist())
        three = by_class(guess, labels, 4)
        for i, name in enumerate("abcd"):
            assert [e.value for e in report.by_class[name].values()] == pytest.approx(three[:, i].tolist())
            assert all(e.low <= e.value <= e.high for e in report.by_class[name].values())
        assert report.overall["accuracy"] == share(guess == labels) and report.n == 150
        again = evaluate(guess, labels, classes=4, resamples=200)
        assert again.overall == report.overall
        assert "150 items" in str(report) and "macro F1" in str(report) and str(report).count("\n") == 4

    def test_groups_are_evaluated_as_if_alone(self):
        guess, labels = some(90, 3)
        groups = np.array(["x", "y", "z"]).repeat([60, 29, 1])
        report = evaluate(guess, labels, classes=3, groups=groups, resamples=100)
        assert list(report.by_group) == ["x", "y", "z"]
        alone = evaluate(guess[:60], labels[:60], classes=3, resamples=100)
        assert report.by_group["x"]["accuracy"] == alone.overall["accuracy"]
        assert report.by_group["x"]["macro F1"].value == alone.overall["macro F1"].value
        assert math.isnan(report.by_group["z"]["macro F1"].low), "a single item has no interval"
        worst = min("xyz", key=lambda g: (guess == labels).numpy()[groups == g].mean())
        assert report.worst() == worst

    def test_units_reach_overall_and_groups(self):
        guess, labels = (x.repeat_interleave(4) for x in some(60, 3))
        units, groups = torch.arange(60).repeat_interleave(4), ["a"] * 120 + ["b"] * 120
        with_units = evaluate(guess, labels, classes=3, groups=groups, units=units, resamples=300)
        without = evaluate(guess, labels, classes=3, groups=groups, resamples=300)
        width = lambda e: e.high - e.low
        for one, two in ((with_units.overall, without.overall), (with_units.by_group["b"], without.by_group["b"])):
            assert one["accuracy"].value == two["accuracy"].value
            assert all(width(one[m]) > 1.5 * width(two[m]) for m in ("accuracy", "macro F1"))

    def test_a_class_that_is_nowhere_has_no_figures_and_harms_none(self):
        guess, labels = some(40, 3)
        report = evaluate(guess, labels, classes=4, resamples=100)
        assert all(math.isnan(e.value) for e in report.by_class["3"].values())
        assert report.overall["macro F1"].value == pytest.approx(
            evaluate(guess, labels, classes=3, resamples=100).overall["macro F1"].value)

    def test_labels_of_one_class_alone(self):
        report = evaluate(torch.tensor([0, 0, 0, 1]), torch.zeros(4, dtype=torch.long), classes=2, resamples=100)
        assert report.overall["accuracy"].value == 0.75 and report.overall["macro recall"].value == 0.375

    def test_of_equal_scores_the_first_class_wins_and_infinity_is_a_score(self):
        scores = torch.tensor([[1.0, 1.0, 0.0], [-math.inf, -math.inf, 0.0]])
        assert evaluate(scores, torch.tensor([0, 2]), resamples=100).overall["accuracy"].value == 1


class TestCompare:
    def test_mcnemar_is_the_coin_of_scipy(self):
        a, labels = some(80, 3, 1, 0.7)
        b, _ = some(80, 3, 1, 0.4)
        found = compare(a, b, labels, classes=3, resamples=100)
        only = [((x == labels) & (y != labels)).sum().item() for x, y in ((a, b), (b, a))]
        assert [found.only_a, found.only_b] == only
        assert found.mcnemar == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)

    def test_the_permutation_test_agrees_with_scipy(self):
        a, labels = some(100, 3, 2, 0.65)
        b = torch.where(torch.rand(100, generator=torch.Generator().manual_seed(3)) < 0.8, a, (a + 1) % 3)
        gain = ((a == labels).double() - (b == labels).double()).numpy()
        theirs = stats.permutation_test((gain, np.zeros(100)), lambda x, y: (x - y).mean(), n_resamples=4000,
                                        permutation_type="samples", rng=0).pvalue
        ours = compare(a, b, labels, classes=3, resamples=4000)
        assert ours.permutation == pytest.approx(theirs, abs=0.03)
        assert ours.permutation == pytest.approx(ours.mcnemar, abs=0.03), "for accuracy the two ask the same"

    def test_what_chance_alone_brings_is_called_so(self):
        "Two equally good models: p below 0.1 in about a tenth of the tests."
        low = 0
        for seed in range(200):
            generator = torch.Generator().manual_seed(seed)
            labels = torch.zeros(100, dtype=torch.long)
            a, b = ((torch.rand(100, generator=generator) < 0.4).long() for _ in range(2))
            low += compare(a, b, labels, classes=2, resamples=100).permutation <= 0.1
        assert 0.03 <= low / 200 <= 0.16

    def test_pairing_narrows_and_sides_exchange(self):
        a, labels = some(200, 4, 5, 0.7)
        b = a.clone()
        b[:15] = (labels[:15] + 1) % 4
        one, other = compare(a, b, labels, classes=4), compare(b, a, labels, classes=4)
        assert one.difference.value == -other.difference.value and one.only_a == other.only_b
        assert one.permutation == other.permutation and one.mcnemar == other.mcnemar < 0.01
        alone = share(a == labels)
        assert one.difference.high - one.difference.low < 0.6 * (alone.high - alone.low)

    def test_the_same_model_twice(self):
        a, labels = some(30, 3)
        found = compare(a, a, labels, classes=3, resamples=100)
        assert found.difference == Estimate(0.0, 0.0, 0.0) and found.permutation == 1 and found.mcnemar == 1
        assert "McNemar p = 1.000" in str(found)

    def test_by_macro_f1_and_by_units(self):
        a, labels = some(120, 3, 1, 0.7)
        b, _ = some(120, 3, 1, 0.5)
        found = compare(a, b, labels, classes=3, measure="macro F1", resamples=200)
        assert found.difference.value == pytest.approx((summary(a, labels, 3) - summary(b, labels, 3))[3].item())
        assert found.mcnemar is None and "McNemar" not in str(found)
        once = compare(a, b, labels, classes=3, resamples=1000)
        a4, b4, l4 = (x.repeat_interleave(4) for x in (a, b, labels))
        copies = compare(a4, b4, l4, classes=3, units=np.arange(120).repeat(4), resamples=1000)
        assert copies.difference == pytest.approx(once.difference, abs=1e-12) and copies.mcnemar is None
        assert copies.permutation == pytest.approx(once.permutation, abs=1e-12)


class TestRetrieval:
    def test_torchmetrics_finds_the_same(self):
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(20, 12, generator=generator)  # positive: torchmetrics leaves out scores of 0 and below
        target = torch.randint(12, (20,), generator=generator)
        found, truth = retrieval(scores, target, (1, 3), resamples=100), torch.arange(12) == target[:, None]
        mrr = np.mean([retrieval_reciprocal_rank(s, t).item() for s, t in zip(scores, truth)])
        hit = np.mean([retrieval_hit_rate(s, t, top_k=3).item() for s, t in zip(scores, truth)])
        assert found["MRR"].value == pytest.approx(mrr, abs=1e-6) and found["R@3"].value == pytest.approx(hit)
        assert found["median rank"].value == ranks(scores, target).double().quantile(0.5)
        assert list(found) == ["R@1", "R@3", "MRR", "median rank"]


two = torch.tensor([0, 1])


@bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: evaluate(torch.empty(0, 3), torch.empty(0).long()), r"evaluate: answers \(0, 3\) and labels \(0,\)"),
    (lambda: evaluate(torch.zeros(3, 2), two), r"answers \(3, 2\) and labels \(2,\)"),
    (lambda: evaluate(torch.zeros(2, 2, 2), two), "expected scores"),
    (lambda: evaluate(torch.tensor([[1.0, 2.0], [NAN, 1.0]]), two), "NaN among the scores of 1 of 2 items, .* item 1"),
    (lambda: evaluate(torch.zeros(2, 2), torch.tensor([0, 2])), "labels are torch.int64 from 0 to 2; .* 0 to 1"),
    (lambda: evaluate(torch.zeros(2, 2), torch.tensor([-1, 0])), "from -1 to 0"),
    (lambda: evaluate(torch.zeros(2, 2), torch.tensor([0.0, 1.0])), "labels are torch.float32"),
    (lambda: evaluate(torch.tensor([0, 5]), two, classes=3), "answers are torch.int64 from 0 to 5"),
    (lambda: evaluate(two, two), "classes is missing"),
    (lambda: evaluate(torch.zeros(2, 1), torch.zeros(2).long()), "1 classes for answers"),
    (lambda: evaluate(torch.zeros(2, 3), two, classes=["a", "b"]), r"2 classes for answers \(2, 3\)"),
    (lambda: evaluate(two, two, classes=2, groups=["a"]), "evaluate: 1 groups for 2 items"),
    (lambda: evaluate(two, two, classes=2, units=[1, 2, 3]), "evaluate: 3 units for 2 items"),
    (lambda: evaluate(two, two, classes=2, units=[1, 1]), "2 items in 1 units"),
    (lambda: evaluate(two[:1], two[:1], classes=2), "1 items in 1 units; an interval needs at least two"),
    (lambda: evaluate(two, two, classes=2, resamples=10), "10 resamples, level 0.95"),
    (lambda: evaluate(two, two, classes=2, resamples=100).worst(), "worst: the report has no groups"),
    (lambda: evaluate(two, two, classes=2, groups=["a", "b"], resamples=100).worst("F2"), "no groups with 'F2'"),
    (lambda: evaluate(two, two, classes=["a", "b", "b"]), "two of the classes .* have the same name"),
    (lambda: evaluate(two, two, classes=2, groups=two[:, None]), "2 groups for 2 items; expected one for each"),
    (lambda: by_class(two, torch.tensor([0, 2]), 2), r"by_class: \[2\] and \[2\]; expected \(items,\), 0 to 1"),
    (lambda: by_class(two, two[:1], 2), r"by_class: \[2\] and \[1\]"),
    (lambda: summary(two[:0], two[:0], 2), "by_class"),
    (lambda: share(torch.tensor([0.5, 1.0])), "share: .* right or not"),
    (lambda: bootstrap(lambda rows: NAN, 5), "the statistic is NaN on the data"),
    (lambda: bootstrap(lambda rows: 1.0, 5, level=95), "level 95; expected 100 to 1e6, and 0 < level < 1"),
    (lambda: compare(two, two, two), "compare: a: classes is missing"),
    (lambda: compare(two, two[:1], two, classes=2), r"compare: b: answers \(1,\) and labels \(2,\)"),
    (lambda: compare(two, two, two, classes=2, measure="auc"), "no measure 'auc'; there are accuracy, macro F1"),
    (lambda: retrieval(torch.full((2, 3), NAN), two), "6 of 6 scores are not a number"),
    (lambda: retrieval(torch.zeros(2, 3), two, (0, 1)), r"ks is \(0, 1\)"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class TestClaim:
    def test_pairs_by_hand(self):
        labels = torch.zeros(40, dtype=torch.long)
        good, worse = (torch.cat((torch.zeros(n), torch.ones(40 - n))).long() for n in (30, 20))
        reports = [evaluate(g, labels, classes=2, resamples=100) for g in (good, worse)]
        found = bench.pairs([(g == labels).numpy() for g in (good, worse)], reports)
        low, high = reports[0].overall["accuracy"].low, reports[1].overall["accuracy"].high
        assert low < high, "the intervals overlap, and McNemar's coin fell ten times on one side"
        assert found == {"pairs/order differs": 0, "pairs/order differs, resolved": 0,
                         "pairs/order differs, overlapping": 0, "pairs/overlap yet resolved": 1}

    def test_the_raters_are_those_of_the_skills(self):
        found = bench.raters(np.arange(2000) % 8, 0)
        assert found["raters/careless found"] == 1
        assert found["raters/alpha"] == pytest.approx(found["raters/expected"], abs=0.02)

    def test_the_verdict_follows_from_the_figures(self):
        keys = ("halfwidth/accuracy", "pairs/order differs", "pairs/order differs, resolved", "group/worst below mean")
        def figures(*values, drop):
            return {k: {"mean": v} for k, v in (*zip(keys, values), *((f"clean − {c}", drop) for c in bench.OTHERS))}
        assert bench.verdict(figures(0.06, 0.05, 0.0, 0.4, drop=0.4)).startswith("holds when the interval")
        assert bench.verdict(figures(0.06, 0.05, 0.0, 0.01, drop=0.01)).startswith("holds: ")
        assert bench.verdict(figures(0.06, 0.7, 0.6, 0.4, drop=0.4)).startswith("fails")
        assert "nobody was asked" in bench.verdict(figures(0.06, 0.05, 0.0, 0.4, drop=0.4))
