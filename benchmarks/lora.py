"""LoRA beside training the last layer and training everything: MiniLM tells the group of an emoji from its name.

8 groups; families stay together. Corrections stand at the query and value projections. The learning rate of each way is
chosen on the validation families; accuracy is that on the test families, after a fixed number of epochs.
Writes results/lora.json. Run: python benchmarks/lora.py
"""
import argparse
import time

import torch
from claims import parsed
from torch import nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.course import records
from mmtutor.freezing import freeze
from mmtutor.lora import add_lora
from mmtutor.text import TextEncoder, pool

SPLITS = ("train", "validation", "test")
WAYS = {"last layer": (3e-3, 1e-2), "rank 1": (1e-3, 3e-3), "rank 4": (1e-3, 3e-3), "rank 16": (1e-3, 3e-3),
        "everything": (5e-5, 2e-4)}


class Reader(nn.Module):
    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder, self.out = encoder, nn.Linear(encoder.dim, 8)

    def forward(self, ids, mask):
        longest = int(mask.sum(1).max())
        return self.out(F.layer_norm(pool(self.encoder(ids[:, :longest], mask[:, :longest]), "mean"),
                                     (self.encoder.dim,)))


def prepared(reader: Reader, way: str) -> Reader:
    "What learns in this way; the last layer always does."
    if way == "last layer":
        freeze(reader.encoder, "all")
    elif way != "everything":
        add_lora(reader.encoder, rank=int(way.split()[1]), alpha=8.0)
    return reader


def train(reader: Reader, inputs, labels, *, rate: float, epochs: int, seed: int) -> None:
    "AdamW; the last layer at 1e-2 or at the way's own rate where it learns alone; the rates fall along a line to zero."
    generator, batch = torch.Generator().manual_seed(seed), 32
    inner = [p for p in reader.encoder.parameters() if p.requires_grad]
    groups = [{"params": list(reader.out.parameters()), "lr": 1e-2 if inner else rate}]
    optimiser = torch.optim.AdamW(groups + ([{"params": inner, "lr": rate}] if inner else []), weight_decay=0.01)
    total = epochs * -(-len(labels) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total)
    reader.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(batch):
            optimiser.zero_grad()
            F.cross_entropy(reader(*(t[rows] for t in inputs)), labels[rows]).backward()
            optimiser.step()
            schedule.step()


@torch.no_grad()
def right(reader: Reader, inputs, labels) -> float:
    found = [reader.eval()(*(t[rows] for t in inputs)).argmax(1) for rows in torch.arange(len(labels)).split(128)]
    return (torch.cat(found) == labels).double().mean().item()


def verdict(ways: dict) -> str:
    "What the figures say of rank 4 beside everything, and of both beside the last layer."
    values = {name: f["test"]["values"] for name, f in ways.items()}

    def beside(a, b):
        gaps = [x - y for x, y in zip(values[a], values[b])]
        return "better than" if min(gaps) > 0 else "worse than" if max(gaps) < 0 else "not resolved against"
    return (f"Rank 4 is {beside('rank 4', 'everything')} training everything, with "
            f"{ways['everything']['trained'] / ways['rank 4']['trained']:.0f} times fewer trained numbers, and "
            f"{beside('rank 4', 'last layer')} the last layer alone.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=400, help="names to learn from")
    parser.add_argument("--epochs", type=int, default=4)
    args, options = parsed(parser)
    begun, seeds, start = records.commit(), tuple(range(args.seeds)), time.process_time()
    rows = {split: data.view(split) for split in SPLITS}
    encoder, found = TextEncoder.from_pretrained(), {}
    for way, rates in WAYS.items():
        tried = {rate: [] for rate in rates}
        for rate in rates:
            for seed in seeds:
                torch.manual_seed(seed)
                chosen = torch.randperm(len(rows["train"]), generator=torch.Generator().manual_seed(seed))[:args.train]
                reader = prepared(Reader(TextEncoder.from_pretrained()), way)
                parts = {split: (encoder.prepare([rows[split]["text"][i] for i in which]),
                                 torch.tensor([rows[split]["group"][i] for i in which]))
                         for split, which in (("train", chosen.tolist()), *(
                             (s, range(len(rows[s]))) for s in SPLITS[1:]))}
                train(reader, *parts["train"], rate=rate, epochs=args.epochs, seed=seed)
                tried[rate].append({split: right(reader, *parts[split]) for split in SPLITS[1:]})
            print(way, rate, tried[rate], round(time.process_time() - start), flush=True)
        best = max(rates, key=lambda rate: sum(r["validation"] for r in tried[rate]))
        trained = sum(p.numel() for p in reader.parameters() if p.requires_grad)
        found[way] = {"test": records.spread([r["test"] for r in tried[best]]), "rate": best,
                      "validation": {f"{rate:g}": records.spread([r["validation"] for r in runs])
                                     for rate, runs in tried.items()},
                      "trained": trained, "state MiB": round(trained * 8 / 2**20, 3),
                      "saved MiB": round(trained * 4 / 2**20, 3)}
    said = verdict(found)
    print(said, *(f"{way:12} {records.show(f['test'])} {f['trained']:,} rate {f['rate']:g}"
                  for way, f in found.items()), sep="\n")
    if not args.dry:
        records.record("lora", f"python benchmarks/lora.py{options}", seeds,
                       {"ways": found, "verdict": said, "texts": args.train, "epochs": args.epochs}, begun=begun)


if __name__ == "__main__":
    main()
