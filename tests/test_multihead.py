"""MultiHeadAttention against nn.MultiheadAttention, and what must hold for its masks."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from torch import nn

from mmtutor.attention import causal_mask, padding_mask
from mmtutor.multihead import KeyValueCache, MultiHeadAttention

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
@pytest.mark.parametrize("context_dim, bias", [(None, True), (None, False), (8, True), (1, True)])
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


GROUPS = [(6, 6), (6, 3), (6, 2), (6, 1), (4, 2), (1, 1)]


@pytest.mark.parametrize("heads, kv_heads", GROUPS)
@pytest.mark.parametrize("need_weights", [False, True])
def test_grouped_heads_equal_repeated_ones(heads, kv_heads, need_weights):
    "The layer with groups is the plain layer whose key and value heads stand there several times, gradients too."
    grouped = MultiHeadAttention(12, heads, kv_heads=kv_heads, context_dim=8).double()
    plain = MultiHeadAttention(12, heads, context_dim=8).double()
    times = heads // kv_heads

    def repeated(t):
        return t.unflatten(0, (kv_heads, -1)).repeat_interleave(times, 0).flatten(0, 1)
    plain.load_state_dict({n: repeated(t) if n.startswith(("key", "value")) else t
                           for n, t in grouped.state_dict().items()})
    x, context = torch.randn(2, 5, 12).double(), torch.randn(2, 7, 8).double()
    found = [m(x, context, MASKS["both"][0], need_weights=need_weights) for m in (grouped, plain)]
    for a, b in zip(*found) if need_weights else [found]:
        assert (a - b).abs().max() < 1e-12
    for out in found:
        (out[0] if need_weights else out).square().sum().backward()
    assert (grouped.query.weight.grad - plain.query.weight.grad).abs().max() < 1e-11
    for layer in ("key", "value"):  # the copies' gradients add up
        theirs = getattr(plain, layer).weight.grad.unflatten(0, (kv_heads, times, -1)).sum(1).flatten(0, 1)
        assert (getattr(grouped, layer).weight.grad - theirs).abs().max() < 1e-11


def test_grouped_heads_equal_the_kernel_s_own():
    "PyTorch groups in the same order: query heads 0 … r-1 share key/value head 0."
    module, x = MultiHeadAttention(12, 6, kv_heads=2).double(), torch.randn(2, 5, 12).double()
    q = module.query(x).unflatten(-1, (6, 2)).transpose(1, 2)
    k, v = (layer(x).unflatten(-1, (2, 2)).transpose(1, 2) for layer in (module.key, module.value))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert (module(x) - module.out(mixed.transpose(1, 2).flatten(2))).abs().max() < 1e-12


def test_groups_save_parameters_and_cache():
    for kv_heads in (1, 2, 3, 6):
        module, cache = MultiHeadAttention(12, 6, kv_heads=kv_heads), KeyValueCache()
        module(torch.randn(3, 4, 12), cache=cache)
        assert cache.keys.shape == cache.values.shape == (3, kv_heads, 4, 2)
        assert sum(p.numel() for p in module.parameters()) == 2 * 13 * 12 + 2 * 13 * 2 * kv_heads


@quick
@given(pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5), kv_heads=st.sampled_from([1, 3, 6]),
       need_weights=st.booleans(), seed=st.integers(0, 99))
def test_cached_equals_uncached(pieces, kv_heads, need_weights, seed):
    "However a sequence is cut, piece after piece with a cache gives what one causal call gives."
    torch.manual_seed(seed)
    n = sum(pieces)
    module, x = MultiHeadAttention(12, 6, kv_heads=kv_heads).double(), torch.randn(2, n, 12).double()
    whole, weights = module(x, mask=causal_mask(n), need_weights=True)
    cache, begin = KeyValueCache(), 0
    for piece in pieces:
        mask = None if piece == 1 and begin % 2 else causal_mask(piece, len(cache) + piece)
        out = module(x[:, begin:begin + piece], mask=mask, need_weights=need_weights, cache=cache)
        if need_weights:
            out, seen = out
            assert (seen - weights[:, :, begin:begin + piece, :begin + piece]).abs().max() < 1e-12
        assert (out - whole[:, begin:begin + piece]).abs().max() < 1e-12
        begin += piece
        assert len(cache) == begin


def test_cached_gradients_equal_uncached():
    module, x = MultiHeadAttention(12, 3).double(), torch.randn(2, 4, 12).double()
    cache = KeyValueCache()
    pieces = torch.cat([module(x[:, i:i + 1], cache=cache) for i in range(4)], 1)
    found = [torch.autograd.grad(out.square().sum(), list(module.parameters()))
             for out in (pieces, module(x, mask=causal_mask(4)))]
    for a, b in zip(*found):
        assert (a - b).abs().max() < 1e-11


def test_cached_with_padding():
    "The mask counts what the cache holds: a padded prompt stays out of sight in every later step."
    module, x = MultiHeadAttention(12, 3).double(), torch.randn(2, 5, 12).double()
    real = padding_mask(torch.tensor([4, 2]), 4)
    real = torch.cat((real, torch.ones(2, 1, dtype=torch.bool)), 1)
    cache = KeyValueCache()
    module(x[:, :4], mask=causal_mask(4) & real[:, None, :4], cache=cache)
    last = module(x[:, 4:], mask=real[:, None], cache=cache)
    assert (last - module(x, mask=causal_mask(5) & real[:, None])[:, 4:]).abs().max() < 1e-12


def test_cross_attention_computes_its_context_once():
    module, context = MultiHeadAttention(12, 3, context_dim=8).double(), torch.randn(2, 7, 8).double()
    x, calls, cache = torch.randn(2, 4, 12).double(), [], KeyValueCache()
    module.key.register_forward_hook(lambda *_: calls.append(1))
    steps = [module(x[:, i:i + 1], context, REAL[:, None], cache=cache) for i in range(4)]
    assert len(calls) == 1 and len(cache) == 7
    assert (torch.cat(steps, 1) - module(x, context, REAL[:, None])).abs().max() < 1e-12


def test_select_moves_beams():
    "Rows are dropped and doubled: the same as if the chosen sequences had been decoded alone."
    module, x, rows = MultiHeadAttention(12, 3, kv_heads=1), torch.randn(3, 4, 12), torch.tensor([2, 0, 0, 1])
    cache = KeyValueCache()
    cache.select(rows)  # nothing to move yet
    assert len(cache) == 0
    module(x[:, :3], mask=causal_mask(3), cache=cache)
    cache.select(rows)
    alone = module(x[rows], mask=causal_mask(4))[:, 3:]
    assert torch.allclose(module(x[rows, 3:], cache=cache), alone, atol=1e-6)


@pytest.mark.bad_input
def test_a_refused_call_leaves_the_cache_alone():
    module, x, cache = MultiHeadAttention(12, 3), torch.randn(2, 4, 12), KeyValueCache()
    module(x, cache=cache)
    before = cache.keys
    for mask in (torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 8)):
        with pytest.raises(ValueError):
            module(x, mask=mask, cache=cache)
    assert cache.keys is before and len(cache) == 4


@pytest.mark.parametrize("need_weights", [False, True])
def test_empty_input_has_an_answer(need_weights):
    module = MultiHeadAttention(12, 3, kv_heads=1)
    run = lambda *args, **more: (lambda out: out[0] if need_weights else out)(module(*args, need_weights=need_weights,
                                                                                     **more))
    assert run(torch.randn(2, 0, 12)).shape == (2, 0, 12)
    assert run(torch.randn(0, 5, 12)).shape == (0, 5, 12)
    x = torch.randn(2, 5, 12, requires_grad=True)
    for mask in (None, torch.ones(5, 0, dtype=torch.bool)):
        out = run(x, torch.randn(2, 0, 12), mask)
        assert torch.allclose(out, module.out.bias.expand(2, 5, 12))
        assert torch.autograd.grad(out.sum(), x)[0].eq(0).all()


@pytest.mark.parametrize("need_weights", [False, True])
def test_nan_reaches_its_sequence_and_no_other(need_weights):
    module, x = MultiHeadAttention(12, 3), torch.randn(3, 5, 12)
    x[1, 4, 0] = float("nan")
    for mask in (None, torch.tensor([True] * 4 + [False]).expand(3, 1, 5)):
        out = module(x, mask=mask, need_weights=need_weights)
        out = out[0] if need_weights else out
        assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype):
    module, x = MultiHeadAttention(12, 3, kv_heads=1), torch.randn(2, 5, 12)
    expected = module(x, mask=causal_mask(5))
    out = module.to(dtype)(x.to(dtype), mask=causal_mask(5))
    assert out.dtype == dtype and (out.float() - expected).abs().max() < 0.03


def filled(context=None):
    "A layer and a cache that holds three tokens of two sequences."
    module, cache = MultiHeadAttention(12, 3), KeyValueCache()
    module(torch.randn(2, 3, 12), context, cache=cache)
    return module, cache


def another_layer(m):
    return m(torch.randn(2, 1, 12), cache=filled()[1])


def another_batch(m):
    module, cache = filled()
    return module(torch.randn(4, 1, 12), cache=cache)


def another_context(m):
    module, cache = filled(torch.randn(2, 6, 12))
    return module(torch.randn(2, 1, 12), torch.randn(2, 7, 12), cache=cache)


def context_then_self(m):
    module, cache = filled(torch.randn(2, 6, 12))
    return module(torch.randn(2, 1, 12), cache=cache)


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
    "no width": (lambda m: MultiHeadAttention(0, 2), ["2 heads", "width of 0"]),
    "no width of the context": (lambda m: MultiHeadAttention(12, 3, context_dim=0), ["context_dim 0", "1 or more"]),
    "dropout": (lambda m: MultiHeadAttention(12, 3, dropout=1.5), ["dropout 1.5", "from 0 to 1"]),
    "values unlike keys": (lambda m: KeyValueCache().append(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 1, 5)),
                           ["KeyValueCache: keys (2, 3, 4, 5)", "values (2, 3, 1, 5)"]),
    "other heads behind those held": (lambda m: filled()[1].append(*[torch.zeros(2, 1, 4, 4)] * 2),
                                      ["keys (2, 1, 4, 4)", "behind (2, 3, 3, 4)"]),
    "a row that is not there": (lambda m: filled()[1].select(torch.tensor([2])), ["KeyValueCache", "holds 2 rows"]),
    "rows as a mask": (lambda m: filled()[1].select(torch.tensor([True, False])), ["rows torch.bool (2,)"]),
    "no heads": (lambda m: MultiHeadAttention(12, 0), ["0 heads"]),
    "groups": (lambda m: MultiHeadAttention(12, 6, kv_heads=4), ["6 heads", "4 key/value heads", "kv_heads"]),
    "no groups": (lambda m: MultiHeadAttention(12, 6, kv_heads=0), ["0 key/value heads"]),
    "more groups than heads": (lambda m: MultiHeadAttention(12, 3, kv_heads=6), ["6 key/value heads"]),
    "integers": (lambda m: m(torch.randn(2, 5, 12), mask=torch.ones(5, 5).long()), ["torch.int64"]),
    "mask without the cache": (lambda m: filled()[0](torch.randn(2, 2, 12), mask=causal_mask(3)), ["(3, 3)", "(2, 2)"]),
    "another layer's cache": (another_layer, ["another layer", "a cache of its own"]),
    "another batch": (another_batch, ["holds 2 sequences", "(4, 1, 12)", "select"]),
    "another context": (another_context, ["6 tokens", "(2, 7, 12)", "new cache"]),
    "context, then self": (context_then_self, ["for a context", "a cache of its own"]),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, words = BAD[name]
    with refused(*words) as caught:
        make(MultiHeadAttention(12, 3))
    assert str(caught.value).split(":")[0] in ("MultiHeadAttention", "KeyValueCache", "attention"), "who refuses"
