"""One good call of each public function of chapter 19: inputs, questions, the run and the model in use.

Encoders and data are tiny ones in a folder, such as a reader would bring.
"""
import functools
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
from fuzzed import good, left_out
from PIL import Image
from torch import nn

from mmtutor import capstone, data, inference, inputs, questions, text
from mmtutor.audio import RecurrentEncoder
from mmtutor.course import records
from mmtutor.inputs import MODALITIES, Bank, Cached, Profile
from mmtutor.multimodal import MultimodalConfig, MultimodalModel
from mmtutor.transformer import Tokens
from mmtutor.vision import ConvEncoder

HOME = tempfile.TemporaryDirectory()
JOB = "frozen/decoder/picture+sound/0.003/0"


def _folder() -> Path:
    return Path(tempfile.mkdtemp(dir=HOME.name))


def _cached(function):
    "The function with a cache of its own for features."
    @functools.wraps(function)
    def call(*args, **given):
        before = os.environ.get("MMTUTOR_CACHE")
        os.environ["MMTUTOR_CACHE"] = str(Path(HOME.name) / "cache")
        try:
            return function(*args, **given)
        finally:
            os.environ.pop("MMTUTOR_CACHE") if before is None else os.environ.update(MMTUTOR_CACHE=before)
    return call


@functools.cache
def _own() -> Path:
    "Data of two groups, and a text, a picture and a sound model as `transformers` saves them."
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel, WhisperConfig, WhisperModel
    from transformers.utils import logging
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    root, rng = Path(HOME.name) / "own", np.random.default_rng(0)
    for split in data.SPLITS:
        for i, group in enumerate(("food", "food", "tool", "tool")):
            place = root / "data" / split / group
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.txt").write_text(f"thing {'one two three four'.split()[i]}")
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{i}.png")
            soundfile.write(place / f"{i}.flac", 0.1 * rng.standard_normal(1600), 16_000)
    tokenizer = text.train_wordpiece(["thing one two three four"], 60)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**small, vocab_size=60, max_position_embeddings=16)).save_pretrained(root / "bert")
    tokenizer.save(str(root / "bert/tokenizer.json"))
    ViTModel(ViTConfig(**small, image_size=16, patch_size=8)).save_pretrained(root / "vit")
    WhisperModel(WhisperConfig(
        vocab_size=20, d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=8, max_source_positions=20, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1)).save_pretrained(root / "whisper")
    return root


def _profile(**more) -> Profile:
    root = _own()
    own = {f"{kind}_model": str(root / name) for kind, name in zip(MODALITIES, ("bert", "vit", "whisper"))}
    profile = Profile(fusions=("decoder",), seeds=(0,), epochs=1, batch_size=4, dim=8, embedding=8, data=str(
        root / "data"), **own)
    return replace(profile, **more)


@functools.cache
def _pretrained():
    return inputs.pretrained(_profile())


# --- inputs ---

SIZES = {"epochs": 2, "second_epochs": 1, "batch_size": 4, "accumulate": 2, "dim": 8, "embedding": 8, "depth": 1,
         "stride": 4, "draws": 2, "limit": 3, "feature_dropout": 0.2, "second_learning_rate": 1e-3,
         "encoder_learning_rate": 1e-3}


@good("inputs.Profile", keep=("text_model", "picture_model", "sound_model"))  # names that the hub may know
def _():
    def used(**given):
        profile = Profile(**given)
        return capstone.new_model("frozen", profile.fusions[-1], profile, _small()), list(capstone.jobs(profile))
    return used, SIZES | dict(seeds=(0, 1), learning_rates=(1e-3,), regimes=("frozen", "all"), fusions=("decoder",),
                              asked=("picture+sound",), voices=("american_low",), precision="float32")


@good("inputs.profile_of")
def _():
    settings = json.loads(json.dumps(asdict(Profile())))
    return inputs.profile_of, dict(settings=settings)


@good("inputs.device")
def _():
    return inputs.device, {}


def _tokens(n: int = 4, length: int = 3, dim: int = 6) -> Tokens:
    return Tokens(torch.randn(n, length, dim), torch.arange(length) < torch.arange(n)[:, None] % length + 1)


@good("inputs.shorten", swallows=("tokens",))  # what stands in the padding
def _():
    return inputs.shorten, dict(encoder=None, inputs=(), tokens=_tokens(2))


@good("inputs.pretrained")
def _():
    def used(stride):
        return inputs.pretrained(replace(_profile(), sound_model="speaker-lstm", stride=stride))
    return used, dict(stride=4)


@good("inputs.Cached", swallows=("variants",))  # items that are not picked
def _():
    def picked(variants, which, rows):
        return inputs.Cached(variants).pick(which, rows)
    return picked, dict(variants=[_tokens(), _tokens(length=2)], which=torch.tensor([0, 1, 1]),
                        rows=torch.tensor([0, 3, 2]))


class _Spelling(nn.Module):
    "A token for each letter."
    dim = 6

    def prepare(self, items):
        longest = max(map(len, items), default=0)
        codes = torch.tensor([[*map(ord, x), *[0] * (longest - len(x))] for x in items]).reshape(len(items), longest)
        return codes[..., None].expand(-1, -1, 6) / 100, codes > 0

    def forward(self, values, mask):
        return Tokens(values, mask)


@good("inputs.Raw")
def _():
    def picked(variants, which, rows):
        return inputs.Raw(variants, _Spelling()).pick(which, rows)
    return picked, dict(variants=[["abc", "d", "ef"], ["g", "hi", "j"]], which=torch.tensor([0, 1, 1]),
                        rows=torch.tensor([0, 2, 2]))


def _bank(n: int = 6) -> Bank:
    "Items whose every modality shows the number of the item."
    held = lambda: Cached([Tokens(torch.eye(n)[:, None, :], torch.ones(n, 1, dtype=torch.bool))])
    kinds = {kind: {m: held() for m in MODALITIES} for kind in ("clean", "degraded")}
    return Bank(None, torch.arange(n) % 3, torch.arange(n) % 4, kinds)


@good("inputs.Bank")
def _():
    def picked(group, subgroup, kind, names, rows):
        items = Bank(None, group, subgroup, _bank().kinds)
        return items.pick(kind, names, rows), items[rows], len(items)
    return picked, dict(group=torch.arange(6) % 3, subgroup=torch.arange(6) % 4, kind="degraded",
                        names=["text", "sound"], rows=torch.tensor([0, 5, 2]))


@good("inputs.own_splits", keep=("source",))  # another name is asked of the hub
def _():
    def found(source, missing):
        folder = _folder()
        for split in data.SPLITS:
            if split != missing:
                (folder / split).symlink_to(Path(source) / split)
        return sorted(inputs.own_splits(str(folder)))
    return found, dict(source=str(_own() / "data"), missing="none")


@good("inputs.own_labels")
def _():
    def labels(rows, where):
        return inputs.own_labels(datasets.Dataset.from_list(rows), where)
    return labels, dict(rows=[{"group": "a", "text": "x"}, {"group": "b", "text": "y"}], where="train")


@good("inputs.own_rows")
def _():
    def found(first, second):
        folder, media = _folder(), _own() / "data/train/food"
        more = {name: {"bytes": (media / file).read_bytes(), "path": None}
                for name, file in (("picture", "0.png"), ("sound", "0.flac"))}
        table = datasets.Dataset.from_list([first | more, second | more])
        datasets.DatasetDict(dict.fromkeys(data.SPLITS, table)).save_to_disk(folder)
        return {split: len(found) for split, found in inputs.own_rows(str(folder)).items()}
    return found, dict(first={"label": "a", "text": "x"}, second={"label": "b", "text": "y"})


@good("inputs.tasks_of")
def _():
    def tasks(dim):
        return inputs.tasks_of(_profile(depth=dim)), inputs.tasks_of(Profile())
    return tasks, dict(dim=2)


@good("inputs.raw_variants")
def _():
    def variants(split, **given):
        return inputs.raw_variants(split, _profile(**given))[1]
    return variants, dict(split="train", draws=2, limit=3, voices=("american_low",))


@good("inputs.encoded")
def _():
    @_cached
    def encoded(variants, key):
        return inputs.encoded(_Spelling(), variants, key)
    return encoded, dict(variants=[["abc", "d", "ef"], ["g", "hijk", "l"]], key="toy")


@good("inputs.bank")
def _():
    @_cached
    def bank(split, learning, **given):
        found = inputs.bank(split, _profile(**given), _pretrained(), learning)
        return found.pick("degraded", MODALITIES, torch.arange(len(found)))
    return bank, dict(split="validation", learning=["text"], draws=2, limit=3)


# --- questions ---

def _model(n: int = 6, fusion: str = "concat") -> MultimodalModel:
    return MultimodalModel(MultimodalConfig(
        widths=dict.fromkeys(MODALITIES, n), dim=8, fusion=fusion, depth=1, heads=2, embedding=n,
        tasks={"group": 3, "subgroup": 4, "odd": 4})).eval()


@good("questions.swap_one", swallows=("tokens",))  # what another item stands for
def _():
    tokens = {m: Tokens(torch.randn(4, 2, 6), torch.ones(4, 2, dtype=torch.bool)) for m in MODALITIES}
    return questions.swap_one, dict(tokens=tokens, generator=torch.Generator().manual_seed(0))


@good("questions.loss_function")
def _():
    def loss(items, asked, rows):
        return questions.loss_function(items, asked)(_model(), items[rows], torch.Generator().manual_seed(0))[0]
    return loss, dict(items=_bank(), asked=("picture", "sound"), rows=torch.tensor([0, 5, 2, 1]))


@good("questions.predict")
def _():
    return questions.predict, dict(model=_model(), items=_bank(), kind="degraded", subsets=["text", "picture+sound"],
                                   batch=4)


@good("questions.similarities")
def _():
    return questions.similarities, dict(query=torch.randn(2, 4), gallery=torch.randn(3, 4))


@good("questions.odd_answers")
def _():
    return questions.odd_answers, dict(model=_model(), items=_bank(), seed=3)


@good("questions.odd_accuracy")
def _():
    return questions.odd_accuracy, dict(model=_model(), items=_bank())


@good("questions.evaluate")
def _():
    return questions.evaluate, dict(model=_model(10), items=_bank(10), subsets=["text", "picture+sound"])


@good("questions.score")
def _():
    return questions.score, dict(figures=dict(zip(questions.HEADLINES, (0.1, 0.2, 0.3, 0.4))))


@good("questions.calibrate_odd", changes=("model",))
def _():
    return questions.calibrate_odd, dict(model=_model(), items=_bank())


@good("questions.baselines")
def _():
    def figures(**groups):
        return questions.baselines(*(replace(_bank(), group=group) for group in groups.values()))
    return figures, {split: torch.arange(6) % 3 for split in data.SPLITS}


@good("questions.called")
def _():
    return questions.called, dict(kind="frozen/decoder/picture+sound/0.001")


@good("questions.cell")
def _():
    return questions.cell, dict(figure=records.spread([0.5, 0.6]))


@functools.cache
def _figures() -> dict:
    "Figures as a run leaves them, by kind of model."
    found = questions.evaluate(_model(10), _bank(10))[0]
    return {JOB.rsplit("/", 1)[0]: {key: records.spread([value]) for key, value in found.items()}}


@good("questions.tables")
def _():
    def tables(**given):
        return questions.tables(given)
    probes = {f"{kind}/group/{s}": 0.5 for kind in ("clean", "degraded") for s in questions.SUBSETS}
    cost = {"seconds per epoch": 1.0, "peak MiB": 500.0, "MFU": None}
    return tables, dict(test=_figures(), baselines={"majority": 0.3} | probes, cost={"cached": cost},
                        parameters={kind: 1000 for kind in _figures()})


# --- inference ---

@good("inference.Answer", keep=("groups", "names"))  # pairs, made by `ask`
def _():
    def said(**given):
        return str(inference.Answer(**given))
    return said, dict(used=("text",), groups=(("food", 0.7), ("tool", 0.3)), names=(("thing one", 0.9),))


@good("inference.query_picture")
def _():
    return inference.query_picture, dict(item=torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8))


@good("inference.query_picture of a path", raises=(FileNotFoundError,))
def _():
    return inference.query_picture, dict(item=str(_own() / "data/train/food/0.png"))


@good("inference.query_sound")
def _():
    return inference.query_sound, dict(item=0.1 * torch.randn(1600))


@good("inference.query_sound of a path", raises=(FileNotFoundError,))
def _():
    return inference.query_sound, dict(item=str(_own() / "data/train/food/0.flac"))


def _run(run: Path) -> tuple[dict, dict]:
    "A folder as a run leaves it, from a model that has learned nothing; its record and result."
    profile = _profile()
    capstone.claim_folder(run, profile, fresh=False)
    capstone.new_model("frozen", "decoder", profile, _pretrained()).save(run / JOB / "model")
    result = {"test": dict.fromkeys(questions.HEADLINES, 0.5), "validation": dict.fromkeys(questions.HEADLINES, 0.5)}
    (run / JOB / "result.json").write_text(json.dumps(result))
    found = {split: capstone.gather({JOB: result}, split) for split in ("test", "validation")}
    figures = found | {"rank by validation": [JOB.rsplit("/", 1)[0]]}
    return json.loads(records.record("capstone-own", "test", (0,), figures, run, "abc").read_text()), result


@functools.cache
@_cached
def _published() -> Path:
    run = _folder()
    _run(run)
    return inference.publish(run)


@good("inference.Finder")
def _():
    about = inference.load_finder(_published())

    def asked(text, picture, sound, top, temperature, groups, names, gallery):
        finder = replace(about, temperature=temperature, groups=groups, names=names, gallery=gallery)
        return finder.ask(text=text, picture=picture, sound=sound, top=top)
    return asked, dict(text="thing one", picture=torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8),
                       sound=0.1 * torch.randn(1600), top=2, temperature=about.temperature, groups=about.groups,
                       names=about.names, gallery=about.gallery)


@good("inference.record_of")
def _():
    def found(content, stride):
        (run := _folder()).joinpath("capstone-own.json").write_text(content)
        return inference.record_of(run, replace(Profile(), stride=stride))
    return found, dict(content='{"figures": {}}', stride=4)


@good("inference.check_record")
def _():
    record, result = _run(_folder())
    return inference.check_record, dict(record=record, job=JOB, result=result, tolerance=0.02)


@good("inference.publish")
def _():
    @_cached
    def publish(job, seeds, odd, rank):
        run = _folder()
        record, _ = _run(run)
        kind, figures = next(iter(record["figures"]["test"].items()))
        return inference.publish(run, _folder(), job, record | {"seeds": seeds, "figures": {
            "test": {kind: figures | {"odd": odd}}, "rank by validation": rank}})
    return publish, dict(job=JOB, seeds=[0], odd=records.spread([0.5]), rank=[JOB.rsplit("/", 1)[0]])


@good("inference.load_finder", keep=("settings",), raises=(FileNotFoundError,))
def _():
    "With the parts of answers.json damaged."
    about = json.loads((_published() / "answers.json").read_text())

    def load(**given):
        folder = _folder()
        for name in inference.FILES:
            if name != "answers.json":
                (folder / name).symlink_to(_published() / name)
        (folder / "answers.json").write_text(json.dumps({key.replace("_", " "): value for key, value in given.items()}))
        return inference.load_finder(folder).ask(text="thing one", top=1)
    return load, {key.replace(" ", "_"): value for key, value in about.items()}


left_out("It sends a folder over the network to an account; tests/test_push.py does so to a hub on this machine.",
         "inference.push_to_hub")


# --- capstone ---

@functools.cache
def _small() -> dict[str, nn.Module]:
    "Encoders with the layers of the offline ones, and narrow."
    picture = ConvEncoder([(4, 3, 2, 1, 4)] * 4, stem=4, dim=4, size=32)
    encoder = text.TextEncoder(text.TextConfig(vocabulary=9, dim=4, heads=1, depth=1, hidden=4, max_length=4))
    return {"text": encoder, "picture": picture, "sound": RecurrentEncoder(4, 3)}


@good("capstone.new_model")
def _():
    def model(regime, fusion, dim, depth, embedding, feature_dropout):
        profile = Profile(dim=dim, depth=depth, embedding=embedding, feature_dropout=feature_dropout)
        return capstone.new_model(regime, fusion, profile, _small())
    return model, dict(regime="top", fusion="decoder", dim=8, depth=1, embedding=8, feature_dropout=0.2)


@good("capstone.first_stage")
def _():
    return capstone.first_stage, dict(name="all/decoder/picture+sound/0.003/0")


@good("capstone.train_one")
def _():
    @_cached
    def trained(name, epochs, batch_size, feature_dropout):
        profile = _profile(limit=4)
        profile = replace(profile, epochs=epochs, batch_size=batch_size, feature_dropout=feature_dropout)
        banks = {split: inputs.bank(split, profile, _pretrained()) for split in data.SPLITS}
        found = capstone.train_one(name, profile, banks, _pretrained(), _folder(), progress=False)
        return found["test"]["odd"], found["losses"]
    return trained, dict(name=JOB, epochs=1, batch_size=2, feature_dropout=0.2)


@good("capstone.measure")
def _():
    @_cached
    def measured(way, steps, batch_size):
        found = capstone.measure(way, _profile(batch_size=batch_size), steps)
        return found["samples/s"], found["TFLOP a step"]
    return measured, dict(way="cached", steps=1, batch_size=2)


@good("capstone.jobs")
def _():
    def names(**given):
        return list(capstone.jobs(Profile(**given)))
    return names, dict(regimes=("frozen", "all"), fusions=("concat", "decoder"), asked=("picture+sound", "text"),
                       learning_rates=(1e-3,), seeds=(0, 1))


@good("capstone.claim_folder")
def _():
    def claimed(before, fresh, epochs):
        folder = _folder()
        (folder / "settings.json").write_text(before)
        capstone.claim_folder(folder, replace(Profile(), epochs=epochs), fresh)
        return json.loads((folder / "settings.json").read_text())
    return claimed, dict(before=json.dumps(asdict(replace(Profile(), epochs=2))), fresh=False, epochs=2)


@good("capstone.gather")
def _():
    return capstone.gather, dict(runs={f"a/{i}": {"test": {"odd": 0.5, "group": 0.4}} for i in range(2)}, split="test")


left_out("It measures in processes of their own, half a minute each; `capstone.measure` is what they call.",
         "capstone.costs")
left_out("It trains every model of a profile, which takes minutes; `train_one`, `measure` and more are its parts.",
         "capstone.run", "capstone.main")
left_out("It needs the ranks of a team, each a process of its own; tests/test_scaling.py starts them.",
         "capstone.run_together")
