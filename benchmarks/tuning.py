"""What the claims T1, T2 and T3 share: emoji names with their groups, a reader of them, and what must not be lost."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.masked import docstring_sentences
from mmtutor.rates import neighbours
from mmtutor.text import TextEncoder, pool
from mmtutor.transformer import Tokens

LAYERS = "encoders.text.encoder.layers"
PARTS = ("integrate", "interpolate", "linalg", "optimize", "signal", "sparse", "spatial", "stats")
SPLITS = ("train", "validation", "test")


class Names:
    "Texts with labels, or tokens of a layer that are computed already; a batch is cut to its longest text."

    def __init__(self, values: Tensor, mask: Tensor, labels: Tensor):
        self.values, self.mask, self.labels = values, mask, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor):
        longest = int(self.mask[rows].sum(1).max())
        return (self.values[rows, :longest], self.mask[rows, :longest]), self.labels[rows]

    def pick(self, rows: Tensor) -> "Names":
        return Names(self.values[rows], self.mask[rows], self.labels[rows])


class Reader(nn.Module):
    "MiniLM, the mean of its tokens, a linear layer. It may begin at a layer whose inputs are computed already."

    def __init__(self, encoder: TextEncoder, classes: int = 8):
        super().__init__()
        self.encoders, self.out, self.begin = nn.ModuleDict({"text": encoder}), nn.Linear(encoder.dim, classes), 0

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        encoder = self.encoders["text"]
        if not values.is_floating_point():
            x = encoder(values, mask).values
        else:
            x = values
            for layer in encoder.encoder.layers[self.begin:]:
                x = layer(x, mask)
        return self.out(F.layer_norm(pool(Tokens(x, mask)), (encoder.dim,)))


def loss_fn(model, batch, generator):
    return F.cross_entropy(model(*batch[0]), batch[1]), {}


def names() -> dict[str, Names]:
    "Every split: token ids, mask, number of the group."
    encoder, found = TextEncoder.from_pretrained(), {}
    for split in SPLITS:
        rows = data.view(split)
        found[split] = Names(*encoder.prepare(list(rows["text"])), torch.tensor(rows["group"]))
    return found


def reader(seed: int) -> Reader:
    torch.manual_seed(seed)
    return Reader(TextEncoder.from_pretrained())


def fit(model: nn.Module, train, *, rate: float, head: float, epochs: int, seed: int, **more) -> nn.Module:
    "The course's own loop: the encoder at `rate`, the head at `head`; no choice by validation inside of a run."
    config = FinetuneConfig(epochs=epochs, batch_size=32, learning_rate=head, encoder_learning_rate=rate, seed=seed,
                            restore_best=False)
    finetune(model, loss_fn, train, config, progress=False, **more)
    return model


@torch.no_grad()
def right(model: nn.Module, items) -> float:
    "The share of items that are answered right."
    batches = [items[rows] for rows in torch.arange(len(items)).split(64)]
    return torch.cat([model.eval()(*x).argmax(1) == y for x, y in batches]).double().mean().item()


def draw(count: int, of: int, seed: int) -> Tensor:
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count]


def sentences(each: int) -> tuple[list[str], Tensor]:
    "As many sentences of each of eight parts of scipy's docstrings, and the number of the part."
    table: dict[str, list[str]] = {part: [] for part in PARTS}
    for sentence, file in docstring_sentences("scipy").items():
        if file.split("/")[0] in table and len(sentence.split()) >= 8:
            table[file.split("/")[0]].append(sentence)
    chosen = [[table[part][i] for i in draw(each, len(table[part]), 0).tolist()] for part in PARTS]
    return [s for group in chosen for s in group], torch.arange(len(PARTS)).repeat_interleave(each)


@torch.no_grad()
def ability(encoder: TextEncoder, texts: Sequence[str], labels: Tensor) -> float:
    "The share of sentences whose nearest other sentence comes from the same part of scipy."
    features = [pool(encoder(*encoder.prepare(texts[i:i + 32]))) for i in range(0, len(texts), 32)]
    return neighbours(torch.cat(features), labels)


def beside(a: Sequence[float], b: Sequence[float]) -> str:
    "How the values of a stand beside those of b, seed by seed."
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    return "ahead of" if min(gaps) > 0 else "behind" if max(gaps) < 0 else "not resolved against"
