"""What the claims T4 and T7 share: the fusion head on frozen features, trained on chosen rows with given labels.

The question is the group from picture and speech, clean. Every run has the same number of steps, whatever the number of
rows. Two answers are kept: of the step that is best on the validation families, and of the last step.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from fusing import Light
from torch import Tensor, nn

from mmtutor.fusion import mean_token
from mmtutor.inputs import Bank

ASKED, FUSION, BATCH, STEPS, EVERY, RATE, GROUPS = ("picture", "sound"), "concat", 32, 480, 40, 3e-3, 8


def features(items: Bank) -> np.ndarray:
    "Mean tokens side by side, each modality scaled so that both count alike in a distance."
    tokens = items.pick("clean", ASKED, torch.arange(len(items)))
    found = [mean_token(t).double() for t in tokens.values()]
    found = [x - x.mean(0) for x in found]
    return torch.cat([x / x.square().sum(1).mean().sqrt() for x in found], dim=1).numpy()


@torch.no_grad()
def scores(model: Light, items: Bank, rows: Tensor) -> Tensor:
    "Scores of the groups, by row."
    model.eval()
    found = [model.ask("group", model.ready(items.pick("clean", ASKED, part))) for part in rows.split(256)]
    return torch.cat(found)


def right(model: Light, items: Bank, rows: Tensor, labels: Tensor, among: Tensor | None = None) -> float:
    "The share of `labels` found; `among`: the groups that an answer may name."
    found = scores(model, items, rows)
    if among is not None:
        found = found.masked_fill(~torch.isin(torch.arange(GROUPS), among), -math.inf)
    return (found.argmax(1) == labels).double().mean().item()


def fit(banks: dict[str, Bank], rows: np.ndarray, labels: np.ndarray, seed: int, *, steps: int = STEPS,
        among: Tensor | None = None) -> dict[str, float]:
    """Accuracy on training rows, validation and test, at the step that validation prefers and at the last one.

    `labels` are those of `rows`, and may be wrong; `train` is measured on them, as given.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    rows, labels = torch.as_tensor(rows), torch.as_tensor(labels)
    asked = {}
    for split in ("validation", "test"):
        wanted = torch.ones(len(banks[split]), dtype=torch.bool) if among is None else torch.isin(
            banks[split].group, among)
        asked[split] = wanted.nonzero()[:, 0], banks[split].group[wanted]
    model = Light(ASKED, FUSION)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1, (s + 1) / 30) * (1 + math.cos(math.pi * min(1, s / steps))) / 2)
    order, best, found = torch.empty(0, dtype=torch.long), -1.0, {}
    for step in range(1, steps + 1):
        if len(order) < min(BATCH, len(rows)):
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        batch, order = order[:BATCH], order[BATCH:]
        model.train()
        loss = F.cross_entropy(model.ask("group", model.ready(
            banks["train"].pick("clean", ASKED, rows[batch], generator))), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % EVERY == 0 or step == steps:
            now = right(model, banks["validation"], *asked["validation"], among)
            if now > best or step == steps:
                figures = {"train": right(model, banks["train"], rows, labels), "validation": now,
                           "test": right(model, banks["test"], *asked["test"], among)}
                figures["gap"] = figures["train"] - figures["test"]
                if now > best:
                    best = now
                    found |= {f"best/{k}": v for k, v in figures.items()} | {"best/step": step}
    return found | {f"last/{k}": v for k, v in figures.items()}
