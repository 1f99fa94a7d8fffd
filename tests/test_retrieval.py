"""Ranks and what is made of them, with ties against us; alignment, uniformity and the gap, written out again."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.retrieval import (
    alignment,
    check_numbers,
    mean_reciprocal_rank,
    modality_gap,
    ranks,
    recall_at,
    uniformity,
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), queries=st.integers(1, 8), gallery=st.integers(1, 8), k=st.integers(1, 9))
def test_ranks_are_the_worst_order_of_ties(seed, queries, gallery, k):
    rng = np.random.default_rng(seed)
    scores, target = rng.integers(0, 4, (queries, gallery)), rng.integers(0, gallery, queries)
    expected = []
    for row, t in zip(scores, target):  # sorted by score, the target behind whoever ties with it
        order = sorted(range(gallery), key=lambda j: (-row[j], j == t))
        expected.append(order.index(t) + 1)
    scores, target = torch.tensor(scores).float(), torch.tensor(target)
    assert ranks(scores, target).tolist() == expected
    assert recall_at(scores, target, k) == np.mean([r <= k for r in expected])
    assert abs(mean_reciprocal_rank(scores, target) - np.mean([1 / r for r in expected])) < 1e-12


def test_recall_and_reciprocal_rank_are_those_of_torchmetrics_without_ties():
    from torchmetrics.functional.retrieval import retrieval_recall, retrieval_reciprocal_rank
    scores, target = torch.rand(20, 15), torch.randint(15, (20,))  # torchmetrics drops scores of 0 and below
    one_hot = F.one_hot(target, 15).bool()
    for k in (1, 5, 15):
        expected = sum(retrieval_recall(s, t, top_k=k) for s, t in zip(scores, one_hot)) / 20
        assert abs(recall_at(scores, target, k) - expected) < 1e-6
    expected = sum(retrieval_reciprocal_rank(s, t) for s, t in zip(scores, one_hot)) / 20
    assert abs(mean_reciprocal_rank(scores, target) - expected) < 1e-6


def test_a_collapsed_model_finds_nothing():
    assert recall_at(torch.zeros(10, 10), torch.arange(10), 9) == 0
    assert recall_at(torch.zeros(10, 10), torch.arange(10), 10) == 1
    assert mean_reciprocal_rank(torch.zeros(10, 10), torch.arange(10)) == 0.1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), queries=st.integers(1, 8))
def test_order_of_queries_and_of_the_gallery_never_matters(seed, queries):
    g = torch.Generator().manual_seed(seed)
    scores, target = torch.randint(0, 5, (queries, 6), generator=g).float(), torch.randint(6, (queries,), generator=g)
    order, shelf = torch.randperm(queries, generator=g), torch.randperm(6, generator=g)
    moved = scores[order][:, shelf]
    assert torch.equal(ranks(moved, shelf.argsort()[target[order]]), ranks(scores, target)[order])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 9), dim=st.integers(1, 6))
def test_measures_of_the_sphere_written_out(seed, n, dim):
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, dim, dtype=torch.float64, generator=g) for _ in range(2))
    x, y = (v / v.norm(dim=1, keepdim=True) for v in (a, b))
    assert abs(alignment(a, b) - (2 - 2 * (x * y).sum(1)).mean()) < 1e-12
    pairs = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(n) for j in range(i)]
    assert abs(uniformity(a) - math.log(sum(pairs) / len(pairs))) < 1e-9
    assert abs(modality_gap(a, b) - (x.sum(0) / n - y.sum(0) / n).square().sum().sqrt()) < 1e-12
    lengths = torch.rand(n, 1, dtype=torch.float64, generator=g) + 0.1
    for measure in (alignment, modality_gap):
        assert abs(measure(a * lengths, b / lengths) - measure(a, b)) < 1e-12
    assert abs(uniformity(a * lengths) - uniformity(a)) < 1e-9


def test_extremes_of_the_sphere():
    one = torch.ones(5, 3)
    assert alignment(one, 7 * one) < 1e-12 and abs(alignment(one, -one) - 4) < 1e-12
    assert abs(uniformity(one)) < 1e-6 and modality_gap(one, one) == 0 and abs(modality_gap(one, -one) - 2) < 1e-12
    spread = torch.randn(200, 16)
    assert uniformity(spread) < -3 and modality_gap(spread, torch.randn(200, 16)) < 0.2


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: recall_at(torch.ones(2, 3), torch.tensor([0, 1]), 0), "recall_at: k is 0, expected 1 or more"),
    (lambda: recall_at(torch.ones(2, 3), torch.tensor([0]), 1), r"recall_at: .* target \(1,\)"),
    (lambda: check_numbers("look", (2,), 3, row=torch.tensor([0, 3])), r"look: row is .* 0 to 2 in the shape \(2,\)"),
    (lambda: ranks(torch.ones(2, 3), torch.tensor([0, 3])), "ranks: targets run from 0 to 3; expected .* 0 to 2"),
    (lambda: ranks(torch.zeros(2, 3), torch.tensor([0.0, 1.0])), r"target \(2,\) torch.float32; .* whole numbers"),
    (lambda: mean_reciprocal_rank(torch.ones(0, 3), torch.zeros(0, dtype=torch.long)), "at least one query"),
    (lambda: mean_reciprocal_rank(torch.tensor([[0.0, math.nan]]), torch.tensor([1])),
     "mean_reciprocal_rank: 1 of 2 scores are not a number"),
    (lambda: alignment(torch.ones(2, 3), torch.ones(3, 3)), r"alignment: shapes {'a': \(2, 3\), 'b': \(3, 3\)}"),
    (lambda: alignment(torch.ones(0, 3), torch.ones(0, 3)), "alignment: .*1 items or more"),
    (lambda: uniformity(torch.ones(1, 3)), "uniformity: .*2 items or more"),
    (lambda: uniformity(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), r"rows \[1\] of x have the length \[0.0\]"),
    (lambda: modality_gap(torch.ones(2, 2), torch.tensor([[1.0, 0.0], [math.nan, 0.0]])), r"rows \[1\] of b"),
    (lambda: modality_gap(torch.ones(1, 2), torch.tensor([[math.inf, 0.0]])), r"rows \[0\] of b have the length \[inf"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
