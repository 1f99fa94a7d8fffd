"""A miniature Transfusion on 8 × 8 digits: reading, drawing, and the mask that is open in a picture; CPU, one thread.

Three seeds (initial weights, batches, noise), each with the open mask and with one that is causal everywhere.
Writes results/transfusion.json. Run: python benchmarks/transfusion.py
"""
import argparse
import time

import numpy as np
import torch
from claims import parsed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from mmtutor.course import records
from mmtutor.transfusion import WORDS, Transfusion, draw, losses, sequences, train, write

SEEDS = (0, 1, 2)


def data() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    "Pictures, labels, the rows to learn from and the rows kept apart."
    digits = load_digits()
    pictures, labels = torch.tensor(digits.images).float() / 8 - 1, torch.tensor(digits.target)
    learn, kept = train_test_split(np.arange(len(labels)), test_size=450, stratify=labels, random_state=0)
    return pictures, labels, learn, kept


@torch.no_grad()
def error(model: Transfusion, pictures: torch.Tensor, labels: torch.Tensor, repeats: int = 8) -> float:
    "Mean square error of the noise on these pictures behind their names; the same times and noise for every model."
    generator, found = torch.Generator().manual_seed(1000), []
    for _ in range(repeats):
        t = torch.rand(len(labels), generator=generator)
        noise = torch.randn(len(labels), 16, 4, generator=generator)
        found.append(losses(model, sequences(labels, torch.zeros_like(labels)), pictures, t, noise)[1].item())
    return sum(found) / len(found)


def run(seed: int, two_way: bool, steps: int, each: int) -> dict[str, float]:
    "Train one model; share of right names, of recognised drawings, error of the noise, seconds of the processor."
    pictures, labels, learn, kept = data()
    judge = SVC().fit(pictures[learn].flatten(1), labels[learn])
    torch.manual_seed(seed)
    model, begun = Transfusion(two_way=two_way), time.process_time()
    train(model, pictures[learn], labels[learn], steps=steps, seed=seed)
    found = {"seconds": time.process_time() - begun}
    names = write(model, pictures[kept])
    found["read"] = sum(n == WORDS[i] for n, i in zip(names, labels[kept].tolist())) / len(kept)
    found["error"] = error(model, pictures[kept], labels[kept])
    asked = torch.arange(10).repeat(each)
    for guidance in (1, 2, 4):
        drawn = draw(model, asked, guidance=guidance, seed=seed).flatten(1)
        found[f"recognised/{guidance}"] = float((judge.predict(drawn) == asked.numpy()).mean())
        found[f"nearest/{guidance}"] = torch.cdist(drawn, pictures[learn].flatten(1)).amin(1).mean().item()
    return found


def verdict(figures: dict[str, dict[str, dict]]) -> str:
    "Where the open mask was better or worse in every seed, by seeds; nothing where they disagree."
    said = []
    for key, title, sign in (("read", "reading", 1), ("recognised/1", "drawing without guidance", 1),
                             ("error", "the error of the noise", -1)):
        gaps = [sign * (a - b) for a, b in zip(figures["two-way"][key]["values"], figures["causal"][key]["values"])]
        word = "better" if min(gaps) > 0 else "worse" if max(gaps) < 0 else "not resolved"
        said.append(f"{title}: {word}")
    return "the open mask against the causal one, in all seeds: " + "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--each", type=int, default=50, help="drawings of each digit")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), {}
    for seed in seeds:
        for way, two_way in (("two-way", True), ("causal", False)):
            for key, value in (one := run(seed, two_way, args.steps, args.each)).items():
                found.setdefault(way, {}).setdefault(key, []).append(value)
            print(way, seed, {k: round(v, 3) for k, v in one.items()}, flush=True)
    figures = {way: {key: records.spread(values) for key, values in part.items()} for way, part in found.items()}
    said = verdict(figures)
    print(said)
    if not args.dry:
        records.record("transfusion", f"python benchmarks/transfusion.py{options}", seeds,
                       {"ways": figures, "verdict": said, "steps": args.steps, "drawings": 10 * args.each}, begun=begun)


if __name__ == "__main__":
    main()
