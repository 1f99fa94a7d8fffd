"""Claim F5: does one fusion serve any set of modalities? One model for all seven subsets, or seven models.

Task: the group (8) of an emoji, from frozen features of its clean name, picture and spoken name. For two designs of
fusion: a model trained on all three modalities ("without"), one trained with modality dropout ("with"), and for every
subset a specialist trained on that subset and nothing else ("alone"). Each is asked with every subset it can be asked
with. All models of a design have the same size, the same steps and the same seed, so the same order of samples.
Writes claim F5 into results/claims.json. Run: python benchmarks/claim_F5.py
"""
import argparse
import time
from collections.abc import Sequence

import torch
from claims import parsed
from torch.nn import functional as F

from mmtutor.course import records
from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.inputs import MODALITIES, PROFILES, Bank, Profile, bank, pretrained
from mmtutor.multimodal import MultimodalConfig, MultimodalModel
from mmtutor.questions import SUBSETS

FUSIONS = ("concat", "decoder")
EVERYTHING = SUBSETS[-1]
# Student's t by number of pairs, two sides, 1 %: there are 26 comparisons, so at 5 % one would stand out by chance.
T = {3: 9.925, 4: 5.841, 5: 4.604, 6: 4.032, 7: 3.707, 8: 3.499}


def train(items: Bank, widths: dict[str, int], profile: Profile, fusion: str, given: str, share: float, seed: int,
          epochs: int) -> MultimodalModel:
    "A model that learns the group from the modalities `given`, each left out of a sample with probability `share`."
    torch.manual_seed(seed)
    config = MultimodalConfig(widths, dim=profile.dim, depth=profile.depth, embedding=profile.embedding, fusion=fusion,
                              tasks={"group": 8}, feature_dropout=profile.feature_dropout, modality_dropout=share)
    model, names = MultimodalModel(config), given.split("+")
    model.calibrate(items.pick("clean", MODALITIES, torch.arange(min(256, len(items)))))

    def loss(model, batch, generator):
        tokens = items.pick("clean", MODALITIES, batch["row"], generator)  # all, so that every run draws the same
        return F.cross_entropy(model({m: tokens[m] for m in names}).logits["group"], batch["group"]), {}

    settings = FinetuneConfig(epochs=epochs, batch_size=profile.batch_size, accumulate=profile.accumulate,
                              learning_rate=profile.learning_rates[0], weight_decay=0.05, seed=seed)
    finetune(model, loss, items, settings, progress=False)
    return model.eval()


@torch.no_grad()
def right(model: MultimodalModel, items: Bank, subset: str) -> float:
    "Accuracy on the clean items, asked with this subset."
    tokens = items.pick("clean", subset.split("+"), torch.arange(len(items)))
    return (model(tokens).logits["group"].argmax(1) == items.group).double().mean().item()


def run(banks: dict[str, Bank], widths: dict[str, int], profile: Profile, fusion: str, seed: int, share: float,
        epochs: int) -> dict[str, float]:
    "Accuracy on the test, by way of training and subset."
    def ask(given: str, share: float, subsets: Sequence[str]) -> list[float]:
        model = train(banks["train"], widths, profile, fusion, given, share, seed, epochs)
        return [right(model, banks["test"], subset) for subset in subsets]

    found = {f"{fusion}/with/{s}": x for s, x in zip(SUBSETS, ask(EVERYTHING, share, SUBSETS))}
    found |= {f"{fusion}/without/{s}": x for s, x in zip(SUBSETS, ask(EVERYTHING, 0.0, SUBSETS))}
    found |= {f"{fusion}/alone/{s}": ask(s, 0.0, [s])[0] for s in SUBSETS[:-1]}
    return found | {f"{fusion}/alone/{EVERYTHING}": found[f"{fusion}/without/{EVERYTHING}"]}


def gaps(figures: dict[str, dict]) -> dict[str, dict]:
    "`fusion/way/subset` → accuracy of the one model minus that of the specialist, seed by seed, and what it says."
    found = {}
    for key, figure in figures.items():
        fusion, way, subset = key.split("/")
        if way == "alone" or (way == "without" and subset == EVERYTHING):
            continue
        theirs = figures[f"{fusion}/alone/{subset}"]["values"]
        gap = records.spread([a - b for a, b in zip(figure["values"], theirs)])
        half = T.get(gap["n"], 3.25) * gap["sd"] / gap["n"] ** 0.5
        said = "worse" if gap["mean"] + half < 0 else "better" if gap["mean"] - half > 0 else "not resolved"
        found[key] = gap | {"said": said}
    return found


def verdict(differences: dict[str, dict]) -> str:
    "What the figures say, and no more: behind a specialist where a paired t-test (two sides, 1 %) says so."
    behind = {way: [key for key, gap in differences.items() if f"/{way}/" in key and gap["said"] == "worse"]
              for way in ("with", "without")}
    most = {way: min(gap["mean"] for key, gap in differences.items() if f"/{way}/" in key) for way in behind}
    name = lambda keys: ", ".join(f"{f} with {s}" for f, _, s in (key.split("/") for key in keys))
    if behind["with"]:
        return (f"fails for some sets: even with modality dropout the one model was behind a specialist in "
                f"{name(behind['with'])}; largest mean loss {-most['with']:.2f}, without modality dropout "
                f"{-most['without']:.2f}")
    if behind["without"]:
        return (f"holds when the model is trained with modality dropout: then it was behind no specialist by more than "
                f"chance (largest mean loss {max(0, -most['with']):.2f}); without, it was in {name(behind['without'])} "
                f"(largest mean loss {-most['without']:.2f})")
    return (f"not resolved at this scale: nowhere was the one model behind a specialist by more than chance, with "
            f"modality dropout (largest mean loss {max(0, -most['with']):.2f}) or without "
            f"({max(0, -most['without']):.2f})")


def summary(figures: dict[str, dict]) -> str:
    worst = lambda fusion, way: min(
        (records.spread([a - b for a, b in zip(figures[f"{fusion}/{way}/{s}"]["values"],
                                               figures[f"{fusion}/alone/{s}"]["values"])])["mean"], s) for s in SUBSETS)
    return "largest mean loss against a specialist: " + "; ".join(
        f"{fusion}, {way} modality dropout {gap:+.2f} ({subset})"
        for fusion in FUSIONS for way in ("with", "without") for gap, subset in [worst(fusion, way)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--share", type=float, default=0.3, help="of each modality to be left out of a sample")
    parser.add_argument("--profile", choices=PROFILES, default="frozen")
    args, options = parsed(parser)
    begun, seeds, found = records.commit(), tuple(range(args.seeds)), {}
    profile = PROFILES[args.profile]
    encoders = pretrained(profile)
    banks = {split: bank(split, profile, encoders) for split in ("train", "test")}
    widths = {m: e.dim for m, e in encoders.items()}
    for seed in seeds:
        for fusion in FUSIONS:
            start = time.process_time()
            for key, value in run(banks, widths, profile, fusion, seed, args.share, args.epochs).items():
                found.setdefault(key, []).append(value)
            print(fusion, seed, round(time.process_time() - start), "CPU seconds", flush=True)
    figures = {key: records.spread(values) for key, values in found.items()}
    differences = gaps(figures)
    said = verdict(differences)
    print(*(f"{k:40} {records.show(v)}" for k, v in figures.items()), sep="\n")
    print(*(f"{k:40} {v['mean']:+.3f} ± {v['sd']:.3f} {v['said']}" for k, v in differences.items()), said, sep="\n")
    if args.dry:
        return
    records.record_claim(
        "F5", "One fusion strategy serves any set of modalities.", said, f"python benchmarks/claim_F5.py{options}",
        seeds, {"accuracy": figures, "against a specialist": differences, "share": args.share, "epochs": args.epochs,
                "items": {split: len(b) for split, b in banks.items()}},
        chapter="11_multimodal", begun=begun, summary=summary(figures))


if __name__ == "__main__":
    main()
