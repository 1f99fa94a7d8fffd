"""Claim T4: is a small but representative data set enough, and does it avoid overfitting?

5, 10 and 30 % of the training families, chosen at random, stratified by group, and by coverage (k-centre on the frozen
features), against all of them: the group from picture and speech, and how far training and test lie apart.
Writes claim T4 into results/claims.json. Run: python benchmarks/claim_T4.py
"""
import argparse

import numpy as np
from claims import over_seeds, parsed
from few_data import GROUPS, STEPS, features, fit
from fusing import banks

from mmtutor.course import records
from mmtutor.course.records import ahead
from mmtutor.subsets import gaps, k_centre, random_subset, stratified_subset

PERCENT, RULES = (5, 10, 30), ("random", "stratified", "k-centre")


def choose(rule: str, size: int, group: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    "The chosen rows."
    if rule == "random":
        return random_subset(len(group), size, rng)
    if rule == "stratified":
        return stratified_subset(group, size, rng)
    return k_centre(x, size, int(rng.integers(len(group))))[0]


def run(seed: int, found: dict, x: np.ndarray, steps: int = STEPS) -> dict[str, dict[str, float]]:
    "`rule, percent` → figures of one seed."
    group, figures = found["train"].group.numpy(), {}
    for rule, percent in [*((rule, p) for p in PERCENT for rule in RULES), ("all", 100)]:
        rows = np.arange(len(group)) if rule == "all" else choose(
            rule, round(percent / 100 * len(group)), group, x, np.random.default_rng(seed))
        figures[f"{rule}, {percent} %"] = fit(found, rows, group[rows], seed, steps=steps) | {
            "radius": float(gaps(x, rows).max()), "rows": len(rows),
            "smallest group": int(np.bincount(group[rows], minlength=GROUPS).min())}
    return figures


def compared(figures: dict[str, dict]) -> dict[str, str]:
    "Each choice against all rows, and each careful choice against a random one: ahead, behind or not resolved."
    test = lambda name: figures[name]["best/test"]
    words = {f"{rule}, {p} % against all": ahead(test(f"{rule}, {p} %"), test("all, 100 %"))
             for rule in RULES for p in PERCENT}
    return words | {f"{rule}, {p} % against random": ahead(test(f"{rule}, {p} %"), test(f"random, {p} %"))
                    for rule in RULES[1:] for p in PERCENT}


def verdict(figures: dict[str, dict], words: dict[str, str]) -> str:
    "What the figures say, and no more."
    enough = [key.removesuffix(" against all") for key, word in words.items()
              if key.endswith("all") and word != "behind"]
    better = [key.removesuffix(" against random") for key, word in words.items()
              if key.endswith("random") and word == "ahead"]
    wider = [f"{rule}, {p} %" for rule in RULES for p in PERCENT
             if ahead(figures[f"{rule}, {p} %"]["best/gap"], figures["all, 100 %"]["best/gap"]) == "ahead"]
    overfits = f"training and test lay farther apart than with all rows in {len(wider)} of {len(RULES) * len(PERCENT)}"
    careful = f"ahead of a random choice of equal size: {'; '.join(better) or 'none'}"
    if not enough:
        return f"fails: every small set was behind all rows; {overfits} choices; {careful}"
    if len(wider) == 0:
        return f"holds when the set is one of {'; '.join(enough)}: not behind all rows; {overfits} choices; {careful}"
    return (f"holds when only accuracy is asked, and the set is one of {'; '.join(enough)}: not behind all rows; "
            f"{overfits} choices; {careful}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), banks(levels=("high",))
    x = features(found["train"])
    figures = over_seeds(seeds, lambda seed: run(seed, found, x))
    words = compared(figures)
    said = verdict(figures, words)
    print(said, *(f"{name:18} test {records.show(f['best/test'])}, gap {records.show(f['best/gap'])}, last: test "
                  f"{records.show(f['last/test'])}, gap {records.show(f['last/gap'])}" for name, f in figures.items()),
          *(f"{k}: {v}" for k, v in words.items()), sep="\n")
    if args.dry:
        return
    records.record_claim(
        "T4", "A small but representative data set is enough and avoids overfitting.", said,
        f"python benchmarks/claim_T4.py{options}", seeds,
        {"by choice": figures, "compared": words, "steps": STEPS, "items": {k: len(b) for k, b in found.items()}},
        chapter="19_verdicts", begun=begun,
        summary="Group from picture and speech, test / training minus test: " + "; ".join(
            f"{name} {f['best/test']['mean']:.2f} / {f['best/gap']['mean']:.2f}" for name, f in figures.items()))


if __name__ == "__main__":
    main()
