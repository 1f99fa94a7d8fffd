"""Claim F2: does cross-modal attention capture an interaction that concatenation misses?

The task that needs interaction: a 3 × 3 grid of pictures, a voice that names one of them, a line of text that says
"one step to the left"; which type stands there? Pictures, spoken names and phrases are encoded once by frozen encoders.
Every fusion has about the same number of parameters, the same training scenes and the same helps: a loss that aligns
the voice with its cell, and two auxiliary heads that say where the named type and where the answer stands. The settings
were chosen for the decoder, on validation scenes.
The task that needs none: the group of an emoji from picture and sound, read from results/capstone-frozen.json.

Each case is run with all seeds, and kept in a folder as soon as it is done; a run that was stopped goes on. No case is
begun after so many minutes; the record holds the cases that are complete.
Writes claim F2 into results/claims.json. Run: python benchmarks/claim_F2.py
"""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mmtutor import data
from mmtutor.audio import AudioTransformer, LogMel
from mmtutor.binding import (
    VERSIONS,
    VOICES,
    Bank,
    Questions,
    Recipe,
    SelfAttentionFusion,
    accuracy,
    encode_bank,
    learn,
    looks,
    new_binder,
    questions,
)
from mmtutor.course import records
from mmtutor.course.files import cache_dir
from mmtutor.fusion import equal_hidden
from mmtutor.listening import pad_sounds
from mmtutor.tasks import TYPES, scenes
from mmtutor.transformer import Tokens

SEEDS, DIM, HIDDEN, ALL = (0, 1, 2), 64, 384, ("picture", "sound", "text")
POOLED = ("concat", "gated", "score")
# case → fusion, its options, modalities, changes to the recipe, what hears; the most telling first
CASES: dict[str, dict] = {
    "decoder": {},
    "concat": {"fusion": "concat"},
    "gated": {"fusion": "gated"},
    "picture+sound": {"modalities": ("picture", "sound")},
    "no alignment": {"recipe": {"match": 0.0}},
    "no where-heads": {"recipe": {"place": 0.0, "answer_place": 0.0}},
    "self-attention": {"fusion": "self-attention", "options": {"depth": 3}},
    "picture+text": {"modalities": ("picture", "text")},
    "sound+text": {"modalities": ("sound", "text")},
    "score": {"fusion": "score"},
    "no head for the answer's place": {"recipe": {"answer_place": 0.0}},
    "four learned queries, not asked": {"options": {"queries": 4, "ask": ()}},
    "hierarchical": {"fusion": "hierarchical", "options": {"levels": (("sound", "text"), ("picture",)), "depth": 2}},
    "coattention": {"fusion": "coattention", "options": {"depth": 2}},
    "bottleneck": {"fusion": "bottleneck", "options": {"depth": 3}},
    "sound: untrained Transformer": {"ears": "transformer"},
    "sound: log-mel frames": {"ears": "log-mel"},
}


def asked(split: str, count: int, style: str = "colour", voices=data.TRAIN_VOICES, pairs: str = "seen") -> Questions:
    return questions(scenes(split, count, voices=voices, variants=len(VERSIONS[split]), pairs=pairs), split, style)


def tests(count: int) -> dict[str, Questions]:
    "New scenes with new versions of the pictures, and what is new beyond that."
    return {"test": asked("test", 2 * count), "held-out pairs": asked("test", count, pairs="held out"),
            "other style": asked("test", count, style="lines"),
            "unheard voices": asked("test", count, voices=data.UNHEARD_VOICES)}


@torch.no_grad()
def with_ears(bank: Bank, ears: str, seed: int) -> Bank:
    "The bank with other sound tokens: means over windows of 160 ms, as with the LSTM."
    table = data.load()
    place = {name: i for i, name in enumerate(table["name"])}
    types = table.select([place[name] for name in TYPES])
    heard = [data.sound_of(s) for voice in VOICES for s in types[f"sound_{voice}"]]
    torch.manual_seed(seed)
    tokens, window = (LogMel(80)(*pad_sounds(heard)), 16)
    if ears == "transformer":
        encoder = AudioTransformer(256, 4, 2, tokens=200).eval()
        tokens, window = encoder(*encoder.prepare(heard)), 8
    values, mask = (F.pad(x, (*[0] * (2 * x.ndim - 4), 0, -x.shape[1] % window)) for x in tokens)
    count = rearrange(mask, "b (t w) -> b t w", w=window).sum(-1)
    values = rearrange(values * mask[..., None], "b (t w) d -> b t w d", w=window).sum(2)
    values = values / count.clamp(min=1)[..., None]
    longest = int((count > 0).sum(1).max())
    values, mask = values[:, :longest], count[:, :longest] > 0
    known = values[:24 * len(data.TRAIN_VOICES)][mask[:24 * len(data.TRAIN_VOICES)]]
    return bank._replace(sounds=Tokens((values - known.mean(0)) / (known.std(0) + 1e-3), mask))


def hidden_of(fusion: str, modalities, options: dict, budget: int) -> int:
    "The inner width that brings a fusion to the decoder's number of parameters."
    if fusion != "self-attention":
        return equal_hidden(fusion, modalities, DIM, budget, **options)
    size = lambda hidden: sum(p.numel() for p in SelfAttentionFusion(
        modalities, DIM, hidden=hidden, **options).parameters())
    return 1 + round((budget - size(1)) / (size(2) - size(1)))


def rounded(x: Tensor, digits: int = 3) -> list:
    return json.loads(json.dumps(x.tolist()), parse_float=lambda text: round(float(text), digits))


def run(case: dict, bank: Bank, training: Questions, validation: Questions, tested: dict, recipe: Recipe,
        seed: int) -> dict:
    "One model: its accuracies, its curve, its parameters, and where a decoder that sees everything looks."
    fusion, modalities = case.get("fusion", "decoder"), case.get("modalities", ALL)
    options = dict(case.get("options", {}))
    if fusion == "decoder":
        options["hidden"] = HIDDEN
    else:
        budget = sum(p.numel() for p in new_binder("decoder", bank, 0, dim=DIM, hidden=HIDDEN).fusion.parameters())
        options["hidden"] = hidden_of(fusion, modalities, options, budget)
    if "ears" in case:
        bank = with_ears(bank, case["ears"], seed)
    model = new_binder(fusion, bank, seed, modalities=modalities, dim=DIM, **options)
    curve = learn(model, bank, training, validation, replace(recipe, **case.get("recipe", {})), seed)
    found = {"accuracy": {name: accuracy(model, bank, q) for name, q in tested.items()},
             "curve": {key: [round(point[key], 3) for point in curve] for key in curve[0]},
             "parameters": sum(p.numel() for p in model.fusion.parameters()),
             "all parameters": sum(p.numel() for p in model.parameters())}
    if fusion == "decoder" and modalities == ALL and not options.get("queries"):
        found["looks"] = {key: rounded(x) for key, x in looks(model, bank, tested["test"]).items()}
        one = tested["test"]
        with torch.no_grad():
            _, weights = model(one.tokens(bank, torch.arange(1)), need_weights=True)
        found["one scene"] = {m: rounded(w[:, 0].mean(1)) for m, w in weights.items()} | {
            "cells": [TYPES[c] for c in one.cells[0].tolist()], "place": one.place[0].item(),
            "answer_place": one.answer_place[0].item(), "phrase": one.phrase[0].item()}
    return found


def capstone() -> dict:
    "The task that needs no binding, as the capstone recorded it: accuracy on 8 groups."
    record, found = records.read("capstone-frozen"), {}
    for fusion in ("concat", "decoder"):
        (key,) = [k for k in record["figures"]["test"] if k.startswith(f"frozen/{fusion}/picture+sound/")]
        for what in ("clean/group/picture+sound", "degraded/group/text+picture+sound"):
            found.setdefault(what, {})[fusion] = record["figures"]["test"][key][what]
    return found | {"commit": record["commit"]}


def gathered(found: dict[str, list[dict]]) -> dict:
    "Over the seeds: accuracies with spread; curves, parameters and looks as they are."
    figures: dict = {}
    for name, runs in found.items():
        thin = 1 if name in ("decoder", "concat") else 5  # a file is read by people, too
        places = {f"{place}/{what}": [r["accuracy"][place][what] for r in runs]
                  for place in runs[0]["accuracy"] for what in runs[0]["accuracy"][place]}
        figures[name] = {"accuracy": {key: records.spread(values) for key, values in places.items()
                                      if key.endswith("/answer") or key.startswith("test/")
                                      or key.endswith("/match")},
                         "parameters": runs[0]["parameters"], "all parameters": runs[0]["all parameters"],
                         "curve": {"step": runs[0]["curve"]["step"][thin - 1::thin]} | {
                             key: [r["curve"][key][thin - 1::thin] for r in runs] for key in runs[0]["curve"]
                             if key == "answer" or name == "decoder" and key not in ("step", "match")}}
        if name == "decoder":
            figures[name] |= {"looks": [r["looks"] for r in runs], "one scene": runs[0]["one scene"]}
    return figures


def apart(a: dict, b: dict) -> int:
    "1 if every value of `a` is above every one of `b`, -1 if below, 0 if they overlap."
    return (min(a["values"]) > max(b["values"])) - (max(a["values"]) < min(b["values"]))


def verdict(figures: dict, real: dict) -> str:
    "What the figures say, and no more."
    got = lambda case: figures[case]["accuracy"]["test/answer"]
    pooled = [p for p in POOLED if p in figures]
    gap = got("decoder")["mean"] - max(got(p)["mean"] for p in pooled)
    if not all(apart(got("decoder"), got(p)) == 1 for p in pooled):
        return "not resolved at this scale: the decoder did not always beat the pooled fusions on the scenes"
    if gap < 0.1:
        return f"not resolved at this scale: the decoder was only {gap:.2f} ahead on the scenes"
    word = {1: "the decoder was ahead", 0: "the two tied", -1: "concatenation was ahead"}
    clean, bad = (apart(*(real[k][f] for f in ("decoder", "concat"))) for k in (
        "clean/group/picture+sound", "degraded/group/text+picture+sound"))
    also = ""
    if "self-attention" in figures and got("self-attention")["mean"] > 0.75:
        also = "; self-attention over all tokens solves them too"
    there = word[clean] if clean == bad else f"{word[clean]} on clean and {word[bad]} on degraded inputs"
    return ("holds when the answer depends on which token goes with which: on scenes the decoder was "
            f"{gap:.2f} ahead of every fusion of summaries{also}. On the group of an emoji, which needs no binding, "
            f"{there}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=600, help="no case is begun after so many minutes")
    parser.add_argument("--folder", type=Path, default=cache_dir() / "claim-F2", help="where finished runs are kept")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--quick", action="store_true", help="a rehearsal with few steps; records nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, begun = time.perf_counter(), records.commit()
    recipe = replace(Recipe(), steps=20 if args.quick else args.steps)
    bank, tested = encode_bank(), tests(40 if args.quick else 1000)
    training, validation = asked("train", recipe.steps * recipe.batch), asked("validation", 400)
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict]] = {}
    for name, case in CASES.items():
        file = f"{name.replace(' ', '-').replace(':', '')}-{recipe.steps}"
        paths = [args.folder / f"{file}-{seed}.json" for seed in SEEDS]
        done = all(path.exists() for path in paths)
        if not done and time.perf_counter() - start > 60 * args.minutes:
            print(name, "left out", flush=True)
            continue
        for path, seed in zip(paths, SEEDS):
            if not path.exists():
                result = run(case, bank, training, validation, tested, recipe, seed)
                path.write_text(json.dumps(result | {"commit": begun}))
        found[name] = [json.loads(path.read_text()) for path in paths]
        print(name, found[name][0]["parameters"], {
            place: [round(r["accuracy"][place]["answer"], 3) for r in found[name]] for place in tested}, flush=True)
    figures, real = gathered(found), capstone()
    said = verdict(figures, real)
    print(said)
    if args.quick:
        return
    commits = {r["commit"] for runs in found.values() for r in runs}
    if len(commits) > 1:
        raise SystemExit(f"claim_F2: finished runs of several commits {sorted(map(str, commits))} lie in the folder; "
                         "record none of them together: empty it")
    say = lambda case, key="test/answer": records.show(figures[case]["accuracy"][key])
    given = "" if args.steps == Recipe().steps else f" --steps {args.steps}"
    records.record_claim(
        "F2", "Cross-modal attention captures interaction that concatenation misses.", said,
        f"python benchmarks/claim_F2.py{given}", SEEDS,
        {"scenes": figures, "group of an emoji": real, "chance": {"in the scene": 1 / 9, "not the named one": 1 / 8},
         "recipe": {"steps": recipe.steps, "batch": recipe.batch, "rate": recipe.rate, "dim": DIM, "hidden": HIDDEN,
                    "scenes": len(training)}},
        chapter="11_binding", begun=commits.pop(),
        summary=f"Scenes: decoder {say('decoder')}, " + ", ".join(f"{p} {say(p)}" for p in POOLED if p in figures)
                + f"; with pairs never asked for: {say('decoder', 'held-out pairs/answer')}; in another drawing style: "
                + f"{say('decoder', 'other style/answer')}; unheard voices: {say('decoder', 'unheard voices/answer')}; "
                + "without a modality: " + ", ".join(f"{p} {say(p)}" for p in ("picture+sound", "picture+text",
                                                                               "sound+text") if p in figures)
                + "; group of an emoji, picture and sound: decoder "
                + f"{records.show(real['clean/group/picture+sound']['decoder'])}, concatenation "
                + records.show(real["clean/group/picture+sound"]["concat"]))


if __name__ == "__main__":
    main()
