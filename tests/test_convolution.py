"""Chapter 7, convolution: padding and block are what they say, the receptive field is where the gradient is."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.convolution import ConvNorm, MBConv, pad_same, receptive_field

LAYERS = st.lists(st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 2, 3])), max_size=4)


@settings(max_examples=40, deadline=None)
@given(LAYERS)
def test_the_receptive_field_is_where_the_gradient_is(layers):
    "With kernels of 1 and no padding every pixel of the field has a gradient, and no other one."
    field, jump = receptive_field(layers)
    x = torch.zeros(1, 1, field + jump + 7, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride in layers:
        y = F.conv1d(y, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride)
    first, = torch.autograd.grad(y[0, 0, 0], x, retain_graph=True)
    second, = torch.autograd.grad(y[0, 0, 1], x)
    reach = lambda gradient: gradient[0, 0].nonzero().flatten()
    assert reach(first)[0] == 0 and reach(first)[-1] == field - 1
    assert reach(second)[0] == jump and reach(second)[-1] == field - 1 + jump


def test_receptive_field_by_hand_and_its_errors():
    assert receptive_field([]) == (1, 1) and receptive_field([(3, 1)] * 3) == (7, 1)
    assert receptive_field([(3, 2), (3, 1)]) == (7, 2) and receptive_field([(7, 2), (3, 2)]) == (11, 4)
    for bad in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match=f"receptive_field: kernel {bad[0]}, stride {bad[1]}, expected 1 or more"):
            receptive_field([(3, 1), bad])


@pytest.mark.bad_input
def test_what_cannot_be_convolved():
    for call, words in ((lambda: pad_same(torch.zeros(3, 5, 5), 3, 1), r"pad_same: x \(3, 5, 5\), kernel 3, stride 1"),
                        (lambda: pad_same(torch.zeros(1, 3, 5, 5), 3, 0), "kernel 3, stride 0"),
                        (lambda: receptive_field([(3, 1, 1)]), r"layers \[\(3, 1, 1\)\], expected \(kernel, stride\)"),
                        (lambda: ConvNorm(4, 6, 3, groups=4), "ConvNorm: 4 to 6 channels in 4 groups"),
                        (lambda: ConvNorm(4, 6, 3)(torch.zeros(4, 5, 5)), r"ConvNorm: x is \(4, 5, 5\), expected")):
        with pytest.raises(ValueError, match=words):
            call()


def test_an_even_kernel_keeps_the_size():
    assert MBConv(3, 3, 4, 1, 2)(torch.randn(2, 3, 5, 6)).shape == (2, 3, 5, 6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("linear", [False, True])
def test_conv_norm_is_convolution_norm_and_relu6(stride, linear):
    layer = ConvNorm(4, 6, 3, stride=stride, groups=2, linear=linear).double().eval()
    nn.init.normal_(layer.norm.running_mean), nn.init.normal_(layer.norm.weight, std=9)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = F.conv2d(pad_same(x, 3, stride), layer.conv.weight, stride=stride, groups=2)
        shape = lambda v: v[:, None, None]
        scale = layer.norm.weight / (layer.norm.running_var + 1e-3).sqrt()
        expected = (expected - shape(layer.norm.running_mean)) * shape(scale) + shape(layer.norm.bias)
        if not linear:
            assert (expected > 6).any() and (expected < 0).any()
            expected = expected.clamp(0, 6)
        assert (layer(x) - expected).abs().max() < 1e-12


def test_the_block_is_equivariant_to_shifts_of_its_stride():
    block = MBConv(3, 5, 3, 2, 4).double().eval()
    x = torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    x[:, :, 8:14, 6:12] = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        here, there = block(x), block(x.roll((4, 6), (2, 3)))
        odd = block(x.roll((1, 0), (2, 3)))
    assert (here.roll((2, 3), (2, 3)) - there)[:, :, 2:-2, 2:-2].abs().max() < 1e-12
    assert (here - odd).abs().max() > 1e-3


def test_the_block_has_no_more_weights_than_promised():
    block = MBConv(80, 80, 5, 1, 6)
    assert sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d)) == 2 * 80 * 480 + 25 * 480
    assert isinstance(MBConv(8, 8, 3, 1, 1).expand, nn.Identity)
