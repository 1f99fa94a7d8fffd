"""Claim F3: hierarchical fusion, co-attention and gating each help further. All fusions on one backbone.

Frozen features, the same questions, helps, steps and order of items for all; tokens and fusion together have equal
parameters (the inner width makes up the difference); the learning rate of each is chosen on validation. Asked as well:
the group of clean inputs with one modality left out, or taken from another item. Only the hierarchical fusion is built
for low, middle and high features. Controls: the decoder and the concatenation with the same three levels, all at once.
Writes claim F3 into results/claims.json. Run: python benchmarks/claim_F3.py
"""
import argparse
import time

import torch
from claims import parsed
from fusing import (
    DIM,
    EPOCHS,
    LEVELS,
    Light,
    banks,
    group_accuracy,
    level_names,
    measures,
    score,
    train,
    widths_of,
)

from mmtutor.course import records
from mmtutor.course.records import ahead
from mmtutor.fusion import equal_hidden, fusion_cost
from mmtutor.inputs import MODALITIES, Bank

BUDGET, RATES, TASKS = 400_000, (3e-3, 1e-3), ("clean", "degraded", "odd")
HIGH = ("high",)
VARIANTS = {"score": ("score", HIGH), "concat": ("concat", HIGH), "gated": ("gated", HIGH),
            "coattention": ("coattention", HIGH), "bottleneck": ("bottleneck", HIGH),
            "hierarchical": ("hierarchical", LEVELS), "decoder": ("decoder", HIGH),
            "decoder, all levels": ("decoder", LEVELS), "concat, all levels": ("concat", LEVELS)}


def build(name: str, budget: int = BUDGET) -> Light:
    "The variant, with the inner width that makes tokens and fusion have `budget` parameters."
    fusion, levels = VARIANTS[name]
    options = {"levels": level_names(MODALITIES, levels)} if fusion == "hierarchical" else {}
    widths = widths_of(MODALITIES, levels)
    with torch.device("meta"):
        tokens = Light(MODALITIES, fusion, levels=levels, grouped=options, hidden=1).tokens
    rest = budget - sum(p.numel() for p in tokens.parameters())
    hidden = equal_hidden(fusion, list(widths), DIM, rest, **options)
    return Light(MODALITIES, fusion, levels=levels, grouped=options, hidden=hidden)


def run(name: str, seed: int, rate: float, found: dict[str, Bank], epochs: int) -> tuple[dict[str, float], Light]:
    "Accuracies by `split/task` of one model."
    torch.manual_seed(seed)
    model = train(build(name), found["train"], seed=seed, rate=rate, epochs=epochs)
    figures = {f"{split}/{task}": value for split in ("validation", "test")
               for task, value in measures(model, found[split]).items()}
    for m in MODALITIES:
        rest = [o for o in MODALITIES if o != m]
        figures[f"test/without {m}"] = group_accuracy(model, found["test"], "clean", rest)
        figures[f"test/{m} shuffled"] = group_accuracy(model, found["test"], "clean", MODALITIES, shuffled=m)
    return figures, model


def on_validation(figures: dict[str, float]) -> float:
    return score({task: figures[f"validation/{task}"] for task in TASKS})


def compared(figures: dict[str, dict], base: str = "concat") -> dict[str, str]:
    "By `variant/task`: ahead, behind or not resolved against `base`."
    return {f"{name}/{task}": ahead(figures[f"{name}/test/{task}"], figures[f"{base}/test/{task}"])
            for name in VARIANTS if name != base for task in TASKS}


def verdict(figures: dict[str, dict]) -> str:
    "Of the three designs that the claim names, against concatenation."
    against = compared(figures)
    said = {name: {word: [t for t in TASKS if against[f"{name}/{t}"] == word] for word in ("ahead", "behind")}
            for name in ("hierarchical", "coattention", "gated")}
    words = "; ".join(f"{name} " + (", ".join(f"{word} in {' and '.join(tasks)}" for word, tasks in found.items()
                                              if tasks) or "level everywhere") for name, found in said.items())
    if all(len(found["ahead"]) == len(TASKS) for found in said.values()):
        return "holds: each of the three was ahead of concatenation in every task"
    if not any(found["ahead"] or found["behind"] for found in said.values()):
        return "not resolved at this scale: none of the three differed from concatenation by more than the spread"
    if any(found["ahead"] and not found["behind"] for found in said.values()):
        return f"holds when design and task fit; against concatenation: {words}"
    return f"fails as a rule; against concatenation: {words}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args, options = parsed(parser)
    begun, seeds, values, about = records.commit(), tuple(range(args.seeds)), {}, {}
    found = {"high": banks(levels=HIGH), "all": banks()}
    for name, (_, levels) in VARIANTS.items():
        start, items, tried = time.process_time(), found["high" if levels == HIGH else "all"], {}
        for rate in RATES:
            tried[rate], model = run(name, seeds[0], rate, items, args.epochs)
        rate = max(RATES, key=lambda r: on_validation(tried[r]))
        for seed in seeds:
            figures = tried[rate] if seed == seeds[0] else run(name, seed, rate, items, args.epochs)[0]
            for key, value in figures.items():
                values.setdefault(f"{name}/{key}", []).append(value)
        with torch.no_grad():
            sample = items["test"].pick("clean", MODALITIES, torch.arange(64))
        about[name] = {"parameters": model.trunk(), "flops": fusion_cost(model, sample)["flops"] // 64, "rate": rate,
                       "validation by rate": {f"{r:g}": round(on_validation(f), 4) for r, f in tried.items()}}
        print(name, round(time.process_time() - start), about[name],
              {t: records.show(records.spread(values[f"{name}/test/{t}"])) for t in TASKS}, flush=True)
    figures = {key: records.spread(v) for key, v in values.items()}
    said = verdict(figures)
    print(said, compared(figures), sep="\n")
    if args.dry:
        return
    records.record_claim(
        "F3", "Hierarchical fusion, co-attention and gating each help further.", said,
        f"python benchmarks/claim_F3.py{options}", seeds,
        {"accuracy": figures, "about": about, "against concat": compared(figures),
         "against decoder, all levels": compared(figures, "decoder, all levels"), "budget": BUDGET,
         "epochs": args.epochs, "items": {split: len(b) for split, b in found["high"].items()}},
        chapter="09_fusion", begun=begun,
        summary="clean / degraded / odd one out: " + "; ".join(
            f"{name} " + " / ".join(f"{figures[f'{name}/test/{t}']['mean']:.2f}" for t in TASKS) for name in VARIANTS))


if __name__ == "__main__":
    main()
