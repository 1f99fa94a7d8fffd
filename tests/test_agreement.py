"""Agreement: published worked examples, scikit-learn, the pairs counted one by one, raters of known skill."""
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from mmtutor.agreement import LEVELS, cohen_kappa, distances, krippendorff_alpha, simulated_raters

quick = settings(deadline=None, max_examples=60)
NAN = math.nan
PUBLISHED = np.array([  # Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section E
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN]])
TWO = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], dtype=float)  # the same, section A


def by_pairs(ratings: np.ndarray, level: str) -> float:
    "Alpha from every ordered pair of ratings, as the book defines it, with the distance written out."
    columns = [[x for x in column if not math.isnan(x)] for column in ratings.T]
    columns = [c for c in columns if len(c) > 1]
    hat = [x for c in columns for x in c]

    def far(x, y):
        if level == "nominal":
            return float(x != y)
        if level == "interval":
            return (x - y) ** 2
        low, high = sorted((x, y))
        between = sum(low <= h <= high for h in hat) - (hat.count(low) + hat.count(high)) / 2 if x != y else 0
        return between ** 2
    observed = sum(sum(far(x, y) for x, y in itertools.permutations(c, 2)) / (len(c) - 1) for c in columns) / len(hat)
    expected = sum(far(x, y) for x, y in itertools.permutations(hat, 2)) / (len(hat) * (len(hat) - 1))
    return 1 - observed / expected


tables = st.integers(2, 5).flatmap(lambda raters: st.lists(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, NAN]), min_size=raters, max_size=raters), min_size=2, max_size=12))


class TestAlpha:
    @pytest.mark.parametrize("level, value", [*zip(LEVELS, (0.743, 0.815, 0.849))])
    def test_the_published_example(self, level, value):
        assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(value, abs=5e-4)

    def test_the_published_two_raters(self):
        assert krippendorff_alpha(TWO) == pytest.approx(0.095, abs=5e-4)

    @pytest.mark.parametrize("level", LEVELS)
    @quick
    @given(rows=tables)
    def test_every_pair_counted_one_by_one(self, level, rows):
        ratings = np.array(rows).T
        values = {x for column in ratings.T for x in column[~np.isnan(column)] if (~np.isnan(column)).sum() > 1}
        assume(len(values) > 1)
        assert krippendorff_alpha(ratings, level) == pytest.approx(by_pairs(ratings, level), abs=1e-9)

    def test_order_of_raters_and_items_does_not_matter(self):
        rng = np.random.default_rng(0)
        for level in LEVELS:
            one = krippendorff_alpha(PUBLISHED, level)
            shuffled = np.stack([rng.permutation(column) for column in PUBLISHED[:, rng.permutation(12)].T]).T
            assert krippendorff_alpha(shuffled, level) == pytest.approx(one, abs=1e-12)

    def test_names_do_not_matter_to_nominal_nor_spacing_to_ordinal(self):
        renamed = np.vectorize(lambda x: {1: 7, 2: -3, 3: 0, 4: 1, 5: 2}.get(x, x), otypes=[float])(PUBLISHED)
        assert krippendorff_alpha(renamed) == pytest.approx(krippendorff_alpha(PUBLISHED), abs=1e-12)
        assert krippendorff_alpha(PUBLISHED ** 3, "ordinal") == pytest.approx(
            krippendorff_alpha(PUBLISHED, "ordinal"), abs=1e-12)
        assert krippendorff_alpha(3 * PUBLISHED + 2, "interval") == pytest.approx(
            krippendorff_alpha(PUBLISHED, "interval"), abs=1e-12)

    def test_perfect_is_one_and_dice_are_near_zero(self):
        same = np.tile(np.arange(4.0), (3, 1))
        assert all(krippendorff_alpha(same, level) == pytest.approx(1) for level in LEVELS)
        dice = np.random.default_rng(0).integers(0, 4, (3, 4000)).astype(float)
        assert all(abs(krippendorff_alpha(dice, level)) < 0.03 for level in LEVELS)


class TestKappa:
    def test_a_worked_example(self):
        "Fifty applications: 20 twice yes, 15 twice no, 5 and 10 in dispute; agreement 0.7, chance 0.5, kappa 0.4."
        a, b = [1] * 25 + [0] * 25, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
        assert cohen_kappa(a, b) == pytest.approx(0.4)

    @quick
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30),
           st.sampled_from([None, "linear", "quadratic"]))
    def test_scikit_learn_and_symmetry(self, pairs, weights):
        a, b = np.array(pairs, dtype=float).T
        assume(len({*a, *b}) > 1)
        expected = cohen_kappa_score(a.astype(int), b.astype(int), weights=weights, labels=range(4))
        assert cohen_kappa(a, b, weights) == pytest.approx(expected, abs=1e-12)
        assert cohen_kappa(b, a, weights) == pytest.approx(expected, abs=1e-12)

    def test_steps_that_nobody_chose_still_count_as_steps(self):
        a, b = [0, 3, 0, 3, 1], [0, 3, 3, 0, 0]
        assert cohen_kappa(a, b, "linear") == pytest.approx(
            cohen_kappa_score(a, b, weights="linear", labels=range(4)), abs=1e-12)

    def test_gaps_are_left_out(self):
        assert cohen_kappa([0, 1, NAN, 1, 0], [0, 1, 1, NAN, 1]) == cohen_kappa([0, 1, 0], [0, 1, 1])


class TestSimulatedRaters:
    def test_skill_and_share_are_as_asked(self):
        truth = torch.arange(20_000) % 5
        table = simulated_raters(truth, (1.0, 0.5, 0.0), 5, seen=0.7, seed=1)
        shown = ~np.isnan(table)
        assert np.abs(shown.mean(1) - 0.7).max() < 0.02
        right = [(row[s] == truth.numpy()[s]).mean() for row, s in zip(table, shown)]
        assert right == pytest.approx([1.0, 0.6, 0.2], abs=0.02)

    def test_a_seed_repeats(self):
        truth = torch.arange(50) % 3
        one, same, other = (simulated_raters(truth, (0.7, 0.7), 3, seed=s) for s in (0, 0, 1))
        assert np.array_equal(one, same) and not np.array_equal(one, other)

    def test_alpha_is_the_product_of_the_skills(self):
        truth = torch.arange(20_000) % 8
        for skills in ((0.8, 0.8), (0.9, 0.4), (0.6, 0.6, 0.6)):
            expected = np.mean([x * y for x, y in itertools.combinations(skills, 2)])
            assert krippendorff_alpha(simulated_raters(truth, skills, 8)) == pytest.approx(expected, abs=0.02)


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: krippendorff_alpha([[1.0, 2.0], [NAN, NAN]]), "0 items with two ratings or more"),
    (lambda: krippendorff_alpha([[1.0, 1.0], [1.0, 1.0]]), "2 items with two ratings or more, 1 different values"),
    (lambda: krippendorff_alpha([1.0, 2.0]), r"ratings \(2,\), level 'nominal'; expected \(raters, items\)"),
    (lambda: krippendorff_alpha([[1.0, math.inf], [1.0, 2.0]]), "finite numbers or NaN"),
    (lambda: krippendorff_alpha(PUBLISHED, "ratio"), "one of .*'interval'"),
    (lambda: krippendorff_alpha(np.empty((0, 0))), "0 items"),
    (lambda: cohen_kappa([0, 1], [0]), r"ratings \(2,\) and \(1,\)"),
    (lambda: cohen_kappa([0, 1], [0, 1], "cubic"), "weights 'cubic'"),
    (lambda: cohen_kappa([1, 1], [1, 1]), "2 common items with 1 different ratings"),
    (lambda: cohen_kappa([NAN, 1], [0, NAN]), "0 common items"),
    (lambda: cohen_kappa([0.5, 1], [0, 1], "linear"), "weights need the numbers 0, 1, 2"),
    (lambda: simulated_raters(torch.arange(3), [], 3), r"skills \[\]"),
    (lambda: simulated_raters(torch.arange(3), [NAN], 3), "expected shares from 0 to 1"),
    (lambda: simulated_raters(torch.arange(3), [0.5], 3, seen=2), "seen 2"),
    (lambda: simulated_raters(torch.arange(3), [0.5], 2), r"truth \(3,\) of torch.int64; expected .* from 0 to 1"),
    (lambda: distances(np.ones(2), np.arange(2.0), "ratio"), "level 'ratio'; expected finite numbers"),
    (lambda: distances(np.ones(3), np.arange(2.0), "ordinal"), r"\(3,\) counts of \(2,\) values"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
