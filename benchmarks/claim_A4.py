"""Claim A4: "positional encoding is a special kind of 1-D convolution". What each does that the other cannot.

A front end (encoding, convolution, or both) and then a network that sees one token at a time: no attention, so that all
that is known of order comes from the front end. Task "my place" asks a token where it stands, task "my neighbour" which
symbol stands before it. Sequences of 16 random symbols of 16, so that guessing is right in 1 of 16 in both tasks.
Writes to results/claims.json. Run: python benchmarks/claim_A4.py
"""
import torch
from torch import nn
from torch.nn import functional as F

from mmtutor.course import records
from mmtutor.positions import SinusoidalPositions

SEEDS, STEPS, BATCH, SYMBOLS, LENGTH, DIM, WIDTH = (0, 1, 2, 3, 4), 500, 64, 16, 16, 48, 3
PLACE, NEIGHBOUR = "my place", "my neighbour"


class Convolution(nn.Module):
    "A 1-D convolution over the tokens; `padding` says what stands beyond the ends."

    def __init__(self, padding: str):
        super().__init__()
        self.conv = nn.Conv1d(DIM, DIM, WIDTH, padding=WIDTH // 2, padding_mode=padding)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


FRONTS = {
    "nothing": nn.Identity,
    "encoding": lambda: SinusoidalPositions(DIM),
    "convolution, ends joined": lambda: Convolution("circular"),
    "convolution, zeros beyond the ends": lambda: Convolution("zeros"),
    "both": lambda: nn.Sequential(SinusoidalPositions(DIM), Convolution("circular")),
}


def samples(task: str, count: int, generator: torch.Generator):
    "Symbols (count, LENGTH) and the answer of every token; the neighbour of the first is the last."
    symbols = torch.randint(0, SYMBOLS, (count, LENGTH), generator=generator)
    return symbols, torch.arange(LENGTH).expand(count, -1) if task == PLACE else symbols.roll(1, 1)


def train(front: str, task: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    model = nn.Sequential(nn.Embedding(SYMBOLS, DIM), FRONTS[front](), nn.LayerNorm(DIM),
                          nn.Linear(DIM, 128), nn.GELU(), nn.Linear(128, max(SYMBOLS, LENGTH)))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        symbols, answers = samples(task, BATCH, generator)
        loss = F.cross_entropy(model(symbols).flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, task: str, seed: int) -> float:
    symbols, answers = samples(task, 500, torch.Generator().manual_seed(seed))
    right = model(symbols).argmax(-1) == answers
    # With zeros beyond the ends the first token cannot see the last: it is not asked.
    return (right[:, 1:] if task == NEIGHBOUR else right).float().mean().item()


def explained_by_convolution(seed: int) -> float:
    "R² on fresh sequences of the best convolution of WIDTH, by least squares, as an imitation of what x + p adds to x."
    generator = torch.Generator().manual_seed(seed)
    p = SinusoidalPositions(DIM).encode(torch.arange(64), torch.float64)

    def windows(count):
        x = torch.randn(count, 64, DIM, dtype=torch.float64, generator=generator)
        rows = torch.cat([x.roll(-shift, 1) for shift in range(-(WIDTH // 2), WIDTH // 2 + 1)], -1).flatten(0, 1)
        bias = torch.ones(len(rows), 1, dtype=torch.float64)
        return torch.cat([rows, bias], -1), p.expand(count, -1, -1).flatten(0, 1)

    kernel = torch.linalg.lstsq(*windows(200)).solution
    fresh, wanted = windows(100)
    return 1 - ((wanted - fresh @ kernel).square().sum() / (wanted - wanted.mean(0)).square().sum()).item()


def main() -> None:
    torch.set_num_threads(1)
    begun, figures = records.commit(), {}
    for front in FRONTS:
        for task in (PLACE, NEIGHBOUR):
            figures[f"{front}/{task}"] = records.spread([accuracy(train(front, task, s), task, 7 + s) for s in SEEDS])
            print(f"{front:36} {task:14} {records.show(figures[f'{front}/{task}'])}", flush=True)
    figures["R² of a convolution"] = records.spread([explained_by_convolution(s) for s in SEEDS])
    print(records.show(figures["R² of a convolution"]))
    mean = {key: f"{figure['mean']:.2f}".replace("-", "−") for key, figure in figures.items()}
    joined = "convolution, ends joined"
    summary = (f"Without attention, an encoding tells a token its place ({mean[f'encoding/{PLACE}']} right, guessing "
               f"0.06) and not its neighbour ({mean[f'encoding/{NEIGHBOUR}']}); a convolution tells the neighbour "
               f"({mean[f'{joined}/{NEIGHBOUR}']}) and not the place ({mean[f'{joined}/{PLACE}']}). R² of the best "
               f"convolution as an imitation of the encoding: {mean['R² of a convolution']}.")
    records.record_claim("A4", "Positional encoding is a special kind of 1-D convolution.", "fails",
                         "python benchmarks/claim_A4.py", SEEDS, figures, summary=summary, chapter="02_positions",
                         begun=begun)


if __name__ == "__main__":
    main()
