"""Losses and retrieval: equal to CLIP's and to cross-entropy, safe at the edges, ties counted against us."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.objectives import CAP, MultiTaskLoss, contrastive_loss, recall_at


def pairs(n=6, dim=5, dtype=torch.float64):
    return (torch.randn(n, dim, dtype=dtype, requires_grad=True) for _ in range(2))


def cosines(a, b):
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 9), dim=st.integers(1, 7), log_scale=st.floats(-2, CAP))
def test_loss_is_cross_entropy_written_out(n, dim, log_scale):
    a, b = pairs(n, dim)
    logits, target = cosines(a, b) * math.exp(log_scale), torch.arange(n)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = contrastive_loss(a, b, log_scale)
    assert abs(found - expected) < 1e-10
    for ours, theirs in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b))):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_loss_is_that_of_clip_in_transformers():
    from transformers import CLIPConfig, CLIPModel
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config={**size, "vocab_size": 50, "max_position_embeddings": 8},
                        vision_config={**size, "image_size": 8, "patch_size": 4}, projection_dim=12)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        out = model(input_ids=torch.randint(1, 49, (5, 8)), pixel_values=torch.randn(5, 3, 8, 8), return_loss=True)
        ours = contrastive_loss(out.text_embeds, out.image_embeds, model.logit_scale)
    torch.testing.assert_close(ours, out.loss, atol=1e-5, rtol=1e-5)


def test_loss_is_symmetric_and_blind_to_length():
    a, b = pairs()
    assert abs(contrastive_loss(a, b, 1.0) - contrastive_loss(b, a, 1.0)) < 1e-12
    lengths = torch.rand(6, 1, dtype=torch.float64) * 10 + 0.1
    assert abs(contrastive_loss(a * lengths, b / lengths, 1.0) - contrastive_loss(a, b, 1.0)) < 1e-12
    order = torch.randperm(6)
    assert abs(contrastive_loss(a[order], b[order], 1.0) - contrastive_loss(a, b, 1.0)) < 1e-12
    assert abs(contrastive_loss(a, b[order], 3.0) - contrastive_loss(a, b, 3.0)) > 1e-3


def test_perfect_and_single_pairs():
    assert contrastive_loss(torch.eye(8), torch.eye(8), CAP) < 1e-6
    assert contrastive_loss(torch.randn(1, 4), torch.randn(1, 4), 1.0) == 0
    same = torch.ones(4, 3)
    assert abs(contrastive_loss(same, same, CAP) - math.log(4)) < 1e-6  # a collapsed space is a guess


def test_scale_is_capped_and_can_come_back():
    a, b = pairs()
    assert abs(contrastive_loss(a, b, 50.0) - contrastive_loss(a, b, CAP)) < 1e-10
    theta = torch.tensor(20.0, requires_grad=True)
    contrastive_loss(torch.eye(2), torch.eye(2).flip(0), theta).backward()
    assert 99 < theta.grad < 101  # each row prefers the wrong partner by 100


def test_gradient_of_the_scale_is_mean_logit_minus_right_logit():
    a, b = pairs()
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    contrastive_loss(a, b, theta).backward()
    logits = theta.exp() * cosines(a, b)
    push = [((x.softmax(1) * x).sum(1) - x.diagonal()).mean() for x in (logits, logits.T)]
    assert abs(theta.grad - sum(push) / 2) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = (x.detach().to(dtype) for x in pairs())
    assert torch.equal(contrastive_loss(a, b, 4.0), contrastive_loss(a.float(), b.float(), 4.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(a.float(), b.float(), 4.0), contrastive_loss(a, b, 4.0))


def test_zero_vectors_stay_finite():
    a = torch.zeros(3, 4, requires_grad=True)
    loss = contrastive_loss(a, torch.randn(3, 4), 2.0)
    loss.backward()
    assert abs(loss - math.log(3)) < 1e-5 and a.grad.isfinite().all()


@pytest.mark.bad_input
@pytest.mark.parametrize("a, b", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((0, 4), (0, 4)), ((3,), (3,))])
def test_loss_refuses_shapes(a, b):
    with pytest.raises(ValueError, match=r"contrastive_loss: a is .*expected the same \(batch, dim\)"):
        contrastive_loss(torch.ones(a), torch.ones(b), 0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), queries=st.integers(1, 8), gallery=st.integers(1, 8), k=st.integers(1, 9))
def test_recall_is_the_worst_order_of_ties(seed, queries, gallery, k):
    rng = np.random.default_rng(seed)
    scores, target = rng.integers(0, 4, (queries, gallery)), rng.integers(0, gallery, queries)
    hits = 0
    for row, t in zip(scores, target):  # sorted by score, the target behind whoever ties with it
        order = sorted(range(gallery), key=lambda j: (-row[j], j == t))
        hits += order.index(t) < k
    assert recall_at(torch.tensor(scores).float(), torch.tensor(target), k) == hits / queries


def test_recall_is_torchmetrics_without_ties():
    from torchmetrics.functional.retrieval import retrieval_recall
    scores, target = torch.rand(20, 15), torch.randint(15, (20,))  # torchmetrics drops scores of 0 and below
    for k in (1, 5, 15):
        one_hot = F.one_hot(target, 15).bool()
        expected = sum(retrieval_recall(s, t, top_k=k) for s, t in zip(scores, one_hot)) / 20
        assert abs(recall_at(scores, target, k) - expected) < 1e-6


def test_a_collapsed_model_finds_nothing():
    assert recall_at(torch.zeros(10, 10), torch.arange(10), 9) == 0
    assert recall_at(torch.zeros(10, 10), torch.arange(10), 10) == 1


@pytest.mark.bad_input
@pytest.mark.parametrize("scores, target, k, message", [
    (torch.ones(2, 3), torch.tensor([0, 3]), 1, "targets run from 0 to 3; expected .* 0 to 2"),
    (torch.ones(2, 3), torch.tensor([-1, 1]), 1, "targets run from -1"),
    (torch.ones(2, 3), torch.tensor([0, 1]), 0, "k is 0"),
    (torch.ones(2, 3), torch.tensor([0]), 1, "target \\(1,\\)"),
    (torch.ones(0, 3), torch.zeros(0, dtype=torch.long), 1, "at least one query"),
    (torch.tensor([[0.0, math.nan]]), torch.tensor([1]), 1, "1 of 2 scores are not a number"),
])
def test_recall_refuses(scores, target, k, message):
    with pytest.raises(ValueError, match=message):
        recall_at(scores, target, k)


def test_weighted_sum_and_its_gradient():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    objective = MultiTaskLoss({"a": 1.0, "b": 0.25, "unused": 3.0})
    total, parts = objective({"a": x[0] ** 2, "b": x[1] ** 2})
    total.backward()
    assert total.item() == 2.0 and {k: v.item() for k, v in parts.items()} == {"a": 1.0, "b": 4.0}
    assert x.grad.tolist() == [2.0, 1.0] and not any(v.requires_grad for v in parts.values())


def test_weight_zero_is_recorded_and_not_trained_on():
    total, parts = MultiTaskLoss({"a": 1.0, "b": 0.0})({"a": torch.tensor(2.0), "b": torch.tensor(math.nan)})
    assert total == 2.0 and parts["b"].isnan()
    assert MultiTaskLoss({"b": 0.0})({"b": torch.tensor(5.0)})[0] == 0.0


@pytest.mark.bad_input
@pytest.mark.parametrize("weights", [{}, {"a": -1.0}, {"a": math.inf}, {"a": math.nan}])
def test_weights_are_checked(weights):
    with pytest.raises(ValueError, match="MultiTaskLoss: weights .*finite and not negative"):
        MultiTaskLoss(weights)


@pytest.mark.bad_input
@pytest.mark.parametrize("losses, message", [
    ({"gruop": torch.tensor(1.0)}, r"\['gruop'\]; known are group, odd"), ({}, "losses named nothing"),
    ({"odd": torch.ones(2)}, r"'odd': \(2,\).*take the mean first")])
def test_losses_are_checked(losses, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss({"group": 1.0, "odd": 1.0})(losses)
