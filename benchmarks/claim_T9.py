"""Claim T9: do accuracy, recall and F1 tell how good a model is? What they leave unsaid, on the course's own task.

For each seed all families are divided anew into 70 % to learn from, 10 % to choose on and 20 % to test on. 24 linear
models on frozen features (picture, sound, both; four strengths; class weights or none) learn the group from clean items
and are tested under every condition of `mmtutor.conditions`. Counted are: how wide the intervals are, how often
accuracy and macro F1 order two models differently, how often intervals overlap although McNemar's test tells two models
apart, how far the worst group lies below the mean, how wrong the confidence is, and what the clean figures say of the
others.
The part about people is counted on raters made by dice. Nobody was asked.
Writes claim T9 into results/claims.json. Run: python benchmarks/claim_T9.py
"""
import argparse
import itertools
import time

import numpy as np
import torch
from claims import parsed
from scipy.stats import binomtest, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmtutor import data
from mmtutor.agreement import cohen_kappa, krippendorff_alpha, simulated_raters
from mmtutor.calibration import calibration, fit_temperature, reliability
from mmtutor.conditions import CONDITIONS, frozen_features
from mmtutor.course import records
from mmtutor.evaluation import evaluate

WAYS, STRENGTHS, WEIGHTS = ("picture", "sound", "picture+sound"), (1e-3, 1e-2, 1e-1, 1.0), (None, "balanced")
SKILLS = (0.9, 0.9, 0.85, 0.8, 0.1)  # of the simulated raters; the last one is careless
OTHERS = tuple(c for c in CONDITIONS if c != "clean")


def pooled() -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    "Features of all items of all splits by condition, and their groups."
    parts = {c: [frozen_features(split, c) for split in data.SPLITS] for c in CONDITIONS}
    features = {c: {m: np.concatenate([p[m].numpy() for p in found]) for m in found[0]} for c, found in parts.items()}
    return features, np.concatenate([data.view(split)["group"] for split in data.SPLITS])


def joined(x: dict[str, np.ndarray], way: str, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([x[m][rows] for m in way.split("+")], 1)


def linear(strength: float, weights: str | None = None):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight=weights, max_iter=200))


def pairs(right: list[np.ndarray], reports: list) -> dict[str, float]:
    "What accuracy, macro F1, the intervals and McNemar's test say of every two models."
    differs, resolved_differs, close_differs, overlap_resolved = [], [], [], []
    for i, j in itertools.combinations(range(len(right)), 2):
        one, two = int((right[i] & ~right[j]).sum()), int((~right[i] & right[j]).sum())
        resolved = bool(one + two) and binomtest(one, one + two).pvalue < 0.05
        f1 = reports[i].overall["macro F1"].value - reports[j].overall["macro F1"].value
        a, b = (reports[k].overall["accuracy"] for k in (i, j))
        overlap = a.low <= b.high and b.low <= a.high
        if overlap:
            overlap_resolved.append(resolved)
        if one != two:
            differs.append((one > two) != (f1 > 0))
            resolved_differs += [differs[-1]] if resolved else []
            close_differs += [differs[-1]] if overlap else []
    share = lambda found: float(np.mean(found)) if found else 0.0
    return {"pairs/order differs": share(differs), "pairs/order differs, resolved": share(resolved_differs),
            "pairs/order differs, overlapping": share(close_differs),
            "pairs/overlap yet resolved": share(overlap_resolved)}


def confidence(features, group, learn, test, resamples: int) -> dict[str, float]:
    "The calibration error of the model that is held least, with and without a temperature from cross-validation."
    way, truth = "picture+sound", torch.from_numpy(group[test])
    model, x = linear(STRENGTHS[-1]), joined(features["clean"], "picture+sound", learn)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    answered = torch.from_numpy(cross_val_predict(model, x, group[learn], cv=folds, method="decision_function"))
    temperature = fit_temperature(answered, torch.from_numpy(group[learn]))
    model.fit(x, group[learn])
    logits = {c: torch.from_numpy(model.decision_function(joined(features[c], way, test)))
              for c in ("clean", "shifted", "noisy")}
    raw = calibration(logits["clean"].softmax(1), truth, resamples=resamples)
    after = {c: reliability((found / temperature).softmax(1), truth).error for c, found in logits.items()}
    return {"ece/as trained": raw.error.value, "ece/floor": raw.floor, "temperature": temperature,
            "ece/temperature": after["clean"], "ece/temperature, shifted": after["shifted"],
            "ece/temperature, noisy": after["noisy"]}


def raters(group: np.ndarray, seed: int) -> dict[str, float]:
    "Simulated raters of known skill: their alpha, and whether leaving out the careless one raises it most."
    truth = torch.from_numpy(group)
    table = simulated_raters(truth, SKILLS, int(truth.max()) + 1, seed=seed)
    two = list(itertools.combinations(range(len(SKILLS)), 2))
    without = [krippendorff_alpha(np.delete(table, r, 0)) for r in range(len(SKILLS))]
    return {"raters/alpha": krippendorff_alpha(table), "raters/careless found": float(np.argmax(without) == 4),
            "raters/kappa": float(np.mean([cohen_kappa(table[i], table[j]) for i, j in two])),
            "raters/expected": float(np.mean([SKILLS[i] * SKILLS[j] for i, j in two]))}


def run(features, group, seed: int, resamples: int) -> dict[str, float]:
    "All figures of one seed."
    rest, test = train_test_split(np.arange(len(group)), test_size=0.2, stratify=group, random_state=seed)
    learn, choose = train_test_split(rest, test_size=0.125, stratify=group[rest], random_state=seed)
    truth, reports, right, accuracy, chosen = group[test], [], [], {c: [] for c in CONDITIONS}, []
    for way, strength, weights in itertools.product(WAYS, STRENGTHS, WEIGHTS):
        model = linear(strength, weights).fit(joined(features["clean"], way, learn), group[learn])
        chosen.append(model.score(joined(features["clean"], way, choose), group[choose]) if way == WAYS[-1] else 0.0)
        for condition in CONDITIONS:
            guess = model.predict(joined(features[condition], way, test))
            accuracy[condition].append(float((guess == truth).mean()))
            if condition == "clean":
                right.append(guess == truth)
                reports.append(evaluate(guess, truth, classes=int(group.max()) + 1, resamples=resamples))
    best = int(np.argmax(chosen))  # of both modalities, on the part that is there to choose on
    half = lambda name: float(np.mean([(r.overall[name].high - r.overall[name].low) / 2 for r in reports]))
    recalls = [v["recall"].value for v in reports[best].by_class.values()]
    found = {"items": len(test), "accuracy": accuracy["clean"][best],
             "macro F1": reports[best].overall["macro F1"].value,
             **{f"halfwidth/{name}": half(name) for name in ("accuracy", "macro F1")}, **pairs(right, reports),
             "group/worst below mean": float(np.mean(recalls) - min(recalls))}
    interval = reports[best].overall["accuracy"]
    for c in OTHERS:
        found[f"clean − {c}"] = accuracy["clean"][best] - accuracy[c][best]
        found[f"order/{c}"] = float(spearmanr(accuracy["clean"], accuracy[c])[0])
        found[f"held/{c}"] = float(interval.low <= accuracy[c][best] <= interval.high)
    return found | confidence(features, group, learn, test, resamples) | raters(group, seed)


def verdict(figures: dict[str, dict]) -> str:
    "What the figures say, and no more."
    mean = {key: figure["mean"] for key, figure in figures.items()}
    drop = max((mean[f"clean − {c}"], c) for c in OTHERS)
    people = "That people can judge too is not resolved: nobody was asked, the raters were simulated"
    said = (f"alone, an accuracy is known to ± {mean['halfwidth/accuracy']:.2f}, macro F1 orders "
            f"{mean['pairs/order differs']:.0%} of the pairs of models differently "
            f"({mean['pairs/order differs, resolved']:.0%} of those that are told apart), the worst group lies "
            f"{mean['group/worst below mean']:.2f} below the mean, and the condition '{drop[1]}' costs {drop[0]:.2f}")
    if mean["pairs/order differs, resolved"] > 0.5:
        return f"fails: {said}. {people}"
    if drop[0] < mean["halfwidth/accuracy"] > mean["group/worst below mean"]:
        return f"holds: the clean figure speaks for the groups and the conditions too; {said}. {people}"
    return f"holds when the interval, the groups and the conditions of use are printed with it; {said}. {people}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=300)
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), {}
    features, group = pooled()
    for seed in seeds:
        start = time.process_time()
        for key, value in run(features, group, seed, args.resamples).items():
            found.setdefault(key, []).append(value)
        print(seed, round(time.process_time() - start), {k: round(v[-1], 3) for k, v in found.items()}, flush=True)
    figures = {key: records.spread(values) for key, values in found.items()}
    said = verdict(figures)
    print(said, *(f"{k:34} {records.show(v)}" for k, v in figures.items()), sep="\n")
    if args.dry:
        return
    show = lambda key: f"{figures[key]['mean']:.2f}"
    records.record_claim(
        "T9", "Accuracy, recall and F1 tell you how good it is; people can judge too.", said,
        f"python benchmarks/claim_T9.py{options}", seeds, figures, chapter="16_evaluation", begun=begun,
        summary=f"half an interval {show('halfwidth/accuracy')} (accuracy), {show('halfwidth/macro F1')} (macro F1); "
                f"worst group {show('group/worst below mean')} below the mean; ECE {show('ece/as trained')}, with a "
                f"temperature {show('ece/temperature')}; clean minus noisy {show('clean − noisy')}, lines "
                f"{show('clean − lines')}, unheard {show('clean − unheard')}; raters simulated, nobody asked")


if __name__ == "__main__":
    main()
