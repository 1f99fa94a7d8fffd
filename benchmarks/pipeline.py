"""Are the data ever the bottleneck? Samples a second that our loading supplies, against what the training step takes.

`raw`: pictures, speech and names from the Arrow files through `loader` (decoded, scaled, resampled, padded; names
tokenised), for a step in which all three pretrained encoders learn. Supply is measured with nothing else going on, need
with one batch that lies ready; then both together, and how long the loop waits. `cached`: features from a `Bank`, for a
step with frozen encoders. Seconds of the wall clock, one thread of torch. Needs the embedded data.
Writes results/bench-pipeline.json. Run: python benchmarks/pipeline.py
"""
import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.capstone import new_model
from mmtutor.course import records
from mmtutor.inputs import MODALITIES, PROFILES, bank, device, pretrained
from mmtutor.loading import Batch, Batches, Samples, loader, sound_seconds
from mmtutor.optimiser import to_device
from mmtutor.questions import loss_function

BATCH, WORKERS = 32, (0, 1)


def batches(limit: int, workers: int) -> Iterator[Batch]:
    "An epoch of `limit` training rows, lengths alike within a batch."
    rows = data.view("train").select(range(limit))
    samples = Samples(rows, labels=("group",))
    return iter(loader(samples, Batches(sound_seconds(rows), BATCH, pool=4), workers=workers))


def inputs_of(batch: Batch, encoders) -> dict[str, tuple]:
    "As the encoders take it, on the device of the training."
    return to_device({"text": encoders["text"].prepare(batch.text), "picture": (batch.picture,),
                      "sound": (batch.sound, batch.sound_mask)}, device())


def wait() -> None:
    "For what the GPU still has to do."
    if device().type == "cuda":
        torch.cuda.synchronize()


def training_step(model: nn.Module) -> Callable:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5)

    def step(inputs, labels):
        optimizer.zero_grad()
        F.cross_entropy(model(model.encode(inputs)).logits["group"], labels).backward()
        optimizer.step()
    return step


def _timed(function: Callable, *arguments) -> float:
    wait()
    begun = time.perf_counter()
    function(*arguments)
    wait()
    return time.perf_counter() - begun


def raw(limit: int = 256, turns: int = 3, profile=PROFILES["frozen"], workers: tuple[int, ...] = WORKERS) -> dict:
    "Supply by number of workers, need, their ratio, and the share of the loop's time spent waiting."
    encoders = pretrained(profile)
    model = new_model("text too", "decoder", profile, encoders).train()
    step, supply = training_step(model), {n: [] for n in workers}

    def read(n):
        for batch in batches(limit, n):
            inputs_of(batch, encoders)

    def train():
        for inputs, labels in ready:
            step(inputs, labels)
    for turn in range(turns + 1):  # the first warms up
        for n in workers[::1 if turn % 2 else -1]:
            supply[n].append(limit / _timed(read, n))
    ready = [(inputs_of(b, encoders), b.labels["group"].to(device())) for b in batches(min(limit, 2 * BATCH), 0)]
    count, waits = sum(len(labels) for _, labels in ready), {}
    need = [count / _timed(train) for _ in range(turns + 1)][1:]
    for n in workers:
        source, waiting, begun = batches(limit, n), 0.0, time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            inputs = batch and inputs_of(batch, encoders)  # the tokeniser and the copy count as waiting
            waiting += time.perf_counter() - asked
            if batch is None:
                break
            step(inputs, batch.labels["group"].to(device()))
        wait()
        waits[str(n)] = round(waiting / (time.perf_counter() - begun), 4)
    middle = statistics.median(need)
    return {"need samples/s": records.spread(need),
            "supply samples/s": {str(w): records.spread(s[1:]) for w, s in supply.items()},
            "supply / need": {str(w): round(statistics.median(s[1:]) / middle, 3) for w, s in supply.items()},
            "waiting, part of the loop": waits, "batch": BATCH, "samples": limit}


def cached(turns: int = 5, profile=PROFILES["frozen"]) -> dict:
    "The same for a step of the capstone on frozen encoders' stored features: picking rows against the whole step."
    encoders = pretrained(profile)
    items = bank("train", profile, encoders)
    model = new_model("frozen", "decoder", profile, encoders).train()
    optimizer, loss_fn = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5), loss_function(
        items, ("picture", "sound"))
    generator = torch.Generator().manual_seed(0)
    windows = torch.randperm(len(items), generator=generator)[:10 * BATCH].split(BATCH)

    def pick():
        for rows in windows:
            found = items[rows]
            items.pick("clean", MODALITIES, found["row"], generator)
            items.pick("degraded", MODALITIES, found["row"][:(len(rows) + 1) // 2], generator)

    def train():
        for rows in windows:
            optimizer.zero_grad()
            loss_fn(model, items[rows], generator)[0].backward()
            optimizer.step()
    pairs = [(_timed(pick), _timed(train)) for _ in range(turns + 1)][1:]
    count = sum(len(rows) for rows in windows)
    return {"supply samples/s": records.spread([count / p for p, _ in pairs]),
            "need samples/s": records.spread([count / max(t - p, 1e-9) for p, t in pairs]),
            "supply / need": round(statistics.median((t - p) / p for p, t in pairs), 3),
            "picking, part of the step": round(statistics.median(p / t for p, t in pairs), 4), "batch": BATCH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="few samples; print, and write nothing")
    dry = parser.parse_args().dry
    torch.set_num_threads(1)
    begun, small = records.commit(), replace(PROFILES["quick"], batch_size=BATCH)
    data.build(progress=False)
    found = {"raw": raw(BATCH, 1, small) if dry else raw(), "cached": cached(1, small) if dry else cached()}
    print(*(f"{part:8} {name:28} {value}" for part, row in found.items() for name, value in row.items()), sep="\n")
    if not dry:
        records.record("bench-pipeline", "python benchmarks/pipeline.py", [0], {
            "threads": 1, "workers": list(WORKERS), **found}, begun=begun)


if __name__ == "__main__":
    main()
