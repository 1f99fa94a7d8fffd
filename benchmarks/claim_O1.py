"""Claim O1: does multi-task learning make the model more robust? One task against five, weighted in three ways.

Frozen encoders with cached features, the model and schedule of the capstone; only the losses differ. Asked is the
group of test items from picture + speech: clean, degraded (occluded, 0 dB noise), shifted (line drawings, unheard
voices). Only the arm "group, degraded too" sees degraded items in training: it is the plain alternative.

Writes claim O1 into results/claims.json. Run: python benchmarks/claim_O1.py
"""
import argparse
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtutor import data
from mmtutor.capstone import new_model
from mmtutor.course import records
from mmtutor.course.records import ahead
from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.inputs import MODALITIES, PROFILES, RATE, Bank, bank, pretrained
from mmtutor.multimodal import MultimodalModel, drop_modalities
from mmtutor.multitask import GradNorm, UncertaintyWeighting
from mmtutor.objectives import MultiTaskLoss, contrastive_loss
from mmtutor.questions import PAIRS, WEIGHTS, evaluate, swap_one

SEEDS, ASKED, PROFILE = (0, 1, 2), ("picture", "sound"), PROFILES["frozen"]
ALL = ("group", "subgroup", "name", "pairs", "odd")
ARMS = {  # name → tasks, way to weight them
    "group alone": (("group",), "sum"),
    "group, degraded too": (("group", "degraded"), "sum"),
    "five tasks, fixed sum": (ALL, "sum"),
    "five tasks, uncertainty": (ALL, "uncertainty"),
    "five tasks, GradNorm": (ALL, "gradnorm"),
}
ONE, CONTROL, *MANY = ARMS
CONDITIONS = ("clean", "degraded", "shifted")


def objective(tasks: tuple[str, ...], way: str) -> torch.nn.Module:
    "Adds up losses of these tasks. The fixed weights are the capstone's."
    if way == "uncertainty":
        return UncertaintyWeighting(tasks, speed=10)  # the rate of the model would move it by 0.4 in all
    return GradNorm(tasks) if way == "gradnorm" else MultiTaskLoss({t: WEIGHTS[t] for t in tasks})


def losses(model: MultimodalModel, items: Bank, batch: dict, generator: torch.Generator,
           tasks: tuple[str, ...]) -> dict[str, Tensor]:
    "What the tasks cost on one batch, all of them on the same clean items; nothing is computed that nobody asks for."
    rows, group, found = batch["row"].cpu(), batch["group"], {}
    half = (len(rows) + 1) // 2
    contrast = {"name", "pairs"} & set(tasks)
    tokens = model.encode(items.pick("clean", MODALITIES, rows, generator))
    out = model(drop_modalities({m: tokens[m] for m in ASKED}, 0.2))
    alone = {m: model.embed(m, t) for m, t in tokens.items()} if contrast else {}
    if "group" in tasks:
        found["group"] = F.cross_entropy(out.logits["group"], group)
    if "subgroup" in tasks:
        found["subgroup"] = F.cross_entropy(out.logits["subgroup"], batch["subgroup"])
    if "name" in tasks:
        found["name"] = contrastive_loss(out.embedding, alone["text"], model.log_scale)
    if "pairs" in tasks:
        found["pairs"] = sum(contrastive_loss(alone[a], alone[b], model.log_scale) for a, b in PAIRS) / len(PAIRS)
    if "degraded" in tasks:
        poor = model.encode(items.pick("degraded", ASKED, rows[:half], generator))
        found["degraded"] = F.cross_entropy(model(drop_modalities(poor, 0.2)).logits["group"], group[:half])
    if "odd" in tasks:
        mixed, odd = swap_one(tokens, generator)
        found["odd"] = F.cross_entropy(model(mixed).logits["odd"], odd.to(group.device))
    return found


def loss_function(items: Bank, tasks: tuple[str, ...]) -> Callable:
    def loss(model: MultimodalModel, batch: dict, generator: torch.Generator) -> tuple[Tensor, dict]:
        found = losses(model, items, batch, generator, tasks)
        more = {}
        if isinstance(model.objective, GradNorm):  # the layers that take in the encoders' tokens, for every task
            more = {"shared": [*model.tokens.parameters(), *model.targets.parameters()]}
        return model.objective(found, **more)
    return loss


def train(tasks: tuple[str, ...], way: str, seed: int, banks: Mapping[str, Bank], encoders: Mapping,
          epochs: int) -> MultimodalModel:
    torch.manual_seed(seed)
    model = new_model("frozen", "decoder", PROFILE, encoders)
    model.calibrate(model.encode(banks["train"].pick("clean", MODALITIES, torch.arange(min(256, len(banks["train"]))))))
    model.objective = objective(tasks, way)  # so that its weights are trained and saved with the rest
    config = FinetuneConfig(epochs=epochs, batch_size=PROFILE.batch_size, accumulate=PROFILE.accumulate,
                            learning_rate=RATE, weight_decay=0.05, seed=seed)
    finetune(model, loss_function(banks["train"], tasks), banks["train"], config, progress=False)
    return model


def prepared() -> tuple[Mapping, dict[str, Bank]]:
    data.build(progress=False)
    encoders = pretrained(PROFILE)
    return encoders, {split: bank(split, PROFILE, encoders) for split in data.SPLITS}


def compare(found: Mapping[str, Mapping[str, dict]]) -> dict[str, dict[str, str]]:
    "Arm with several tasks → condition → ahead, behind or not resolved, beside the group alone."
    return {arm: {c: ahead(found[arm][c], found[ONE][c]) for c in CONDITIONS} for arm in MANY}


def verdict(found: Mapping[str, Mapping[str, dict]]) -> str:
    "What the figures say, and no more: robust means degraded and shifted items."
    said = compare(found)
    hard = {(arm, c): said[arm][c] for arm in MANY for c in CONDITIONS[1:]}
    better = [f"{arm.split(', ')[1]} on {c} items" for (arm, c), word in hard.items() if word == "ahead"]
    worse = [f"{arm.split(', ')[1]} on {c} items" for (arm, c), word in hard.items() if word == "behind"]
    if len(better) == len(hard):
        return "holds: ahead of the single task with every weighting, on degraded and on shifted items"
    if better and not worse:
        return f"holds when the weights suit: ahead of the single task with {', '.join(better)}; else not resolved"
    if better:
        return f"holds when the weights suit: ahead with {', '.join(better)}; behind with {', '.join(worse)}"
    if worse:
        return f"fails: behind the single task with {', '.join(worse)}, and ahead nowhere"
    return "not resolved at this scale: nowhere ahead of the single task, or behind it, by more than the seeds differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--epochs", type=int, default=PROFILE.epochs)
    parser.add_argument("--arms", type=int, nargs="*", default=list(range(len(ARMS))), help="for a trial")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun, seeds = records.commit(), tuple(range(args.seeds))
    encoders, banks = prepared()
    found, weights = {}, {}
    for number in args.arms:
        arm, (tasks, way) = list(ARMS.items())[number]
        rows = []
        for seed in seeds:
            start = time.process_time()
            model = train(tasks, way, seed, banks, encoders, args.epochs)
            test, _ = evaluate(model, banks["test"], ["picture", "sound", "picture+sound"])
            rows.append({c: test[f"{c}/group/picture+sound"] for c in CONDITIONS} | {
                "subgroup": test["clean/subgroup/picture+sound"], "R@10": test["clean/R@10/picture+sound"],
                "odd": test["odd"]})
            if way != "sum":
                weights.setdefault(arm, []).append(model.objective.weights())
            print(arm, seed, f"{time.process_time() - start:.0f} CPU-s", {k: round(v, 3) for k, v in rows[-1].items()},
                  *(weights.get(arm, [])[-1:]), flush=True)
        found[arm] = {key: records.spread([r[key] for r in rows]) for key in rows[0]}
    if args.dry:
        return
    said = compare(found)
    print(verdict(found), said)
    mean = lambda arm: " / ".join(f"{found[arm][c]['mean']:.3f}" for c in CONDITIONS)
    records.record_claim(
        "O1", "Multi-task learning makes the model more robust.", verdict(found), "python benchmarks/claim_O1.py",
        seeds,
        {"accuracy": found, "beside the group alone": said, "test items": len(banks["test"]), "epochs": args.epochs,
         "weights at the end": {arm: {t: records.spread([w[t] for w in rows]) for t in ALL}
                                for arm, rows in weights.items()},
         "degraded beside the control": {arm: ahead(found[arm]["degraded"], found[CONTROL]["degraded"])
                                         for arm in MANY}},
        summary="Group from picture + speech, clean / degraded / shifted: "
                + "; ".join(f"{arm} {mean(arm)}" for arm in found) + ".",
        chapter="10_multitask", begun=begun)


if __name__ == "__main__":
    main()
