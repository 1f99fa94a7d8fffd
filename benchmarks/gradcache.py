"""GradCache against open_clip's accumulation and plain accumulation: gradient error, time, memory.

Two small towers, BERT-like and ViT-like, with random weights; a symmetric contrastive loss with a learned scale. The
reference is the whole batch at once. open_clip cannot be imported without torchvision, so its algorithm is written out
here after open_clip_train/train.py of open_clip_torch 3.3.0 (`accum_freq` above 1): features are cached without a
graph, then each part is encoded again, takes its place among the cached features, and the whole loss is propagated;
once a part. Errors in float64, relative, for three seeds. Time: processor seconds of one thread, the ways in turn, as
ratios to the whole batch. Memory: beyond weights and their gradients, each in a process of its own.
Writes results/bench-gradcache.json. Run: python benchmarks/gradcache.py
"""
import argparse
import statistics
import time
from functools import partial

import torch
from resident import alone, peak_of
from torch import Tensor, nn

from mmtutor.accumulation import GradCache, accumulate
from mmtutor.course import records
from mmtutor.fusion import mean_token
from mmtutor.objectives import contrastive_loss
from mmtutor.text import TextConfig, TextEncoder
from mmtutor.vision import VisionConfig, VisionTransformer

SEEDS, MICRO, BATCHES, WORDS = (0, 1, 2), 32, (64, 256, 1024), 32
SIZE = {"dim": 128, "depth": 4, "heads": 4}
WAYS = ("whole batch", "accumulated", "open_clip", "GradCache")
FLAT = WAYS[1:]  # what is to need one part's memory; the whole batch is measured where it is small


class Towers(nn.Module):
    "Text and picture to embeddings; the logarithm of the scale is a parameter, as in CLIP."

    def __init__(self, dropout: float = 0.0, *, dim: int, depth: int, heads: int):
        super().__init__()
        self.text = TextEncoder(TextConfig(1000, dim, heads, depth, 4 * dim, 64, dropout))
        self.picture = VisionTransformer(VisionConfig(96, 16, dim, heads, depth, dropout=dropout))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ids, pictures = part
        return mean_token(self.text(ids, torch.ones_like(ids, dtype=torch.bool))), mean_token(self.picture(pictures))

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        return contrastive_loss(a, b, self.log_scale)


def part_of(number: int, size: int = MICRO) -> tuple[Tensor, Tensor]:
    "The inputs of part `number`, made when they are needed, as a loader would."
    draw = torch.Generator().manual_seed(number)
    return (torch.randint(1, 1000, (size, WORDS), generator=draw),
            torch.randint(0, 256, (size, 3, 96, 96), generator=draw, dtype=torch.uint8))


def open_clip(towers: Towers, parts: list[int], get) -> None:
    "open_clip's way: as many losses of the whole batch as there are parts."
    with torch.no_grad():
        cached = [towers(get(p)) for p in parts]
    for j, p in enumerate(parts):
        sides = zip(*(towers(get(p)) if i == j else c for i, c in enumerate(cached)))
        towers.loss(*(torch.cat(side) for side in sides)).backward()


def step(way: str, towers: Towers, parts: list[int], get) -> None:
    "The gradients of one batch, added to `.grad`."
    encode = lambda p: towers(get(p))
    if way == "whole batch":  # part by part, with all graphs kept: dropout draws as in the other ways
        sides = zip(*(encode(p) for p in parts))
        towers.loss(*(torch.cat(side) for side in sides)).backward()
    elif way == "accumulated":
        accumulate(lambda p: towers.loss(*encode(p)), parts, [1] * len(parts))
    elif way == "open_clip":
        open_clip(towers, parts, get)
    elif way == "GradCache":
        GradCache(encode, towers.loss).backward(parts)
    else:
        raise ValueError(f"step: no way {way!r}, expected one of {', '.join(WAYS)}")


def gradients(way: str, dropout: float, seed: int, parts: int, micro: int, size: dict) -> dict[str, Tensor]:
    "The gradient of the towers as one vector, and of the scale; float64."
    torch.manual_seed(seed)
    towers = Towers(dropout, **size).double().train()
    torch.manual_seed(seed + 1)
    step(way, towers, [seed * 1000 + p for p in range(parts)], partial(part_of, size=micro))
    weights = [p.grad.flatten() for name, p in towers.named_parameters() if name != "log_scale" and p.grad is not None]
    return {"towers": torch.cat(weights), "scale": towers.log_scale.grad.flatten()}


def errors(seeds=SEEDS, parts: int = 4, micro: int = 8, size: dict | None = None) -> dict:
    "`without|with dropout/towers|scale/way` → norm of the difference from the whole batch, relative; by seed."
    found, size = {}, size or {"dim": 32, "depth": 2, "heads": 2}
    for name, dropout in (("without dropout", 0.0), ("with dropout", 0.1)):
        for seed in seeds:
            right = gradients("whole batch", dropout, seed, parts, micro, size)
            for way in FLAT:
                for what, gradient in gradients(way, dropout, seed, parts, micro, size).items():
                    error = (gradient - right[what]).norm() / right[what].norm()
                    found.setdefault(f"{name}/{what}/{way}", []).append(error.item())
    # `spread` rounds to six digits; the exact ways are far below that
    return {key: records.spread(values) | {"largest": float(f"{max(values):.2e}")} for key, values in found.items()}


def seconds(batch: int = 256, turns: int = 3, size: dict | None = None) -> dict:
    "Way → time / the whole batch's: ratio of the medians, spread of turn by turn."
    torch.manual_seed(0)
    towers, taken = Towers(**(size or SIZE)).train(), {way: [] for way in WAYS}
    for turn in range(turns + 1):  # the first warms up
        for way in WAYS[turn % len(WAYS):] + WAYS[:turn % len(WAYS)]:
            towers.zero_grad()
            begun = time.process_time()
            step(way, towers, list(range(batch // MICRO)), part_of)
            taken[way].append(time.process_time() - begun)
    whole = taken["whole batch"][1:]
    return {way: {"ratio": round(statistics.median(t[1:]) / statistics.median(whole), 4),
                  "seconds": round(statistics.median(t[1:]), 3),
                  "turns": records.spread([a / b for a, b in zip(t[1:], whole)])} for way, t in taken.items()}


def _peak(way: str, batch: int, size: dict) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    towers = Towers(**size).train()
    step(way, towers, [0, 1], partial(part_of, size=2))  # the gradients are there, the libraries awake
    return round(peak_of(lambda: step(way, towers, list(range(batch // MICRO)), part_of)), 1)


def memory(batches=BATCHES, size: dict | None = None) -> dict:
    "`way/batch` → MiB beyond weights and gradients, and of the weights with their gradients under `weights`."
    size = size or SIZE
    held = 2 * sum(p.numel() * p.element_size() for p in Towers(**size).parameters()) / 2**20
    pairs = [(way, batch) for way in WAYS for batch in (batches if way in FLAT else batches[:2])]
    return {"weights": round(held, 1)} | {f"{way}/{n}": alone(_peak, way, n, size) for way, n in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="toy sizes; print, and write nothing")
    dry = parser.parse_args().dry
    torch.set_num_threads(1)
    begun, small = records.commit(), {"dim": 16, "depth": 1, "heads": 2} if dry else None
    found = {"errors": errors(SEEDS[:1] if dry else SEEDS, size=small),
             "seconds / whole batch": seconds(64 if dry else 256, 1 if dry else 3, small),
             "peak MiB": memory((32, 64) if dry else BATCHES, small)}
    print(*(f"{k:44} {v['largest']:.1e}" for k, v in found["errors"].items()),
          *(f"{k:44} {v['ratio']:.2f}" for k, v in found["seconds / whole batch"].items()),
          *(f"{k:44} {v:.1f} MiB" for k, v in found["peak MiB"].items()), sep="\n")
    if not dry:
        records.record("bench-gradcache", "python benchmarks/gradcache.py", SEEDS, {
            "towers": SIZE, "part": MICRO, "words": WORDS, "threads": 1, "batch timed": 256,
            "open_clip": "the algorithm of open_clip_train/train.py, open_clip_torch 3.3.0, written out", **found},
            begun=begun)


if __name__ == "__main__":
    main()
