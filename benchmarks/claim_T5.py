"""Claim T5: does gradient accumulation give large-batch training on a small memory?

On the course's own models and data, in double precision: the relative error of the accumulated gradient against that of
the big batch, as usually written and as repaired, in six cases. Then what autograd keeps at the peak, and the time,
for batches of 64 to 512 pairs in parts of 32: the big batch, accumulation, GradCache (three ways taken in turn).
Writes claim T5 into results/claims.json. Run on a quiet machine: python benchmarks/claim_T5.py
"""
import argparse
import statistics
import time

import torch
from claims import parsed
from torch import nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.accumulation import GradCache, SavedBytes, accumulate
from mmtutor.course import records
from mmtutor.inputs import PROFILES, Bank, bank, pretrained
from mmtutor.multimodal import MultimodalConfig, MultimodalModel
from mmtutor.objectives import contrastive_loss
from mmtutor.transformer import Encoder, Tokens

PART, PARTS, SIZES = 16, 4, (64, 128, 256, 512)
ASKED = ("picture", "sound")


def flat_gradient(model: nn.Module, backward) -> torch.Tensor:
    model.zero_grad()
    backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def fusion_model(seed: int, train: Bank) -> MultimodalModel:
    torch.manual_seed(seed)
    widths = {m: train.kinds["clean"][m].values.shape[-1] for m in ("picture", "sound", "text")}
    return MultimodalModel(MultimodalConfig(widths=widths, dim=64, depth=1, dropout=0.0, tasks={"group": 8})).double()


def double(tokens: dict[str, Tokens]) -> dict[str, Tokens]:
    return {m: Tokens(t.values.double(), t.mask) for m, t in tokens.items()}


def classify(seed: int, train: Bank) -> dict[str, tuple[float, float]]:
    "Equal parts, a partial last window, clipping part by part: the group from picture and sound."
    model, generator = fusion_model(seed, train), torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train), generator=generator)[:PART * PARTS]
    loss = lambda r: F.cross_entropy(model(double(train.pick("clean", ASKED, r))).logits["group"], train.group[r])
    run = lambda backward: flat_gradient(model, backward)
    parts, counts = rows.split(PART), [PART] * PARTS
    big = run(lambda: loss(rows).backward())
    found = {"equal parts": (error(run(lambda: accumulate(loss, parts, counts)), big),) * 2}
    few = rows[:PART + PART // 2]
    small, last = run(lambda: loss(few).backward()), few.split(PART)
    found["partial last window"] = (
        error(run(lambda: [(loss(p) / PARTS).backward() for p in last]), small),
        error(run(lambda: accumulate(loss, last, [len(p) for p in last])), small))
    limit = 0.5 * big.norm().item()
    clip = lambda g: g * min(1.0, limit / g.norm().item())
    by_part = sum(clip(run(lambda p=p: loss(p).backward())) for p in parts) / PARTS
    once = clip(run(lambda: accumulate(loss, parts, counts)))
    found["clipping"] = error(by_part, clip(big)), error(once, clip(big))
    return found


def compare(seed: int, train: Bank) -> dict[str, tuple[float, float]]:
    "A loss that compares samples: the picture has to find its name."
    model, generator = fusion_model(seed, train), torch.Generator().manual_seed(seed)
    parts = torch.randperm(len(train), generator=generator)[:PART * PARTS].split(PART)
    sides = lambda r: tuple(model.embed(m, t) for m, t in double(train.pick("clean", ("picture", "text"), r)).items())
    loss = lambda a, b: contrastive_loss(a, b, model.log_scale)
    run = lambda backward: flat_gradient(model, backward)
    big = run(lambda: loss(*sides(torch.cat(parts))).backward())
    return {"contrastive": (error(run(lambda: accumulate(lambda r: loss(*sides(r)), parts, [PART] * PARTS)), big),
                            error(run(lambda: GradCache(sides, loss).backward(parts)), big))}


def read(seed: int, names: list[str], encoder) -> dict[str, tuple[float, float]]:
    "The next token of emoji names, sorted by length: few tokens in the first part, many in the last."
    torch.manual_seed(seed)
    chosen = sorted((names[i] for i in torch.randperm(len(names))[:PART * PARTS].tolist()), key=len)
    ids, mask = encoder.prepare(chosen)
    used, ids = ids.unique(return_inverse=True)
    model = nn.Sequential(nn.Embedding(len(used), 32), Encoder(1, 32, 2), nn.Linear(32, len(used))).double()
    targets = ids.roll(-1, 1).masked_fill(~(mask & F.pad(mask, (0, 1))[:, 1:]), -100)
    loss = lambda r: F.cross_entropy(model(ids[r]).flatten(0, 1), targets[r].flatten(), ignore_index=-100)
    parts, run = torch.arange(PART * PARTS).split(PART), lambda backward: flat_gradient(model, backward)
    tokens, big = [int((targets[p] != -100).sum()) for p in parts], run(lambda: loss(torch.cat(parts)).backward())
    return {"token counts": (error(run(lambda: accumulate(loss, parts, [1] * PARTS)), big),
                             error(run(lambda: accumulate(loss, parts, tokens)), big))}


def look(seed: int, pictures: list, labels: torch.Tensor, encoder) -> dict[str, tuple[float, float]]:
    "The pretrained convolutional encoder: BatchNorm in training mode, and in eval mode."
    torch.manual_seed(seed)
    rows = torch.randperm(len(pictures))[:PART]
    x, y = encoder.prepare([pictures[i] for i in rows.tolist()]), labels[rows]
    model, head = encoder.double(), nn.Linear(encoder.dim, 8).double()
    whole = nn.ModuleList([model, head])
    loss = lambda r: F.cross_entropy(head(model(*(t[r].double() if t.is_floating_point() else t[r] for t in x))
                                          .values.mean(1)), y[r])
    found = []
    for mode in (True, False):
        model.train(mode)
        stored = {k: v.clone() for k, v in model.state_dict().items()}
        big = flat_gradient(whole, lambda: loss(torch.arange(PART)).backward())
        model.load_state_dict(stored)
        parts = torch.arange(PART).split(PART // PARTS)
        found.append(error(flat_gradient(whole, lambda p=parts: accumulate(loss, p, [PART // PARTS] * PARTS)), big))
        model.load_state_dict(stored)
    encoder.float()
    return {"BatchNorm": tuple(found)}


def cost(repeats: int, train: Bank) -> dict:
    "Bytes kept at the peak and seconds, by way and batch; seconds as ratios to the big batch, turn by turn."
    torch.manual_seed(0)
    left, right, scale = Encoder(2, 128, 4), Encoder(2, 128, 4), nn.Parameter(torch.tensor(1.0))
    encode = lambda part: (left(part).mean(1), right(part).mean(1))
    score = lambda a, b: contrastive_loss(a, b, scale)
    ways = {"big batch": lambda parts: score(*encode(torch.cat(parts))).backward(),
            "accumulate": lambda parts: accumulate(lambda p: score(*encode(p)), parts, [32] * len(parts)),
            "GradCache": lambda parts: GradCache(encode, score).backward(parts)}
    found = {"kept MiB": {way: {} for way in ways}, "time ratio": {way: {} for way in ways}}
    for size in SIZES:
        parts = [torch.randn(32, 16, 128) for _ in range(size // 32)]
        seconds = {way: [] for way in ways}
        for turn in range(repeats + 1):
            for name, way in ways.items():
                begun = time.perf_counter()
                way(parts)
                seconds[name] += [time.perf_counter() - begun] if turn else []
        for name, way in ways.items():
            with SavedBytes(left, right) as saved:
                way(parts)
            found["kept MiB"][name][str(size)] = round(saved.peak / 2**20, 3)
            ratios = [a / b for a, b in zip(seconds[name], seconds["big batch"])]
            found["time ratio"][name][str(size)] = records.spread(ratios) | {"median": statistics.median(ratios)}
    return found


def verdict(errors: dict[str, dict], kept: dict[str, dict]) -> str:
    "What the figures say, and no more."
    wrong = [case for case, found in errors.items() if min(found["usual"]["values"]) > 1e-6]
    repaired = all(found["repaired"]["largest"] < 1e-9 for found in errors.values())
    flat = len(set(kept["accumulate"].values())) == 1
    if not flat or errors["equal parts"]["usual"]["largest"] > 1e-9:
        return "fails: even with equal parts the gradient or the memory was another one"
    named = ", ".join(wrong)
    return (f"holds when the loss is a mean over equal, independent parts; the usual recipe was wrong with {named}"
            + ("; each has an exact repair" if repaired else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    args, options = parsed(parser)
    begun, seeds, profile = records.commit(), tuple(range(args.seeds)), PROFILES["frozen"]
    encoders = pretrained(profile)
    train, found = bank("train", profile, encoders), {}
    names, pictures = list(train.rows["text"]), [data.picture_of(p) for p in train.rows["picture"]]
    for seed in seeds:
        for case, pair in {**classify(seed, train), **read(seed, names, encoders["text"]),
                           **look(seed, pictures, train.group, encoders["picture"]), **compare(seed, train)}.items():
            found.setdefault(case, []).append(pair)
    # rounding is of another size on another processor: below 1e-12 it is written as 1e-12
    errors = {case: {name: records.spread([max(pair[i], 1e-12) for pair in pairs]) | {
        "largest": max(max(pair[i], 1e-12) for pair in pairs)} for i, name in enumerate(("usual", "repaired"))}
        for case, pairs in found.items()}
    costs = cost(args.repeats, train)
    said = verdict(errors, costs["kept MiB"])
    print(said, *(f"{case:20} usual {f['usual']['mean']:.2g}, repaired at most {f['repaired']['largest']:.0e}"
                  for case, f in errors.items()), costs["kept MiB"],
          {way: {n: round(r["median"], 2) for n, r in f.items()} for way, f in costs["time ratio"].items()}, sep="\n")
    if args.dry:
        return
    records.record_claim(
        "T5", "Gradient accumulation gives large-batch training on a small memory.", said,
        f"python benchmarks/claim_T5.py{options}", seeds,
        {"errors": errors, **costs, "part": PART, "parts": PARTS}, chapter="15_accumulation", begun=begun,
        summary="Relative error of the gradient, usual recipe: " + ", ".join(
            f"{case} {'below 1e-12' if f['usual']['largest'] <= 1e-12 else format(f['usual']['mean'], '.2f')}"
            for case, f in errors.items()))


if __name__ == "__main__":
    main()
