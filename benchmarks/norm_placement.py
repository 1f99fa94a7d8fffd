"""Deep encoders with the norm first and after, with and without warm-up, at four learning rates, three seeds.

The task: turn words of 8 letters around. Writes results/norm-placement.json. Run: python benchmarks/norm_placement.py
"""
import torch
from torch import nn

from mmtutor.course import records
from mmtutor.transformer import Encoder

DEPTH, DIM, LETTERS, LENGTH, BATCH, STEPS, WARM = 12, 32, 12, 8, 64, 300, 100
SEEDS, RATES = (0, 1, 2), (3e-4, 1e-3, 3e-3, 1e-2)


class Reader(nn.Module):
    def __init__(self, norm_first: bool):
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, DIM), nn.Parameter(torch.randn(LENGTH, DIM))
        self.encoder, self.out = Encoder(DEPTH, DIM, 4, norm_first=norm_first), nn.Linear(DIM, LETTERS)
        for linear in (m for m in self.encoder.modules() if isinstance(m, nn.Linear)):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, word):
        return self.out(self.encoder(self.letters(word) + self.places))


def accuracy(norm_first: bool, warm_up: bool, rate: float, seed: int) -> float:
    "Letters right after training, on 1,000 new words."
    torch.manual_seed(seed)
    model = Reader(norm_first)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * (min(1, (step + 1) / WARM) if warm_up else 1)
        word = torch.randint(LETTERS, (BATCH, LENGTH))
        loss = nn.functional.cross_entropy(model(word).flatten(0, 1), word.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        word = torch.randint(LETTERS, (1000, LENGTH))
        return (model(word).argmax(-1) == word.flip(1)).float().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    begun, figures = records.commit(), {}
    for norm_first in (True, False):
        for warm_up in (True, False):
            for rate in RATES:
                place, start = "first" if norm_first else "after", "with" if warm_up else "no"
                name = f"norm {place}, {start} warm-up, rate {rate:g}"
                figures[name] = records.spread([accuracy(norm_first, warm_up, rate, seed) for seed in SEEDS])
                print(f"{name}: {records.show(figures[name])}", flush=True)
    settings = {"depth": DEPTH, "dim": DIM, "letters": LETTERS, "length": LENGTH, "batch": BATCH, "steps": STEPS,
                "warm_up_steps": WARM, "chance": 1 / LETTERS}
    records.record("norm-placement", "python benchmarks/norm_placement.py", SEEDS, {"settings": settings, **figures},
                   begun=begun)


if __name__ == "__main__":
    main()
