"""Claim F1: fusing modalities beats any one of them. A model for every subset of text, picture and sound.

Each model knows its own subset and nothing else, in training and in the test: the group of clean and of degraded
inputs, and which modality does not belong (seen from its subset). Controls on the model of all three: one modality
taken from another item, or left out. Writes claim F1 into results/claims.json. Run: python benchmarks/claim_F1.py
"""
import argparse
from itertools import combinations

import torch
from claims import over_seeds, parsed
from fusing import EPOCHS, RATE, Light, banks, group_accuracy, measures, train

from mmtutor.course import records
from mmtutor.course.records import ahead
from mmtutor.inputs import MODALITIES, Bank

SUBSETS = [subset for n in (1, 2, 3) for subset in combinations(MODALITIES, n)]
ALL, TASKS = "+".join(MODALITIES), ("clean", "degraded", "odd")


def run(seed: int, found: dict[str, Bank], fusion: str, epochs: int) -> dict[str, float]:
    "Every figure of one seed, by `split/task/subset` or `control/task/modality`."
    figures = {}
    for subset in SUBSETS:
        torch.manual_seed(seed)
        model = train(Light(subset, fusion), found["train"], seed=seed, rate=RATE, epochs=epochs)
        for split in ("validation", "test"):
            for task, value in measures(model, found[split]).items():
                figures[f"{split}/{task}/{'+'.join(subset)}"] = value
    for m in MODALITIES:  # `model` is the one of all three
        rest = [o for o in MODALITIES if o != m]
        for kind in ("clean", "degraded"):
            figures[f"shuffled/{kind}/{m}"] = group_accuracy(model, found["test"], kind, MODALITIES, shuffled=m)
            figures[f"missing/{kind}/{m}"] = group_accuracy(model, found["test"], kind, rest)
    return figures


def best(figures: dict[str, dict], task: str, among: tuple[str, ...]) -> str:
    "The modality that is best alone, by validation."
    return max(among, key=lambda m: figures[f"validation/{task}/{m}"]["mean"])


def compared(figures: dict[str, dict]) -> dict[str, str]:
    "By `task/subset` of two or three: ahead, behind or not resolved against the best of its members alone."
    return {f"{task}/{'+'.join(s)}": ahead(figures[f"test/{task}/{'+'.join(s)}"],
                                           figures[f"test/{task}/{best(figures, task, s)}"])
            for task in TASKS for s in SUBSETS if len(s) > 1}


def verdict(figures: dict[str, dict]) -> str:
    against = compared(figures)
    names = {"clean": "the group of clean inputs", "degraded": "the group of degraded inputs", "odd": "the odd one out"}
    won = [names[task] for task in TASKS if against[f"{task}/{ALL}"] == "ahead"]
    level = [key.replace("/", ", ") for key, word in against.items() if word != "ahead"]
    if not won:
        return "not resolved at this scale: all three were nowhere ahead of the best one alone"
    if not level:
        return "holds: every pair and all three were ahead of the best of their members in every task"
    return (f"holds when the other modalities add something: all three were ahead of the best one in {', '.join(won)}; "
            f"not ahead of their best member: {'; '.join(level)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--fusion", default="concat")
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), banks(levels=("high",))
    figures = over_seeds(seeds, lambda seed: run(seed, found, args.fusion, args.epochs))
    said = verdict(figures)
    print(said, *(f"{k:40} {records.show(v)}" for k, v in figures.items()), sep="\n")
    if args.dry:
        return
    records.record_claim(
        "F1", "Fusing modalities beats any one of them.", said, f"python benchmarks/claim_F1.py{options}", seeds,
        {"accuracy": figures, "against the best member": compared(figures), "fusion": args.fusion,
         "epochs": args.epochs, "rate": RATE, "items": {split: len(b) for split, b in found.items()}},
        chapter="09_fusion", begun=begun,
        summary="all three / best one: " + "; ".join(
            f"{task} {figures[f'test/{task}/{ALL}']['mean']:.2f} / "
            f"{figures[f'test/{task}/{best(figures, task, MODALITIES)}']['mean']:.2f}" for task in TASKS))


if __name__ == "__main__":
    main()
