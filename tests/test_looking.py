"""Maps of where a model looks: against slow loops, scipy, autograd by hand, and models whose answer is known."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from mmtutor.looking import (
    agreement,
    attention_of,
    effective_receptive_field,
    grad_cam,
    occlusion,
    rollout,
    shuffle_weights,
    square_of,
)
from mmtutor.multihead import KeyValueCache, MultiHeadAttention
from mmtutor.vision import VisionConfig, VisionTransformer

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- occlusion


@quick
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(5, 9), st.integers(5, 8))
def test_of_a_linear_score_it_is_the_weight_under_the_square(seed, stride, size, height, width):
    "For score = Σ w·x the fall at a place is Σ w·(x − fill) there, in a loop of its own."
    picture, weights = draw(seed, 2, height, width), draw(seed + 1, 2, height, width)
    found = occlusion(lambda p: (p * weights).sum((1, 2, 3)), picture, size, stride=stride, fill=0.5, batch=3)
    change = (weights * (picture - 0.5)).sum(0)
    expected = [[change[top:top + size, left:left + size].sum() for left in range(0, width - size + 1, stride)]
                for top in range(0, height - size + 1, stride)]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


def test_the_stride_is_the_size_unless_said_and_the_picture_stays():
    picture = torch.rand(3, 6, 9)
    before = picture.clone()
    assert occlusion(lambda p: p.mean((1, 2, 3)), picture, 3).shape == (2, 3)
    assert torch.equal(picture, before)


def test_a_score_that_grows_when_covered_is_negative_and_no_gradient_is_kept():
    weights = nn.Parameter(torch.tensor(-1.0))
    found = occlusion(lambda p: weights * p.mean((1, 2, 3)), torch.ones(1, 4, 4), 2, fill=0)
    assert torch.equal(found, torch.full((2, 2), -0.25)) and not found.requires_grad


def test_bytes_are_covered_with_grey():
    seen = []
    occlusion(lambda p: (seen.append(p), p.float().mean((1, 2, 3)))[1], torch.zeros(1, 2, 4, dtype=torch.uint8), 2)
    assert seen[1].dtype == torch.uint8 and seen[1][1, 0].tolist() == [[0, 0, 127, 127]] * 2


# ---- agreement


@quick
@given(seeds, st.integers(2, 5), st.integers(2, 5), st.booleans())
def test_agreement_is_scipys_spearman(seed, rows, columns, ties):
    a, b = draw(seed, rows, columns), draw(seed + 1, rows, columns)
    if ties:
        a, b = a.round(), b.round()
        a[0, 0], b[0, 0] = 9, 9  # never constant
    assert agreement(a, b) == pytest.approx(stats.spearmanr(a.flatten(), b.flatten()).statistic, abs=1e-9)


@quick
@given(seeds)
def test_only_the_order_counts(seed):
    a, b = draw(seed, 4, 5), draw(seed + 1, 4, 5)
    assert agreement(a, a.exp()) == pytest.approx(1) and agreement(a, -a) == pytest.approx(-1)
    assert agreement(a, b) == pytest.approx(agreement(b, a)) == pytest.approx(agreement(3 * a + 1, b ** 3))


# ---- Grad-CAM


def test_against_the_definition_place_by_place():
    "Central differences for the gradient, loops for the mean and the sum."
    features, head = draw(0, 2, 3, 2, 4), draw(1, 3, 2, 4)
    score = lambda a: (a.tanh() * head).sum((1, 2, 3)) ** 2
    expected = torch.zeros(2, 2, 4, dtype=torch.float64)
    for item in range(2):
        for channel in range(3):
            slopes = []
            for place in range(8):
                step = torch.zeros_like(features)
                step[item, channel].view(-1)[place] = 1e-5
                slopes.append((score(features + step) - score(features - step))[item] / 2e-5)
            expected[item] += sum(slopes) / 8 * features[item, channel]
    assert torch.allclose(grad_cam(score, features, signed=True), expected, atol=1e-7)
    assert torch.allclose(grad_cam(score, features), expected.clamp(min=0), atol=1e-7)
    assert (expected < 0).any()


@quick
@given(seeds)
def test_with_average_and_linear_it_is_the_class_activation_map(seed):
    features, weights = draw(seed, 1, 4, 3, 3), draw(seed + 1, 4)
    found = grad_cam(lambda a: a.mean((2, 3)) @ weights, features, signed=True)
    assert torch.allclose(found[0], torch.einsum("chw,c->hw", features[0], weights) / 9)


def test_pictures_do_not_mix_and_nothing_is_left_behind():
    features = draw(3, 3, 2, 2, 2)
    score = lambda a: a.square().mean((1, 2, 3))
    together = grad_cam(score, features)
    assert torch.allclose(together, torch.cat([grad_cam(score, f[None]) for f in features]))
    assert not features.requires_grad and features.grad is None and not together.requires_grad
    with torch.no_grad():
        assert torch.equal(grad_cam(score, features), together)


# ---- the effective receptive field


def test_two_means_give_a_squared_triangle():
    mean = lambda x: nn.functional.avg_pool2d(x, 3, stride=1)
    found = effective_receptive_field(lambda x: mean(mean(x)), torch.rand(2, 1, 7, 7, dtype=torch.float64))
    line = torch.tensor([0, 1, 2, 3, 2, 1, 0], dtype=torch.float64) ** 2
    assert torch.allclose(found, torch.outer(line, line) / line.sum() ** 2) and found.sum().item() == pytest.approx(1)


@quick
@given(seeds, st.integers(0, 2))
def test_it_stays_within_the_formula(seed, padding):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=padding), nn.Tanh(), nn.Conv2d(3, 4, 3)).double()
    found = effective_receptive_field(net, draw(seed, 1, 2, 11, 11), seed=seed)
    rows, columns = found.nonzero().T
    assert rows.max() - rows.min() == 4 and columns.max() - columns.min() == 4  # 1 + 2 + 2 = 5 pixels
    assert (found >= 0).all() and not any(p.grad is not None for p in net.parameters())


def test_the_square_holds_the_share_and_the_next_smaller_does_not():
    field = torch.zeros(9, 11)
    field[4, 5], field[3:6, 4:7] = 0, 1
    assert square_of(field, 0.1) == 1 and square_of(field, 0.2) == 3 and square_of(field, 1) == 3
    field[0, 5], field[8, 5] = 1, 1  # far away, and the middle stays
    assert square_of(field, 9 / 11) == 3 and square_of(field, 1) == 9


# ---- rollout


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(2, 5), st.sampled_from([0, 0.3, 0.5, 1]))
def test_rollout_counts_every_path(seed, layers, heads, tokens, residual):
    "The sum over all paths from a token of the top to one of the bottom, one step at a time, without matrices."
    weights = [draw(seed + i, 2, heads, tokens, tokens).softmax(-1) for i in range(layers)]
    found = rollout(weights, residual=residual)

    def from_(item, layer, token, source):
        if layer < 0:
            return float(token == source)
        mean = weights[layer][item, :, token].mean(0)
        return sum(((1 - residual) * mean[below].item() + residual * (below == token)) *
                   from_(item, layer - 1, below, source) for below in range(tokens))
    assert found[1, 0, -1].item() == pytest.approx(from_(1, layers - 1, 0, tokens - 1))
    assert torch.allclose(found.sum(-1), torch.ones_like(found[..., 0])) and (found >= 0).all()
    assert found.shape == (2, tokens, tokens)


def test_order_matters():
    first, second = (draw(seed, 1, 2, 4, 4).softmax(-1) for seed in (0, 1))
    half = lambda w: (w.mean(1)[0] + torch.eye(4)) / 2
    assert torch.allclose(rollout([first, second])[0], half(second) @ half(first))
    assert not torch.allclose(rollout([first, second]), rollout([second, first]))


def vit(depth: int = 2) -> VisionTransformer:
    return VisionTransformer(VisionConfig(dim=16, heads=2, depth=depth)).eval()


def test_attention_of_is_what_the_layers_used():
    model, pictures = vit(), torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    before = model(pictures).values
    weights = attention_of(model, pictures)
    assert [w.shape for w in weights] == [(2, 2, 37, 37)] * 2
    assert all(torch.allclose(w.sum(-1), torch.ones(2, 2, 37), atol=1e-5) and not w.requires_grad for w in weights)
    assert torch.equal(model(pictures).values, before), "the hooks are gone and the model answers as before"
    top = model.encoder.layers[-1].attention
    top.query.weight.data.zero_(), top.query.bias.data.zero_()  # no query: the same weight for every token
    after = attention_of(model, pictures)
    assert torch.equal(after[0], weights[0]) and torch.allclose(after[1], torch.full((2, 2, 37, 37), 1 / 37))


def test_a_cache_grows_once_and_a_model_that_asks_still_gets_its_weights():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = MultiHeadAttention(6, 2), MultiHeadAttention(6, 3)

        def forward(self, x, cache):
            x, weights = self.one(x, need_weights=True)
            self.seen = weights
            return self.two(x, cache=cache)

    model, cache, x = Asks().eval(), KeyValueCache(), torch.randn(1, 4, 6)
    first, second = attention_of(model, x, cache)
    assert len(cache) == 4 and torch.equal(model.seen, first) and second.shape == (1, 3, 4, 4)


def test_the_hooks_go_even_if_the_model_fails():
    model = vit()
    with pytest.raises(RuntimeError, match="broken"):
        model.encoder.layers[1].attention.register_forward_pre_hook(
            lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
        attention_of(model, torch.zeros(1, 3, 96, 96, dtype=torch.uint8))
    layers = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    assert [len(m._forward_hooks) for m in layers] == [0, 0] and len(layers[0]._forward_pre_hooks) == 0


# ---- the sanity check


def test_shuffling_keeps_the_numbers_and_repeats():
    def made(seed):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        net[1].running_mean.normal_()
        return net, shuffle_weights(net, torch.Generator().manual_seed(seed))
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    plain[1].running_mean.normal_()
    (net, returned), (again, _), (other, _) = made(1), made(1), made(2)
    assert returned is net
    for name, values in plain.state_dict().items():
        shuffled = net.state_dict()[name]
        assert torch.equal(values.flatten().sort()[0], shuffled.flatten().sort()[0])
        assert torch.equal(shuffled, again.state_dict()[name])
    for name in ("0.weight", "1.running_mean"):
        assert not torch.equal(plain.state_dict()[name], net.state_dict()[name])
        assert not torch.equal(other.state_dict()[name], net.state_dict()[name])


def test_rollout_does_not_see_what_comes_after_the_last_weights():
    model, pictures = vit(), torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    before, values = rollout(attention_of(model, pictures)), model(pictures).values
    last = model.encoder.layers[-1]
    for part in (last.attention.value, last.attention.out, last.feed_forward):
        shuffle_weights(part, torch.Generator().manual_seed(0))
    assert torch.equal(rollout(attention_of(model, pictures)), before)
    assert not torch.allclose(model(pictures).values, values, atol=1e-3)


# ---- what bad input says

one = lambda p: p.mean((1, 2, 3))
picture = torch.ones(1, 4, 4)
bad = {
    "a square too large": (lambda: occlusion(one, picture, 5),
                           "occlusion: a square of 5 pixels every 5 on a picture (1, 4, 4)"),
    "no square": (lambda: occlusion(one, picture, 0), "a square of 0 pixels"),
    "no step": (lambda: occlusion(one, picture, 2, stride=0), "every 0 on a picture"),
    "a batch": (lambda: occlusion(one, picture[None], 2),
                "on a picture (1, 1, 4, 4); expected (channels, height, width)"),
    "two numbers a picture": (lambda: occlusion(lambda p: p.mean((2, 3)), torch.ones(2, 4, 4), 2),
                              "the score of 5 pictures has the shapes [(1, 2), (4, 2)], expected one number"),
    "one number a batch": (lambda: occlusion(lambda p: p.mean()[None], picture, 2), "the shapes [(1,), (1,)]"),
    "other shapes": (lambda: agreement(torch.rand(2, 2), torch.rand(2, 3)), "agreement: maps (2, 2) and (2, 3)"),
    "a constant map": (lambda: agreement(torch.zeros(2, 2), torch.rand(2, 2)), "from 0 to 0"),
    "another constant map": (lambda: agreement(torch.rand(2, 2), torch.ones(2, 2)), "from 1 to 1; expected"),
    "nan": (lambda: agreement(torch.rand(2, 2), torch.tensor([[0, math.nan], [1, 2]])), "from nan to nan; expected"),
    "tokens": (lambda: grad_cam(one, torch.rand(1, 4, 2)),
               "grad_cam: features torch.float32 (1, 4, 2), expected floats"),
    "whole numbers": (lambda: grad_cam(one, torch.ones(1, 2, 2, 2, dtype=torch.long)),
                      "features torch.int64 (1, 2, 2, 2)"),
    "a constant score": (lambda: grad_cam(lambda a: torch.ones(1), torch.rand(1, 2, 2, 2)),
                         "grad_cam: the score does not depend on the features"),
    "another score": (lambda: grad_cam(lambda a: torch.ones(1, requires_grad=True) * 2, torch.rand(1, 2, 2, 2)),
                      "the score does not depend on the features"),
    "no maps": (lambda: effective_receptive_field(lambda x: x.mean((2, 3)), torch.rand(1, 2, 4, 4)),
                "effective_receptive_field: maps of shape (1, 2) from pictures (1, 2, 4, 4), expected (batch,"),
    "fewer maps": (lambda: effective_receptive_field(lambda x: x[:1], torch.rand(2, 2, 4, 4)),
                   "maps of shape (1, 2, 4, 4)"),
    "a dead place": (lambda: effective_receptive_field(lambda x: (-x).relu(), torch.rand(1, 2, 4, 4)),
                     "the middle place does not depend on the pictures"),
    "no share": (lambda: square_of(torch.ones(3, 3), 0), "square_of: share 0 of a field from 1 to 1"),
    "more than all": (lambda: square_of(torch.ones(3, 3), 1.1), "square_of: share 1.1"),
    "an empty field": (lambda: square_of(torch.zeros(3, 3), 0.5), "a field from 0 to 0, expected a share above 0"),
    "a negative field": (lambda: square_of(torch.tensor([[-1.0, 3]]), 0.5), "a field from -1 to 3"),
    "no batch": (lambda: occlusion(one, picture, 2, batch=0), "occlusion: batches of 0 pictures, painted with 127"),
    "no number": (lambda: occlusion(one, picture, 2, fill=math.nan), "painted with nan; expected 1 or more"),
    "no place": (lambda: agreement(*torch.rand(2, 0, 2)), "agreement: maps (0, 2) and (0, 2), on cpu"),
    "a line": (lambda: square_of(torch.ones(3), 0.5), "square_of: a field (3,), expected (height, width)"),
    "an infinite field": (lambda: square_of(torch.tensor([[math.inf, 1]]), 0.5), "expected (height, width) of finite"),
    "no head": (lambda: rollout([torch.ones(1, 0, 2, 2)]), "rollout: weights of shapes [(1, 0, 2, 2)]"),
    "no layer": (lambda: rollout([]), "rollout: weights of shapes [], expected (batch, heads, tokens, tokens)"),
    "cross-attention": (lambda: rollout([torch.full((1, 1, 2, 3), 1 / 3)]), "weights of shapes [(1, 1, 2, 3)]"),
    "layers of two sizes": (lambda: rollout([torch.full((1, 1, n, n), 1 / n) for n in (2, 3)]),
                            "weights of shapes [(1, 1, 2, 2), (1, 1, 3, 3)]"),
    "before the softmax": (lambda: rollout([torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)]),
                           "rollout: the rows of layer 1 sum to 2 … 2, expected 1"),
    "too much stays": (lambda: rollout([torch.full((1, 1, 2, 2), 0.5)], residual=1.5),
                       "rollout: residual 1.5, expected 0 to 1"),
    "no attention": (lambda: attention_of(nn.Linear(2, 2), torch.ones(1, 2)),
                     "attention_of: Linear holds no MultiHeadAttention"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", bad)
def test_bad_input_is_named(name):
    call, says = bad[name]
    with pytest.raises(ValueError) as error:
        call()
    assert says in str(error.value)
