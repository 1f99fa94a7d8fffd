"""Choosing rows: exact shares, a bound that holds, no near copies. Doubting labels: against scikit-learn and a loop."""
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from mmtutor import subsets

FEW = settings(max_examples=40, deadline=None)
rng = lambda seed=0: np.random.default_rng(seed)
labels = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)


# Random and stratified

@given(count=st.integers(1, 60), seed=st.integers(0, 9), data=st.data())
@FEW
def test_random_rows_differ_and_repeat(count, seed, data):
    size = data.draw(st.integers(1, count))
    found = subsets.random_subset(count, size, rng(seed))
    assert len(set(found)) == size and 0 <= found.min() and found.max() < count
    assert np.array_equal(found, subsets.random_subset(count, size, rng(seed)))


def test_every_row_is_equally_likely():
    times = np.bincount(np.concatenate([subsets.random_subset(10, 3, rng(s)) for s in range(3000)]))
    assert abs(times / 3000 - 0.3).max() < 0.035


@given(label=labels, seed=st.integers(0, 9), data=st.data())
@FEW
def test_each_class_has_its_share_within_one_row(label, seed, data):
    size = data.draw(st.integers(1, len(label)))
    found = subsets.stratified_subset(label, size, rng(seed))
    assert len(set(found)) == len(found) == size
    count, got = np.bincount(label), np.bincount(label[found], minlength=label.max() + 1)
    exact = count * size / len(label)
    assert (np.floor(exact) <= got).all() and (got <= np.ceil(exact)).all()
    up, down = exact - np.floor(exact), got - np.floor(exact)
    assert not (down == 0).any() or not (down == 1).any() or up[down == 1].min() >= up[down == 0].max() - 1e-9


def test_stratified_by_hand_and_ties_by_lot():
    label = np.repeat([0, 1, 2], [5, 3, 2])
    for seed in range(20):
        assert np.bincount(label[subsets.stratified_subset(label, 4, rng(seed))]).tolist() == [2, 1, 1]
    even = np.repeat([0, 1], 5)
    assert {tuple(np.bincount(even[subsets.stratified_subset(even, 3, rng(s))])) for s in range(30)} == {(1, 2), (2, 1)}


def test_stratified_counts_are_those_of_scikit_learn():
    label = rng().integers(0, 6, 200) ** 2 // 6
    for size in (24, 50, 101):
        _, theirs = train_test_split(np.arange(200), test_size=size, stratify=label, random_state=0)
        ours = subsets.stratified_subset(label, size, rng())
        difference = np.bincount(label[ours], minlength=5) - np.bincount(label[theirs], minlength=5)
        assert abs(difference).max() <= 1


def test_inside_a_class_all_rows_are_equally_likely():
    label = np.repeat([0, 1], [8, 4])
    times = np.bincount(np.concatenate([subsets.stratified_subset(label, 6, rng(s)) for s in range(1500)]))
    assert abs(times / 1500 - 0.5).max() < 0.055
    firsts = {int(subsets.stratified_subset(label, 6, rng(s))[0]) for s in range(120)}
    assert firsts == set(range(12)), "the order is random, too"


# Covering

def best(x, size):
    return min(subsets.gaps(x, np.array(c)).max() for c in combinations(range(len(x)), size))


@given(seed=st.integers(0, 500), rows=st.integers(2, 8), dim=st.integers(1, 3), size=st.integers(1, 3),
       whole=st.booleans())
@FEW
def test_greedy_is_within_twice_the_best(seed, rows, dim, size, whole):
    x = rng(seed).integers(0, 5, (rows, dim)).astype(float) if whole else rng(seed).normal(size=(rows, dim))
    size = min(size, rows)
    chosen, radii = subsets.k_centre(x, size, first=seed % rows)
    assert radii[-1] <= 2 * best(x, size) + 1e-9 and radii[-1] >= best(x, size) - 1e-9
    assert len(set(chosen)) == size, "no row twice, even among copies"


def test_the_bound_is_reached():
    line = np.array([[0.0], [1.0], [2.0]])
    assert subsets.k_centre(line, 1, first=0)[1][0] == 2 * best(line, 1) == 2


def test_each_next_row_is_the_farthest_and_radii_fall():
    x = rng(3).normal(size=(60, 4))
    chosen, radii = subsets.k_centre(x, 60, first=7)
    assert chosen[0] == 7 and sorted(chosen) == list(range(60)) and radii[-1] == 0 and (np.diff(radii) <= 0).all()
    for k in (1, 5, 30):
        gap = subsets.gaps(x, chosen[:k])
        assert radii[k - 1] == gap.max() and chosen[k] == gap.argmax()


def test_gaps_against_all_distances():
    x, chosen = rng().normal(size=(30, 5)), np.array([3, 4, 29])
    table = np.sqrt(((x[:, None] - x[None, chosen]) ** 2).sum(2))
    found = subsets.gaps(x, chosen)
    assert np.allclose(found, table.min(1), atol=1e-12) and (found[chosen] == 0).all()


@given(seed=st.integers(0, 100), apart=st.floats(0.1, 3))
@FEW
def test_distinct_rows_are_apart_and_cover(seed, apart):
    x = rng(seed).normal(size=(40, 2))
    kept = subsets.distinct(x, apart)
    away = np.linalg.norm(x[kept][:, None] - x[kept], axis=2) + 1e9 * np.eye(len(kept))
    assert kept[0] == 0 and (np.diff(kept) > 0).all() and away.min() >= apart
    assert subsets.gaps(x, kept).max() < apart


def test_copies_go_and_the_first_stays():
    x = np.array([[0.0], [5.0], [0.0], [0.05], [5.0]])
    assert subsets.distinct(x, 0.1).tolist() == [0, 1] and subsets.distinct(x, 0.01).tolist() == [0, 1, 3]


# Labels

@given(share=st.floats(0, 1), classes=st.integers(2, 9), seed=st.integers(0, 9))
@FEW
def test_flipped_labels_are_wrong_and_counted(share, classes, seed):
    true = rng(seed).integers(0, classes, 50)
    before = true.copy()
    told, wrong = subsets.flip_labels(true, share, classes, rng(seed))
    assert wrong.sum() == round(share * 50) and np.array_equal(told != true, wrong) and np.array_equal(true, before)
    assert 0 <= told.min() and told.max() < classes


def test_all_other_classes_are_equally_likely():
    told, _ = subsets.flip_labels(np.full(6000, 2), 1, 4, rng())
    assert np.bincount(told, minlength=4)[2] == 0
    assert abs(np.bincount(told, minlength=4)[[0, 1, 3]] / 6000 - 1 / 3).max() < 0.03


def cloud(seed=0, rows=150, dim=6, classes=3):
    label = rng(seed).integers(0, classes, rows)
    return rng(seed + 1).normal(size=(rows, dim)) * 3 + 2 + 2 * np.eye(classes, dim)[label], label


@pytest.mark.parametrize("decay", [0.01, 0.3])
def test_probe_is_scikit_learns_logistic_regression(decay):
    x, y = cloud()
    x[:, 3] = 7.0  # a feature that never changes
    theirs = LogisticRegression(C=1 / (decay * len(y)), tol=1e-8, max_iter=2000)
    theirs.fit(StandardScaler().fit_transform(x), y)
    new = cloud(5)[0]
    new[:, 3] = 7.0
    expected = theirs.predict_proba((new - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1))
    assert abs(subsets.LinearProbe.fit(x, y, 3, decay=decay).probabilities(new) - expected).max() < 2e-3


def test_probe_knows_of_classes_it_has_not_seen():
    x, y = cloud(classes=2)
    found = subsets.LinearProbe.fit(x, y, 4).probabilities(x)
    assert found.shape == (150, 4) and np.allclose(found.sum(1), 1) and found[:, 2:].max() < 0.05


def test_out_of_sample_never_sees_the_label():
    x, y = cloud()
    plain = subsets.out_of_sample(x, y, 3, rng(4), folds=5)
    other = y.copy()
    other[17] = (other[17] + 1) % 3
    changed = subsets.out_of_sample(x, other, 3, rng(4), folds=5)
    assert np.array_equal(plain[17], changed[17]) and not np.array_equal(plain, changed)
    fold = rng(4).permutation(np.arange(150) % 5)
    itself = subsets.LinearProbe.fit(x[fold != fold[17]], y[fold != fold[17]], 3).probabilities(x[17:18])
    assert np.allclose(plain[17], itself[0])
    assert np.isfinite(subsets.out_of_sample(x[:7], y[:7], 3, rng(), folds=7)).all(), "leave one out"


def by_hand(p, y):
    "Northcutt et al., equation 1, in loops."
    limits = [np.mean([p[i, j] for i in range(len(p)) if y[i] == j] or [np.inf]) for j in range(p.shape[1])]
    found = []
    for row in p:
        reached = [j for j in range(p.shape[1]) if row[j] >= limits[j]]
        found.append(max(reached, key=lambda j: row[j]) if reached else -1)
    return found


@given(seed=st.integers(0, 200), classes=st.integers(2, 5), rows=st.integers(1, 40))
@FEW
def test_confident_class_in_loops(seed, classes, rows):
    p, y = rng(seed).dirichlet(np.ones(classes), rows), rng(seed + 1).integers(0, classes, rows)
    seen = subsets.confident_class(p, y)
    assert seen.tolist() == by_hand(p, y)
    found = subsets.suspects(p, y)
    assert sorted(found) == [i for i in range(rows) if seen[i] not in (-1, y[i])]
    assert (np.diff(p[found, y[found]]) >= 0).all(), "the least likely label first"


def test_wrong_labels_are_found_in_easy_data():
    label = rng().integers(0, 4, 400)
    x = 6 * np.eye(4, 8)[label] + rng(1).normal(size=(400, 8))
    told, wrong = subsets.flip_labels(label, 0.2, 4, rng(2))
    found = subsets.suspects(subsets.out_of_sample(x, told, 4, rng(3)), told)
    assert wrong[found].mean() > 0.95 and wrong[found].sum() / wrong.sum() > 0.8
    assert len(subsets.suspects(subsets.out_of_sample(x, label, 4, rng(3)), label)) < 10


X, Y = cloud()
NAN = np.where(np.arange(6) == 2, np.nan, X)


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong, message", [
    (lambda: subsets.random_subset(5, 6, rng()), "random_subset: 6 rows were asked for.*from 1 to the 5"),
    (lambda: subsets.random_subset(5, 0, rng()), "random_subset: 0 rows"),
    (lambda: subsets.stratified_subset(Y, 151, rng()), "stratified_subset: 151 rows.*150"),
    (lambda: subsets.stratified_subset(np.array([]), 1, rng()), "stratified_subset: 1 rows.*to the 0"),
    (lambda: subsets.stratified_subset(Y[:, None], 1, rng()), r"stratified_subset: labels are int64 \(150, 1\)"),
    (lambda: subsets.k_centre(X, 0), "k_centre: 0 rows"),
    (lambda: subsets.k_centre(X, 2, first=150), "first is row 150, expected a number from 0 to 149"),
    (lambda: subsets.k_centre(X, 2, first=-1), "first is row -1"),
    (lambda: subsets.k_centre(X[0], 1), r"k_centre: features are \(6,\), expected \(rows, dim\)"),
    (lambda: subsets.k_centre(NAN, 1), "150 row.s. hold NaN"),
    (lambda: subsets.gaps(X, np.array([], dtype=int)), r"gaps: chosen rows \[\]"),
    (lambda: subsets.gaps(X, np.array([150])), "gaps: chosen rows .150.*0 to 149"),
    (lambda: subsets.gaps(X, np.array([-1])), "gaps: chosen rows"),
    (lambda: subsets.gaps(X, np.array([1.0])), r"gaps: chosen rows are float64 \(1,\), expected whole"),
    (lambda: subsets.gaps(X[:0], np.array([0])), r"gaps: features are \(0, 6\)"),
    (lambda: subsets.distinct(X, 0), "distinct: apart is 0, expected a positive"),
    (lambda: subsets.distinct(X, np.nan), "distinct: apart is nan"),
    (lambda: subsets.flip_labels(Y, 40, 3, rng()), "flip_labels: share 40"),
    (lambda: subsets.flip_labels(Y * 0, 0.1, 1, rng()), "of 1 classes"),
    (lambda: subsets.flip_labels(Y, 0.1, 2, rng()), "flip_labels: labels from 0 to 2, expected 0 to 1"),
    (lambda: subsets.flip_labels(Y.astype(float), 0.1, 3, rng()), "labels are float64"),
    (lambda: subsets.flip_labels(Y[:0], 0.1, 3, rng()), "not empty"),
    (lambda: subsets.LinearProbe.fit(X, Y[:-1], 3), "LinearProbe.fit: 149 labels for 150 rows"),
    (lambda: subsets.LinearProbe.fit(NAN, Y, 3), "NaN or infinity"),
    (lambda: subsets.LinearProbe.fit(X, Y, 3, decay=-1), "decay is -1"),
    (lambda: subsets.LinearProbe.fit(X, Y, 3).probabilities(X[:, :5]), r"are \(150, 5\), expected \(rows, 6\)"),
    (lambda: subsets.LinearProbe(*map(torch.ones, ((6, 3), 3, 6, 5))), r"LinearProbe: weight.*\(5,\)\], expected"),
    (lambda: subsets.out_of_sample(X, Y, 3, rng(), folds=1), "1 folds of 150 rows"),
    (lambda: subsets.out_of_sample(X, Y, 3, rng(), folds=151), "151 folds of 150 rows"),
    (lambda: subsets.out_of_sample(X, Y[:9], 3, rng()), "out_of_sample: 9 labels for 150 rows"),
    (lambda: subsets.suspects(X, Y), "must be ≥ 0 and sum to 1; are these logits"),
    (lambda: subsets.suspects(np.ones((150, 1)), Y), "two classes at least"),
    (lambda: subsets.confident_class(np.full((3, 2), 0.5), [0, 1]), "confident_class: 2 labels for 3 rows"),
    (lambda: subsets.confident_class(np.full((2, 2), 0.5), [0, 2]), "labels from 0 to 2, expected 0 to 1"),
])
def test_messages(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
