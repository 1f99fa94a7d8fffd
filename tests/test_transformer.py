"""Layers and stacks against torch.nn and Hugging Face, and what must hold for masks and padding."""
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from torch import nn

from mmtutor.attention import causal_mask, padding_mask
from mmtutor.course.weights import load_into
from mmtutor.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward, Tokens

quick = settings(max_examples=10, deadline=None)
NAMES = {"self_attn": "attention", "multihead_attn": "cross", "out_proj": "out", "linear1": "feed_forward.up",
         "linear2": "feed_forward.down"}
NORMS = {"encoder": ["norm_attention", "norm_feed_forward"],
         "decoder": ["norm_attention", "norm_cross", "norm_feed_forward"]}
OPTIONS = pytest.mark.parametrize("options", [
    {"norm_first": first, "activation": activation, "dropout": 0.0} for first in (True, False)
    for activation in ("relu", "gelu")], ids=lambda o: f"{'first' if o['norm_first'] else 'after'}-{o['activation']}")
REAL, REAL_CONTEXT, CAUSAL = padding_mask(torch.tensor([5, 3])), padding_mask(torch.tensor([7, 2])), causal_mask(5)


def translate(theirs, kind):
    names, found = NAMES | {f"norm{i + 1}": name for i, name in enumerate(NORMS[kind])}, {}
    for name, tensor in theirs.state_dict().items():
        ours = ".".join(names.get(part, part) for part in name.split("."))
        if "in_proj_" in ours:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3)):
                found[ours.replace("in_proj_", f"{part}.")] = piece
        else:
            found[ours] = tensor
    return found


def randomise(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def same_gradients(ours, theirs, out, expected, inputs, bound=1e-10):
    assert (out - expected).abs().max() < 1e-12
    mine = torch.autograd.grad(out.square().sum(), inputs)
    for a, b in zip(mine, torch.autograd.grad(expected.square().sum(), inputs)):
        assert (a - b).abs().max() < bound


def inputs(grad=True):
    return [torch.randn(2, n, 12, dtype=torch.float64, requires_grad=grad) for n in (5, 7)]


@OPTIONS
@pytest.mark.parametrize("mask, converted", [
    (None, {}), (REAL, {"src_key_padding_mask": ~REAL}), (CAUSAL[None], {"src_mask": ~CAUSAL}),
    (CAUSAL & REAL[:, None], {"src_mask": ~CAUSAL, "src_key_padding_mask": ~REAL})],
    ids=["none", "padding", "causal", "both"])
def test_encoder_layer_equals_pytorch(options, mask, converted):
    theirs = randomise(nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, **options))
    ours = EncoderLayer(12, 3, 20, **options).double()
    load_into(ours, translate(theirs, "encoder"))
    x, _ = inputs()
    same_gradients(ours, theirs, ours(x, mask), theirs(x, **converted), [x])


@OPTIONS
@pytest.mark.parametrize("need_weights", [True, False])
def test_decoder_layer_equals_pytorch(options, need_weights):
    theirs = randomise(nn.TransformerDecoderLayer(12, 3, 20, batch_first=True, **options))
    ours = DecoderLayer(12, 3, 20, **options).double()
    load_into(ours, translate(theirs, "decoder"))
    x, context = inputs()
    expected = theirs(x, context, tgt_mask=~CAUSAL, memory_key_padding_mask=~REAL_CONTEXT)
    out = ours(x, context, CAUSAL[None], REAL_CONTEXT, need_weights=need_weights)
    if need_weights:
        out, weights = out
        assert weights.shape == (2, 3, 5, 7) and weights[1, :, :, 2:].eq(0).all()
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 5).double())
    same_gradients(ours, theirs, out, expected, [x, context])


@pytest.mark.parametrize("first", [True, False])
def test_stacks_equal_pytorch(first):
    options = {"norm_first": first, "dropout": 0.0, "activation": "gelu"}
    x, context = inputs()
    for kind, layer, stack, ours in (
            ("encoder", nn.TransformerEncoderLayer, nn.TransformerEncoder, Encoder(3, 12, 3, 20, **options)),
            ("decoder", nn.TransformerDecoderLayer, nn.TransformerDecoder, Decoder(3, 12, 3, 20, **options))):
        last = nn.LayerNorm(12) if first else None
        more = {"enable_nested_tensor": False} if kind == "encoder" else {}
        theirs = randomise(stack(layer(12, 3, 20, batch_first=True, **options), 3, last, **more))
        state = {f"layers.{i}.{k}": v for i, part in enumerate(theirs.layers) for k, v in translate(part, kind).items()}
        state |= {f"norm.{k}": v for k, v in (last.state_dict() if last else {}).items()}
        load_into(ours.double(), state)
        if kind == "encoder":
            keep = REAL[..., None]   # what stands at padded places is nobody's business
            same_gradients(ours, theirs, ours(x, REAL) * keep, theirs(x, src_key_padding_mask=~REAL) * keep, [x])
        else:
            same_gradients(ours, theirs, ours(x, context, CAUSAL[None], REAL_CONTEXT),
                           theirs(x, context, tgt_mask=~CAUSAL, memory_key_padding_mask=~REAL_CONTEXT), [x, context])


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_equals_hugging_face_bert(kind):
    from transformers.models.bert.modeling_bert import BertConfig, BertLayer
    names = {"attention.self.": "attention.", "attention.output.dense.": "attention.out.",
             "attention.output.LayerNorm.": "norm_attention.", "intermediate.dense.": "feed_forward.up.",
             "output.dense.": "feed_forward.down.", "output.LayerNorm.": "norm_feed_forward."}
    rename = lambda name: next(new + name.removeprefix(old) for old, new in names.items() if name.startswith(old))
    config = BertConfig(hidden_size=12, num_attention_heads=3, intermediate_size=20, attn_implementation=kind)
    theirs = randomise(BertLayer(config)).eval()
    ours = EncoderLayer(12, 3, 20, norm_first=False, eps=1e-12).double()
    load_into(ours, theirs.state_dict(), rename)
    x, _ = inputs()
    added = ((~REAL).double() * torch.finfo(torch.float64).min)[:, None, None]
    same_gradients(ours, theirs, ours(x, REAL), theirs(x, attention_mask=added), [x])


@quick
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_never_matters(lengths, seed):
    torch.manual_seed(seed)
    encoder, x, real = Encoder(2, 12, 3), torch.randn(len(lengths), 6, 12), padding_mask(torch.tensor(lengths), 6)
    out = encoder(x, real)
    x[~real] = float("nan")
    assert torch.equal(encoder(x, real), out) and out.isfinite().all()
    for i, n in enumerate(lengths):
        assert torch.allclose(encoder(x[i:i + 1, :n]), out[i:i + 1, :n], atol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_context_padding_never_matters_nor_its_gradients(poison):
    decoder, x = Decoder(2, 12, 3, context_dim=8), torch.randn(2, 5, 12)
    context = torch.randn(2, 7, 8)
    out = decoder(x, context, None, REAL_CONTEXT)
    context[~REAL_CONTEXT] = poison
    context.requires_grad_()
    again = decoder(x, context, None, REAL_CONTEXT)
    assert torch.equal(again, out)
    again.sum().backward()
    assert context.grad.isfinite().all() and context.grad[~REAL_CONTEXT].eq(0).all()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())


def test_a_context_without_any_real_token_is_like_no_context():
    decoder, x = Decoder(2, 12, 3), torch.randn(2, 5, 12, requires_grad=True)
    none = torch.zeros(2, 7, dtype=torch.bool)
    one, other = (decoder(x, torch.randn(2, 7, 12), None, none) for _ in range(2))
    assert torch.equal(one, other) and one.isfinite().all()
    one.sum().backward()
    assert x.grad.isfinite().all()


def test_causal_mask_hides_the_future():
    x, context = torch.randn(1, 5, 12), torch.randn(1, 7, 12)
    changed = x.clone()
    changed[:, 3] = torch.randn(12)
    encoder, decoder = Encoder(2, 12, 3), Decoder(2, 12, 3)
    for run in (lambda t: encoder(t, CAUSAL[None]), lambda t: decoder(t, context, CAUSAL[None])):
        before, after = run(x), run(changed)
        assert torch.equal(before[:, :3], after[:, :3]) and not torch.allclose(before[:, 3:], after[:, 3:])


def test_nothing_is_causal_by_itself():
    encoder, x = Encoder(1, 12, 3), torch.randn(1, 5, 12)
    order = torch.randperm(5)
    assert torch.allclose(encoder(x[:, order]), encoder(x)[:, order], atol=1e-5)


def test_weights_of_the_stack():
    decoder = Decoder(3, 12, 3, context_dim=8)
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 8)
    out, weights = decoder(x, context, context_mask=REAL_CONTEXT, need_weights=True)
    assert weights.shape == (3, 2, 3, 5, 7) and not torch.allclose(weights[0], weights[1])
    assert torch.allclose(out, decoder(x, context, context_mask=REAL_CONTEXT), atol=1e-5)


def test_norms_of_the_stack():
    for first, final, norm in ((True, None, nn.LayerNorm), (False, None, nn.Identity), (True, False, nn.Identity),
                               (False, True, nn.LayerNorm)):
        for stack in (Encoder, Decoder):
            assert type(stack(1, 12, 3, norm_first=first, final_norm=final).norm) is norm
    assert all(m.eps == 1e-12 for m in Encoder(2, 12, 3, eps=1e-12).modules() if isinstance(m, nn.LayerNorm))


def test_hidden_width_and_size():
    assert EncoderLayer(12, 3).feed_forward.up.out_features == 48
    assert sum(p.numel() for p in EncoderLayer(12, 3).parameters()) == 12 * 12 * 12 + 13 * 12


def test_feed_forward_is_per_token_and_exact_gelu():
    module, x = FeedForward(12, 20).double(), torch.randn(2, 5, 12).double()
    bent = module.up(x)
    expected = module.down(bent * 0.5 * (1 + torch.erf(bent / 2**0.5)))
    assert (module(x) - expected).abs().max() < 1e-12
    assert torch.allclose(module(x)[:, 2], module(x[:, 2]))


def test_dropout_everywhere_and_only_while_training():
    model = Decoder(1, 12, 3, dropout=0.5)
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    layer = model.layers[0]
    assert layer.attention.dropout == layer.cross.dropout == layer.dropout.p == layer.feed_forward.dropout.p == 0.5
    assert not torch.equal(model(x, context), model(x, context))
    model.eval()
    assert torch.equal(model(x, context), model(x, context))


def test_layers_are_separate_and_copyable():
    encoder = Encoder(2, 12, 3)
    assert not torch.equal(encoder.layers[0].attention.query.weight, encoder.layers[1].attention.query.weight)
    x, twin = torch.randn(1, 3, 12), copy.deepcopy(encoder)
    assert torch.equal(twin(x), encoder(x))
    names = {"layers.0.attention.query.weight", "layers.1.norm_feed_forward.bias", "norm.weight"}
    assert names <= set(twin.state_dict())


def test_tokens():
    tokens = Tokens(torch.randn(2, 5, 12), REAL)
    values, mask = tokens
    assert values is tokens.values and mask is tokens.mask
    assert Encoder(1, 12, 3)(*tokens).shape == (2, 5, 12)


@pytest.mark.parametrize("mask", [None, REAL, CAUSAL[None]], ids=["none", "padding", "causal"])
def test_nan_in_a_real_token_stays_in_its_sequence(mask):
    encoder, x = Encoder(2, 12, 3), torch.randn(2, 5, 12)
    clean = encoder(x, mask)
    x[1, 0, 4] = float("nan")
    out = encoder(x, mask)
    assert torch.equal(out[0], clean[0]) and out[1].isnan().all()


@pytest.mark.parametrize("first", [True, False])
def test_decoder_with_caches_equals_the_whole(first):
    decoder = Decoder(3, 12, 3, context_dim=8, norm_first=first).double()
    x, context = torch.randn(2, 6, 12).double(), torch.randn(2, 7, 8).double()
    whole, weights = decoder(x, context, causal_mask(6)[None], REAL_CONTEXT, need_weights=True)
    cache, parts, seen = decoder.new_cache(), [], []
    for begin, end in ((0, 1), (1, 4), (4, 6)):
        part = decoder(x[:, begin:end], context, causal_mask(end - begin, end)[None], REAL_CONTEXT, need_weights=True,
                       cache=cache)
        parts.append(part[0])
        seen.append(part[1])
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-12)
    assert torch.allclose(torch.cat(seen, dim=3), weights, atol=1e-12)
    assert [len(own) for own, _ in cache] == [6] * 3 and [len(context) for _, context in cache] == [7] * 3


def test_no_layer_is_the_norm_alone():
    x = torch.randn(2, 5, 12)
    encoder, decoder = Encoder(0, 12, 3), Decoder(0, 12, 3, norm_first=False)
    assert torch.equal(encoder(x), encoder.norm(x)) and torch.equal(decoder(x, x), x)


@pytest.mark.parametrize("batch, tokens", [(0, 4), (1, 1), (3, 0)])
def test_small_batches(batch, tokens):
    x, real = torch.randn(batch, tokens, 12), torch.ones(batch, tokens, dtype=torch.bool)
    assert Encoder(1, 12, 3)(x, real).shape == x.shape
    assert Decoder(1, 12, 3)(x, torch.randn(batch, 2, 12), real).shape == x.shape


def test_learns():
    "A stack can be trained: one step of plain descent lowers the loss."
    model, x, goal = Encoder(2, 12, 3), torch.randn(4, 5, 12), torch.randn(4, 5, 12)
    losses = []
    for _ in range(3):
        loss = (model(x) - goal).square().mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.05 * p.grad
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2] and all(p.grad.abs().sum() > 0 for n, p in model.named_parameters()
                                                     if "key.bias" not in n)


BAD = {
    "causal mask without batch axis": (lambda: Encoder(1, 12, 3)(torch.randn(2, 5, 12), CAUSAL),
                                       ["(5, 5)", "(2, 5)", "mask[None]"]),
    "float padding": (lambda: EncoderLayer(12, 3)(torch.randn(2, 5, 12), REAL.float()),
                      ["torch.float32", "True = real"]),
    "context padding of other length": (
        lambda: Decoder(1, 12, 3)(torch.randn(2, 5, 12), torch.randn(2, 7, 12), context_mask=REAL),
        ["(2, 5)", "(2, 7)"]),
    "activation": (lambda: EncoderLayer(12, 3, activation="swish"), ["'swish'", "'gelu'", "'relu'"]),
    "heads": (lambda: Encoder(1, 12, 5), ["5 heads", "12"]),
    "width, norm first": (lambda: Encoder(1, 12, 3)(torch.randn(2, 5, 8)), ["Encoder: x", "(2, 5, 8)", "tokens, 12"]),
    "width, norm after": (lambda: Encoder(1, 12, 3, norm_first=False)(torch.randn(2, 5, 8), REAL), ["(2, 5, 8)"]),
    "width, layer": (lambda: EncoderLayer(12, 3)(torch.randn(2, 5, 8)), ["EncoderLayer: x", "(2, 5, 8)"]),
    "no batch": (lambda: Encoder(1, 12, 3)(torch.randn(5, 12)), ["(5, 12)", "(batch, tokens, 12)"]),
    "width, decoder": (lambda: Decoder(1, 12, 3)(torch.randn(2, 5, 8), torch.randn(2, 7, 12)), ["Decoder: x"]),
    "width, decoder layer": (lambda: DecoderLayer(12, 3)(torch.randn(2, 5, 8), torch.randn(2, 7, 12)),
                             ["DecoderLayer: x", "(2, 5, 8)"]),
    "width of the context": (lambda: Decoder(1, 12, 3, context_dim=8)(torch.randn(2, 5, 12), torch.randn(2, 7, 12)),
                             ["Decoder: context", "(2, 7, 12)", "tokens, 8"]),
    "width of a layer's context": (lambda: DecoderLayer(12, 3, context_dim=8)(*inputs()), ["DecoderLayer: context"]),
    "mask of other length": (lambda: Encoder(1, 12, 3)(torch.randn(2, 4, 12), REAL), ["(2, 5)", "(2, 4)"]),
    "three axes, wrong length": (lambda: Encoder(1, 12, 3)(torch.randn(2, 4, 12), CAUSAL[None]), ["(1, 5, 5)"]),
    "mask of one axis": (lambda: Encoder(1, 12, 3)(torch.randn(2, 5, 12), REAL[0]), ["(5,)", "(2, 5)"]),
    "batch of the context": (lambda: Decoder(1, 12, 3)(torch.randn(2, 5, 12), torch.randn(3, 7, 12)), ["batch"]),
    "depth": (lambda: Decoder(-1, 12, 3), ["Decoder: depth -1, dropout 0,"]),
    "dropout of no layer": (lambda: Encoder(0, 12, 3, dropout=1.5), ["Encoder: depth 0, dropout 1.5"]),
    "too deep": (lambda: Encoder(10**9, 12, 3), ["Encoder: depth 1000000000", "1,000 layers"]),
    "no hidden unit": (lambda: EncoderLayer(12, 3, 0), ["FeedForward: widths 12 and 0"]),
    "dropout": (lambda: FeedForward(12, 3, dropout=-1), ["FeedForward", "dropout -1", "from 0 to 1"]),
    "width, feed-forward": (lambda: FeedForward(12, 3)(torch.randn(2, 5)), ["FeedForward: x is (2, 5)", "(…, 12)"]),
    "eps": (lambda: Encoder(0, 12, 3, eps=0), ["eps 0", "above 0"]),
    "caches of another depth": (lambda: Decoder(1, 12, 3)(*inputs(), cache=[]), ["0 caches for 1 layers", "new_cache"]),
    "one cache of two": (lambda: DecoderLayer(12, 3)(*inputs(), cache=()), ["DecoderLayer: 0 caches", "two"]),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, words = BAD[name]
    with refused(*words):
        make()
