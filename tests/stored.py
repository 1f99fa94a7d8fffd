"""What mmtutor keeps on the disk: how each kind of it is written and read, and what lies in a folder afterwards."""
import faulthandler
import functools
import hashlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from test_course import make_wheel
from test_freezing import WORDS, Letters
from test_multimodal import config

from mmtutor.course import files, progress, records, report
from mmtutor.course.weights import read_tensors
from mmtutor.freezing import cached_features
from mmtutor.multimodal import MultimodalModel


@dataclass(frozen=True)
class Kind:
    "`write` and `read` are given a folder prepared by `prepare`; `older` is what may lie there before."
    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]                 # something that can be compared
    older: Callable[[Path], object] | None = None  # writes the state before
    sibling: Callable[[Path], object] | None = None  # writes another one of its kind into another folder
    prepare: Callable[[Path], object] = lambda folder: None
    damage: bool = True                            # mmtutor reads it, so that damage can be noticed

    def __str__(self) -> str:
        return self.name


def tensors_of(tensors) -> list:
    return [(name, str(t.dtype), tuple(t.shape), t.numpy().tobytes()) for name, t in sorted(dict(tensors).items())]


# --- features ---

@functools.cache
def letters() -> Letters:
    torch.manual_seed(1)
    return Letters()


def features(folder: Path, key: str = "k", size: int = 64) -> list:
    found = cached_features(letters(), WORDS, key=key, folder=folder / "features", batch_size=size)
    return tensors_of(found._asdict())


# --- weights ---

@functools.cache
def weight_bytes(content: str) -> bytes:
    "A file of torch.save."
    torch.manual_seed(len(content))
    torch.save({content: torch.randn(40, 5)}, buffer := io.BytesIO())
    return buffer.getvalue()


def pickled(folder: Path, content: str = "weight") -> None:
    (folder / "w.pt").write_bytes(weight_bytes(content))


@functools.cache
def toy_wheel(content: bytes) -> tuple[bytes, files.Wheel]:
    "The same bytes for every folder."
    with tempfile.TemporaryDirectory() as place:
        path = make_wheel(Path(place), content=content)
        return path.read_bytes(), files.Wheel("toy", "1.0", files.sha256_of(path))


def index(folder: Path, content: bytes = b"tensor" * 50) -> None:
    (folder / "index").mkdir()
    (folder / "index" / "toy-1.0-py3-none-any.whl").write_bytes(toy_wheel(content)[0])


def fetched(folder: Path, content: bytes = b"tensor" * 50) -> bytes:
    return files.fetch(toy_wheel(content)[1]).read_bytes()


def extracted(folder: Path, content: bytes = b"tensor" * 50) -> bytes:
    wheel = toy_wheel(content)[1]
    return files.member(wheel, "toy/weights.bin", hashlib.sha256(content).hexdigest()).read_bytes()


# --- records and reports ---

def record(folder: Path, name: str = "toy", value: float = 0.5) -> None:
    records.record(name, "python toy.py", [0, 1, 2], {"accuracy": records.spread([value, 0.25, 0.75])}, folder, "abc")


def claim(folder: Path, id: str = "A1") -> None:
    records.record_claim(id, "It helps.", "holds", "x", [0, 1, 2], {"gain": records.spread([1, 2, 4])},
                         summary="so much", chapter="02_positions", folder=folder, begun="abc")


def recorded(found: dict) -> dict:
    "What is looked up by name; a seal under another name is no seal, and nobody looks for it."
    return {key: found[key] for key in ("command", "commit", "seeds", "machine", "version", "figures")}


class Rows(dict):
    "The columns of a test set, and its rows by number."
    def __getitem__(self, key):
        if isinstance(key, int):
            return {"picture": {"bytes": b"p"}, "sound": {"bytes": b"s"}}
        return super().__getitem__(key)

    def __len__(self) -> int:
        return 4

    @property
    def features(self):
        return {"group": type("Group", (), {"names": ["one", "two"]})}


@functools.cache
def pictures() -> tuple:
    runs = {"frozen/decoder/0": {"losses": [2.0, 1.0]}}
    test = {"frozen/decoder": {"clean": {"mean": 0.5, "sd": 0.1, "n": 3}}}
    return (report.learning_curves(runs), report.bars(test, {"clean": "clean"}),
            report.confusion([0, 1], [0, 1], ["one", "two"]))


def page(folder: Path, title: str = "A run") -> None:
    drawn = dict(zip(("learning_curves", "bars", "confusion"), pictures()))
    usual = {name: getattr(report, name) for name in drawn}
    for name, picture in drawn.items():  # they take a second and write nothing
        setattr(report, name, lambda *_, picture=picture: picture)
    try:
        run = {"predicted": [0, 1, 0, 1], "rank": {"all": [1, 2, 1, 1]}, "best": [[0, 1]] * 4}
        report.write_report(folder / "report.html", title, [], {}, {}, {"frozen/decoder/0": run},
                            Rows(text=list("abcd"), group=[0, 1, 0, 1]), {"commit": "abc"})
    finally:
        for name, function in usual.items():
            setattr(report, name, function)


# --- models and progress ---

@functools.cache
def model(seed: int) -> MultimodalModel:
    torch.manual_seed(seed)
    return MultimodalModel(config(heads=2 + 2 * (seed == 2), dropout=0.1 + 0.2 * (seed == 2)))


def load(folder: Path) -> tuple:
    found = MultimodalModel.load(folder / "model")
    return found.config, tensors_of(found.state_dict())


def earlier(folder: Path) -> None:
    for number in range(30):
        progress.note_progress(f"00_demo.{number}", number % 3 == 0)


KINDS = (
    Kind("features", features, features, lambda f: features(f, size=2), lambda f: features(f, "other")),
    Kind("converted weights", lambda f: tensors_of(read_tensors(f / "w.pt")),
         lambda f: tensors_of(read_tensors(f / "w.pt")), None,
         lambda f: (pickled(f, "others"), read_tensors(f / "w.pt")), pickled),
    Kind("wheel", fetched, fetched, None, lambda f: (index(f, b"other"), fetched(f, b"other")), index),
    Kind("file of a wheel", extracted, extracted, None, lambda f: (index(f, b"other"), extracted(f, b"other")), index),
    Kind("record", record, lambda f: recorded(records.read("toy", f)), lambda f: record(f, value=0.1),
         lambda f: record(f, "other")),
    Kind("claims", claim, lambda f: {id: recorded(found) for id, found in records.read("claims", f).items()},
         lambda f: claim(f, "B1"), lambda f: record(f, "other")),
    Kind("progress", lambda f: progress.note_progress("00_demo.new", True), lambda f: progress.read_progress(),
         earlier),
    Kind("report", page, lambda f: (f / "report.html").read_bytes(), lambda f: page(f, "An older one"), damage=False),
    Kind("model", lambda f: model(1).save(f / "model"), load, lambda f: model(2).save(f / "model"),
         lambda f: model(2).save(f / "model")),
)
SUPPLIES = ("index", "w.pt", "filler")                 # what `prepare` and the tests put there


def home(folder: Path, kind: Kind, monkeypatch) -> Path:
    "An empty place for this kind, with its supplies; cache, progress and pip's index lie in it."
    folder.mkdir(parents=True, exist_ok=True)
    kind.prepare(folder)
    settle(folder, monkeypatch)
    return folder


def settle(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("MMTUTOR_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MMTUTOR_PROGRESS", str(folder / "progress.json"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "index"))


def tree(folder: Path) -> dict[str, bytes]:
    "What lies there, without supplies and the empty files of locks."
    return {name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
            and (name := path.relative_to(folder).as_posix()).split("/")[0] not in SUPPLIES
            and not (path.name.endswith(("lock",)) and not path.stat().st_size)}


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*") if p.name.endswith(".part") or p.name.startswith(".download-")]


# --- kill -9 ---

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "tempfile.mkstemp", "tempfile.mkdtemp"}


def die_at(number: int, folder: Path) -> None:
    "SIGKILL before the given operation on a file below `folder`; of what is being written, half gets lost."
    seen = [0]

    def hook(event, values):
        if event in EVENTS and any(str(folder) in str(value) for value in values):
            seen[0] += 1
            if seen[0] == number:
                for part in folder.rglob("*.part"):
                    os.truncate(part, part.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)


def in_child(work: Callable[[], object], begin: Callable[[], object] = lambda: None) -> int:
    "The number of a forked process that does this and ends."
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(60, exit=True)  # a hanging child is a failure, too
        try:
            begin()
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(work: Callable[[], object], moment: int | float, folder: Path) -> int:
    "The exit code of `work` killed at an operation (a number), or after seconds (a float)."
    if isinstance(moment, int):
        return ended(in_child(work, lambda: die_at(moment, folder)))
    pid = in_child(work)
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, symlinks=True))
