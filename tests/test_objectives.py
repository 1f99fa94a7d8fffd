"""Contrastive losses: equal to those of CLIP and SigLIP, whole or in pieces, safe at the edges; a sum of losses."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.objectives import (
    CAP,
    MultiTaskLoss,
    contrastive_among,
    contrastive_loss,
    hardest,
    in_chunks,
    recall_at,
    same_items,
    siglip_loss,
)


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


def test_golden_values_of_open_clip():
    """open_clip 3.3.0 (MIT), its file loss.py alone: ClipLoss()(x, y, 1 / 0.07) and SigLipLoss()(x, y, 10, −10) of the
    normalised rows, torch 2.13 in float64; the loss, the length of the gradient at a, one number of that at b."""
    g = torch.arange(1, 61, dtype=torch.float64).view(6, 10)
    a, b = (0.7 * g).sin(), (0.3 * g).cos() + (0.7 * g).sin()
    a.requires_grad_(), b.requires_grad_()
    for loss, *expected in [(contrastive_loss(a, b, math.log(1 / 0.07)), 1.6116219597086796, 2.196335950644989,
                             0.26579004675276485),
                            (siglip_loss(a, b, math.log(10), -10.0), 3.0606446989184533, 1.252019815232423,
                             0.21488301216247874)]:
        left, right = torch.autograd.grad(loss, (a, b))
        found = torch.stack([loss.detach(), left.norm(), right[2, 3]])
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


def test_sigmoid_loss_is_that_of_siglip_in_transformers():
    from transformers import SiglipConfig, SiglipModel
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(text_config={**size, "vocab_size": 50, "max_position_embeddings": 8, "projection_size": 16},
                          vision_config={**size, "image_size": 8, "patch_size": 4})
    model = SiglipModel(config).double().eval()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-10)
        out = model(input_ids=torch.randint(1, 49, (5, 8)), pixel_values=torch.randn(5, 3, 8, 8).double(),
                    return_loss=True)
        ours = siglip_loss(out.text_embeds, out.image_embeds, model.logit_scale, model.logit_bias)
    torch.testing.assert_close(ours, out.loss, atol=1e-12, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9), chunk=st.integers(1, 10), alike=st.booleans())
def test_chunked_is_the_full_loss_in_value_and_gradient(seed, n, chunk, alike):
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, 5, dtype=torch.float64, generator=g, requires_grad=True) for _ in range(2))
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    same = same_items(torch.randint(3, (n,), generator=g)) if alike else None
    full, parts = contrastive_loss(a, b, theta, same), contrastive_loss(a, b, theta, same, chunk)
    assert abs(full - parts) < 1e-12
    for x, y in zip(torch.autograd.grad(full, (a, b, theta)), torch.autograd.grad(parts, (a, b, theta))):
        torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)


def test_chunks_need_less_memory():
    "What the graph keeps between forward and backward: the table, or not."
    def kept(chunk):
        sizes, (a, b) = [], pairs(256, 4)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            contrastive_loss(a, b, 1.0, chunk=chunk)
        return sum(sizes)
    assert kept(None) > 2 * 256**2 > 2 * kept(16)


@pytest.mark.parametrize("loss", [
    lambda a, b, t: contrastive_loss(a, b, t), lambda a, b, t: contrastive_loss(a, b, t, chunk=2),
    lambda a, b, t: contrastive_loss(a, b, t, same_items([0, 1, 0, 2])), lambda a, b, t: siglip_loss(a, b, t, -t),
    lambda a, b, t: siglip_loss(a, b, t, -1.0, same_items([0, 1, 0, 2])),
    lambda a, b, t: contrastive_among({"x": a, "y": b, "z": a * b}, t)])
def test_gradients_are_those_of_finite_differences(loss):
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (*pairs(4, 3), theta))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 8))
def test_order_of_pairs_and_length_of_rows_never_matter(seed, n):
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, 4, dtype=torch.float64, generator=g) for _ in range(2))
    keys, order = torch.randint(3, (n,), generator=g), torch.randperm(n, generator=g)
    lengths = torch.rand(n, 1, dtype=torch.float64, generator=g) * 10 + 0.1
    for loss in (lambda a, b, same: contrastive_loss(a, b, 2.0, same),
                 lambda a, b, same: siglip_loss(a, b, 2.0, -3.0, same)):
        here = loss(a, b, same_items(keys))
        assert abs(here - loss(a[order], b[order], same_items(keys[order]))) < 1e-12
        assert abs(here - loss(a * lengths, b / lengths, same_items(keys))) < 1e-12
        assert abs(here - loss(b, a, same_items(keys))) < 1e-12


def test_one_pair_teaches_nothing_and_so_do_equal_captions():
    for same, n in ((None, 1), (same_items(["a cat"]), 1), (same_items(["a cat"] * 4), 4)):
        for chunk in (None, 2):
            a, b = pairs(n)
            loss = contrastive_loss(a, b, 2.0, same, chunk)
            found = torch.cat([loss.detach()[None], *(g.flatten() for g in torch.autograd.grad(loss, (a, b)))])
            assert found.abs().max() <= (0 if chunk is None else 1e-15)
    a, b = pairs(3)  # SigLIP: a question for each pair is left
    expected = -F.logsigmoid(2 * cosines(a, b).diagonal() - 1).mean()
    assert abs(siglip_loss(a, b, math.log(2), -1.0, same_items("aaa")) - expected) < 1e-12


def test_a_false_negative_is_neither_pulled_nor_pushed():
    a, b = pairs(4)
    keys = ["dog", "cat", "dog", "owl"]
    logits = 5 * cosines(a, b)
    logits = logits.masked_fill(torch.tensor([[0, 0, 1, 0], [0] * 4, [1, 0, 0, 0], [0] * 4]).bool(), -1e9)
    expected = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    assert abs(contrastive_loss(a, b, math.log(5), same_items(keys)) - expected) < 1e-12
    twice = torch.eye(4, dtype=torch.float64)[[0, 1, 0]]
    assert contrastive_loss(twice, twice, CAP) > 0.4 and contrastive_loss(twice, twice, CAP, same_items("xyx")) < 1e-12
    tight = siglip_loss(twice, twice, CAP, -50.0), siglip_loss(twice, twice, CAP, -50.0, same_items("xyx"))
    assert tight[0] > 30 and tight[1] < 1e-12


@pytest.mark.parametrize("chunk", [None, 2])
def test_not_a_number_is_seen_in_the_loss(chunk):
    a, b = (x.detach() for x in pairs(4))
    a[2, 1] = math.nan
    assert contrastive_loss(a, b, 1.0, chunk=chunk).isnan() and siglip_loss(a, b, 1.0, 0.0).isnan()
    assert contrastive_loss(a, b, 1.0, same_items("aaaa"), chunk).isnan()
    assert contrastive_loss(*pairs(), math.nan).isnan()


def test_hardest_are_the_nearest_that_are_wrong():
    a, b = (x.detach() for x in pairs(7))
    similarity = cosines(a, b)
    same = same_items([0, 1, 0, 2, 3, 4, 5])
    for mask in (None, same):
        found = hardest(a, b, 3, mask)
        for i in range(7):
            wrong = [j for j in range(7) if j != i and (mask is None or not mask[i, j])]
            assert found[i].tolist() == sorted(wrong, key=lambda j: -similarity[i, j])[:3]


def test_among_is_the_mean_over_pairs_or_over_those_with_the_anchor():
    x, y, z = (torch.randn(5, 4, dtype=torch.float64) for _ in range(3))
    among = {"text": x, "picture": y, "sound": z}
    xy, xz, yz = (contrastive_loss(p, q, 2.0) for p, q in ((x, y), (x, z), (y, z)))
    assert abs(contrastive_among(among, 2.0) - (xy + xz + yz) / 3) < 1e-12
    assert abs(contrastive_among(among, 2.0, "picture") - (xy + yz) / 2) < 1e-12
    assert abs(contrastive_among({"text": x, "sound": z}, 2.0) - xz) < 1e-12
    mixed = {m: among[m] for m in ("sound", "text", "picture")}
    assert abs(contrastive_among(mixed, 2.0) - contrastive_among(among, 2.0)) < 1e-12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 7), anchor=st.sampled_from([None, "text", "sound"]))
def test_what_is_absent_never_matters(seed, n, anchor):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: {m: torch.randn(n, 4, dtype=torch.float64, generator=g) for m in ("text", "picture", "sound")}
    x, other, present = draw(), draw(), {m: torch.rand(n, generator=g) < 0.6 for m in ("picture", "sound")}
    for m, there in present.items():
        other[m] = torch.where(there[:, None], x[m], other[m] * math.nan)
    other["text"] = x["text"]
    x, other = ({m: v.requires_grad_() for m, v in side.items()} for side in (x, other))
    loss = contrastive_among(x, 2.0, anchor, present)
    assert loss.isfinite() and loss == contrastive_among(other, 2.0, anchor, present)
    gradients = torch.autograd.grad(loss, list(x.values()), allow_unused=True)
    for (m, there) in present.items():
        gradient = dict(zip(x, gradients))[m]
        assert gradient is None or not gradient[~there].any()


def test_nothing_in_common_is_a_loss_of_zero():
    x = {m: torch.randn(3, 4, requires_grad=True) for m in ("text", "sound")}
    one = torch.tensor([True, False, False])
    for present in ({"text": one}, {"text": one, "sound": ~one}, {"text": one & False}):
        loss = contrastive_among(x, 1.0, present=present)
        loss.backward()
        assert loss == 0 and not any(v.grad.any() for v in x.values())


def test_two_items_in_common_are_enough_to_learn_from_and_one_is_not():
    x = {m: torch.randn(3, 4, dtype=torch.float64) for m in ("text", "sound", "picture")}
    two, one = torch.tensor([True, True, False]), torch.tensor([False, False, True])
    expected = contrastive_loss(x["text"][two], x["sound"][two], 1.0)
    assert contrastive_among(x, 1.0, present={"text": two, "sound": two, "picture": one}) == expected


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: contrastive_loss(*pairs(3), 0.0, torch.ones(2, 2).bool()), r"same is torch.bool \(2, 2\); expected bool"),
    (lambda: contrastive_loss(*pairs(3), 0.0, torch.ones(3, 3)), "same is torch.float32"),
    (lambda: contrastive_loss(*pairs(3), 0.0, chunk=0), "chunk is 0, expected 1 or more"),
    (lambda: siglip_loss(torch.ones(3, 4), torch.ones(2, 4), 0.0, 0.0), r"siglip_loss: a is \(3, 4\) and b is"),
    (lambda: siglip_loss(torch.ones(0, 4), torch.ones(0, 4), 0.0, 0.0), "at least one row"),
    (lambda: same_items(torch.ones(2, 2).long()), r"same_items: keys have the shape \(2, 2\)"),
    (lambda: same_items(torch.ones(2)), "same_items: .* torch.float32"),
    (lambda: in_chunks(torch.ones(3, 4), torch.ones(1, 4), None, 2), r"^contrastive_loss: .*b is \(1, 4\)"),
    (lambda: hardest(torch.full((3, 4), math.nan), torch.ones(3, 4), 1), "hardest: 9 of 9 cosines are not a number"),
    (lambda: hardest(*pairs(3), 3), "hardest: k is 3; .*no more than the 2 wrong partners"),
    (lambda: hardest(*pairs(3), 1, same_items("aab")), None),
    (lambda: hardest(*pairs(3), 2, same_items("aab")), "no more than the 1 wrong partners"),
    (lambda: hardest(*pairs(3), 0), "hardest: k is 0"),
    (lambda: contrastive_among({"text": torch.ones(2, 3)}, 0.0), "expected two modalities or more"),
    (lambda: contrastive_among({"a": torch.ones(2, 3), "b": torch.ones(3, 3)}, 0.0), r"'b': \(3, 3\)"),
    (lambda: contrastive_among({"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, 0.0, "c"), r"modalities \['c'\]"),
    (lambda: contrastive_among({"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, 0.0, None, {"d": torch.ones(2).bool()}),
     r"unknown modalities \['d'\]; the embeddings are a, b"),
    (lambda: contrastive_among({"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, 0.0, None, {"a": torch.ones(3).bool()}),
     r"present {'a': \(3,\)}; expected one True or False for each of 2 items"),
    (lambda: contrastive_among({"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, 0.0, None, {"a": torch.ones(2).long()}),
     "expected one True or False"),
])
def test_bad_input_is_refused(call, message):
    if message is None:
        call()
    else:
        with pytest.raises(ValueError, match=message):
            call()


def test_recall_is_found_here_too():
    import mmtutor.retrieval
    assert recall_at is mmtutor.retrieval.recall_at


def test_weighted_sum_and_its_gradient():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    objective = MultiTaskLoss({"a": 1.0, "b": 0.25, "unused": 3.0})
    total, parts = objective({"a": x[0] ** 2, "b": x[1] ** 2})
    total.backward()
    assert total.item() == 2.0 and {k: v.item() for k, v in parts.items()} == {"a": 1.0, "b": 4.0}
    assert x.grad.tolist() == [2.0, 1.0] and not any(v.requires_grad for v in parts.values())


def test_a_loss_that_is_not_a_number_is_seen_and_named():
    total, parts = MultiTaskLoss({"a": 1.0, "b": 2.0})({"a": torch.tensor(2.0), "b": torch.tensor(math.nan)})
    assert total.isnan() and [k for k, v in parts.items() if v.isnan()] == ["b"]


def test_weight_zero_is_recorded_and_not_trained_on():
    total, parts = MultiTaskLoss({"a": 1.0, "b": 0.0})({"a": torch.tensor(2.0), "b": torch.tensor(math.nan)})
    assert total == 2.0 and parts["b"].isnan()
    total, _ = MultiTaskLoss({"b": 0.0})({"b": torch.tensor(5.0, dtype=torch.float64)})
    assert isinstance(total, torch.Tensor) and total == 0 and total.dtype == torch.float64
    assert repr(MultiTaskLoss({"a": 1.0, "b": 0.25})) == "MultiTaskLoss(a=1, b=0.25)"


@pytest.mark.bad_input
@pytest.mark.parametrize("weights", [{}, {"a": -1.0}, {"a": math.inf}, {"a": math.nan}])
def test_weights_are_checked(weights):
    with pytest.raises(ValueError, match="MultiTaskLoss: weights .*finite and not negative") as caught:
        MultiTaskLoss({"good": 1.0} | weights if weights else {})
    assert str(weights) in str(caught.value)  # those that are bad, alone


@pytest.mark.bad_input
@pytest.mark.parametrize("losses, message", [
    ({"gruop": torch.tensor(1.0)}, r"\['gruop'\]; known are group, odd"), ({}, "losses named nothing"),
    ({"odd": torch.ones(2)}, r"'odd': \(2,\).*take the mean first")])
def test_losses_are_checked(losses, message):
    with pytest.raises(ValueError, match=f"^MultiTaskLoss: .*{message}"):
        MultiTaskLoss({"group": 1.0, "odd": 1.0})(losses)
