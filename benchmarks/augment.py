"""Does augmentation help on emoji never seen? Small models on pictures, sound and names, trained with and without it.

The label is the group, eight of them. Writes results/augment.json. Run: python benchmarks/augment.py
"""
from collections.abc import Callable
from zlib import crc32

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor, nn

from mmtutor.audio import LogMel, pad_sounds
from mmtutor.augment import (
    colour,
    crop,
    delay,
    drop_words,
    erase,
    flip,
    gain,
    mask_stripes,
    may_mirror,
    shift,
    speed,
)
from mmtutor.course import records
from mmtutor.data import TRAIN_VOICES, UNHEARD_VOICES, build, picture_of, sound_of, view
from mmtutor.tasks import add_noise, mask_words

SEEDS, CLASSES, BATCH, HASHES = (0, 1, 2), 8, 64, 4096
EPOCHS = {"picture": 25, "sound": 25, "text": 10}
Found = dict[str, dict[str, list[float]]]


def conv(sizes: tuple[int, ...], one_axis: bool) -> nn.Module:
    "Strided convolutions with batch norm, the mean over all places, one linear layer."
    kind, norm = (nn.Conv1d, nn.BatchNorm1d) if one_axis else (nn.Conv2d, nn.BatchNorm2d)
    layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (kind(a, b, 3, 2, 1), norm(b), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1) if one_axis else nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(sizes[-1], CLASSES))


def train(model: nn.Module, inputs: Callable, labels: Tensor, epochs: int, seed: int) -> nn.Module:
    "AdamW with a cosine schedule; `inputs(rows, rng)` makes a batch, changed or not."
    rng, order = np.random.default_rng([seed, 1]), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    batches = -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(labels)), batches):
            loss = nn.functional.cross_entropy(model(inputs(rows, rng)), labels[torch.from_numpy(rows)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def right(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return (model(inputs).argmax(1) == labels).double().mean().item()


def try_all(called: str, ways: dict, seeds, build_model: Callable, make: Callable, seen, tests: dict) -> Found:
    "Train with each way and seed; the share of right groups on every test, and on the training rows unchanged."
    found: Found = {}
    for name, way in ways.items():
        for seed in seeds:
            torch.manual_seed(seed)
            model = train(build_model(), make(way, seed), seen[1], EPOCHS[called], seed)
            for test, (x, y) in (tests | {"training rows": seen}).items():
                found.setdefault(name, {}).setdefault(test, []).append(right(model, x, y))
        print(called, name, {k: round(float(np.mean(v)), 3) for k, v in found[name].items()}, flush=True)
    return found


def unseen(**how) -> list[dict]:
    "The families of validation and test: nothing is tuned here, so both are a test."
    return [row for split in ("validation", "test") for row in view(split, **how)]


def labels_of(rows) -> Tensor:
    return torch.tensor([row["group"] for row in rows])


def pictures(seeds=SEEDS) -> Found:
    rows = list(view("train"))
    stack = lambda rows: nn.functional.avg_pool2d(
        torch.stack([picture_of(row) for row in rows]).float(), 2).round().to(torch.uint8)
    net_input = lambda batch: nn.functional.avg_pool2d(batch.float() / 127.5 - 1, 2)
    x, y, allowed = stack(rows), labels_of(rows), torch.tensor([may_mirror(row["text"]) for row in rows])
    tests = {name: (net_input(stack(found)), labels_of(found)) for name, style in (
        ("unseen emoji", "colour"), ("unseen emoji, line drawings", "lines")) if (found := unseen(style=style))}
    ways = {"none": lambda b, r, rng: b, "shift": lambda b, r, rng: shift(b, 0.1, rng),
            "flip where allowed": lambda b, r, rng: flip(b, rng, allowed[r]),
            "crop": lambda b, r, rng: crop(b, 0.6, rng), "colour": lambda b, r, rng: colour(b, 0.5, rng),
            "erase": lambda b, r, rng: erase(b, 0.3, rng),
            "flip, crop and erase": lambda b, r, rng: erase(crop(flip(b, rng, allowed[r]), 0.6, rng), 0.3, rng)}
    make = lambda way, seed: lambda r, rng: net_input(way(x[r], torch.from_numpy(r), rng))
    return try_all("picture", ways, seeds, lambda: conv((3, 24, 48, 96), False), make, (net_input(x), y), tests)


def tables(waves: list[Tensor]) -> Tensor:
    "Log-mel (sounds, 125 frames, 40 bands): 2.5 s, cut or padded with silence, two frames averaged."
    front, parts = LogMel(40), []
    for at in range(0, len(waves), 64):
        batch = pad_sounds([wave[:40_000] for wave in waves[at:at + 64]], 40_000)[0]
        parts.append(nn.functional.avg_pool1d(front(batch).values.transpose(1, 2), 2).transpose(1, 2))
    return torch.cat(parts)


def sounds(seeds=SEEDS) -> Found:
    rows = list(view("train"))
    waves, y = [sound_of(row) for row in rows], labels_of(rows)
    plain = tables(waves)
    net_input = lambda batch: batch.transpose(1, 2)
    tests = {name: (net_input(tables([sound_of(row) for row in found])), labels_of(found)) for name, voice in (
        ("unseen emoji", TRAIN_VOICES[0]), ("unseen emoji, unheard voice", UNHEARD_VOICES[0]))
        if (found := unseen(voice=voice))}
    changes = {"delay": lambda w, rng: delay(w, 4000, rng), "gain": lambda w, rng: gain(w, 12, rng),
               "noise": lambda w, rng: add_noise(w, rng.uniform(5, 30), rng),
               "speed": lambda w, rng: speed(w, rng.uniform(0.85, 1.2))}
    ways = {"none": None, "stripes": lambda b, rng: mask_stripes(b, rng, time=(2, 15), frequency=(2, 8)), **changes}

    def make(way, seed):
        if way is None:
            return lambda r, rng: net_input(plain[r])
        if way is ways["stripes"]:
            return lambda r, rng: net_input(way(plain[r], rng))
        rng = np.random.default_rng([seed, 2])  # samples are slow to change: two changed copies of each, and itself
        copies = torch.stack([plain, *(tables([way(w, rng) for w in waves]) for _ in range(2))])
        return lambda r, rng: net_input(copies[rng.integers(0, 3, len(r)), r])

    return try_all("sound", ways, seeds, lambda: conv((40, 64, 64, 64), True), make, (net_input(plain), y), tests)


def bag(texts: list[str]) -> Tensor:
    "Which words and which three letters in a row occur, each hashed to one of HASHES numbers."
    found = torch.zeros(len(texts), HASHES)
    for line, text in zip(found, texts):
        for word in text.lower().split():
            parts = {word} | {f" {word} "[i:i + 3] for i in range(len(word))}
            line[[crc32(part.encode()) % HASHES for part in parts]] = 1
    return found


def names(seeds=SEEDS) -> Found:
    rows, other = list(view("train")), unseen()
    texts, y = [row["text"] for row in rows], labels_of(rows)
    tests = {"unseen emoji": (bag([row["text"] for row in other]), labels_of(other))}
    ways = {"none": lambda text, rng: text, "drop 15 % of the words": lambda text, rng: drop_words(text, 0.15, rng),
            "drop 40 % of the words": lambda text, rng: drop_words(text, 0.4, rng),
            "mask 40 % of the words": lambda text, rng: mask_words(text, 0.4, rng)}
    make = lambda way, seed: lambda r, rng: bag([way(texts[i], rng) for i in r])
    model = lambda: nn.Sequential(nn.Linear(HASHES, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    return try_all("text", ways, seeds, model, make, (bag(texts), y), tests)


def verdict(plain: list[float], changed: list[float]) -> str:
    "Helps or hurts if the mean difference over the seeds is outside the 95 % interval of Student's t around zero."
    more = np.subtract(changed, plain)
    width = t.ppf(0.975, len(more) - 1) * more.std(ddof=1) / len(more) ** 0.5
    return "not resolved" if abs(more.mean()) <= width else "helps" if more.mean() > 0 else "hurts"


def main() -> None:
    torch.set_num_threads(1)
    begun = records.commit()
    build(progress=False)
    figures = {"unseen rows": len(unseen()), "epochs": EPOCHS}
    for called, run in (("text", names), ("picture", pictures), ("sound", sounds)):
        found = run()
        figures[called] = {name: {test: records.spread(values) | {
            "difference": records.spread(np.subtract(values, found["none"][test])),
            "verdict": verdict(found["none"][test], values) if name != "none" else "the comparison"}
            for test, values in tests.items()} for name, tests in found.items()}
    records.record("augment", "python benchmarks/augment.py", SEEDS, figures, begun=begun)


if __name__ == "__main__":
    main()
