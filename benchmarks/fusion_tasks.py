"""What each fusion can compute: three toy tasks on two modalities, every fusion with equal parameters.

"views": picture and sound show one of six classes under noise; a sum of what each says is enough. "agree": do two
classes match? Each alone says nothing. "lookup": three cells with a key and a value each, the sound names a key, the
answer is its value; knowing only which values are there gives one in three. Every batch is new.
Writes results/fusion-tasks.json. Run: python benchmarks/fusion_tasks.py
"""
import argparse

import torch
import torch.nn.functional as F
from torch import nn

from mmtutor.course import records
from mmtutor.fusion import FUSIONS, equal_hidden, make_fusion
from mmtutor.transformer import Tokens

SEEDS, STEPS, BATCH, DIM, BUDGET, KINDS, CELLS = (0, 1, 2), 400, 128, 32, 40_000, 6, 3
PAIR = ("picture", "sound")


def lookup(count: int, rng: torch.Generator):
    keys = torch.rand(count, KINDS, generator=rng).argsort(1)[:, :CELLS]
    values = torch.rand(count, KINDS, generator=rng).argsort(1)[:, :CELLS]
    cell = torch.randint(CELLS, (count, 1), generator=rng)
    picture = torch.cat([F.one_hot(keys, KINDS), F.one_hot(values, KINDS)], dim=-1).float()
    return picture, F.one_hot(keys.gather(1, cell), KINDS).float(), values.gather(1, cell)[:, 0]


def views(count: int, rng: torch.Generator):
    label = torch.randint(KINDS, (count,), generator=rng)
    picture = F.one_hot(label, 2 * KINDS)[:, None] + torch.randn(count, CELLS, 2 * KINDS, generator=rng)
    sound = F.one_hot(label, KINDS)[:, None] + 0.6 * torch.randn(count, 1, KINDS, generator=rng)
    return picture, sound, label


def agree(count: int, rng: torch.Generator):
    seen = torch.randint(KINDS, (count,), generator=rng)
    same = torch.randint(2, (count,), generator=rng)
    heard = torch.where(same == 1, seen, (seen + torch.randint(1, KINDS, (count,), generator=rng)) % KINDS)
    picture = F.one_hot(seen, 2 * KINDS)[:, None].float().repeat(1, CELLS, 1)
    return picture, F.one_hot(heard, KINDS)[:, None].float(), same


TASKS = {"views": views, "agree": agree, "lookup": lookup}


class Toy(nn.Module):
    "A linear layer for each modality, the fusion, a linear layer for the answer. No norm and no positions in front."

    def __init__(self, name: str):
        super().__init__()
        options = {} if name in ("score", "concat", "gated") else {"heads": 2}
        hidden = equal_hidden(name, PAIR, DIM, BUDGET, **options)
        self.fusion = make_fusion(name, PAIR, DIM, hidden=hidden, **options)
        self.picture, self.sound, self.out = nn.Linear(2 * KINDS, DIM), nn.Linear(KINDS, DIM), nn.Linear(DIM, KINDS)

    def forward(self, picture, sound):
        real = lambda x: Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool))
        return self.out(self.fusion({"picture": real(self.picture(picture)), "sound": real(self.sound(sound))}))


def train(name: str, task: str, seed: int, steps: int = STEPS) -> float:
    "Accuracy on 4,000 new samples."
    torch.manual_seed(seed)
    toy, rng = Toy(name), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(toy.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for _ in range(steps):
        picture, sound, answer = TASKS[task](BATCH, rng)
        loss = F.cross_entropy(toy(picture, sound), answer)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(toy.parameters(), 1.0)
        optimiser.step()
    picture, sound, answer = TASKS[task](4000, rng)
    with torch.no_grad():
        return (toy.eval()(picture, sound).argmax(1) == answer).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun, figures = records.commit(), {}
    for task in TASKS:
        for name in FUSIONS:
            figures[f"{task}/{name}"] = records.spread([train(name, task, seed, args.steps) for seed in SEEDS])
            print(task, name, records.show(figures[f"{task}/{name}"]), flush=True)
    about = {name: sum(p.numel() for p in Toy(name).fusion.parameters()) for name in FUSIONS}
    if not args.dry:
        options = f" --steps {args.steps}" if args.steps != STEPS else ""
        records.record("fusion-tasks", f"python benchmarks/fusion_tasks.py{options}", SEEDS,
                       {"accuracy": figures, "parameters": about, "steps": args.steps,
                        "chance": {"views": 1 / KINDS, "agree": 1 / 2, "lookup": 1 / CELLS}}, begun=begun)


if __name__ == "__main__":
    main()
