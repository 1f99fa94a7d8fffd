"""Computed twice: the same values and gradients, fewer bytes kept, twice as many forward passes; what is refused."""
import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmtutor.accumulation import SavedBytes
from mmtutor.freezing import freeze
from mmtutor.recompute import recompute, recompute_layers
from mmtutor.transformer import DecoderLayer, Encoder, EncoderLayer


@pytest.fixture(autouse=True)
def doubles(seeded):
    torch.set_default_dtype(torch.float64)


def gradients(model: nn.Module, x: torch.Tensor, run, seed: int = 3) -> list:
    "The loss, every gradient, that of x in front, and the random number that comes next."
    torch.manual_seed(seed)
    model.zero_grad()
    x = x.clone().requires_grad_()
    loss = run(x).square().mean()
    loss.backward()
    return [loss.detach(), x.grad, *(p.grad for p in model.parameters()), torch.rand(1)]


def assert_same(a: list, b: list) -> None:
    for one, two in zip(a, b, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(depth=st.integers(1, 4), dropout=st.sampled_from([0.0, 0.4]), first=st.booleans(), padded=st.booleans())
def test_equal_to_the_plain_stack_and_to_the_library(depth, dropout, first, padded):
    model, x = Encoder(depth, 8, 2, dropout=dropout, norm_first=first), torch.randn(3, 5, 8)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]]) if padded else None
    plain = gradients(model, x, lambda x: model(x, mask))
    recompute_layers(model.layers)
    assert_same(plain, gradients(model, x, lambda x: model(x, mask)))
    recompute_layers(model.layers, False)
    assert not any("forward" in vars(layer) for layer in model.layers)
    for layer in model.layers:
        layer.forward = partial(checkpoint, partial(type(layer).forward, layer), use_reentrant=False)
    assert_same(plain, gradients(model, x, lambda x: model(x, mask)))


def test_two_inputs_and_options():
    layer, x, context = DecoderLayer(8, 2, dropout=0.3), torch.randn(2, 3, 8), torch.randn(2, 4, 8, requires_grad=True)
    plain = gradients(layer, x, lambda x: layer(x, context))
    first = context.grad.clone()
    context.grad = None
    assert_same(plain, gradients(layer, x, lambda x: recompute(layer, x, context, None, need_weights=False)))
    torch.testing.assert_close(context.grad, first, rtol=0, atol=1e-12)


def test_random_numbers_are_drawn_again_the_same_and_the_next_ones_too():
    layer, x = EncoderLayer(8, 2, dropout=0.5), torch.randn(2, 3, 8)
    torch.manual_seed(0)
    y = recompute(layer, x.requires_grad_())
    torch.rand(7)  # somebody draws in between
    before = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(before, torch.get_rng_state())
    twice, x.grad = x.grad, None
    torch.manual_seed(0)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, twice, rtol=0, atol=1e-12)


def test_bytes_and_runs_are_counted():
    model, x, runs = Encoder(6, 16, 2, dropout=0.1), torch.randn(2, 8, 16), [0]
    for layer in model.layers:
        layer.feed_forward.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))

    def count():
        runs[0] = 0
        with SavedBytes(model) as saved:
            loss = model(x).sum()
            kept = saved.now
            loss.backward()
        assert saved.now == 0
        return runs[0], kept, saved.peak
    plain = count()
    recompute_layers(model.layers)
    ours = count()
    assert plain[0] == 6 and ours[0] == 12 and plain[1] == plain[2]
    inside = plain[1] / 6
    assert ours[1] < 8.1 * x.nbytes and ours[2] < inside + 9 * x.nbytes < plain[2] / 3
    with torch.no_grad():
        count_before = runs[0]
        model(x)
    assert runs[0] == count_before + 6


def test_frozen_parts_and_inputs_without_gradient():
    model, x = Encoder(2, 8, 2), torch.randn(2, 3, 8)
    freeze(model, "layers.0")
    recompute_layers(model.layers)
    model(x).square().mean().backward()
    assert all((p.grad is None) == n.startswith("layers.0") for n, p in model.named_parameters())
    freeze(model, "all")
    assert not model(x).requires_grad and model(x.requires_grad_()).requires_grad
    layer = nn.Linear(3, 2)
    recompute(layer, torch.randn(4, 3)).sum().backward()  # the input needs no gradient, the weights do
    assert layer.weight.grad is not None


def test_autocast_is_the_same_the_second_time():
    torch.set_default_dtype(torch.float32)
    layer, x, seen = nn.Linear(4, 4), torch.randn(2, 4, requires_grad=True), []
    layer.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = recompute(layer, x)
    y.float().sum().backward()
    assert seen == [torch.bfloat16] * 2 and x.grad.dtype == torch.float32


def test_names_copies_and_hooks_stay():
    model, x = Encoder(2, 8, 2), torch.randn(2, 3, 8)
    names = list(model.state_dict())
    recompute_layers(model.layers)
    other = copy.deepcopy(model)
    assert list(model.state_dict()) == names and other.layers[0].forward.args[0] is other.layers[0]
    with torch.no_grad():
        other.layers[0].norm_attention.weight.zero_()
    assert not torch.equal(model(x), other(x))


def test_gradients_may_be_asked_for_without_being_stored():
    layer, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    found = torch.autograd.grad(recompute(layer, x).square().sum(), (x, layer.weight))
    wanted = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    assert layer.weight.grad is None and all(torch.equal(a, b) for a, b in zip(found, wanted))


def test_what_would_be_wrong_is_refused():
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match="recompute: 0 is a BatchNorm1d in training mode; its running statistics"):
        recompute(nn.Sequential(nn.BatchNorm1d(3)), x)
    recompute(nn.Sequential(nn.BatchNorm1d(3)).eval(), x).sum().backward()
    with pytest.raises(ValueError, match="the layer returned a tuple, expected one tensor"):
        recompute(nn.LSTM(3, 2), torch.randn(1, 4, 3))

    class Scaled(nn.Linear):
        def forward(self, x, by=None):
            return super().forward(x) * by
    with pytest.raises(ValueError, match="by needs a gradient; hand it over by position"):
        recompute(Scaled(3, 2), x, by=torch.ones(1, requires_grad=True))


def test_a_weight_that_was_changed_in_between_is_noticed():
    layer, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    y = recompute(layer, x)
    with torch.no_grad():
        layer.weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
