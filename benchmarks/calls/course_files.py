"""Good calls of what handles files: downloads, weights, tables, working copies, the command line."""
import contextlib
import io
import json
import os
import tempfile
import zipfile
from argparse import Namespace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from fuzzed import good, left_out
from torch import nn

from mmtutor.course import cli, files, jobs, merging, tables, weights, workspace


def in_folder(call):
    "`call(folder, …)` in a fresh folder that is also the cache; pip finds nothing there."
    def used(**given):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(
                os.environ, MMTUTOR_CACHE=str(Path(folder) / "cache"), PIP_NO_INDEX="1", PIP_FIND_LINKS=folder):
            return call(Path(folder), **given)
    return used


def silent(call):
    "The same without what it prints."
    def used(**given):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return call(**given)
    return used


# --- files ---

@good("course.files.cache_dir")
def _():
    return files.cache_dir, {}


@good("course.files.atomically")
def _():
    def used(folder, content):
        with files.atomically(folder / "a" / "b") as part:
            part.write_bytes(content)
        return (folder / "a" / "b").read_bytes()
    return in_folder(used), dict(content=b"one")


def _file(folder: Path, content: bytes) -> Path:
    (folder / "file").write_bytes(content)
    return folder / "file"


@good("course.files.sha256_of")
def _():
    return in_folder(lambda folder, content: files.sha256_of(_file(folder, content))), dict(content=b"one")


@good("course.files.verify")
def _():
    return in_folder(lambda folder, content, sha256: files.verify(_file(folder, content), sha256)), dict(
        content=b"one", sha256=files.hashlib.sha256(b"one").hexdigest())


@good("course.files.seal")
def _():
    return files.seal, dict(content={"name": "toy", "figures": {"right": 0.5}})


@good("course.files.check_seal")
def _():
    return files.check_seal, dict(content=files.seal({"name": "toy", "figures": [0.5, 2]}), what="a record")


@good("course.files.read_sealed")
def _():
    content = json.dumps(files.seal({"name": "toy", "figures": [0.5, 2]})).encode()
    return in_folder(lambda folder, content, who: files.read_sealed(_file(folder, content), who)), dict(
        content=content, who="read")


@good("course.files.writing", raises=(files.CannotWrite,))
def _():
    def used(folder, content, instead):
        with files.writing(folder / "file", instead):
            return len(_file(folder, content).read_bytes())
    return in_folder(used), dict(content=b"one", instead="set TOY")


@good("course.files.locked", raises=(files.CannotWrite, ValueError))
def _():
    def used(folder, timeout):
        with files.locked(folder / "a" / ".lock", timeout=timeout):
            return [p.name for p in (folder / "a").iterdir()]
    return in_folder(used), dict(timeout=0.1)


left_out("an exception that holds its number and its text, no more", "course.files.CannotWrite")


def _wheel() -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr(zipfile.ZipInfo("toy/weights.bin"), b"tensor")
    return buffer.getvalue()


def _toy(folder: Path, content: bytes) -> files.Wheel:
    (path := folder / "cache" / "wheels" / "toy-1.0.whl").parent.mkdir(parents=True)
    path.write_bytes(content)
    return files.Wheel("toy", "1.0", files.hashlib.sha256(_wheel()).hexdigest())


@good("course.files.Wheel")
def _():
    return (lambda **given: str(files.Wheel(**given))), dict(name="toy", version="1.0", sha256="0" * 64)


@good("course.files.fetch")
def _():
    return in_folder(lambda folder, content: files.fetch(_toy(folder, content))), dict(content=_wheel())


@good("course.files.fetch from nowhere", raises=(FileNotFoundError,))
def _():
    def used(folder, wheel):
        _toy(folder, _wheel())
        return files.fetch(wheel)
    return in_folder(used), dict(wheel=files.Wheel("toy", "1.0", files.hashlib.sha256(_wheel()).hexdigest()))


@good("course.files.installed_file")
def _():
    return files.installed_file, dict(wheel=files.Wheel("einops", "0", ""), name="einops/__init__.py")


@good("course.files.member")
def _():
    return in_folder(lambda folder, content, **given: files.member(_toy(folder, content), **given)), dict(
        content=_wheel(), name="toy/weights.bin", sha256=files.hashlib.sha256(b"tensor").hexdigest())


# --- weights ---

def _saved(suffix: str) -> bytes:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    if suffix == ".safetensors":
        from safetensors.torch import save
        return save(tensors)
    torch.save({"state": tensors}, buffer := io.BytesIO())
    return buffer.getvalue()


def _read(folder: Path, content: bytes, suffix: str, inside: str | None = None) -> dict:
    (path := folder / f"file{suffix}").write_bytes(content)
    return weights.read_tensors(path, inside)


@good("course.weights.save_file", raises=(ValueError, RuntimeError))
def _():
    def used(folder, tensors):
        weights.save_file(tensors, folder / "a.safetensors")
        return weights.read_tensors(folder / "a.safetensors")
    return in_folder(used), dict(tensors={"weight": torch.randn(2, 3), "bias": torch.randn(2)})


@good("course.weights.read_tensors", raises=(FileNotFoundError,))
def _():
    return in_folder(partial(_read, suffix=".pt")), dict(content=_saved(".pt"), inside="state")


@good("course.weights.read_tensors of safetensors")
def _():
    return in_folder(partial(_read, suffix=".safetensors")), dict(content=_saved(".safetensors"))


@good("course.weights.LoadReport")
def _():
    return (lambda **given: str(weights.LoadReport(**given))), dict(matched=2, parameters=8, ignored=("x",))


@good("course.weights.load_into")
def _():
    return (lambda **given: weights.load_into(nn.Linear(3, 2), **given)), dict(
        tensors={"weight": torch.randn(2, 3), "bias": torch.randn(2), "x.a": torch.tensor([1])}, ignore=["x."])


def _model(folder: Path, content: bytes = b'{"width": 4, "kind": "toy"}') -> Path:
    (folder / "config.json").write_bytes(content)
    return folder


@good("course.weights.model_folder", raises=(FileNotFoundError,))
def _():
    return in_folder(lambda folder, **given: weights.model_folder(_model(folder), **given)), dict(
        needed=["config.json"], more=["*.txt"], instead="x")


@good("course.weights.read_config")
def _():
    return in_folder(lambda folder, content, **given: weights.read_config(
        _model(folder, content) / "config.json", **given)), dict(
            content=b'{"width": 4, "kind": "toy"}', expected={"kind": "toy"}, needed=["width"], holder="x")


# --- tables ---

def _features() -> dict:
    from datasets import Value
    return {"word": Value("string"), "place": Value("int32")}


def _part(folder: Path, columns: dict) -> Path:
    tables.write_part(folder / "a" / "words.arrow", columns, _features())
    return folder / "a" / "words.arrow"


COLUMNS = {"word": ["one", "two"], "place": [1, 2]}


@good("course.tables.write_part")
def _():
    return in_folder(lambda folder, columns: tables.open_part(_part(folder, columns))[:]), dict(columns=COLUMNS)


@good("course.tables.write_media")
def _():
    from datasets import Image

    def used(folder, rows):
        tables.write_media(folder / "media.arrow", rows, Image(decode=False), lambda: None)
        return tables.open_part(folder / "media.arrow")[:]
    return in_folder(used), dict(rows=[{"left": b"a", "right": b"b"}, {"left": b"c", "right": b"d"}])


def _content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return _part(Path(folder), COLUMNS).read_bytes()


@good("course.tables.open_part")
def _():
    return in_folder(lambda folder, content: tables.open_part(_file(folder, content))[:]), dict(content=_content())


@good("course.tables.is_whole")
def _():
    return in_folder(lambda folder, content, rows: tables.is_whole(_file(folder, content), rows)), dict(
        content=_content(), rows=2)


@good("course.tables.mark")
def _():
    def used(folder, content, rows):
        tables.mark(_file(folder, content))
        return tables.is_finished(folder / "file", rows)
    return in_folder(used), dict(content=_content(), rows=2)


@good("course.tables.is_finished")
def _():
    def used(folder, content, mark, rows):
        (folder / ".file.sha256").write_text(mark)
        return tables.is_finished(_file(folder, content), rows)
    content = _content()
    return in_folder(used), dict(content=content, mark=f"file {files.hashlib.sha256(content).hexdigest()}", rows=2)


@good("course.tables.write_manifest")
def _():
    def used(folder, content, facts):
        _file(folder, content)
        tables.write_manifest(folder, ["file"], facts)
        return tables.damaged(folder, ["file"], facts)
    return in_folder(used), dict(content=b"one", facts={"recipe": "toy", "rows": 2})


@good("course.tables.damaged")
def _():
    def used(folder, content, names, facts, full):
        _file(folder, b"one")
        tables.write_manifest(folder, ["file"], {"recipe": "toy"})
        return tables.damaged(_file(folder, content).parent, names, facts, full)
    return in_folder(used), dict(content=b"one", names=["file"], facts={"recipe": "toy"}, full=True)


# --- jobs ---

left_out("starts processes and waits for them, seconds for each call; tests/test_processes.py refuses what is wrong",
         "course.jobs.torchrun", "course.jobs.launch")
left_out("is one of the processes that launch has started, and ends its process", "course.jobs.work_here")


@good("course.jobs.JobFailed")
def _():
    return jobs.JobFailed, {}


@good("course.jobs.find_work")
def _():
    def used(**given):
        return jobs.find_work({"text": None, "file": None, **given})()
    return used, dict(name="cache_dir", module="mmtutor.course.files")


# --- merging ---

def _cell(id: str, source: str, kind: str = "code") -> dict:
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"id": id, "cell_type": kind, "source": source, "metadata": {}, **more}


def _book(*sources: str) -> dict:
    return {"cells": [_cell(s[0], s) for s in sources], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@good("course.merging.parse")
def _():
    return merging.parse, dict(raw=merging.dump(_book("a = 1", "b = 2")), name="x")


@good("course.merging.parse of what can be damaged")
def _():
    return (lambda notebook: merging.parse(json.dumps(notebook).encode(), "x")), dict(notebook=_book("a = 1", "b = 2"))


@good("course.merging.dump")
def _():
    return merging.dump, dict(notebook=_book("a = 1", "b = 2"))


@good("course.merging.written")
def _():
    return merging.written, dict(cell=dict(reversed(_cell("a", "a = 1", "markdown").items())))


@good("course.merging.results")
def _():
    return merging.results, dict(cell={"outputs": [{"text": ["a\n", "b"], "data": {"text/plain": ["c"]}}]})


@good("course.merging.shipped")
def _():
    return merging.shipped, dict(notebook=_book("a = 1", "b = 2"))


@good("course.merging.title_of")
def _():
    return merging.title_of, dict(cell={"source": "#| export\na = 1"})


@good("course.merging.Merged")
def _():
    return merging.Merged, dict(notebook=_book("a = 1"), updated=["a"])


@good("course.merging.merge")
def _():
    base = merging.shipped(_book("a = 1", "b = 2", "c = 3"))
    return merging.merge, dict(base=base, mine=_book("a = 1", "b = 3", "d = 4"),
                               theirs=_book("a = 2", "b = 4", "c = 3", "e = 5"), version="2.0")


# --- workspace ---

def _course(folder: Path, *sources: str) -> Path:
    (place := folder / "source").mkdir(exist_ok=True)
    (place / "one.ipynb").write_bytes(merging.dump(_book(*sources)))
    (place / "two.png").write_bytes(sources[0].encode())
    return place


def _copy(folder: Path) -> Path:
    workspace.start(folder / "copy", _course(folder, "a = 1", "b = 2"), "1.0")
    return folder / "copy"


@good("course.workspace.is_copy")
def _():
    return partial(in_folder(lambda folder: workspace.is_copy(_copy(folder)))), {}


def _manifest() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        return json.loads((_copy(Path(folder)) / ".mmtutor" / "manifest.json").read_text())


@good("course.workspace.read_manifest")
def _():
    def used(folder, manifest):
        (_copy(folder) / ".mmtutor" / "manifest.json").write_text(json.dumps(manifest))
        return workspace.read_manifest(folder / "copy")
    return in_folder(used), dict(manifest=_manifest())


@good("course.workspace.read_manifest of bytes")
def _():
    def used(folder, content):
        (_copy(folder) / ".mmtutor" / "manifest.json").write_bytes(content)
        return workspace.read_manifest(folder / "copy")
    return in_folder(used), dict(content=json.dumps(_manifest()).encode())


@good("course.workspace.Change", keep=("merged",))  # which `merge` has made
def _():
    return (lambda **given: workspace.Change(**given).line()), dict(
        name="a", what="merged", merged=merging.Merged(_book("a = 1"), updated=["a"], conflicts=["a"]), reason="b")


@good("course.workspace.course_files")
def _():
    return in_folder(lambda folder: list(workspace.course_files(_course(folder, "a = 1")))), {}


@good("course.workspace.plan")
def _():
    def used(folder, known, version):
        return workspace.plan(_copy(folder), _course(folder, "a = 2", "b = 3"), known, version)
    return in_folder(used), dict(known=_manifest(), version="2.0")


@good("course.workspace.Update")
def _():
    def used(**given):
        done = workspace.Update(Path("copy"), backup=None, **given)
        return str(done), done.damaged
    changes = [workspace.Change("a", "new"), workspace.Change("b", "kept")]
    return used, dict(before="1.0", version="2.0", changes=changes)


@good("course.workspace.update")
def _():
    def used(folder, content, version):
        (_copy(folder) / "one.ipynb").write_bytes(content)
        return str(workspace.update(folder / "copy", _course(folder, "a = 2", "b = 3"), version)).replace(
            str(folder), "")
    return in_folder(used), dict(content=merging.dump(_book("a = 1", "b = 4")), version="2.0")


@good("course.workspace.start")
def _():
    return in_folder(lambda folder, version: workspace.start(folder / "new", _course(folder, "a = 1"), version)), dict(
        version="1.0")


@good("course.workspace.find")
def _():
    return in_folder(lambda folder: workspace.find(_copy(folder)).name), {}


# --- the command line ---

left_out("opens JupyterLab and waits until it is closed; what it refuses is lab_folder's", "course.cli.lab")


@good("course.cli.packages_report")
def _():
    return cli.packages_report, {}


@good("course.cli.device_report")
def _():
    return cli.device_report, {}


@good("course.cli.cache_report")
def _():
    return in_folder(lambda folder: cli.cache_report()), {}


@good("course.cli.data_report")
def _():
    return in_folder(lambda folder: cli.data_report()), {}


@good("course.cli.jupyter_report")
def _():
    return cli.jupyter_report, {}


@good("course.cli.copy_report")
def _():
    return cli.copy_report, {}


@good("course.cli.doctor")
def _():
    return silent(in_folder(lambda folder: cli.doctor())), {}


@good("course.cli.lab_folder")
def _():
    return in_folder(lambda folder: cli.lab_folder(_copy(folder)).name), {}


@good("course.cli.parser", raises=(SystemExit,))
def _():
    return silent(lambda words: vars(cli.parser().parse_args(words))), dict(words=["ask", "model", "--text", "a"])


@good("course.cli.check")
def _():
    return silent(cli.check), dict(as_json=True)


@good("course.cli.dispatch")
def _():
    return silent(in_folder(lambda folder, command: cli.dispatch(
        Namespace(command=command, json=True, folder=None)))), dict(command="check")


@good("course.cli.main", raises=(SystemExit,))
def _():
    return silent(in_folder(lambda folder, words: cli.main(words))), dict(words=["check", "--json"])
