"""Claim T3: does a small learning rate protect pretrained weights? MiniLM learns the groups of emoji names.

Everything learns, at four rates of the encoder; at one of them also with layer-wise decay. For each: accuracy on unseen
families, how far every part has travelled, and what is left of an ability that nobody asked for: to find, among
sentences of scipy's docstrings, one of the same part of scipy by the cosine of mean tokens.
Writes claim T3 into results/claims.json. Run: python benchmarks/claim_T3.py
"""
import argparse
import time

import tuning
from claims import parsed

from mmtutor.course import records
from mmtutor.rates import layer_factors, scaled, travelled

RATES, DECAYED, DECAY = (2e-5, 2e-4, 1e-3, 3e-3), (1e-3,), 0.6
ENCODER = "encoders.text"
TABLES = ", ".join(f"{ENCODER}.{part}" for part in ("token", "position", "segment", "norm"))
STAGES = {"embeddings": TABLES, **{f"layer {i}": f"{tuning.LAYERS}.{i}" for i in range(6)}}


def run(seed: int, rate: float, decay: float, parts, probe, args) -> dict:
    model = tuning.reader(seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    more = {} if decay == 1 else {"groups": scaled(layer_factors(model, ENCODER, tuning.LAYERS, decay))}
    train = parts["train"].pick(tuning.draw(args.train, len(parts["train"]), seed))
    tuning.fit(model, train, rate=rate, head=1e-2, epochs=args.epochs, seed=seed, **more)
    way = travelled(before, model, [ENCODER, *STAGES.values()])
    return {"test": tuning.right(model, parts["test"]), "validation": tuning.right(model, parts["validation"]),
            "ability": tuning.ability(model.encoders["text"], *probe), "travelled": way[ENCODER],
            "by layer": {name: way[part] for name, part in STAGES.items()}}


def verdict(figures: dict[str, dict], frozen: dict) -> str:
    "What the figures of the plain rates say, and no more."
    plain = {float(name): f for name, f in figures.items() if "decay" not in name}
    values = lambda rate, what: plain[rate][what]["values"]
    mean = lambda rate, what: f"{plain[rate][what]['mean']:.2f}"
    least, most = min(plain), max(plain)
    if tuning.beside(values(least, "ability"), values(most, "ability")) != "ahead of":
        return "not resolved at this scale: the smallest rate did not keep more of the ability in every seed"
    best = max(plain, key=lambda rate: plain[rate]["validation"]["mean"])
    said = (f"of {frozen['ability']:.2f}, {mean(least, 'ability')} was left at {least:g} and {mean(most, 'ability')} "
            f"at {most:g}; at {best:g}, the best rate for the task, {mean(best, 'ability')}, and there the task was "
            f"{tuning.beside(values(best, 'test'), values(least, 'test'))} that at {least:g}")
    untouched = [frozen["ability"]] * len(values(best, "ability"))
    if tuning.beside(values(best, "ability"), untouched) == "behind":
        return f"holds when it is smaller than the task would like: {said}"
    return f"holds: {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=240, help="names to learn from")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--each", type=int, default=20, help="sentences of each part of scipy")
    args, options = parsed(parser)
    begun, seeds, start = records.commit(), tuple(range(args.seeds)), time.process_time()
    parts, probe = tuning.names(), tuning.sentences(args.each)
    frozen = {"ability": tuning.ability(tuning.reader(0).encoders["text"], *probe)}
    print("untouched", frozen, flush=True)
    figures = {}
    for rate, decay in [(rate, 1.0) for rate in RATES] + [(rate, DECAY) for rate in DECAYED]:
        name = f"{rate:g}" if decay == 1 else f"{rate:g}, decay {decay:g}"
        runs = [run(seed, rate, decay, parts, probe, args) for seed in seeds]
        figures[name] = {what: records.spread([r[what] for r in runs]) for what in runs[0] if what != "by layer"} | {
            "by layer": {part: records.spread([r["by layer"][part] for r in runs]) for part in STAGES}}
        print(name, {k: records.show(v) for k, v in figures[name].items() if k != "by layer"},
              round(time.process_time() - start), flush=True)
    said = verdict(figures, frozen)
    print(said)
    if args.dry:
        return
    records.record_claim(
        "T3", "A small learning rate protects pretrained weights.", said, f"python benchmarks/claim_T3.py{options}",
        seeds, {"rates": figures, "untouched": frozen, "texts": args.train, "epochs": args.epochs, "decay": DECAY,
                "sentences": len(probe[0])}, chapter="14_rates", begun=begun,
        summary=f"Ability left (untouched {frozen['ability']:.3f}) and test accuracy, by rate: " + "; ".join(
            f"{name}: {f['ability']['mean']:.3f}, {f['test']['mean']:.3f}" for name, f in figures.items()))


if __name__ == "__main__":
    main()
