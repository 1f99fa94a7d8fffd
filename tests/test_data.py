"""The embedded data: built the same again, whole or not at all, and without leakage."""
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtutor import data
from mmtutor.course import tables
from mmtutor.course.emoji import distances, read_names, word_family
from mmtutor.course.files import OPENMOJI, cache_dir, fetch

TINY = data.Recipe(limit=24, voices=tuple(data.VOICES.items())[:2])


@pytest.fixture(scope="module")
def new_cache(tmp_path_factory):
    "Makes caches that share the downloads of the usual one."
    fetch(OPENMOJI), read_names(1)

    def make() -> Path:
        home = tmp_path_factory.mktemp("cache")
        for folder in ("wheels", "files"):
            if (cache_dir() / folder).exists():
                (home / folder).symlink_to(cache_dir() / folder)
        return home
    return make


@pytest.fixture(scope="module")
def reference(new_cache):
    "A finished tiny build: its cache, and the bytes of each of its files."
    with pytest.MonkeyPatch.context() as patch:
        home = new_cache()
        patch.setenv("MMTUTOR_CACHE", str(home))
        data.build(progress=False, recipe=TINY)
        return home, {p.name: p.read_bytes() for p in TINY.folder.glob("*.arrow")}


@pytest.fixture
def tiny(reference, monkeypatch):
    monkeypatch.setenv("MMTUTOR_CACHE", str(reference[0]))
    monkeypatch.setattr(data, "_seen", set())
    return TINY


@pytest.fixture
def empty(new_cache, monkeypatch):
    home = new_cache()
    monkeypatch.setenv("MMTUTOR_CACHE", str(home))
    monkeypatch.setattr(data, "_seen", set())
    return home


def parts(recipe=TINY) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in recipe.folder.glob("*.arrow")}


def leftovers(recipe=TINY) -> list[str]:
    return [p.name for p in recipe.folder.iterdir() if p.suffix == ".part"]


# Building

def test_built_again_byte_for_byte(reference, empty):
    data.build(progress=False, recipe=TINY)
    assert parts() == reference[1] and len(parts()) == 4 and not leftovers()


def test_build_returns_at_once_when_built(tiny, monkeypatch):
    monkeypatch.setattr(data, "make_all", lambda *_: pytest.fail("built again"))
    assert data.build(progress=False, recipe=tiny) == tiny.folder
    monkeypatch.setattr(data, "find_espeak", lambda: pytest.fail("needed to use finished data"))
    assert data.build(progress=False, recipe=tiny) == tiny.folder


KILLED = """
import time
from mmtutor import data
speak = data.speak
def slow(texts, voice, rate):
    for i, sound in enumerate(speak(texts, voice, rate)):
        if voice == data.VOICES["american_high"] and i == 5:
            part = data.Recipe(limit=24, voices=tuple(data.VOICES.items())[:2]).folder / ".american_high.arrow.x.part"
            part.write_bytes(b"half"); time.sleep(600)
        yield sound
data.speak = slow
data.build(progress=False, recipe=data.Recipe(limit=24, voices=tuple(data.VOICES.items())[:2]))
"""


@pytest.mark.slow
def test_killed_build_goes_on(reference, empty):
    child = subprocess.Popen([sys.executable, "-c", KILLED])
    done = [TINY.folder / name for name in ("pictures.arrow", "american_low.arrow")]
    try:
        deadline = time.monotonic() + 120
        while not (all(p.exists() for p in done) and leftovers()):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (TINY.folder / "manifest.json").exists() and not (TINY.folder / "american_high.arrow").exists()
    with pytest.raises(FileNotFoundError, match="not built yet"):
        data.load(recipe=TINY)
    before = [p.stat().st_mtime_ns for p in done]
    data.build(progress=False, recipe=TINY)
    assert [p.stat().st_mtime_ns for p in done] == before, "finished parts are kept"
    assert parts() == reference[1] and not leftovers()


@pytest.mark.slow
def test_two_builds_at_once(reference, empty):
    code = ("from mmtutor import data; "
            "data.build(progress=False, recipe=data.Recipe(limit=24, voices=tuple(data.VOICES.items())[:2]))")
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(p.communicate()[1], p.returncode)[1] for p in both] == [0, 0]
    assert parts() == reference[1] and not leftovers() and data.check(TINY) == []


def test_a_second_build_waits_for_the_first(empty, monkeypatch):
    from threading import Thread

    from filelock import FileLock
    made = []
    monkeypatch.setattr(data, "make_all", lambda *_: made.append(1))
    TINY.folder.mkdir(parents=True)
    second = Thread(target=data.build, args=(False, TINY))
    with FileLock(TINY.folder / ".lock"):
        second.start()
        second.join(0.5)
        assert second.is_alive() and not made
    second.join(30)
    assert made == [1]


def test_full_disk_says_so_and_leaves_nothing_half_written(reference, empty, monkeypatch):
    write, full = tables.write_part, []

    def almost_full(path, columns, features):
        if path.stem == "american_high":
            full.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, columns, features)
    monkeypatch.setattr(tables, "write_part", almost_full)
    with pytest.raises(OSError, match="is full; about 300 MB.*MMTUTOR_CACHE") as caught:
        data.build(progress=False, recipe=TINY)
    assert caught.value.errno == errno.ENOSPC and full and not leftovers()
    assert not (TINY.folder / "manifest.json").exists()
    monkeypatch.undo()
    monkeypatch.setenv("MMTUTOR_CACHE", str(empty))
    data.build(progress=False, recipe=TINY)
    assert parts() == reference[1]


def test_a_part_is_whole_or_absent(tmp_path, monkeypatch):
    import pyarrow as pa
    from datasets import Value

    def breaks(sink, schema):
        sink.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc, "new_stream", breaks)
        with pytest.raises(OSError, match="No space"):
            data.write_part(tmp_path / "x.arrow", {"a": ["one"]}, {"a": Value("string")})
    assert not list(tmp_path.iterdir()) and not tables.is_whole(tmp_path / "x.arrow", 1)
    data.write_part(tmp_path / "x.arrow", {"a": ["one", "two"]}, {"a": Value("string")})
    assert tables.is_whole(tmp_path / "x.arrow", 2) and not tables.is_whole(tmp_path / "x.arrow", 3)
    assert data.open_part(tmp_path / "x.arrow")["a"][:] == ["one", "two"]


def test_missing_espeak_is_said_before_anything_is_made(empty, monkeypatch):
    from mmtutor.course import emoji
    monkeypatch.setattr(emoji.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"espeakng-loader is missing.*mmtutor\[speech\]"):
        data.build(progress=False, recipe=TINY)
    assert not parts()


def test_no_network_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTUTOR_CACHE", str(tmp_path))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FileNotFoundError, match="pip could not download .*Check the connection"):
        data.build(progress=False, recipe=TINY)
    assert not parts()


# Damage and age

def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_changed_bit_is_noticed_named_and_repaired(reference, empty, monkeypatch):
    data.build(progress=False, recipe=TINY)
    damage(TINY.folder / "american_low.arrow")
    assert data.check(TINY) == ["american_low.arrow"] and data.check(TINY, full=False) == []
    monkeypatch.setattr(data, "_seen", set())
    with pytest.raises(ValueError, match="damaged or missing in .*: american_low.arrow. Run `mmtutor data build`"):
        data.load(recipe=TINY)
    assert data.info(TINY)["damaged"] == ["american_low.arrow"] and "mmtutor data build" in data.info(TINY)["remedy"]
    data.build(progress=False, recipe=TINY)
    assert parts() == reference[1] and data.check(TINY) == []
    assert len(data.load(recipe=TINY)) == 24


def test_truncated_and_missing_parts_are_noticed_later_in_the_process(reference, empty):
    data.build(progress=False, recipe=TINY)
    data.load(recipe=TINY)
    path = TINY.folder / "pictures.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="pictures.arrow"):
        data.load(recipe=TINY)
    path.unlink()
    with pytest.raises(ValueError, match="pictures.arrow"):
        data.load(recipe=TINY)
    data.build(progress=False, recipe=TINY)
    assert parts() == reference[1]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {"names.arrow": 3}}'])
def test_damaged_manifest(reference, empty, content):
    data.build(progress=False, recipe=TINY)
    manifest = TINY.folder / "manifest.json"
    good = manifest.read_text()
    manifest.write_text(content)
    data._seen.clear()
    with pytest.raises(ValueError, match="manifest.json"):
        data.load(recipe=TINY)
    data.build(progress=False, recipe=TINY)
    assert manifest.read_text() == good


def test_not_built(empty):
    with pytest.raises(FileNotFoundError, match="not built yet.*`mmtutor data build`"):
        data.load(recipe=TINY)
    assert data.info(TINY)["built"] is False


@pytest.mark.parametrize("change", [{"number": 99}, {"seed": 1}, {"alike": 9.0}, {"sources": ("other",)},
                                    {"rate": 8000}, {"voices": TINY.voices[::-1]}, {"limit": 25}])
def test_another_recipe_is_another_build(tiny, change):
    with pytest.raises(FileNotFoundError, match="another version of the recipe.*`mmtutor data build`"):
        data.load(recipe=replace(tiny, **change))
    assert data.info(replace(tiny, **change))["older builds"] == [tiny.folder.name]


def test_manifest_tells_what_made_the_data(tiny):
    manifest = json.loads((tiny.folder / "manifest.json").read_text())
    assert manifest["recipe"] == tiny.key and manifest["rows"] == 24
    assert set(manifest["made_with"]) >= {"espeakng-loader", "resvg-py", "soxr", "soundfile"}
    assert str(tiny.folder).encode() not in (tiny.folder / "manifest.json").read_bytes()


# Families and splits

@given(st.lists(st.integers(0, 8), min_size=1, max_size=80), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_split_keeps_families_whole_and_groups_in_proportion(families, seed):
    _, head = np.unique(families, return_index=True)
    head = head[np.unique(families, return_inverse=True)[1]]
    group = [f"g{h % 3}" for h in head]
    split = data.split_families(head, group, (0.7, 0.1, 0.2), seed)
    assert all(split[i] == split[h] for i, h in enumerate(head))
    for name in set(group):
        members = [h for h in set(head) if group[h] == name]
        sizes = [sum(split[h] == s for h in members) for s in range(3)]
        assert all(abs(size - share * len(members)) <= 1 for size, share in zip(sizes, (0.7, 0.1, 0.2)))
    assert (split == data.split_families(head, group, (0.7, 0.1, 0.2), seed)).all()


@given(st.integers(2, 25), st.data())
@settings(max_examples=40, deadline=None)
def test_families_are_connected_components(n, draw):
    pairs = draw.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=n))
    close = np.eye(n, dtype=bool)
    for i, j in pairs:
        close[i, j] = close[j, i] = True
    names = [f"thing {i // 2}" for i in range(n)]
    found = data.families(names, close)
    label = list(range(n))  # the slow way: pass the smallest number on until nothing changes
    edges = pairs + [(i, i + 1) for i in range(0, n - 1, 2)]
    for _ in range(n):
        for i, j in edges:
            label[i] = label[j] = min(label[i], label[j])
    assert found.tolist() == label


def test_the_real_table(built):
    table = built.load()
    assert len(table) == 1644
    assert len(table.features["group"].names) == 8 and len(table.features["subgroup"].names) == 95
    family, head, split = (np.array(table[c]) for c in ("family", "head", "split"))
    names = table["name"][:]
    assert 1250 < len(set(family)) == head.sum() < 1380
    assert all(names[i] == family[i] for i in np.flatnonzero(head)), "a head gives its family the name"
    assert len({(f, s) for f, s in zip(family, split)}) == len(set(family)), "a family lies in one split"
    group = np.array(table["group"])
    for g in range(8):
        here = split[head & (group == g)]
        assert abs((here == "train").mean() - 0.7) < 0.02 and abs((here == "test").mean() - 0.2) < 0.02


@pytest.mark.slow
def test_no_leakage(built):
    """No test row has a near copy in training: not by name, not by picture, in either style or across the turns."""
    table = built.load()
    split, stem = np.array(table["split"]), np.array([word_family(n) for n in table["name"]])
    train, held = split == "train", split != "train"
    assert not set(stem[train]) & set(stem[held])
    for style in data.STYLES:
        apart = distances([p["bytes"] for p in table[style]])
        assert apart[np.ix_(held, train)].min() >= 8
        assert apart[np.ix_(split == "test", split == "validation")].min() >= 8


# Looking at it

def test_columns(built):
    table = built.load("test")
    assert table.column_names == ["id", "emoji", "name", "family", "split", "group", "subgroup", "head", *data.STYLES,
                                  *(f"sound_{v}" for v in data.VOICES)]
    assert set(table["split"]) == {"test"}
    assert len(data.TRAIN_VOICES) >= 4 and len(data.UNHEARD_VOICES) == 2
    assert not set(data.TRAIN_VOICES) & set(data.UNHEARD_VOICES) and len(set(data.VOICES.values())) == len(data.VOICES)


def test_view(built):
    sizes = {s: (len(built.view(s)), len(built.view(s, heads=False))) for s in data.SPLITS}
    assert sum(heads for heads, _ in sizes.values()) == sum(built.load()["head"])
    assert sum(every for _, every in sizes.values()) == 1644
    heads = built.view("test")
    assert heads.column_names == ["id", "text", "picture", "sound", "family", "group", "subgroup"]
    assert heads["text"][:] == heads["family"][:] and len(set(heads["family"])) == len(heads)
    lines, other = built.view("test", style="lines"), built.view("test", voice="scottish")
    assert heads[7]["picture"] != lines[7]["picture"] and heads[7]["sound"] == lines[7]["sound"]
    assert heads[7]["sound"] != other[7]["sound"] and heads[7]["picture"] == other[7]["picture"]
    assert heads[7]["sound"] == built.view("test", voice=data.TRAIN_VOICES[0])[7]["sound"]


def test_every_row_decodes(tiny):
    table = data.load(recipe=tiny)
    for row in table:
        for style in data.STYLES:
            picture = data.picture_of(row[style])
            assert picture.shape == (3, 96, 96) and picture.dtype == torch.uint8 and len(picture.unique()) > 1
        for voice, _ in tiny.voices:
            sound = data.sound_of(row[f"sound_{voice}"])
            assert sound.dtype == torch.float32 and 0.15 < len(sound) / data.RATE < 5 and 0.1 < sound.abs().max() <= 1


def test_a_row_is_its_own_picture_and_sound(built):
    row = built.view("validation")[3]
    assert torch.equal(data.picture_of(row), data.picture_of(row["picture"]))
    assert torch.equal(data.picture_of(row), data.picture_of(row["picture"]["bytes"]))
    expected, rate = soundfile.read(io.BytesIO(row["sound"]["bytes"]), dtype="float32")
    assert rate == data.RATE and np.array_equal(data.sound_of(row), expected)


@pytest.mark.parametrize("mode, size", [("RGB", (96, 96)), ("RGBA", (40, 20)), ("L", (200, 100)), ("P", (96, 96)),
                                        ("1", (9, 9))])
def test_pictures_of_ones_own(mode, size):
    image = Image.new("RGBA", size, (255, 0, 0, 255)).convert(mode)
    assert data.picture_of(image).shape == (3, 96, 96)
    assert torch.equal(data.picture_of({"picture": image, "text": "mine"}), data.picture_of(image))


def test_transparent_is_white():
    assert (data.picture_of(Image.new("RGBA", (96, 96), (0, 0, 0, 0))) == 255).all()


def test_sounds_of_ones_own(tmp_path):
    wave = np.sin(np.arange(8000) * 0.1).astype("float32") * 0.5
    soundfile.write(tmp_path / "mine.wav", np.stack([wave, wave], 1), 8000, subtype="FLOAT")
    sound = data.sound_of({"sound": {"bytes": None, "path": str(tmp_path / "mine.wav")}})
    assert sound.shape == (16_000,) and abs(float(sound.square().mean().sqrt()) - 0.5 / 2 ** 0.5) < 0.01


def test_ones_own_data_set(tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageColumn
    Image.new("RGB", (50, 50), "blue").save(tmp_path / "blue.png")
    mine = Dataset.from_dict({"text": ["blue"], "picture": [str(tmp_path / "blue.png")]},
                             features=Features({"text": Value("string"), "picture": ImageColumn()}))
    assert data.picture_of(mine[0])[:, 48, 48].tolist() == [0, 0, 255]


@given(st.integers(1, 130), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_pictures_of_any_size(size, width, height):
    levels = np.random.default_rng(size).integers(0, 256, (height, width, 3)).astype(np.uint8)
    picture = data.picture_of(Image.fromarray(levels), size)
    assert picture.shape == (3, size, size) and picture.dtype == torch.uint8 and picture.is_contiguous()
    same = data.picture_of(Image.fromarray(levels[:, :1]), size) if width == 1 else picture
    assert torch.equal(same, picture)
    if width == height == size:
        assert np.array_equal(picture.permute(1, 2, 0), levels), "nothing is resampled without need"


def test_a_picture_of_another_size_is_the_same_picture(built):
    row = built.view("test")[5]
    small, large = data.picture_of(row, 24), data.picture_of(row)
    reduced = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert (small.float() - reduced).abs().mean() < 6 and large.float().std() > 20


@pytest.mark.parametrize("key", ["picture", "sound"])
def test_media_of_a_row_a_cell_a_path_and_bytes(tmp_path, key):
    (tmp_path / "x").write_bytes(b"content")
    cell = {"bytes": None, "path": str(tmp_path / "x")}
    assert data.media_of({"id": 7, "text": "owl", key: cell}, key) == (b"content", f"the {key} of item 7 ('owl')")
    assert data.media_of({key: b"here"}, key) == (b"here", f"the {key} of item ? ('no text')")
    assert data.media_of({"bytes": b"first", "path": "nowhere"}, key) == (b"first", f"the given {key}")
    assert data.media_of(b"bytes", key) == (b"bytes", f"the given {key}")
    image = Image.new("L", (2, 2))
    assert data.media_of(image, key)[0] is image


@pytest.mark.bad_input
@pytest.mark.parametrize("item, message", [
    (None, "sound_of: the given sound is missing"),
    ({"sound": None, "id": 3}, r"the sound of item 3 \('no text'\) is missing"),
    ({"bytes": None, "path": ""}, "the given sound is missing"),
    ({"bytes": b"", "path": None}, "the given sound is missing"),
    ({"bytes": None, "path": "nowhere/owl.wav"}, "cannot be read: No such file or directory: owl.wav"),
    ({"bytes": None, "path": "/"}, "cannot be read: Is a directory"),
])
def test_media_that_are_not_there(item, message):
    with pytest.raises(ValueError, match=message):
        data.media_of(item, "sound")


def test_info_of_the_real_data(built):
    found = data.info()
    assert found["built"] and found["damaged"] == [] and "remedy" not in found
    assert found["emoji"] == 1644 and found["groups"] == 8 and found["subgroups"] == 95
    assert found["split"] == {s: len(built.view(s)) for s in data.SPLITS} and found["voices"] == list(data.VOICES)
    assert 150 < found["megabytes"] < 300 and found["recipe"] == data.Recipe().key[:16]


def test_info_names_what_is_damaged_and_the_remedy(reference, empty):
    data.build(progress=False, recipe=TINY)
    (TINY.folder / "names.arrow").unlink()
    found = data.info(TINY)
    assert found["damaged"] == ["names.arrow"] and "mmtutor data build" in found["remedy"] and "emoji" not in found


def packed(save, *args, **more) -> bytes:
    save(buffer := io.BytesIO(), *args, **more)
    return buffer.getvalue()


BOMB = packed(Image.new("1", (20_000, 20_000)).save, "PNG")
BROKEN = packed(soundfile.write, np.array([[0, 0], [np.nan, 0], [0, np.inf]], dtype=np.float32), 16_000, format="WAV",
                subtype="FLOAT")


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong, message", [
    (lambda: data.picture_of({"id": "1F40B", "text": "whale", "picture": {"bytes": b"x", "path": None}}),
     r"picture_of: the picture of item 1F40B \('whale'\) cannot be read"),
    (lambda: data.picture_of({"id": "1F40B", "text": "whale", "picture": None}), r"item 1F40B \('whale'\) is missing"),
    (lambda: data.sound_of({"id": "1F40B", "text": "whale", "sound": {"bytes": b"fLaCxx", "path": None}}),
     r"sound_of: the sound of item 1F40B \('whale'\) cannot be read"),
    (lambda: data.sound_of({"sound": {"bytes": None, "path": None}}), "is missing"),
    (lambda: data.picture_of(b""), "the given picture cannot be read"),
    (lambda: data.picture_of(Image.new("I;16", (5, 5), 4000)), "5 × 5 pixels in mode I;16.*read_picture takes 16 bits"),
    (lambda: data.picture_of(Image.new("F", (5, 5))), "mode F, expected one at least, of 8 bits a channel"),
    (lambda: data.picture_of(Image.new("RGB", (0, 5))), "0 × 5 pixels in mode RGB, expected one at least"),
    (lambda: data.picture_of(BOMB), "the given picture cannot be read: Image size .400000000 pixels. exceeds"),
    (lambda: data.sound_of(BROKEN), "the given sound has 2 samples that are not finite"),
    (lambda: data.picture_of(Image.new("RGB", (5, 5)), 0), "cannot be read: height and width must be > 0"),
    (lambda: data.families(["a", "b"], np.eye(1, dtype=bool)), r"close is bool \(1, 1\), expected bool \(2, 2\)"),
    (lambda: data.split_families(np.array([0, 5]), ["a", "a"], (0.7, 0.1, 0.2), 0), r"split_families: heads \(2,\)"),
    (lambda: data.split_families(np.array([0, 1]), ["a", "a"], (0.7, 0.1, 0.1), 0), r"shares \(0.7, 0.1, 0.1\)"),
    (lambda: data.load("dev"), "no split 'dev'; there are train, validation, test"),
    (lambda: data.view("test", style="oil"), "no style 'oil'.*colour, lines"),
    (lambda: data.view("test", voice="en-gb"), "voice 'en-gb'.*american_low"),
])
def test_messages(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_info_and_show(tiny):
    found = data.info(tiny)
    assert found["built"] and found["damaged"] == [] and found["emoji"] == 24 and found["groups"] == 8
    assert sum(found["split"].values()) == found["families"] and json.dumps(found)
    names = data.load(recipe=tiny)["name"][:]
    shown = data.show(names[3].upper(), tiny)
    assert shown["name"] == names[3] and set(shown["seconds"]) == set(dict(tiny.voices)) and json.dumps(shown)
    assert data.show(shown["emoji"], tiny) == data.show(shown["id"], tiny) == shown
    with pytest.raises(ValueError, match=f"no emoji has the id or name .*; near: .*{names[3].lower()}"):
        data.show(names[3] + "x", tiny)


def test_import_is_light():
    code = ("import sys, mmtutor.data; "
            "print([m for m in ('datasets', 'soundfile', 'soxr', 'resvg_py', 'scipy', 'pyarrow') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
