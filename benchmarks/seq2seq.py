"""The model of chapter 4 that writes dates, trained from five seeds: exact match on phrasings it never met.

Writes results/seq2seq.json. Run: python benchmarks/seq2seq.py
"""
import torch
from torch import nn

from mmtutor.course import dates, records
from mmtutor.seq2seq import Seq2Seq, greedy

SEEDS, STEPS, BATCH, RATE, TEST = (0, 1, 2, 3, 4), 600, 128, 3e-3, 2000
LONGER = "dated on {weekday}, in the year {words}, on the {day} of {month}"  # longer than anything in training


def train(seed: int) -> Seq2Seq:
    torch.manual_seed(seed)
    model = Seq2Seq(len(dates.SOURCE), len(dates.TARGET), dim=64, heads=4, hidden=128, depth=(2, 1))
    source, target = dates.encode(dates.examples(STEPS * BATCH, dates.TRAINING, seed=seed, held_out=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for read, written in zip(source.split(BATCH), target.split(BATCH), strict=True):
        loss = nn.functional.cross_entropy(model(read, written[:, :-1]).flatten(0, 1), written[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def exact(model: Seq2Seq, phrasings: list[str]) -> float:
    "Share of dates that are right from the first character to the last, days and phrasings never seen."
    source, target = dates.encode(dates.examples(TEST, phrasings, seed=1, held_out=True))
    return (greedy(model, source, limit=11) == target[:, 1:]).all(1).float().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    begun, models = records.commit(), [train(seed) for seed in SEEDS]
    figures = {"settings": {"steps": STEPS, "batch": BATCH, "rate": RATE, "test": TEST},
               "held-out phrasings": records.spread([exact(model, dates.HELD_OUT) for model in models]),
               "a longer phrasing": records.spread([exact(model, [LONGER]) for model in models])}
    for name in ("held-out phrasings", "a longer phrasing"):
        print(f"{name}: {records.show(figures[name])} {figures[name]['values']}")
    records.record("seq2seq", "python benchmarks/seq2seq.py", SEEDS, figures, begun=begun)


if __name__ == "__main__":
    main()
