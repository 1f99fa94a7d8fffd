"""One good call of each public function of chapters 3 and 4: heads, blocks, and the model that writes."""
import torch
from fuzzed import good

from mmtutor.attention import causal_mask
from mmtutor.multihead import KeyValueCache, MultiHeadAttention
from mmtutor.seq2seq import Seq2Seq, beam_search, greedy
from mmtutor.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward, Tokens

REAL = torch.tensor([[True, True, True], [True, True, False]])


# --- heads ---

def _filled() -> KeyValueCache:
    cache = KeyValueCache()
    cache.append(torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4))
    return cache


@good("multihead.KeyValueCache")
def _():
    return _filled().append, dict(keys=torch.randn(2, 1, 2, 4), values=torch.randn(2, 1, 2, 4))


@good("multihead.KeyValueCache select")
def _():
    return _filled().select, dict(rows=torch.tensor([1, 0, 1]))


@good("multihead.MultiHeadAttention")
def _():
    def used(**given):
        return MultiHeadAttention(**given)(torch.randn(2, 3, given["dim"]), torch.randn(2, 4, given["context_dim"]))
    return used, dict(dim=8, heads=2, kv_heads=1, context_dim=6, bias=True, dropout=0.1)


@good("multihead.MultiHeadAttention forward", swallows=("context",))  # behind the mask
def _():
    return MultiHeadAttention(8, 2, context_dim=6).eval(), dict(
        x=torch.randn(2, 3, 8), context=torch.randn(2, 4, 6), mask=torch.rand(2, 3, 4) > 0.3, need_weights=True)


@good("multihead.MultiHeadAttention with a cache")
def _():
    layer, cache = MultiHeadAttention(8, 2).eval(), KeyValueCache()
    layer(torch.randn(2, 2, 8), cache=cache)
    return layer, dict(x=torch.randn(2, 3, 8), mask=causal_mask(3, 5), cache=cache)


# --- blocks ---

@good("transformer.Tokens", takes=("values", "mask"))  # a pair and no more: what reads it checks it
def _():
    return Tokens, dict(values=torch.randn(2, 3, 4), mask=REAL)


@good("transformer.FeedForward")
def _():
    return lambda **given: FeedForward(**given)(torch.randn(3, given["dim"])), dict(
        dim=4, hidden=8, activation="relu", dropout=0.1)


@good("transformer.FeedForward forward")
def _():
    return FeedForward(4, 8), dict(x=torch.randn(2, 3, 4))


OPTIONS = dict(norm_first=False, activation="relu", dropout=0.1, eps=1e-5)


@good("transformer.EncoderLayer")
def _():
    return lambda **given: EncoderLayer(**given)(torch.randn(2, 3, given["dim"]), REAL), dict(
        dim=4, heads=2, hidden=6, **OPTIONS)


@good("transformer.EncoderLayer forward", swallows=("x",))  # behind the mask
def _():
    return EncoderLayer(4, 2).eval(), dict(x=torch.randn(2, 3, 4), mask=REAL)


@good("transformer.DecoderLayer")
def _():
    def used(**given):
        return DecoderLayer(**given)(torch.randn(2, 3, given["dim"]), torch.randn(2, 3, given["context_dim"]),
                                     causal_mask(3)[None], REAL)
    return used, dict(dim=4, heads=2, hidden=6, context_dim=6, **OPTIONS)


def _reads():
    return dict(x=torch.randn(2, 3, 4), context=torch.randn(2, 3, 6), mask=causal_mask(3)[None], context_mask=REAL)


@good("transformer.DecoderLayer forward", swallows=("context",))
def _():
    return DecoderLayer(4, 2, context_dim=6).eval(), _reads() | dict(need_weights=True)


@good("transformer.DecoderLayer with a cache", swallows=("context",))
def _():
    layer = Decoder(1, 4, 2, context_dim=6).eval()
    return layer.layers[0], _reads() | dict(cache=layer.new_cache()[0])


@good("transformer.Encoder")
def _():
    return lambda **given: Encoder(**given)(torch.randn(2, 3, given["dim"]), REAL), dict(
        depth=2, dim=4, heads=2, hidden=6, final_norm=True, **OPTIONS)


@good("transformer.Encoder forward", swallows=("x",))
def _():
    return Encoder(2, 4, 2).eval(), dict(x=torch.randn(2, 3, 4), mask=REAL)


@good("transformer.Decoder")
def _():
    def used(**given):
        return Decoder(**given)(torch.randn(2, 3, given["dim"]), torch.randn(2, 3, given["context_dim"]),
                                causal_mask(3)[None], REAL)
    return used, dict(depth=2, dim=4, heads=2, hidden=6, context_dim=6, final_norm=True, **OPTIONS)


@good("transformer.Decoder forward", swallows=("context",))
def _():
    model = Decoder(2, 4, 2, context_dim=6).eval()
    return model, _reads() | dict(need_weights=True, cache=model.new_cache())


# --- the model that writes ---

SOURCE = torch.tensor([[3, 4, 5], [5, 3, 0]])


def _writer() -> Seq2Seq:
    "It soon stops writing, whatever it reads: the limit may be huge."
    model = Seq2Seq(6, 7, 8, 2, 8, depth=(1, 1)).eval()
    with torch.no_grad():
        model.out.bias[Seq2Seq.stop] += 3
    return model


@good("seq2seq.Seq2Seq")
def _():
    return lambda **given: Seq2Seq(**given)(SOURCE, torch.tensor([[1, 4], [1, 3]])), dict(
        source=6, target=7, dim=8, heads=2, hidden=8, depth=(1, 1), dropout=0.1)


@good("seq2seq.Seq2Seq forward")
def _():
    return _writer(), dict(source=SOURCE, written=torch.tensor([[1, 4], [1, 3]]))


@good("seq2seq.Seq2Seq decode", swallows=("context",))
def _():
    return _writer().decode, dict(written=torch.tensor([[1, 4], [1, 3]]), context=Tokens(torch.randn(2, 3, 8), REAL),
                                  need_weights=True)


@good("seq2seq.greedy")
def _():
    model = _writer()
    return lambda **given: greedy(model, **given), dict(source=SOURCE, limit=4, cached=True)


@good("seq2seq.beam_search", infinite=True)  # −inf: there are not so many sequences
def _():
    model = _writer()
    return lambda **given: beam_search(model, **given), dict(source=SOURCE, limit=4, beams=2, cached=True)
