"""Claim T2: does freezing most layers save compute and time at little cost? MiniLM learns the groups of emoji names.

Trainable: none of the six layers (a linear layer on top), the topmost 1, 2, 3, all 6, and the embeddings as well.
Cost of a step of 32 names: CPU seconds (ways taken in turn, as ratios to training everything) and bytes that are
counted: what autograd keeps at the peak, gradients, AdamW's two means. Each way also with the frozen part cached: its
output is computed once, and only the layers above run. Accuracy is that of the cached training (the live one differs by
rounding, which is checked), the encoder's rate chosen on the validation families.
Writes claim T2 into results/claims.json. Run: python benchmarks/claim_T2.py
"""
import argparse
import statistics
import time

import torch
import tuning
from claims import parsed

from mmtutor.accumulation import SavedBytes
from mmtutor.course import records
from mmtutor.freezing import freeze

RATES = (1e-4, 3e-4)
WAYS = {"none": 0, "top 1": 1, "top 2": 2, "top 3": 3, "all 6": 6, "everything": 7}  # layers that learn
DEPTH = 6


def prepared(seed: int, way: str) -> tuning.Reader:
    model, count = tuning.reader(seed), WAYS[way]
    freeze(model, "none" if count > DEPTH else
           "encoders" + (f" but last {count} of {tuning.LAYERS}" if count else ""))
    return model


@torch.no_grad()
def cached(model: tuning.Reader, items: tuning.Names, way: str) -> tuning.Names:
    "What the lowest layer that learns gets to see, for all items; the model begins there from now on."
    if WAYS[way] > DEPTH:
        return items
    encoder, model.begin = model.encoders["text"], DEPTH - WAYS[way]
    x = encoder.norm(encoder.token(items.values) + encoder.position.weight[:items.values.shape[1]]
                     + encoder.segment.weight[0]).masked_fill(~items.mask[..., None], 0)
    for layer in encoder.encoder.layers[:model.begin]:
        x = torch.cat([layer(some, mask) for some, mask in zip(x.split(64), items.mask.split(64))])
    return tuning.Names(x, items.mask, items.labels)


def accuracy(way: str, seed: int, rate: float, ready: dict[str, tuning.Names], args) -> dict:
    model = prepared(seed, way)
    model.begin = max(0, DEPTH - WAYS[way])
    train = ready["train"].pick(tuning.draw(args.train, len(ready["train"]), seed))
    tuning.fit(model, train, rate=rate, head=1e-2, epochs=args.epochs, seed=seed)
    return {"test": tuning.right(model, ready["test"]), "validation": tuning.right(model, ready["validation"])}


def costs(parts, repeats: int) -> dict:
    "Of one step: CPU seconds, as ratios to training everything, and bytes; live and cached."
    rows, steps, found = torch.arange(32), {}, {}
    for way in WAYS:
        for kind in ("live", "cached"):
            model = prepared(0, way)
            items = parts["train"].pick(rows)
            items = cached(model, items, way) if kind == "cached" else items
            learns = [p for p in model.parameters() if p.requires_grad]
            optimiser = torch.optim.AdamW(learns, lr=1e-6)

            def step(model=model, items=items, optimiser=optimiser):
                optimiser.zero_grad()
                tuning.loss_fn(model, items[rows], None)[0].backward()
                optimiser.step()
            with SavedBytes(model) as saved:
                step()
            means = sum(v.nbytes for s in optimiser.state.values() for v in s.values() if v.ndim)
            gradients = sum(p.grad.nbytes for p in learns)
            steps[way, kind], found[way, kind] = step, {
                "trained": sum(p.numel() for p in learns), "kept MiB": saved.peak / 2**20,
                "gradients MiB": gradients / 2**20, "AdamW MiB": means / 2**20,
                "memory MiB": (saved.peak + gradients + means) / 2**20}
    seconds = {key: [] for key in steps}
    for turn in range(repeats + 1):
        for key, step in steps.items():
            begun = time.process_time()
            step()
            seconds[key] += [time.process_time() - begun] if turn else []
    for key, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds["everything", "live"])]
        found[key]["time ratio"] = records.spread(ratios) | {"median": round(statistics.median(ratios), 4)}
    return {way: {kind: found[way, kind] for kind in ("live", "cached")} for way in WAYS}


def difference(parts, args) -> float:
    "Largest difference of a weight between a short live and a short cached training, top 2, in double precision."
    ends = []
    for live in (True, False):
        model = prepared(0, "top 2").double()
        train = parts["train"].pick(tuning.draw(64, len(parts["train"]), 0))
        train = train if live else cached(model, train, "top 2")
        tuning.fit(model, train, rate=1e-4, head=1e-2, epochs=2, seed=0)
        ends.append([p.detach() for p in model.parameters() if p.requires_grad])
    return max((a - b).abs().max().item() for a, b in zip(*ends))


def verdict(ways: dict) -> str:
    "What the figures say of the fewest layers that are not resolved behind everything, and no more."
    test = lambda way: ways[way]["test"]["values"]
    close = [way for way in WAYS if tuning.beside(test(way), test("everything")) != "behind"
             and ways[way]["test"]["mean"] > ways["everything"]["test"]["mean"] - 0.02]
    few, cost = close[0], lambda way, kind, what: ways[way]["cost"][kind][what]
    ratio = lambda way, kind: cost(way, kind, "time ratio")["median"]
    memory = cost(few, "live", "memory MiB") / cost("everything", "live", "memory MiB")
    said = (f"with {few} of the layers learning, a step took {ratio(few, 'live'):.2g} of the CPU time and {memory:.1g} "
            f"of the memory of training everything, and with cached features {ratio(few, 'cached'):.1g} of the time")
    gain = ways["everything"]["test"]["mean"] - ways["none"]["test"]["mean"]
    none = (f"training everything instead of none of them changed the accuracy by {gain:+.3f} "
            f"({tuning.beside(test('everything'), test('none'))} none)")
    if WAYS[few] > DEPTH // 2:
        return f"fails: no way with most layers frozen came within 0.02 of training everything; {none}"
    return f"holds{'' if few == 'none' else f' when the {few} layers learn'}: {said}; {none}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=240, help="names to learn from")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    args, options = parsed(parser)
    begun, seeds, start = records.commit(), tuple(range(args.seeds)), time.process_time()
    parts = tuning.names()
    apart, cost, ways = difference(parts, args), costs(parts, args.repeats), {}
    print(f"live and cached, float64: {apart:.0e}", flush=True)
    for way in WAYS:
        rates = RATES if WAYS[way] else RATES[:1]
        ready = {split: cached(prepared(0, way), items, way) for split, items in parts.items()}
        tried = {rate: [accuracy(way, seed, rate, ready, args) for seed in seeds] for rate in rates}
        best = max(rates, key=lambda rate: sum(r["validation"] for r in tried[rate]))
        ways[way] = {"test": records.spread([r["test"] for r in tried[best]]), "rate": best, "cost": cost[way],
                     "validation": {f"{rate:g}": records.spread([r["validation"] for r in runs])
                                    for rate, runs in tried.items()}}
        print(way, records.show(ways[way]["test"]), best, {kind: (f["time ratio"]["median"], round(f["memory MiB"], 1))
              for kind, f in cost[way].items()}, round(time.process_time() - start), flush=True)
    said = verdict(ways)
    print(said)
    if args.dry:
        return
    records.record_claim(
        "T2", "Freezing most layers saves compute and time at little cost.", said,
        f"python benchmarks/claim_T2.py{options}", seeds,
        {"ways": ways, "live and cached apart": max(apart, 1e-12), "texts": args.train, "epochs": args.epochs},
        chapter="14_rates", begun=begun,
        summary="Test accuracy, CPU time of a step against training everything (cached): " + "; ".join(
            f"{way} {records.show(f['test'])}, {f['cost']['live']['time ratio']['median']:.2f} "
            f"({f['cost']['cached']['time ratio']['median']:.2f})" for way, f in ways.items()))


if __name__ == "__main__":
    main()
