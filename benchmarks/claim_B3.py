"""Claim B3: does the [CLS] vector stand for the whole sentence? Three ways of pooling MiniLM, frozen and fine-tuned.

Tasks: "name" is an emoji's name → its group (8 groups; names of a family stay together). "sentence" is a sentence from
the docstrings of scipy → the part of scipy that it comes from (8 parts; sentences of a file stay together).
Frozen: the tokens are computed once, and only the pooling and a linear layer learn. Fine-tuned: from there on,
everything learns. MiniLM was trained with the mean: what it brings is on the mean's side, and fine-tuning gives [CLS]
its chance.
Writes claim B3 into results/claims.json. Run: python benchmarks/claim_B3.py
"""
import argparse
import functools
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.course import records
from mmtutor.masked import docstring_sentences
from mmtutor.text import AttentionPool, TextEncoder, pool
from mmtutor.transformer import Tokens

PARTS = ("integrate", "interpolate", "linalg", "optimize", "signal", "sparse", "spatial", "stats")
WAYS, SEEDS = ("first", "mean", "attention"), (0, 1, 2)


scipy_sentences = functools.cache(lambda: docstring_sentences("scipy"))


def draw(rows: list[int], count: int, generator: torch.Generator) -> list[int]:
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:count].tolist()]


def names(generator: torch.Generator, train: int, test: int):
    "Emoji names and the numbers of their groups, for training and for the test."
    found = []
    for split, count in (("train", train), ("test", test)):
        rows = data.view(split)
        chosen = draw(list(range(len(rows))), count, generator)
        found += [[rows["text"][i] for i in chosen], [rows["group"][i] for i in chosen]]
    groups = sorted(set(found[1]))
    return found[0], [groups.index(g) for g in found[1]], found[2], [groups.index(g) for g in found[3]]


def sentences(generator: torch.Generator, train: int, test: int):
    "Sentences and the numbers of their parts, as many of each part; no file of scipy is in both."
    table: dict[str, dict[str, list[str]]] = {part: {} for part in PARTS}
    for sentence, file in scipy_sentences().items():
        part = file.split("/")[0]
        if part in table and len(sentence.split()) >= 8:
            table[part].setdefault(file, []).append(sentence)
    sides = {"train": ([], []), "test": ([], [])}
    for number, part in enumerate(PARTS):
        files = draw(sorted(table[part]), len(table[part]), generator)
        pools, wanted = {"test": [], "train": []}, test // len(PARTS)
        for file in files:  # whole files go to the test until it has enough
            pools["test" if len(pools["test"]) < 2 * wanted and file != files[-1] else "train"] += table[part][file]
        for side, count in (("train", train // len(PARTS)), ("test", wanted)):
            rows = draw(pools[side], count, generator)
            sides[side][0].extend(rows)
            sides[side][1].extend([number] * len(rows))
    return *sides["train"], *sides["test"]


class Reader(nn.Module):
    "Pool the tokens, then a linear layer. The norm brings every way of pooling to the same scale."

    def __init__(self, way: str, dim: int, classes: int):
        super().__init__()
        self.way, self.weigh = way, AttentionPool(dim, heads=4) if way == "attention" else None
        self.norm, self.out = nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, classes)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.out(self.norm(self.weigh(tokens) if self.weigh else pool(tokens, self.way)))


def cut(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    "Without the columns that are padding in all rows."
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


def train(reader: Reader, encoder: TextEncoder | None, inputs, labels: Tensor, *, epochs: int, rate: float, seed: int):
    "AdamW over the reader, and over the encoder if it is given; the rate falls to zero along a line."
    generator, batch = torch.Generator().manual_seed(seed), 32
    groups = [{"params": [p for n, p in reader.named_parameters() if n != "weigh.query"], "lr": 2e-3},
              {"params": [p for n, p in reader.named_parameters() if n == "weigh.query"], "lr": 2e-2}]
    if encoder is not None:
        groups.append({"params": list(encoder.parameters()), "lr": rate})
    optimiser, total = torch.optim.AdamW(groups, weight_decay=0.01), epochs * -(-len(labels) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).to(labels.device).split(batch):
            tokens = (Tokens(inputs.values[rows], inputs.mask[rows]) if encoder is None
                      else encoder(*cut(*(t[rows] for t in inputs))))
            loss = F.cross_entropy(reader(tokens), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.no_grad()
def encode(encoder: TextEncoder, inputs: tuple[Tensor, Tensor]) -> Tokens:
    "All tokens of all texts, computed in batches."
    parts = [encoder(*(t[i:i + 64] for t in inputs)) for i in range(0, len(inputs[0]), 64)]
    return Tokens(torch.cat([p.values for p in parts]), torch.cat([p.mask for p in parts]))


@torch.no_grad()
def right(reader: Reader, tokens: Tokens, labels: Tensor) -> float:
    return (reader(tokens).argmax(-1) == labels).float().mean().item()


@torch.no_grad()
def nearest(way: str, seen: Tokens, labels: Tensor, new: Tokens, truth: Tensor) -> float:
    "Nothing is trained: the class whose mean vector is nearest by cosine similarity."
    a, b = (F.normalize(pool(t, way), dim=-1) for t in (seen, new))
    centres = F.normalize(torch.stack([a[labels == c].mean(0) for c in range(int(labels.max()) + 1)]), dim=-1)
    return ((b @ centres.T).argmax(-1) == truth).float().mean().item()


def run(task, seed: int, device: str, sizes: tuple[int, int], epochs: tuple[int, int], rate: float) -> dict[str, float]:
    "Accuracy on the test, for each way of pooling, without training, frozen and fine-tuned."
    texts, labels, test_texts, truth = task(torch.Generator().manual_seed(seed), *sizes)
    labels, truth = torch.tensor(labels, device=device), torch.tensor(truth, device=device)
    encoder = TextEncoder.from_pretrained().to(device)
    inputs, test = (tuple(t.to(device) for t in encoder.prepare(side)) for side in (texts, test_texts))
    seen, new, found = encode(encoder, inputs), encode(encoder, test), {}
    for way in WAYS:
        if way != "attention":
            found[f"no training/{way}"] = nearest(way, seen, labels, new, truth)
        torch.manual_seed(seed)
        reader = Reader(way, encoder.dim, int(labels.max()) + 1).to(device)
        train(reader, None, seen, labels, epochs=epochs[0], rate=0, seed=seed)
        found[f"frozen/{way}"] = right(reader, new, truth)
        tuned = TextEncoder.from_pretrained().to(device)  # the reader goes on from where it is
        train(reader, tuned, inputs, labels, epochs=epochs[1], rate=rate, seed=seed)
        found[f"fine-tuned/{way}"] = right(reader, encode(tuned, test), truth)
    return found


def verdict(figures: dict[str, dict]) -> str:
    "What the figures say, and no more: [CLS] minus mean, seed by seed; worse where a t-test (one side, 5 %) says so."
    gaps = {}
    for place in sorted({key.rsplit("/", 1)[0] for key in figures}):
        first, mean = figures[f"{place}/first"]["values"], figures[f"{place}/mean"]["values"]
        gaps[place] = records.spread([a - b for a, b in zip(first, mean)])
    limit = {3: 2.92, 4: 2.35, 5: 2.13}.get(min(g["n"] for g in gaps.values()), 2.0)  # of Student's t
    worse = [p for p, g in gaps.items() if g["mean"] < 0 and g["mean"] <= -limit * g["sd"] / g["n"] ** 0.5]
    named = ", ".join(p.replace("/", " ") for p in worse)
    tasks = {task: [p for p in gaps if p.startswith(task)] for task in sorted({p.split("/")[0] for p in gaps})}
    level = [t for t, places in tasks.items()
             if not set(places) & set(worse) and min(gaps[p]["mean"] for p in places) > -0.02]
    if not worse:
        return "not resolved at this scale: nowhere was [CLS] worse than the mean by more than chance"
    if level:
        return (f"holds when the text is a {level[0]}: there [CLS] was never more than 0.02 behind the mean; "
                f"but it was worse in {named}")
    return f"fails: [CLS] was worse than the mean in {named}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=400, help="texts to learn from")
    parser.add_argument("--test", type=int, default=320)
    parser.add_argument("--tuning-epochs", type=int, default=2)
    parser.add_argument("--frozen-epochs", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), {}
    for title, task in (("name", names), ("sentence", sentences)):
        for seed in seeds:
            start = time.process_time()
            for key, value in run(task, seed, device, (args.train, args.test),
                                  (args.frozen_epochs, args.tuning_epochs), rate=5e-5).items():
                found.setdefault(f"{title}/{key}", []).append(value)
            print(title, seed, round(time.process_time() - start), {k: v[-1] for k, v in found.items() if title in k},
                  flush=True)
    figures = {key: records.spread(values) for key, values in found.items()}
    said = verdict(figures)
    print(said, *(f"{k:32} {records.show(v)}" for k, v in sorted(figures.items())), sep="\n")
    if args.dry:
        return
    options = "".join(f" --{k.replace('_', '-')} {v}" for k, v in vars(args).items()
                      if k != "dry" and v != parser.get_default(k))
    records.record_claim(
        "B3", "The [CLS] vector stands for the whole sentence.", said, f"python benchmarks/claim_B3.py{options}", seeds,
        {"accuracy": figures, "texts": {"train": args.train, "test": args.test}, "classes": 8,
         "epochs": {"frozen": args.frozen_epochs, "fine-tuned": args.tuning_epochs}},
        chapter="06_text", begun=begun,
        summary="[CLS] / mean: " + "; ".join(
            f"{place.replace('/', ', ')} "
            f"{figures[f'{place}/first']['mean']:.2f} / {figures[f'{place}/mean']['mean']:.2f}"
            for place in sorted({key.rsplit('/', 1)[0] for key in figures})))


if __name__ == "__main__":
    main()
