"""attend and attention_weights against PyTorch, and what must hold for every mask."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from mmtutor.attention import attend, attention_weights, causal_mask, padding_mask

quick = settings(max_examples=15, deadline=None)
BOTH = pytest.mark.parametrize("fused", [True, False])


def qkv(dtype=torch.float64, batch=(2, 3), query=5, key=7, dim=8, value_dim=6):
    shapes = (*batch, query, dim), (*batch, key, dim), (*batch, key, value_dim)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def with_gradients(out, inputs):
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


def worst(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs))


MASKS = {
    "none": lambda: None,
    "random, with dead rows": lambda: (torch.rand(2, 1, 5, 7) > 0.4) & (torch.arange(5) != 2)[:, None],
    "padding": lambda: padding_mask(torch.tensor([7, 3]))[:, None, None],
    "causal": lambda: causal_mask(5, 7),
    "one row": lambda: torch.tensor([True, False, True, True, False, True, True]),
    "one whole sequence dead": lambda: torch.tensor([True, False])[:, None, None, None].expand(2, 1, 1, 7),
}


@BOTH
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equal_to_pytorch(fused, name, dtype, bound):
    inputs, mask = qkv(dtype), MASKS[name]()
    whole = mask if mask is None else mask.expand(2, 3, 5, 7)
    theirs = with_gradients(F.scaled_dot_product_attention(*inputs, attn_mask=whole), inputs)
    assert worst(with_gradients(attend(*inputs, mask, fused=fused), inputs), theirs) < bound


@st.composite
def drawings(draw):
    "Shapes of q, k, v, and the shape of a mask that broadcasts (or None)."
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=4)))
    query, key, dim, value_dim = (draw(st.integers(1, 9)) for _ in range(4))
    axes = [draw(st.sampled_from([n, 1])) for n in (*batch, query, key)]
    mask = draw(st.none() | st.integers(0, len(batch) + 1).map(lambda i: tuple(axes[i:])))
    return [(*batch, n, d) for n, d in ((query, dim), (key, dim), (key, value_dim))], mask, draw(st.integers(0, 10_000))


@settings(max_examples=60, deadline=None)
@given(drawing=drawings())
def test_equal_to_pytorch_for_any_shapes_and_masks(drawing):
    shapes, mask_shape, seed = drawing
    torch.manual_seed(seed)
    mask = None if mask_shape is None else torch.rand(mask_shape) > 0.5
    whole = None if mask is None else mask.expand(*shapes[0][:-1], shapes[1][-2])
    exact = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        inputs = [t.to(dtype).requires_grad_() for t in exact]
        theirs = with_gradients(F.scaled_dot_product_attention(*inputs, attn_mask=whole), inputs)
        for fused in (True, False):
            ours = attend(*inputs, mask, fused=fused)
            assert ours.shape == theirs[0].shape
            assert worst(with_gradients(ours, inputs), theirs) < bound


@BOTH
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_scale(fused, scale):
    q, k, v = qkv()
    expected = (q @ k.mT * scale).softmax(-1) @ v
    assert worst([attend(q, k, v, scale=scale, fused=fused)], [expected]) < 1e-12


def test_default_scale_is_one_over_root_of_the_width():
    q, k, _ = qkv(dim=16)
    assert torch.equal(attention_weights(q, k), attention_weights(q, k, scale=0.25))


@BOTH
def test_dead_rows_give_zeros_and_finite_gradients(fused):
    inputs = qkv()
    mask = torch.rand(2, 3, 5, 7) > 0.3
    mask[0, :, 1] = False
    mask[1] = False
    out = attend(*inputs, mask, fused=fused)
    assert out[1].eq(0).all() and out[0, :, 1].eq(0).all() and out[0, :, 0].ne(0).all()
    gradients = torch.autograd.grad(out.square().sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0][0, :, 1].eq(0).all() and all(g[1].eq(0).all() for g in gradients)


def test_weights_are_rows_that_sum_to_one_or_zero():
    q, k, _ = qkv()
    mask = torch.rand(2, 3, 5, 7) > 0.6
    mask[0, 0, 0] = False
    weights = attention_weights(q, k, mask)
    assert weights.ge(0).all() and weights[~mask].eq(0).all()
    assert torch.allclose(weights.sum(-1), mask.any(-1).double())


@BOTH
def test_gradcheck(fused):
    mask = torch.tensor([[True, False, True], [False, False, False]])
    inputs = qkv(batch=(), query=2, key=3, dim=4, value_dim=2)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, mask, fused=fused), inputs)


@BOTH
@quick
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_content_behind_the_mask_does_not_matter(fused, lengths, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(len(lengths), n, 4) for n in (3, 6, 6))
    real = padding_mask(torch.tensor(lengths), 6)
    before = attend(q, k, v, real[:, None], fused=fused)
    k[~real], v[~real] = 100.0, -1e6
    assert torch.equal(attend(q, k, v, real[:, None], fused=fused), before)
    for i, n in enumerate(lengths):
        alone = attend(q[i], k[i, :n], v[i, :n], fused=fused) if n else torch.zeros(3, 4)
        assert torch.allclose(before[i], alone, atol=1e-5)


@BOTH
def test_nothing_comes_from_the_future(fused):
    q, k, v = (torch.randn(2, 6, 4) for _ in range(3))
    before = attend(q, k, v, causal_mask(6), fused=fused)
    k[:, 4:], v[:, 4:] = torch.randn(2, 2, 2, 4)
    after = attend(q, k, v, causal_mask(6), fused=fused)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


@quick
@given(query=st.integers(1, 6), key=st.integers(1, 6), seed=st.integers(0, 1000))
def test_order_is_not_seen(query, key, seed):
    torch.manual_seed(seed)
    q, k, v = torch.randn(2, query, 4), torch.randn(2, key, 4), torch.randn(2, key, 3)
    out, order, turn = attend(q, k, v), torch.randperm(key), torch.randperm(query)
    assert out.shape == (2, query, 3)
    assert torch.allclose(attend(q, k[:, order], v[:, order]), out, atol=1e-5)
    assert torch.allclose(attend(q[:, turn], k, v), out[:, turn], atol=1e-5)


@BOTH
@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e6), (torch.float64, 1e100), (torch.bfloat16, 1e4)])
def test_large_scores_stay_finite(fused, dtype, size):
    q, k, v = (t.detach() for t in qkv(dtype))
    out = attend(q * size, k, v, torch.rand(5, 7) > 0.2, fused=fused)
    assert out.isfinite().all() and out.abs().max() <= v.abs().max() * 1.01


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_the_fused_kernel_keeps_no_table(batch):
    "Whatever axes stand in front: PyTorch alone falls back to the table for fewer than four."
    inputs, kept = [torch.randn(*batch, 128, 8, requires_grad=True) for _ in range(3)], {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = attend(*inputs)
    assert out.shape == inputs[0].shape
    table = 4 * math.prod(batch) * 128 * 128
    assert sum(kept.values()) < table, f"{sum(kept.values())} bytes kept, a table has {table}"


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_nan_never_becomes_a_number(fused, dtype, masked):
    for key in (*range(1, 36), 63, 64, 65, 200):
        q, k, v = (torch.randn(1, 2, n, 16).to(dtype) for n in (5, key, key))
        mask = torch.ones(5, key, dtype=torch.bool) if masked else None
        for name, tensor, reached in (("q", q, torch.arange(5) == 3), ("k", k, torch.arange(5) >= 0),
                                      ("v", v, torch.arange(5) >= 0)):
            ill = tensor.clone()
            ill[0, 1, min(3, ill.shape[2] - 1), 7] = math.nan
            out = attend(*(ill if t is tensor else t for t in (q, k, v)), mask, fused=fused)
            assert torch.equal(out[0, 1].isnan().any(-1), reached), f"{name}, {key} keys"
            assert out[0, 0].isfinite().all()


@BOTH
def test_an_infinite_query_is_not_a_dead_row(fused):
    q = torch.tensor([[-math.inf, 1.0], [1.0, 1.0]])
    out = attend(q, torch.ones(1, 2), torch.ones(1, 2), fused=fused)
    assert out[0].isnan().all() and torch.equal(out[1], torch.ones(2))


@BOTH
def test_padding_that_is_a_number_never_matters_one_that_is_none_may(fused):
    x, real = torch.randn(4, 8), torch.tensor([True, True, True, False])
    broken = torch.where(real[:, None], x, math.nan)
    assert attend(x, x, broken, real, fused=fused).isnan().all()
    assert torch.equal(attend(x, x, broken.nan_to_num(0), real, fused=fused), attend(x, x, x, real, fused=fused))


@BOTH
@pytest.mark.parametrize("few", [3, 40])
def test_autocast_keeps_its_type(fused, few):
    q, k, v = torch.randn(1, 2, 5, 8), torch.randn(1, 2, few, 8), torch.randn(1, 2, few, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = attend(q, k, v, fused=fused)
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), attend(q, k, v), atol=0.05)


def test_the_query_is_scaled_before_the_product():
    token = torch.full((1, 64), 32.0, dtype=torch.float16)  # token·token is just past float16
    assert (token @ token.T).isinf()
    for fused in (True, False):
        assert torch.equal(attend(token, token, token, fused=fused), token)


@BOTH
def test_no_keys_at_all_give_zeros(fused):
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 0, 4), torch.randn(2, 0, 5)
    for mask in (None, torch.ones(3, 0, dtype=torch.bool)):
        assert torch.equal(attend(q, k, v, mask, fused=fused), torch.zeros(2, 3, 5))


@BOTH
def test_empty_batch_and_no_queries(fused):
    assert attend(torch.randn(0, 3, 4), torch.randn(0, 2, 4), torch.randn(0, 2, 5), fused=fused).shape == (0, 3, 5)
    assert attend(torch.randn(1, 0, 4), torch.randn(1, 2, 4), torch.randn(1, 2, 5), fused=fused).shape == (1, 0, 5)


@BOTH
def test_dropout_keeps_the_mean(fused):
    q, k = torch.zeros(1, 1, 4), torch.zeros(1, 4000, 4)
    v = torch.ones(1, 4000, 1)
    values = {round(attend(q, k, v, dropout=p, fused=fused).item(), 1) for p in (0.0, 0.2, 0.5)}
    assert values == {1.0}
    few = torch.stack([attend(q, k[:, :4], v[:, :4], dropout=0.5, fused=fused) for _ in range(20)])
    assert few.unique().numel() > 1
    assert attend(q, k, v, dropout=1.0, fused=fused) == 0, "everything may be dropped"


def test_masks():
    assert causal_mask(2, 3).tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(causal_mask(4), torch.ones(4, 4).tril().bool()) and causal_mask(0).shape == (0, 0)
    assert padding_mask(torch.tensor([2, 0])).tolist() == [[True, True], [False, False]]
    assert padding_mask(torch.tensor([1]), 3).tolist() == [[True, False, False]]


BAD = {
    "float mask": (lambda q, k, v: (q, k, v, torch.ones(5, 7)), ["torch.float32", "torch.bool", "True = may attend"]),
    "mask of keys only by batch": (lambda q, k, v: (q, k, v, torch.ones(2, 7, dtype=torch.bool)),
                                   ["(2, 7)", "(2, 3, 5, 7)", "mask[:, None, :]"]),
    "mask with too many axes": (lambda q, k, v: (q, k, v, torch.ones(1, 2, 3, 5, 7, dtype=torch.bool)),
                                ["(1, 2, 3, 5, 7)", "does not broadcast"]),
    "widths": (lambda q, k, v: (q[..., :4], k, v), ["(2, 3, 5, 4)", "same width", "linear layer"]),
    "values": (lambda q, k, v: (q, k, v[..., :6, :]), ["(2, 3, 6, 6)", "as many values as keys"]),
    "no tokens": (lambda q, k, v: (q[0, 0, 0], k, v), ["q (8,)", "(tokens, width)"]),
    "devices": (lambda q, k, v: (q.to("meta"), k, v), ["on meta, cpu, cpu", "one device"]),
    "batch": (lambda q, k, v: (q[:1], k, v), ["(1, 3, 5, 8)", "batch axes", ".expand()"]),
}


@pytest.mark.bad_input
@BOTH
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(fused, name):
    make, words = BAD[name]
    with refused(*words):
        attend(*make(*qkv()), fused=fused)


@pytest.mark.bad_input
def test_masks_and_dropout_refuse():
    for call, words in ((lambda: causal_mask(-1), "causal_mask: -1 queries and -1 keys"),
                        (lambda: padding_mask(torch.tensor([1.0])), r"padding_mask: lengths torch.float32 \(1,\)"),
                        (lambda: padding_mask(torch.tensor(3), 4), r"lengths torch.int64 \(\), tokens 4"),
                        (lambda: padding_mask(torch.tensor([3]), -1), "tokens -1.*0 tokens or more"),
                        (lambda: attend(*qkv(), dropout=1.5), "attention: dropout 1.5, expected a share from 0 to 1")):
        with pytest.raises(ValueError, match=words):
            call()
    assert padding_mask(torch.zeros(0, dtype=torch.long)).shape == (0, 0)


@pytest.mark.bad_input
def test_weights_refuse_the_same():
    q, k, _ = qkv()
    with pytest.raises(ValueError, match="torch.bool"):
        attention_weights(q, k, torch.ones(5, 7))
    with pytest.raises(ValueError, match="same width"):
        attention_weights(q, k[..., 1:])
