"""MultiHeadAttention against nn.MultiheadAttention, and what must hold for its masks."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.attention import causal_mask, padding_mask
from mmtutor.multihead import MultiHeadAttention

quick = settings(max_examples=10, deadline=None)


def transplant(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    apart = theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight
    weights = apart if theirs.in_proj_weight is None else theirs.in_proj_weight.chunk(3)
    with torch.no_grad():
        for layer, weight in zip((ours.query, ours.key, ours.value), weights):
            layer.weight.copy_(weight)
        if theirs.in_proj_bias is not None:
            for layer, bias in zip((ours.query, ours.key, ours.value), theirs.in_proj_bias.chunk(3)):
                layer.bias.copy_(bias)
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def pair(dim=12, heads=3, context_dim=None, bias=True, dtype=torch.float64):
    widths = {"kdim": context_dim, "vdim": context_dim}
    theirs = nn.MultiheadAttention(dim, heads, bias=bias, batch_first=True, dtype=dtype, **widths)
    for name, parameter in theirs.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    ours = MultiHeadAttention(dim, heads, context_dim=context_dim, bias=bias).to(dtype)
    transplant(theirs, ours)
    return ours, theirs


def gradients(out, module, inputs):
    module.zero_grad()
    out.square().sum().backward()
    found = [t.grad.clone() for t in inputs]
    for t in inputs:
        t.grad = None
    return found


REAL = padding_mask(torch.tensor([6, 2]), 7)
MASKS = {
    "none": (None, {}),
    "padding": (REAL[:, None], {"key_padding_mask": ~REAL}),
    "causal": (causal_mask(5, 7), {"attn_mask": ~causal_mask(5, 7)}),
    "both": (causal_mask(5, 7) & REAL[:, None], {"attn_mask": ~causal_mask(5, 7), "key_padding_mask": ~REAL}),
    "shared by the batch": (causal_mask(5, 7)[None], {"attn_mask": ~causal_mask(5, 7)}),
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("context_dim, bias", [(None, True), (None, False), (8, True)])
def test_equal_to_pytorch(need_weights, name, context_dim, bias):
    ours, theirs = pair(context_dim=context_dim, bias=bias)
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 7, context_dim or 12, dtype=torch.float64, requires_grad=True)
    mask, converted = MASKS[name]
    out = ours(x, context, mask, need_weights=need_weights)
    expected, weights = theirs(x, context, context, average_attn_weights=False, **converted)
    if need_weights:
        out, found = out
        assert found.shape == (2, 3, 5, 7) and (found - weights).abs().max() < 1e-12
    assert (out - expected).abs().max() < 1e-12
    for a, b in zip(gradients(out, ours, (x, context)), gradients(expected, theirs, (x, context))):
        assert (a - b).abs().max() < 1e-11
    query = theirs.q_proj_weight.grad if theirs.in_proj_weight is None else theirs.in_proj_weight.grad[:12]
    assert (ours.query.weight.grad - query).abs().max() < 1e-11


def test_self_attention_is_cross_attention_to_oneself():
    ours, theirs = pair(dtype=torch.float32)
    x = torch.randn(2, 5, 12)
    assert torch.equal(ours(x), ours(x, x))
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-5)


def test_opposite_convention_is_noticed():
    "A mask handed over without inverting it gives another result, so the tests above do test the convention."
    ours, theirs = pair()
    x, context = torch.randn(2, 5, 12).double(), torch.randn(2, 7, 12).double()
    assert (ours(x, context, REAL[:, None]) - theirs(x, context, context, key_padding_mask=REAL)[0]).abs().max() > 0.1


@quick
@given(heads=st.sampled_from([1, 2, 3, 6]), query=st.integers(1, 5), key=st.integers(1, 6), seed=st.integers(0, 99))
def test_masked_content_never_matters(heads, query, key, seed):
    torch.manual_seed(seed)
    module, x, context = MultiHeadAttention(12, heads), torch.randn(2, query, 12), torch.randn(2, key, 12)
    mask = torch.rand(2, 1, key) > 0.5
    before = module(x, context, mask)
    assert before.shape == x.shape
    context[~mask[:, 0]] = 1e4
    assert torch.equal(module(x, context, mask), before)


def test_every_head_has_its_own_softmax():
    "Head h reads and writes its own slice: changing its query weights moves its weights and no other head's."
    module, x = MultiHeadAttention(12, 3), torch.randn(1, 5, 12)
    before = module(x, need_weights=True)[1]
    with torch.no_grad():
        module.query.weight[4:8] += 1.0
    after = module(x, need_weights=True)[1]
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.allclose(before[:, 1], after[:, 1])


def test_dead_rows_give_the_bias_and_finite_gradients():
    module, x = MultiHeadAttention(12, 3), torch.randn(2, 5, 12, requires_grad=True)
    mask = torch.tensor([True, False])[:, None, None].expand(2, 1, 5)
    for need_weights in (False, True):
        out = module(x, mask=mask, need_weights=need_weights)
        out = out[0] if need_weights else out
        assert torch.allclose(out[1], module.out.bias.expand(5, 12))
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        assert gradient.isfinite().all() and gradient[1].eq(0).all()


def test_dropout_only_while_training():
    module, x = MultiHeadAttention(12, 3, dropout=0.5), torch.randn(2, 5, 12)
    for need_weights in (False, True):
        run = lambda: (lambda out: out[0] if need_weights else out)(module(x, need_weights=need_weights))  # noqa: B023
        module.train()
        assert not torch.equal(run(), run())
        module.eval()
        assert torch.equal(run(), run())


def test_parameters_do_not_depend_on_the_heads():
    counts = {sum(p.numel() for p in MultiHeadAttention(12, heads).parameters()) for heads in (1, 2, 3, 4, 6, 12)}
    assert counts == {4 * 12 * 12 + 4 * 12}


BAD = {
    "(batch, key)": (lambda m: m(torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.ones(2, 7, dtype=torch.bool)),
                     ["(2, 7)", "(5, 7)", "mask[:, None, :]"]),
    "four axes": (lambda m: m(torch.randn(2, 5, 12), mask=torch.ones(2, 3, 5, 5, dtype=torch.bool)), ["(2, 3, 5, 5)"]),
    "other batch": (lambda m: m(torch.randn(2, 5, 12), mask=torch.ones(3, 5, 5, dtype=torch.bool)), ["(3, 5, 5)"]),
    "float": (lambda m: m(torch.randn(2, 5, 12), mask=torch.ones(5, 5)), ["torch.float32", "True = may attend"]),
    "width": (lambda m: m(torch.randn(2, 5, 8)), ["x is (2, 5, 8)", "(batch, tokens, 12)"]),
    "context width": (lambda m: m(torch.randn(2, 5, 12), torch.randn(2, 5, 8)), ["context is (2, 5, 8)"]),
    "no batch": (lambda m: m(torch.randn(5, 12)), ["x is (5, 12)"]),
    "batch sizes": (lambda m: m(torch.randn(2, 5, 12), torch.randn(1, 7, 12)), ["(1, 7, 12)", ".expand()"]),
    "heads": (lambda m: MultiHeadAttention(12, 5), ["5 heads", "width of 12", "divides"]),
    "no heads": (lambda m: MultiHeadAttention(12, 0), ["0 heads"]),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, words = BAD[name]
    with pytest.raises(ValueError) as caught:
        make(MultiHeadAttention(12, 3))
    for word in words:
        assert word in str(caught.value)
