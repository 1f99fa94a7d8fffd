"""Claim T7: do quality and relevance of the data matter, not only their number?

Quality: all training families with 0, 10, 20 and 40 % of their labels wrong, against those alone whose label is right:
fewer rows, none wrong. Relevance: the question is one of four groups; to a quarter of their families come as many
others again: of the same groups, of the four other groups with their own labels (answers may not name these in the
test), or of the other groups under a label of the four, drawn at random.
Writes claim T7 into results/claims.json. Run: python benchmarks/claim_T7.py
"""
import argparse

import numpy as np
import torch
from claims import over_seeds, parsed
from few_data import GROUPS, STEPS, fit
from fusing import banks

from mmtutor.course import records
from mmtutor.course.records import ahead
from mmtutor.subsets import flip_labels, stratified_subset

NOISE, SHARE = (10, 20, 40), 0.25


def topic(group: np.ndarray) -> np.ndarray:
    "The four groups asked for: every second one, the largest first."
    return np.sort(np.argsort(-np.bincount(group, minlength=GROUPS), kind="stable")[::2])


def quality(seed: int, found: dict, steps: int = STEPS) -> dict[str, dict[str, float]]:
    "`all rows, 10 % wrong`, `the right ones, 10 % left out`, … → figures of one seed."
    group = found["train"].group.numpy()
    rows, figures = np.arange(len(group)), {"all rows, none wrong": fit(found, np.arange(len(group)), group, seed,
                                                                        steps=steps)}
    for percent in NOISE:
        given, wrong = flip_labels(group, percent / 100, GROUPS, np.random.default_rng(seed))
        figures[f"all rows, {percent} % wrong"] = fit(found, rows, given, seed, steps=steps)
        figures[f"the right ones, {percent} % left out"] = fit(found, rows[~wrong], group[~wrong], seed, steps=steps)
    return figures


def relevance(seed: int, found: dict, steps: int = STEPS) -> dict[str, dict[str, float]]:
    "`a quarter`, `and as many of the same groups`, … → figures of one seed."
    group, rng = found["train"].group.numpy(), np.random.default_rng(seed)
    asked = topic(group)
    ours, others = (np.flatnonzero(np.isin(group, asked) == inside) for inside in (True, False))
    few = ours[stratified_subset(group[ours], round(SHARE * len(ours)), rng)]
    rest = np.setdiff1d(ours, few)
    more = rest[stratified_subset(group[rest], len(few), rng)]
    off = rng.choice(others, len(few), replace=False)
    every = rng.permutation(others)
    sets = {"a quarter": (few, group[few]),
            "and as many of the same groups": (np.r_[few, more], group[np.r_[few, more]]),
            "and as many of other groups": (np.r_[few, off], group[np.r_[few, off]]),
            "and all of the other groups": (np.r_[few, every], group[np.r_[few, every]]),
            "and as many of other groups, labelled as ours": (
                np.r_[few, off], np.r_[group[few], rng.choice(asked, len(off))])}
    among = torch.as_tensor(asked)
    return {name: fit(found, rows, labels, seed, steps=steps, among=among) | {"rows": len(rows)}
            for name, (rows, labels) in sets.items()}


def compared(figures: dict[str, dict]) -> dict[str, str]:
    "Ahead, behind or not resolved."
    test = lambda name, when="best": figures[name][f"{when}/test"]
    words = {}
    for p in NOISE:
        noisy, clean = f"all rows, {p} % wrong", f"the right ones, {p} % left out"
        words |= {f"{p} % wrong against none": ahead(test(noisy), test("all rows, none wrong")),
                  f"{p} % wrong against leaving them out": ahead(test(noisy), test(clean)),
                  f"{p} % left out against none": ahead(test(clean), test("all rows, none wrong")),
                  f"{p} % wrong, last step against the best one": ahead(test(noisy, "last"), test(noisy))}
    for name in figures:
        if name.startswith("and "):
            words[f"{name.removeprefix('and ')} added"] = ahead(test(name), test("a quarter"))
    same = "and as many of the same groups"
    return words | {"as many of other groups against as many of the same": ahead(
        test("and as many of other groups"), test(same))}


def verdict(words: dict[str, str]) -> str:
    "What the figures say, and no more."
    worse = [f"{p} %" for p in NOISE if words[f"{p} % wrong against leaving them out"] == "behind"]
    costs = [f"{p} %" for p in NOISE if words[f"{p} % wrong against none"] == "behind"]
    same, off = words["as many of the same groups added"], words["as many of other groups added"]
    wrong = words["as many of other groups, labelled as ours added"]
    say = {"ahead": "helped", "behind": "hurt", "not resolved": "did neither help nor hurt beyond the spread"}
    tale = (f"wrong labels were behind none at {', '.join(costs) or 'no level'}, and behind leaving their rows out at "
            f"{', '.join(worse) or 'no level'}; as many rows of the same groups again {say[same]}, of other groups "
            f"{say[off]}, of other groups labelled as ours {say[wrong]}")
    if not costs and wrong != "behind":
        return f"not resolved at this scale: {tale}"
    if worse == [f"{p} %" for p in NOISE] and same == "ahead" and off != "ahead":
        return f"holds: {tale}"
    return f"holds when the labels are wrong enough: {tale}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), banks(levels=("high",))
    figures = over_seeds(seeds, lambda seed: quality(seed, found) | relevance(seed, found))
    words = compared(figures)
    said = verdict(words)
    print(said, *(f"{name:48} test {records.show(f['best/test'])}, train {records.show(f['best/train'])}, last: test "
                  f"{records.show(f['last/test'])}" for name, f in figures.items()),
          *(f"{k}: {v}" for k, v in words.items()), sep="\n")
    if args.dry:
        return
    records.record_claim(
        "T7", "Data quality and relevance matter, not only size.", said, f"python benchmarks/claim_T7.py{options}",
        seeds, {"by data": figures, "compared": words, "steps": STEPS, "topic": topic(
            found["train"].group.numpy()).tolist(), "items": {k: len(b) for k, b in found.items()}},
        chapter="19_verdicts", begun=begun,
        summary="Group from picture and speech, test: " + "; ".join(
            f"{name} {f['best/test']['mean']:.2f}" for name, f in figures.items()))


if __name__ == "__main__":
    main()
