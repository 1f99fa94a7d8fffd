"""Claim T1: does fine-tuning beat using the pretrained model as it is? EfficientNet-Lite0 learns the groups of emoji.

Ways: no training (the nearest of eight mean features), a linear probe, partial (the last two stages), full, and LP-FT
(the probe first, then everything). 400 families, 2 epochs, 32 pictures a step. Tested on unseen families in the style
of the training and, the shift, as line drawings. BatchNorm sleeps in every way, so that the ways differ in what learns
and in nothing else. Rates are chosen with the first seed, on validation families in the style of the training.
Writes claim T1 into results/claims.json. Run: python benchmarks/claim_T1.py
"""
import argparse
import time

import torch
import tuning
from claims import parsed
from torch import Tensor, nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.course import records
from mmtutor.freezing import freeze
from mmtutor.vision import ConvEncoder, standardise

SIZES = {"400": 2}  # families to learn from → epochs
CUT = 11            # partial: the blocks from here on
PROBE, RATES = (3e-3, 1e-2), (1e-4, 4e-4)
WAYS, TESTS = ("no training", "probe", "partial", "full", "LP-FT"), ("colour", "lines")
NORM = lambda name: ".norm." in name


class Looker(nn.Module):
    "The encoder, the mean of its tokens, a linear layer. It takes pictures, the map in front of block CUT, or means."

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.encoders = nn.ModuleDict({"picture": ConvEncoder.from_pretrained()})
        self.out = nn.Linear(self.encoders["picture"].dim, 8)

    def low(self, pictures: Tensor) -> Tensor:
        encoder = self.encoders["picture"]
        x = standardise(pictures, [127.0] * 3, [128.0] * 3).contiguous(memory_format=torch.channels_last)
        return encoder.blocks[:CUT](encoder.stem(x))

    def high(self, x: Tensor) -> Tensor:
        encoder = self.encoders["picture"]
        return encoder.head(encoder.blocks[CUT:](x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.low(x) if x.dtype == torch.uint8 else x
        return self.out(F.layer_norm(self.high(x) if x.ndim == 4 else x, (self.out.in_features,)))


class Items:
    def __init__(self, values: Tensor, labels: Tensor):
        self.values, self.labels = values, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor):
        return (self.values[rows],), self.labels[rows]


@torch.no_grad()
def through(part, values: Tensor) -> Tensor:
    return torch.cat([part(some) for some in values.split(64)])


@torch.no_grad()
def nearest(train: Items, items: Items) -> float:
    "Nothing is trained: the group whose mean feature is nearest by cosine, all features less the mean of the training."
    centre = train.values.mean(0)
    means = torch.stack([(train.values[train.labels == c] - centre).mean(0) for c in range(8)])
    found = (F.normalize(items.values - centre, dim=1) @ F.normalize(means, dim=1).T).argmax(1)
    return (found == items.labels).double().mean().item()


def asleep(way: str):
    "What sleeps: in `full` and `LP-FT` the BatchNorms, in `partial` also what lies below the cut, in `probe` all."
    deep = [f"encoders.picture.blocks.{i}." for i in range(CUT, 16)] + ["encoders.picture.head."]
    if way == "partial":
        return lambda name: name.startswith("encoders.") and (NORM(name) or not name.startswith(tuple(deep)))
    return NORM if way in ("full", "LP-FT") else "encoders"


def tune(way: str, rate: float, seed: int, train: Items, size: str, head: dict | None) -> Looker:
    model = Looker(seed)
    freeze(model, asleep(way))
    if head is not None:
        model.out.load_state_dict(head)
    fast = {"probe": rate, "LP-FT": 1e-3}.get(way, 3e-3)
    return tuning.fit(model, train, rate=rate, head=fast, seed=seed,
                      epochs=10 * SIZES[size] if way == "probe" else SIZES[size])


def run(size: str, seed: int, chosen: dict, raw, low, flat) -> dict:
    "Way → rate → split → accuracy; only the chosen rate of a way, if there is one."
    count = len(raw["train"])
    rows = tuning.draw(int(size), count, seed)
    some = lambda items: Items(items["train"].values[rows], items["train"].labels[rows])
    splits = ("validation", *TESTS)
    found = {"no training": {0: {s: nearest(some(flat), flat[s]) for s in splits}}}
    found["probe"], heads = {}, {}
    for rate in chosen.get("probe", PROBE):
        model = tune("probe", rate, seed, some(flat), size, None)
        found["probe"][rate] = {s: tuning.right(model, flat[s]) for s in splits}
        heads[rate] = model.out.state_dict()
    best = max(heads, key=lambda rate: found["probe"][rate]["validation"])
    for way in WAYS[2:]:
        source, found[way] = low if way == "partial" else raw, {}
        for rate in chosen.get(way, RATES):
            model = tune(way, rate, seed, some(source), size, heads[best] if way == "LP-FT" else None)
            found[way][rate] = {s: tuning.right(model, source[s]) for s in splits}
    return found


def verdict(figures: dict) -> str:
    "What the figures say, and no more: each trained way beside the probe, and full fine-tuning beside no training."
    values = lambda size, way, test: figures[size][way][test]["values"]
    tuned, said, drawn = ("partial", "full", "LP-FT"), [], {"colour": "drawn as in training", "lines": "line drawings"}
    gained = dict.fromkeys(TESTS, True)
    for size in figures:
        for test in TESTS:
            stand = {w: tuning.beside(values(size, w, test), values(size, "probe", test)) for w in tuned}
            ahead, behind = ([w for w in tuned if stand[w] == how] for how in ("ahead of", "behind"))
            gained[test] &= len(ahead) > 0
            worse = f", behind it {', '.join(behind)}" if behind else ""
            first = f"ahead of the probe {', '.join(ahead)}" if ahead else "nothing ahead of the probe in every seed"
            said.append(f"{size} families, {drawn[test]}: {first}{worse}")
    trained = all(tuning.beside(values(s, "full", t), values(s, "no training", t)) == "ahead of"
                  for s in figures for t in TESTS)
    first = f"full fine-tuning {'beat' if trained else 'did not beat'} no training everywhere"
    where = [drawn[test] for test in TESTS if gained[test]]
    head = ("holds" if len(where) == len(TESTS) and trained else f"holds when the test is {' or '.join(where)}" if where
            else "holds when a probe does not count as fine-tuning" if trained else "not resolved at this scale")
    return f"{head}: {first}; " + "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--few", type=int, default=0, help="for a rehearsal: as many items of each split")
    args, options = parsed(parser)
    begun, seeds, start = records.commit(), tuple(range(args.seeds)), time.process_time()
    untouched, raw = Looker(0).eval(), {}
    for name, split, style in (("train", "train", "colour"), ("validation", "validation", "colour"),
                               ("colour", "test", "colour"), ("lines", "test", "lines")):
        rows = data.view(split, style=style)
        pictures = [data.picture_of(p) for p in rows["picture"]][:args.few or None]
        (values,) = untouched.encoders["picture"].prepare(pictures)
        raw[name] = Items(values, torch.tensor(rows["group"])[:args.few or None])
    low = {k: Items(through(untouched.low, v.values), v.labels) for k, v in raw.items()}
    flat = {k: Items(through(untouched.high, v.values), v.labels) for k, v in low.items()}
    figures = {}
    for size in SIZES:
        runs, chosen = [], {}
        for seed in seeds:
            runs.append(run(size, seed, chosen, raw, low, flat))
            chosen = chosen or {w: (max(f, key=lambda rate: f[rate]["validation"]),) for w, f in runs[0].items()}
            print(size, seed, {w: {t: round(f[chosen[w][0]][t], 3) for t in TESTS}
                               for w, f in runs[-1].items()}, round(time.process_time() - start), flush=True)
        figures[size] = {}
        for way in WAYS:
            (best,) = chosen[way]
            figures[size][way] = {test: records.spread([r[way][best][test] for r in runs]) for test in TESTS} | {
                "rate": best,
                "validation": {f"{rate:g}": round(f["validation"], 4) for rate, f in runs[0][way].items()}}
    said = verdict(figures)
    print(said)
    if args.dry:
        return
    records.record_claim(
        "T1", "Fine-tuning beats using the pretrained model as it is.", said, f"python benchmarks/claim_T1.py{options}",
        seeds, {"sizes": figures, "families": len(raw["train"])}, chapter="14_rates", begun=begun,
        summary="Accuracy in the style of the training / as line drawings: " + "; ".join(
            f"{way} {f['colour']['mean']:.3f} / {f['lines']['mean']:.3f}" for way, f in figures["400"].items()))


if __name__ == "__main__":
    main()
