"""One good call of each public function of chapter 6: text, and the words hidden in it."""
import torch
from fuzzed import good

from mmtutor.masked import (
    NOT_ASKED,
    MaskedLanguageModel,
    docstring_sentences,
    fill,
    initialise,
    length_batches,
    mask_tokens,
    masked_loss,
    pieces_to_hide,
    pretrain,
    score_blanks,
)
from mmtutor.text import AttentionPool, TextConfig, TextEncoder, bert_name, pool, train_wordpiece, unicode_names
from mmtutor.transformer import Tokens

TEXTS = ["the red apple", "a green boat", "the blue tree"]
TOKENIZER = train_wordpiece(TEXTS, 60)
SIZES = dict(vocabulary=TOKENIZER.get_vocab_size(), dim=8, heads=2, depth=1, hidden=8, max_length=12, dropout=0.1,
             eps=1e-12, types=2)


def _encoder() -> TextEncoder:
    return TextEncoder(TextConfig(**SIZES), TOKENIZER).eval()


def _rows() -> dict:
    ids, mask = _encoder().prepare(TEXTS)
    return dict(ids=ids, mask=mask)


def _tokens() -> Tokens:
    return Tokens(torch.randn(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]]))


# --- text ---

@good("text.unicode_names")
def _():
    return unicode_names, {}


@good("text.train_wordpiece")
def _():
    return lambda **given: train_wordpiece(**given).encode("red green").ids, dict(texts=TEXTS, size=60)


@good("text.TextConfig")
def _():
    ids = torch.tensor([[2, 5, 3], [2, 6, 0]])
    return lambda **given: TextEncoder(TextConfig(**given))(ids, ids > 0).values, SIZES


@good("text.TextEncoder")
def _():
    def used(texts, truncate):
        encoder = _encoder()
        return encoder(*encoder.prepare(texts, truncate=truncate)).values
    return used, dict(texts=TEXTS, truncate=False)


@good("text.TextEncoder forward")
def _():
    return _encoder(), _rows()


@good("text.bert_name")
def _():
    return bert_name, dict(name="encoder.layer.0.attention.self.query.weight")


def _pooled(how):
    return pool, dict(tokens=_tokens(), how=how)


@good("text.pool", swallows=("tokens",))  # behind the mask
def _():
    return _pooled("mean")


@good("text.pool by the first", swallows=("tokens",))
def _():
    return _pooled("first")


@good("text.pool by the largest", swallows=("tokens",))
def _():
    return _pooled("max")


@good("text.AttentionPool")
def _():
    def used(dim, heads):
        return AttentionPool(dim, heads)(Tokens(torch.randn(2, 3, dim), torch.ones(2, 3, dtype=torch.bool)))
    return used, dict(dim=4, heads=2)


@good("text.AttentionPool forward", swallows=("tokens",))
def _():
    return AttentionPool(4, 2), dict(tokens=_tokens())


@good("text.AttentionPool weights", swallows=("tokens",))
def _():
    return AttentionPool(4, 2).weights, dict(tokens=_tokens())


# --- hidden words ---

def _model() -> MaskedLanguageModel:
    return MaskedLanguageModel(_encoder()).eval()


def _blanks() -> dict:
    read, mask = _rows().values()
    target = read.where((read > 4) & (torch.arange(read.shape[1]) % 2 == 1), NOT_ASKED)
    return dict(read=read, mask=mask, target=target)


@good("masked.mask_tokens")
def _():
    return mask_tokens, _rows() | dict(ordinary=torch.arange(5, 60), mask_id=4, share=0.3)


@good("masked.MaskedLanguageModel")
def _():
    rows = _rows()
    return _model(), rows | dict(where=rows["ids"] > 4)


@good("masked.initialise")
def _():
    return lambda dim: initialise(torch.nn.Linear(4, 3), dim), dict(dim=4)


@good("masked.masked_loss")
def _():
    model = _model()
    return lambda **given: masked_loss(model, **given), _blanks()


@good("masked.pieces_to_hide")
def _():
    return lambda: pieces_to_hide(_encoder()), {}


@good("masked.length_batches")
def _():
    return length_batches, dict(mask=_rows()["mask"], size=2, generator=torch.Generator().manual_seed(0))


@good("masked.pretrain")
def _():
    def used(steps, **given):
        return pretrain(_model(), steps=min(steps, 3), **given)  # a huge number of steps takes its time
    return used, _rows() | dict(steps=2, batch=2, rate=1e-3, share=0.3, seed=0)


@good("masked.score_blanks")
def _():
    model = _model()
    return lambda **given: score_blanks(model, **given), {k: v.repeat(3, 1) for k, v in _rows().items()} | dict(seed=0)


@good("masked.fill")
def _():
    model = _model()
    return lambda **given: fill(model, **given), dict(text="the [MASK] apple", best=3)


@good("masked.docstring_sentences")
def _():
    return docstring_sentences, dict(package="jaxtyping")
