"""Masked-language pretraining of a small encoder on the docstrings of NumPy, SciPy and scikit-learn; CPU, one thread.

The sentences of every tenth file are kept apart. Three seeds: initial weights, order and blanks; the data stay.
Writes results/masked.json. Run: python benchmarks/masked.py
"""
import argparse
import importlib.metadata
import random
import time

import torch

from mmtutor.course import records
from mmtutor.masked import MaskedLanguageModel, docstring_sentences, fill, initialise, pretrain, score_blanks
from mmtutor.text import TextConfig, TextEncoder, train_wordpiece

PACKAGES = {"numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn"}  # by import name: the name on PyPI
VOCABULARY, LENGTH, SEEDS = 2000, 40, (0, 1, 2)
BLANKS = ("This [MASK] computes the distance between two points.", "The shape of the input [MASK].",
          "Returns True if the [MASK] is empty.", "Fit the [MASK] to the training data.",
          "The default [MASK] is None.", "The number of [MASK] to use.")


def texts() -> tuple[list[str], list[str]]:
    "Sentences to learn from, and those of every tenth file; no sentence is in both."
    learn, keep = [], []
    for package in PACKAGES:
        found = docstring_sentences(package)
        files = sorted(set(found.values()))
        apart = set(files[::10])
        for sentence, file in found.items():
            (keep if file in apart else learn).append(sentence)
    learn = sorted(set(learn))
    return learn, sorted(set(keep) - set(learn))


def run(seed: int, steps: int, learn: list[str], keep: list[str], every: int) -> dict:
    "Loss while training, loss and share of right guesses on the sentences kept apart, and what fills the blanks."
    tokenizer = train_wordpiece(learn, VOCABULARY)
    torch.manual_seed(seed)
    encoder = TextEncoder(TextConfig(vocabulary=VOCABULARY, dim=128, heads=4, depth=2, hidden=512, max_length=LENGTH),
                          tokenizer)
    model = initialise(MaskedLanguageModel(encoder), 128)
    ids, mask = encoder.prepare(random.Random(0).sample(learn, len(learn)))
    kept, curve = encoder.prepare(keep), []

    def note(step: int) -> None:
        if (step + 1) % every == 0:
            model.eval()
            curve.append((step + 1, *score_blanks(model, *kept)))
            model.train()
            print(seed, curve[-1], flush=True)
    begun = time.process_time()
    losses = pretrain(model, ids, mask, steps=steps, batch=32, rate=2e-3, seed=seed, after=note)
    times = torch.bincount(ids[mask & (ids >= 5)], minlength=VOCABULARY).float() + 1
    real = kept[0][kept[1] & (kept[0] >= 5)]
    return {"curve": curve, "losses": [sum(losses[i:i + every]) / every for i in range(0, steps, every)],
            "seconds": time.process_time() - begun, "by frequency": -(times / times.sum()).log()[real].mean().item(),
            "filled": {text: [[piece, round(p, 3)] for piece, p in fill(model, text, 4)[0]] for text in BLANKS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun, (learn, keep), every = records.commit(), texts(), max(args.steps // 16, 1)
    runs = [run(seed, args.steps, learn, keep, every) for seed in SEEDS]
    figures = {
        "sentences": len(learn), "sentences kept apart": len(keep), "vocabulary": VOCABULARY, "steps": args.steps,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES.values()},
        "loss": records.spread([r["curve"][-1][1] for r in runs]),
        "right": records.spread([r["curve"][-1][2] for r in runs]),
        "loss by frequency": round(runs[0]["by frequency"], 4),
        "curve": {str(points[0][0]): records.spread([loss for _, loss, _ in points])
                  for points in zip(*(r["curve"] for r in runs))},
        "loss in training": [records.spread(losses)["mean"] for losses in zip(*(r["losses"] for r in runs))],
        "CPU seconds": records.spread([r["seconds"] for r in runs]), "filled, seed 0": runs[0]["filled"]}
    print(figures)
    if not args.dry:
        records.record("masked", f"python benchmarks/masked.py --steps {args.steps}", SEEDS, figures, begun=begun)


if __name__ == "__main__":
    main()
