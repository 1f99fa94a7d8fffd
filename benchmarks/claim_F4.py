"""Claim F4: a gate learns to trust the modality that is informative. Noise on one modality, and what the gate does.

`GatedFusion` finds the group. Three ways to train it: "noise": each sample has noise on one modality, of a level drawn
between 0 and 4; "degraded": each sample has one modality really degraded (words masked, picture occluded, speech in
noise), or none; "clean": neither. Level 1 is noise as strong as the features of that modality are on average; it is the
same for all tokens of a sample, so that their mean does not average it out. Tested with noise on one modality at rising
levels, and with one modality really degraded: the mean gate of that modality, and the accuracy.
Writes claim F4 into results/claims.json. Run: python benchmarks/claim_F4.py
"""
import argparse

import torch
import torch.nn.functional as F
from claims import over_seeds, parsed
from fusing import RATE, Light, banks, train
from torch import Tensor

from mmtutor.course import records
from mmtutor.course.records import ahead
from mmtutor.inputs import MODALITIES, Bank
from mmtutor.transformer import Tokens

LEVELS, MOST, EPOCHS, WAYS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), 4.0, 40, ("noise", "degraded", "clean")


def strengths(items: Bank) -> dict[str, float]:
    "The root of the mean square of each modality's features."
    kinds = items.kinds["clean"]
    return {m: kinds[m].values[kinds[m].mask].square().mean().sqrt().item() for m in MODALITIES}


def noisy(tokens: Tokens, level: Tensor, strength: float, generator: torch.Generator) -> Tokens:
    "Noise of `level` (batch,) times `strength` on every feature, the same for all tokens of a sample."
    noise = torch.randn(len(level), 1, tokens.values.shape[2], generator=generator)
    return Tokens(tokens.values + level[:, None, None] * strength * noise, tokens.mask)


def loss_with(way: str, strength: dict[str, float]):
    "The loss of the group, with one modality of each sample made worse, or clean."
    def loss(model: Light, items: Bank, rows: Tensor, generator: torch.Generator) -> Tensor:
        tokens = items.pick("clean", MODALITIES, rows, generator)
        if way == "noise":
            which = torch.randint(len(MODALITIES), rows.shape, generator=generator)
            level = MOST * torch.rand(rows.shape, generator=generator)
            tokens = {m: noisy(tokens[m], level * (which == i), strength[m], generator)
                      for i, m in enumerate(MODALITIES)}
        if way == "degraded":
            poor = items.pick("degraded", MODALITIES, rows, generator)
            which = torch.randint(len(MODALITIES) + 1, rows.shape, generator=generator)
            tokens = {m: either(which == i, poor[m], tokens[m]) for i, m in enumerate(MODALITIES)}
        return F.cross_entropy(model.ask("group", model.ready(tokens)), items.group[rows])
    return loss


def either(first: Tensor, a: Tokens, b: Tokens) -> Tokens:
    "The rows of `a` where `first`, else those of `b`; padded to the longer of the two."
    longest = max(a.values.shape[1], b.values.shape[1])
    a, b = (Tokens(F.pad(t.values, (0, 0, 0, longest - t.values.shape[1])),
                   F.pad(t.mask, (0, longest - t.mask.shape[1]))) for t in (a, b))
    return Tokens(torch.where(first[:, None, None], a.values, b.values), torch.where(first[:, None], a.mask, b.mask))


@torch.no_grad()
def look(model: Light, tokens: dict[str, Tokens], group: Tensor) -> tuple[dict[str, float], float]:
    "The mean gate of each modality, and the accuracy."
    state, gates = model.fusion(model.ready(tokens), need_weights=True)
    right = (model.heads["group"](state).argmax(1) == group).double().mean().item()
    return {m: gates[m].double().mean().item() for m in MODALITIES}, right


def run(seed: int, found: dict[str, Bank], epochs: int) -> dict[str, float]:
    "Figures of one seed: `gate/way/modality/level`, `accuracy/way/modality/level`, and with `real` for the level."
    strength, test, figures = strengths(found["train"]), found["test"], {}
    rows = torch.arange(len(test))
    for way in WAYS:
        torch.manual_seed(seed)
        model = train(Light(MODALITIES, "gated"), found["train"], seed=seed, rate=RATE, epochs=epochs,
                      loss_of=loss_with(way, strength))
        clean, poor = (test.pick(kind, MODALITIES, rows) for kind in ("clean", "degraded"))
        for m in MODALITIES:
            for level in (*LEVELS, "real"):
                generator = torch.Generator().manual_seed(5)
                worse = poor[m] if level == "real" else noisy(
                    clean[m], torch.full((len(rows),), level), strength[m], generator)
                gates, right = look(model, clean | {m: worse}, test.group)
                key = level if level == "real" else f"{level:g}"
                figures |= {f"gate/{way}/{m}/{key}": gates[m], f"accuracy/{way}/{m}/{key}": right}
    return figures


def falls(figures: dict[str, dict], way: str, level: str) -> list[str]:
    "The modalities whose gate is lower at `level` than without, in every seed and by more than the spread."
    return [m for m in MODALITIES
            if ahead(figures[f"gate/{way}/{m}/0"], figures[f"gate/{way}/{m}/{level}"]) == "ahead"]


def verdict(figures: dict[str, dict]) -> str:
    "Taught by noise and asked about noise, taught by real damage and asked about that; and the one that saw neither."
    fell = {"noise, taught by it": falls(figures, "noise", f"{MOST:g}"),
            "real damage, taught by it": falls(figures, "degraded", "real"),
            "noise, trained clean": falls(figures, "clean", f"{MOST:g}"),
            "real damage, trained clean": falls(figures, "clean", "real")}
    words = "; ".join(f"{case}: the gate fell for {' and '.join(found) or 'none'}" for case, found in fell.items())
    counts = [len(found) for found in fell.values()]
    if all(n == len(MODALITIES) for n in counts):
        return "holds: every gate fell, even when trained without any damage"
    if counts[0] == counts[1] == len(MODALITIES):
        return f"holds when such damage is met in training. {words}"
    if counts[0] or counts[1]:
        return f"holds when the damage is met in training, and then not for every modality. {words}"
    return "not resolved at this scale: no gate fell"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), banks(levels=("high",))
    figures = over_seeds(seeds, lambda seed: run(seed, found, args.epochs))
    said = verdict(figures)
    print(said, *(f"{k:32} {records.show(v)}" for k, v in figures.items()), sep="\n")
    if args.dry:
        return
    records.record_claim(
        "F4", "A gate learns to trust the modality that is informative.", said,
        f"python benchmarks/claim_F4.py{options}", seeds,
        {"figures": figures, "levels": list(LEVELS), "trained up to": MOST, "epochs": args.epochs, "rate": RATE,
         "items": {split: len(b) for split, b in found.items()}},
        chapter="09_pooled", begun=begun,
        summary="mean gate without noise → at level 4, trained with noise / trained clean: " + "; ".join(
            m + " " + " / ".join(f"{figures[f'gate/{way}/{m}/0']['mean']:.2f} → "
                                 f"{figures[f'gate/{way}/{m}/4']['mean']:.2f}" for way in WAYS) for m in MODALITIES))


if __name__ == "__main__":
    main()
