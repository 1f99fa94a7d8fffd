"""Which rows to train on, and what wrong labels do: a linear probe on ImageNet features of the emoji pictures.

Writes results/subsets.json. Run: python benchmarks/subsets.py
"""
import numpy as np
import torch

from mmtutor.course import records
from mmtutor.data import build, picture_of, view
from mmtutor.freezing import cached_features
from mmtutor.subsets import (
    LinearProbe,
    distinct,
    flip_labels,
    gaps,
    k_centre,
    out_of_sample,
    random_subset,
    stratified_subset,
    suspects,
)
from mmtutor.vision import ConvEncoder

SEEDS, PERCENT, FLIPPED, CLASSES = (0, 1, 2, 3, 4), (5, 10, 20, 50), (0, 10, 20, 40), 8
DECAYS = (0.01, 0.1, 1.0, 10.0)


def features(rows) -> np.ndarray:
    tokens = cached_features(ConvEncoder.from_pretrained(), [picture_of(row) for row in rows], key="subsets-pictures")
    return tokens.values.mean(1).double().numpy()


def within_groups(x, group, size, rng) -> np.ndarray:
    "k-centre inside each group, with as many rows as stratified sampling gives it."
    quota = np.bincount(group[stratified_subset(group, size, rng)], minlength=CLASSES)
    members = [np.flatnonzero(group == g) for g in range(CLASSES)]
    return np.concatenate([m[k_centre(x[m], q, int(rng.integers(len(m))))[0]] for m, q in zip(members, quota) if q])


def main() -> None:
    torch.set_num_threads(1)
    begun = records.commit()
    build(progress=False)
    parts = {split: view(split) for split in ("train", "validation", "test")}
    x = {split: features(rows) for split, rows in parts.items()}
    y = {split: np.array(rows["group"]) for split, rows in parts.items()}
    group, count = y["train"], len(y["train"])

    def right(rows, labels, split="test", decay=1.0) -> float:
        return float((LinearProbe.fit(rows, labels, CLASSES, decay=decay).probabilities(x[split]).argmax(1)
                      == y[split]).mean())

    def tuned(rows, labels) -> float:
        "Accuracy on the test with the penalty that is best on the validation families."
        return right(rows, labels, decay=max(DECAYS, key=lambda d: right(rows, labels, "validation", d)))

    found, radius, groups = {}, {}, {}
    rules = {"random": lambda k, rng: random_subset(count, k, rng),
             "stratified": lambda k, rng: stratified_subset(group, k, rng),
             "k-centre": lambda k, rng: k_centre(x["train"], k, int(rng.integers(count)))[0],
             "k-centre in each group": lambda k, rng: within_groups(x["train"], group, k, rng)}
    for name, rule in rules.items():
        for percent in PERCENT:
            key, size = f"{name}, {percent} %", round(percent / 100 * count)
            sets = [rule(size, np.random.default_rng(seed)) for seed in SEEDS]
            found[key] = records.spread([tuned(x["train"][s], group[s]) for s in sets])
            radius[key] = records.spread([gaps(x["train"], s).max() for s in sets])
            groups[key] = [int(np.bincount(group[s], minlength=CLASSES).min()) for s in sets]
            print(key, records.show(found[key]), flush=True)

    every = view("train", heads=False)
    wide, label = features(every), np.array(every["group"])
    small = torch.nn.functional.avg_pool2d(torch.stack([picture_of(r) for r in every]).float() / 255, 8)
    kept = distinct(small.flatten(1).numpy(), 1.0)
    copies = {"rows": len(every), "kept": len(kept), "apart": 1.0}
    for name, pool in (("from all rows", np.arange(len(every))), ("from distinct rows", kept)):
        for percent in (5, 20):
            size = round(percent / 100 * len(every))
            sets = [pool[random_subset(len(pool), size, np.random.default_rng(seed))] for seed in SEEDS]
            copies[f"{name}, {percent} %"] = records.spread([tuned(wide[s], label[s]) for s in sets])
            print(name, percent, records.show(copies[f"{name}, {percent} %"]), flush=True)

    columns: dict[str, list[float]] = {}
    for percent in FLIPPED:
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            given, wrong = flip_labels(group, percent / 100, CLASSES, rng)
            chances = out_of_sample(x["train"], given, CLASSES, rng)
            doubted = suspects(chances, given)
            rest = np.setdiff1d(np.arange(count), doubted)
            note = {"as given": right(x["train"], given),
                    "wrong ones removed": right(x["train"][~wrong], group[~wrong]),
                    "suspects removed": right(x["train"][rest], given[rest]), "suspects": len(doubted)}
            if percent:
                itself = LinearProbe.fit(x["train"], given, CLASSES).probabilities(x["train"])
                lowest = np.argsort(itself[np.arange(count), given], kind="stable")[:50]
                note |= {"precision, first 50, in sample": wrong[lowest].mean(), "precision": wrong[doubted].mean(),
                         "precision, first 50": wrong[doubted[:50]].mean(),
                         "recall": wrong[doubted].sum() / wrong.sum()}
            elif seed == SEEDS[0]:
                names = parts["train"].features["group"].names
                probe = chances.argmax(1)
                top = [{"row": int(i), "text": parts["train"]["text"][int(i)], "group": names[group[i]],
                        "seen as": names[probe[i]], "probability of its group": round(float(chances[i, group[i]]), 4)}
                       for i in doubted[:10]]
            for name, value in note.items():
                columns.setdefault(f"{name}, {percent} %", []).append(value)
        print(percent, {k: round(float(np.mean(v)), 3) for k, v in columns.items() if k.endswith(f" {percent} %")},
              flush=True)
    records.record("subsets", "python benchmarks/subsets.py", SEEDS, {
        "rows": count, "test rows": len(y["test"]), "all rows": tuned(x["train"], group),
        "largest group": float((y["test"] == np.bincount(group).argmax()).mean()), "right": found, "radius": radius,
        "smallest group": groups, "copies": copies,
        "noise": {name: records.spread(values) for name, values in columns.items()}, "most doubted, none flipped": top},
        begun=begun)


if __name__ == "__main__":
    main()
