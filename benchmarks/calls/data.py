"""One good call of each public function of data, reading and loading (chapter 5)."""
import functools
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from datasets import Dataset
from fuzzed import good, left_out
from PIL import Image

from mmtutor import data
from mmtutor.course.files import cache_dir
from mmtutor.data import (
    VOICES,
    Recipe,
    check,
    families,
    info,
    load,
    media_of,
    picture_of,
    show,
    sound_of,
    split_families,
    view,
)
from mmtutor.loading import Batches, Sample, Samples, collate, loader, sound_seconds
from mmtutor.reading import Form, adopt, is_missing, read_picture, read_sound, read_text

SPACE = tempfile.TemporaryDirectory()
FORM = Form(size=8)


@functools.cache
def png() -> bytes:
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@functools.cache
def wav() -> bytes:
    wave = np.sin(np.arange(400) / 10).astype(np.float32)
    soundfile.write(buffer := io.BytesIO(), wave, 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@functools.cache
def a_table() -> Dataset:
    return adopt(Dataset.from_dict({"text": ["one", "two", "three"], "picture": [png()] * 3, "sound": [wav()] * 3,
                                    "kind": [0, 1, 0]}))


# --- data ---

@good("data.Recipe")
def _():
    return lambda **given: Recipe(**given).key, {
        name: getattr(Recipe(), name) for name in ("number", "sources", "voices", "size", "rate", "alike", "shares",
                                                   "seed")} | {"limit": 24}


@good("data.families")
def _():
    return families, dict(names=["cat", "dog", "black cat", "owl"], close=np.eye(4, dtype=bool))


@good("data.split_families")
def _():
    return split_families, dict(head=np.array([0, 1, 0, 3, 4, 5]), group=["a", "a", "a", "b", "b", "b"],
                                shares=(0.5, 0.25, 0.25), seed=3)


left_out("a build of even two emoji takes a second; tests/test_data.py builds, kills, damages and repeats it",
         "data.make_pictures", "data.make_sounds", "data.make_names", "data.make_all", "data.build")

TINY = Recipe(limit=24, voices=tuple(VOICES.items())[:1])


@functools.cache
def _tiny_cache() -> str:
    "A cache with a tiny build, and with the downloads of the usual one."
    for folder in ("wheels", "files"):
        (cache_dir() / folder).mkdir(parents=True, exist_ok=True)
        (Path(SPACE.name) / folder).symlink_to(cache_dir() / folder)
    _in_tiny(data.build)(progress=False, recipe=TINY)
    return SPACE.name


def _in_tiny(function):
    def used(**given):
        before = os.environ.get("MMTUTOR_CACHE")
        os.environ["MMTUTOR_CACHE"] = SPACE.name
        try:
            return function(**given)
        finally:
            os.environ.pop("MMTUTOR_CACHE")
            if before is not None:
                os.environ["MMTUTOR_CACHE"] = before
    return used


def _built(function, **given):
    _tiny_cache()
    return _in_tiny(function), given | {"recipe": TINY}


@good("data.check")
def _():
    return _built(check, full=True)


@good("data.load", raises=(FileNotFoundError,))  # another recipe is not built
def _():
    return _built(load, split="train")


@good("data.view")
def _():
    _tiny_cache()
    return _in_tiny(functools.partial(view, recipe=TINY)), dict(split="train", style="lines", voice="american_low",
                                                                heads=False)


@good("data.info", swallows=("recipe",))  # of what is not built there is nothing to tell
def _():
    return _built(info)


@good("data.show", raises=(FileNotFoundError,))
def _():
    return _built(show, which="grinning face")


def _row() -> dict:
    return {"id": "7", "text": "owl",
            "picture": {"bytes": png(), "path": None}, "sound": {"bytes": wav(), "path": None}}


@good("data.media_of")
def _():
    return media_of, dict(item={k: v for k, v in _row().items() if k != "picture"}, key="sound")


@good("data.picture_of")
def _():
    return picture_of, dict(item=png(), size=8)


@good("data.picture_of of a cell")
def _():
    return picture_of, dict(item=_row()["picture"], size=8)


@good("data.sound_of")
def _():
    return sound_of, dict(item=wav())


@good("data.sound_of of a cell")
def _():
    return sound_of, dict(item=_row()["sound"])


# --- reading ---

@good("reading.Form")
def _():
    def used(**given):
        form = Form(**given)
        return read_picture(png(), form), read_sound(wav(), form), read_text("an owl", form)
    return used, dict(size=8, pixels=100, seconds=1.0, characters=20)


@good("reading.read_picture")
def _():
    return read_picture, dict(item=_row()["picture"], form=FORM)


@good("reading.read_picture of bytes")
def _():
    return read_picture, dict(item=png(), form=FORM)


@good("reading.read_sound")
def _():
    return read_sound, dict(item=_row()["sound"], form=FORM)


@good("reading.read_sound of bytes")
def _():
    return read_sound, dict(item=wav(), form=FORM)


@good("reading.read_text")
def _():
    return read_text, dict(item={"text": "an owl"}, form=FORM)


@good("reading.is_missing")
def _():
    return is_missing, dict(cell={"bytes": png(), "path": None})


@good("reading.adopt", raises=(FileNotFoundError,))
def _():
    table = Dataset.from_dict({"caption": ["a"], "image": [png()], "kind": [3]})
    return adopt, dict(source=table, columns={"caption": "text", "kind": "label"})


@functools.cache
def _folder() -> str:
    folder = Path(tempfile.mkdtemp(dir=SPACE.name))
    (folder / "owl.png").write_bytes(png())
    return str(folder)


@good("reading.adopt a folder", raises=(FileNotFoundError,))
def _():
    return adopt, dict(source=_folder())


# --- loading ---

def _same(item, random):
    return item


@good("loading.Samples")
def _():
    return lambda **given: Samples(**given)[1, 2], dict(
        rows=a_table(), labels=["kind"], bad="mask", augment={"sound": _same}, seed=3, form=FORM)


@good("loading.Samples getitem", raises=(IndexError,))
def _():
    samples = Samples(a_table(), form=FORM)
    return lambda epoch, row: samples[epoch, row], dict(epoch=2, row=1)


def _samples() -> list[Sample]:
    return [Sample(4, {"text": "an owl", "picture": torch.zeros(3, 8, 8, dtype=torch.uint8)}, {"kind": 2}, []),
            Sample(2, {"sound": torch.randn(5)}, {"kind": 0}, ["no picture"])]


@good("loading.collate")
def _():
    return collate, dict(samples=_samples(), form=FORM)


@good("loading.sound_seconds")
def _():
    return lambda cells: sound_seconds({"sound": cells}), dict(cells=[{"bytes": wav(), "path": None}, None])


@good("loading.Batches")
def _():
    return lambda **given: list(Batches(**given)), dict(
        lengths=np.array([3.0, 1.0, 2.0, 5.0, 4.0]), size=2, pool=2, shuffle=True, drop_last=True, seed=3)


@good("loading.Batches of equal rows")
def _():
    return lambda **given: list(Batches(**given)), dict(lengths=5, size=2)


@good("loading.Batches start")
def _():
    def used(epoch, batch):
        batches = Batches(5, 2)
        batches.start(epoch, batch)
        return len(batches), list(batches)
    return used, dict(epoch=1, batch=1)


@good("loading.loader", keep=("workers",))  # so many processes would be started
def _():
    def used(rows, **given):
        return list(loader(Samples(a_table(), form=FORM), Batches(rows, 2), **given))
    return used, dict(rows=3, workers=0, pin_memory=False)


left_out("a record without a line of code of its own; the function that makes it is called", "loading.Sample",
         "loading.Batch")
