"""Good calls of chapter 11: scenes that have to be bound together."""
from dataclasses import asdict

import torch
from fuzzed import good, left_out
from torch import nn

from mmtutor.binding import (
    MODALITIES,
    VOICES,
    Bank,
    Binder,
    Questions,
    Recipe,
    SelfAttentionFusion,
    accuracy,
    batches,
    encode,
    learn,
    looks,
    loss_of,
    new_binder,
    questions,
    symbols,
)
from mmtutor.pooled import ConcatFusion
from mmtutor.tasks import scenes
from mmtutor.transformer import Tokens

left_out("a named tuple that holds what it is given: nothing is computed", "binding.Reply")
left_out("all pictures, sounds and phrases through three pretrained encoders: many seconds", "binding.encode_bank")


class Letters(nn.Module):
    "An encoder of texts, a token for each letter."
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(256, 4)

    def prepare(self, texts):
        longest = max(map(len, texts))
        ids = torch.tensor([[*t.encode(), *[0] * (longest - len(t))] for t in texts], dtype=torch.long)
        return ids, torch.arange(longest) < torch.tensor([[len(t)] for t in texts])

    def forward(self, ids, mask):
        return Tokens(self.embedding(ids), mask)


def _asked(count=4):
    return questions(scenes("train", count, seed=1, voices=VOICES[:2]), "train")


def _model(name="concat", **options):
    return new_binder(name, symbols(), 0, dim=8, **options)


@good("binding.Bank", swallows=("pictures", "sounds", "phrases"))  # only the widths count
def _():
    def used(**given):
        return Bank(**given).widths
    return used, dict(pictures={"colour": torch.randn(28, 24, 5), "lines": torch.randn(28, 24, 5)},
                      sounds=Tokens(torch.randn(144, 2, 4), torch.ones(144, 2, dtype=torch.bool)),
                      phrases=Tokens(torch.randn(16, 3, 6), torch.ones(16, 3, dtype=torch.bool)))


@good("binding.symbols")
def _():
    return symbols, {}


@good("binding.encode")
def _():
    return encode, dict(encoder=Letters(), raw=["one", "seven", "ten"])


@good("binding.Questions", swallows=("bank",))  # of which a few rows are looked up
def _():
    def used(bank, rows, modalities, **given):
        return Questions(**given).tokens(bank, rows, modalities)
    given = {name: value for name, value in vars(_asked()).items()}
    return used, dict(bank=symbols(), rows=torch.tensor([0, 2]), modalities=MODALITIES, **given)


@good("binding.questions")
def _():
    return questions, dict(scenes=scenes("train", 3, seed=1, voices=VOICES[:2]), split="train", style="lines")


@good("binding.Binder")
def _():
    def used(widths, modalities, dim, scale):
        model = Binder(widths, ConcatFusion(modalities, dim), modalities=modalities, dim=dim, scale=scale)
        sizes = {"picture": 9, "sound": 2, "text": 3}
        return model({m: Tokens(torch.randn(2, sizes.get(m, 1), widths[m]),
                                torch.ones(2, sizes.get(m, 1), dtype=torch.bool)) for m in modalities})
    return used, dict(widths={"picture": 5, "sound": 4, "text": 6}, modalities=list(MODALITIES), dim=8, scale=2.0)


@good("binding.Binder forward", swallows=("tokens",))  # behind the masks
def _():
    return _model("decoder", depth=1, heads=2), dict(tokens=_asked().tokens(symbols(), torch.arange(2)),
                                                     need_weights=True)


@good("binding.SelfAttentionFusion")
def _():
    def used(modalities, dim, **given):
        fusion = SelfAttentionFusion(modalities, dim, **given)
        return fusion({m: Tokens(torch.randn(2, 3, dim), torch.ones(2, 3, dtype=torch.bool)) for m in modalities})
    return used, dict(modalities=["picture", "text"], dim=8, depth=1, heads=2, hidden=8, dropout=0.1)


@good("binding.SelfAttentionFusion forward", swallows=("tokens",))  # behind the masks
def _():
    fusion = SelfAttentionFusion(["picture", "text"], 8, depth=1, heads=2, hidden=8)
    tokens = {m: Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)) for m in ("picture", "text")}
    return fusion, dict(tokens=tokens, need_weights=True)


@good("binding.new_binder", swallows=("bank",))  # only its widths count
def _():
    def used(modalities, **given):
        return new_binder(modalities=modalities, **given)(_asked().tokens(symbols(), torch.arange(2), modalities))
    return used, dict(name="decoder", bank=symbols(), seed=0, modalities=["picture", "sound"], dim=8, scale=2.0,
                      depth=1, heads=2)


@good("binding.Recipe")
def _():
    def used(step, **given):
        return Recipe(**given).shape(step)
    return used, dict(step=3, **asdict(Recipe(steps=10, warm_up=2)))


@good("binding.loss_of")
def _():
    model = _model()

    def used(asked, rows, recipe):
        return loss_of(model(asked.tokens(symbols(), rows)), asked, rows, recipe)
    return used, dict(asked=_asked(), rows=torch.arange(4), recipe=Recipe(steps=4))


@good("binding.batches")
def _():
    def used(**given):
        return [rows for rows, _ in zip(batches(**given), range(5))]
    return used, dict(count=10, size=3, seed=0)


@good("binding.accuracy", swallows=("bank",))  # of which a few rows are looked up
def _():
    return accuracy, dict(model=_model(), bank=symbols(), asked=_asked())


@good("binding.accuracy of a model that went astray")
def _():
    def used(weight):
        model = _model()
        model.heads["answer"].bias.data.fill_(weight)
        return accuracy(model, symbols(), _asked())
    return used, dict(weight=0.5)


@good("binding.learn", swallows=("bank",), changes=("model",))
def _():
    def used(bank, asked, validation, seed, batch, rate, warm_up, flat, match, every):
        recipe = Recipe(steps=2, batch=batch, rate=rate, warm_up=warm_up, flat=flat, match=match, every=every)
        return learn(_model(), bank, asked, validation, recipe, seed)
    return used, dict(bank=symbols(), asked=_asked(), validation=_asked(), seed=0, batch=2, rate=1e-3, warm_up=1,
                      flat=0.5, match=1.0, every=1)


@good("binding.looks", swallows=("bank",))
def _():
    return looks, dict(model=_model("decoder", depth=1, heads=2), bank=symbols(), asked=_asked())
