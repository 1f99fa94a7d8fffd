"""Claim T6: does gradient accumulation improve convergence speed and stability?

An emoji's group from picture and speech, with frozen encoders and the shared fusion decoder. Micro-batches of 16,
accumulated 1, 4 or 16 times: one step on 16, 64 or 256 samples. Once with equal epochs (equal work: a larger batch gets
fewer steps), once with equal steps (a larger batch gets more work). The learning rate of each size is chosen on the
validation families, for equal epochs, and kept for equal steps.
Writes claim T6 into results/claims.json. Run: python benchmarks/claim_T6.py
"""
import argparse
import time

import numpy as np
import torch
from claims import parsed
from torch.nn import functional as F

from mmtutor.course import records
from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.inputs import PROFILES, Bank, bank, pretrained
from mmtutor.multimodal import MultimodalConfig, MultimodalModel

MICRO, TIMES, RATES, ASKED = 16, (1, 4, 16), (1e-3, 3e-3, 1e-2), ("picture", "sound")


def new_model(train: Bank, seed: int) -> MultimodalModel:
    torch.manual_seed(seed)
    tokens = train.pick("clean", ASKED, torch.arange(min(256, len(train))))
    config = MultimodalConfig(widths={m: t.values.shape[-1] for m, t in tokens.items()}, dim=128, depth=1,
                              tasks={"group": 8}, feature_dropout=0.5)
    model = MultimodalModel(config)
    model.calibrate(tokens)
    return model


def loss_function(train: Bank):
    def loss(model, batch, generator):
        tokens = train.pick("clean", ASKED, batch["row"], generator)
        return F.cross_entropy(model(tokens).logits["group"], batch["group"]), {}
    return loss


@torch.no_grad()
def right(model: MultimodalModel, items: Bank) -> float:
    found = model.eval()(items.pick("clean", ASKED, torch.arange(len(items)))).logits["group"].argmax(1)
    return (found == items.group).double().mean().item()


def reached(curve: list[tuple[int, float]], level: float) -> int | None:
    "The first point of a curve (x, y) that is at least `level` high; None if there is none."
    return next((x for x, y in curve if y >= level), None)


def run(banks: dict[str, Bank], times: int, rate: float, seed: int, epochs: int) -> dict:
    """Train once; accuracy on validation after every epoch and on the test at the end.

    Trembling: deviation of the change of the loss from step to step, in the second half. Wobble: deviation of the
    accuracy on validation over the last third of the epochs.
    """
    model, curve = new_model(banks["train"], seed), []

    def validate(model):
        curve.append(right(model, banks["validation"]))
        return {"score": curve[-1]}
    config = FinetuneConfig(epochs=epochs, batch_size=MICRO, accumulate=times, learning_rate=rate, weight_decay=0.05,
                            seed=seed, restore_best=False)
    history = finetune(model, loss_function(banks["train"]), banks["train"], config, validate=validate, progress=False)
    late = torch.tensor(history.losses[len(history.losses) // 2:])
    steps = history.total // epochs
    return {"test": right(model, banks["test"]), "validation": curve[-1], "steps": history.total,
            "curve": [(epoch * len(banks["train"]), steps * epoch, y) for epoch, y in enumerate(curve, 1)],
            "trembling": (late[1:] - late[:-1]).std().item(),
            "wobble": float(np.std(curve[-max(1, epochs // 3):]))}


def fewer_or_more(base: list, other: list) -> str:
    "`fewer` or `more` where all seeds agree."
    pairs = list(zip(base, other))
    if any(None in pair for pair in pairs):
        return "neither fewer nor more"
    return ("fewer" if all(b < a for a, b in pairs) else "more" if all(b > a for a, b in pairs)
            else "neither fewer nor more")


def verdict(found: dict) -> str:
    "What the figures of equal epochs say of the largest batch beside the smallest one, and no more."
    sizes = [str(MICRO * times) for times in (TIMES[0], TIMES[-1])]
    small, large = (found[size] for size in sizes)
    steps, samples = (fewer_or_more(small[f"{what} to level"], large[f"{what} to level"])
                      for what in ("steps", "samples"))
    calmer = all(b < a for name in ("trembling", "wobble")
                 for a, b in zip(small[name]["values"], large[name]["values"]))
    gain = [b - a for a, b in zip(small["test"]["values"], large["test"]["values"])]
    better = "better" if min(gain) > 0 else "worse" if max(gain) < 0 else "not clearly other"
    said = (f"with {sizes[1]} samples a step the same accuracy took {steps} steps and {samples} samples than with "
            f"{sizes[0]}; the run was {'steadier' if calmer else 'not steadier in every seed'}; after equal epochs "
            f"the accuracy was {better}")
    if calmer and samples == "fewer":
        return f"holds: {said}"
    if steps == "fewer":
        return f"holds when speed is counted in steps, not in samples: {said}"
    return f"holds when the second half is meant: {said}" if calmer else f"fails: {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    args, options = parsed(parser)
    begun, seeds, profile = records.commit(), tuple(range(args.seeds)), PROFILES["frozen"]
    encoders = pretrained(profile)
    banks = {split: bank(split, profile, encoders) for split in ("train", "validation", "test")}
    epochs, found, start = args.epochs, {"equal epochs": {}, "equal steps": {}}, time.process_time()
    chosen, sweep = {}, {}
    for times in TIMES:
        size = MICRO * times
        tried = {rate: [run(banks, times, rate, seed, epochs) for seed in seeds] for rate in RATES}
        sweep[str(size)] = {f"{rate:g}": records.spread([r["validation"] for r in runs])
                            for rate, runs in tried.items()}
        chosen[size] = max(RATES, key=lambda rate: sweep[str(size)][f"{rate:g}"]["mean"])
        found["equal epochs"][size] = tried[chosen[size]]
        print(size, chosen[size], sweep[str(size)][f"{chosen[size]:g}"], round(time.process_time() - start), flush=True)
    per_epoch = {times: -(-len(banks["train"]) // (MICRO * times)) for times in TIMES}
    for times in TIMES:  # as many steps as the middle size makes in these epochs
        size = MICRO * times
        length = round(epochs * per_epoch[TIMES[1]] / per_epoch[times])
        found["equal steps"][size] = (found["equal epochs"][size] if times == TIMES[1] else
                                      [run(banks, times, chosen[size], seed, length) for seed in seeds])
        print("equal steps", size, length, [round(r["test"], 3) for r in found["equal steps"][size]],
              round(time.process_time() - start), flush=True)
    figures = {}
    for kind, sizes in found.items():
        level = 0.95 * min(max(y for *_, y in r["curve"]) for r in found["equal epochs"][MICRO * TIMES[1]])
        figures[kind] = {str(size): {
            **{name: records.spread([r[name] for r in runs]) for name in ("test", "validation", "trembling", "wobble")},
            "steps": runs[0]["steps"], "samples": runs[0]["curve"][-1][0],
            "samples to level": [reached([(s, y) for s, _, y in r["curve"]], level) for r in runs],
            "steps to level": [reached([(s, y) for _, s, y in r["curve"]], level) for r in runs],
            "curve": [[s, n, sum(r["curve"][i][2] for r in runs) / len(runs)]
                      for i, (s, n, _) in enumerate(runs[0]["curve"])]} for size, runs in sizes.items()}
    said = verdict(figures["equal epochs"])
    print(said)
    for kind, sizes in figures.items():
        for size, f in sizes.items():
            print(kind, size, {k: records.show(f[k]) for k in ("test", "validation", "trembling", "wobble")},
                  f["steps"], f["samples to level"], f["steps to level"])
    if args.dry:
        return
    records.record_claim(
        "T6", "Gradient accumulation improves convergence speed and stability.", said,
        f"python benchmarks/claim_T6.py{options}", seeds,
        {**figures, "level": round(level, 4), "rates": {str(k): v for k, v in chosen.items()}, "sweep": sweep,
         "micro": MICRO, "epochs": epochs}, chapter="15_accumulation", begun=begun,
        summary="Test accuracy after equal epochs: " + "; ".join(
            f"{size} samples a step {records.show(f['test'])}" for size, f in figures["equal epochs"].items()))


if __name__ == "__main__":
    main()
