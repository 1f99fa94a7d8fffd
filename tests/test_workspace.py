"""A working copy: laid out, upgraded with everything that was written kept, and never damaged by an accident."""
import copy
import json
import os
import shutil

import pytest
from test_merging import book, cell, edited, sources

from mmtutor.course import cli, records, workspace
from mmtutor.course.merging import dump, parse
from mmtutor.course.workspace import find, read_manifest, start, update

ONE = book(cell("a", "# One", "markdown"), cell("b", "stub"), cell("c", "c = 1"))
TWO = book(cell("t", "# Two", "markdown"))


@pytest.fixture
def course(tmp_path):
    "Writes a version of a course: name → notebook or bytes; returns its folder."
    def make(version, **names):
        folder = tmp_path / f"course-{version}"
        for name, content in names.items():
            name = name.replace("__", "/") + ("" if name.endswith("_png") else ".ipynb")
            path = folder / name.replace("_png", ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else dump(content))
        return folder
    return make


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "my-course"


def read(folder, name="one.ipynb"):
    return parse((folder / name).read_bytes(), name)


def write(folder, notebook, name="one.ipynb"):
    (folder / name).write_bytes(dump(notebook))


def tree(folder):
    "Every file except the lock, with its bytes."
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def test_start_lays_everything_out(mine, course):
    source = course("1", one=ONE, course__two=TWO, head_png=b"png")
    done = start(mine, source, "1.0")
    assert {n: p.read_bytes() for n, p in workspace.course_files(source).items()} == {
        n: b for n, b in tree(mine).items() if not n.startswith(".")}
    assert str(done) == f"3 files laid out in {mine} (mmtutor 1.0). Open them with: mmtutor lab {mine}"
    before = tree(mine)
    assert str(start(mine, source, "1.0")) == f"{mine}: mmtutor 1.0; nothing to update" and tree(mine) == before


def test_an_untouched_copy_becomes_the_new_course(mine, course):
    start(mine, course("1", one=ONE, old=TWO, head_png=b"1", gone_png=b"g"), "1.0")
    source = course("2", one=edited(ONE, "b", source="new stub"), two=TWO, head_png=b"2")
    done = update(mine, source, "2.0")
    assert {n: b for n, b in tree(mine).items() if not n.startswith(".")} == tree(source)
    said = str(done)
    for line in ("1.0 → 2.0", "one.ipynb: 1 updated", "two.ipynb: new", "old.ipynb: removed", "head.png: replaced",
                 "gone.png: removed"):
        assert line in said
    assert (done.backup / "old.ipynb").exists() and (done.backup / "manifest.json").exists()


def test_edits_survive_and_are_reported(mine, course):
    start(mine, course("1", one=ONE), "1.0")
    solved = edited(edited(ONE, "b", source="solved"), "c", source="c = 7")
    solved["cells"].append(cell("own", "my notes", "markdown"))
    write(mine, solved)
    before = (mine / "one.ipynb").read_bytes()
    newer = edited(edited(ONE, "a", source="# One, again"), "b", source="stub, better")
    done = update(mine, course("2", one=newer), "2.0")
    texts = sources(read(mine))
    assert texts[:2] == ["# One, again", "solved"] and "stub, better" in texts[2] and texts[3:] == ["c = 7", "my notes"]
    assert "one.ipynb: 1 updated; as you left them: 1 changed, 1 added" in str(done)
    assert "   changed by you and by the course: solved" in str(done) and str(done.backup) in str(done)
    assert (done.backup / "one.ipynb").read_bytes() == before
    after = tree(mine)
    assert "nothing to update" in str(update(mine, course("2", one=newer), "2.0")) and tree(mine) == after


def test_a_notebook_that_only_jupyter_touched_counts_as_untouched(mine, course):
    start(mine, course("1", one=ONE), "1.0")
    saved = json.loads((mine / "one.ipynb").read_bytes())
    saved["metadata"]["language_info"] = {"name": "python"}
    saved["cells"][1]["metadata"] = {"trusted": True}
    saved["cells"][1]["source"] = "".join(saved["cells"][1]["source"])
    (mine / "one.ipynb").write_text(json.dumps(saved))
    newer = edited(ONE, "b", source="stub 2")
    update(mine, course("2", one=newer), "2.0")
    assert read(mine)["cells"] == newer["cells"]


@pytest.mark.parametrize("files", range(4))
def test_an_interrupted_update_is_finished_by_the_next(mine, course, tmp_path, monkeypatch, files):
    first = dict(one=ONE, two=TWO, three=edited(ONE, "c", source="c = 3"))
    second = {n: copy.deepcopy(nb) for n, nb in first.items()}
    for nb in second.values():
        nb["cells"][0]["source"] += ", again"
        nb["cells"].insert(1, cell("n", "new"))
    second["one"] = edited(second["one"], "b", source="stub 2")
    start(mine, course("1", **first), "1.0")
    write(mine, edited(ONE, "b", source="solved"))
    whole = shutil.copytree(mine, tmp_path / "whole")
    real, count = workspace._write, []

    def failing(path, content):
        count.append(path)
        if len(count) > files:
            raise OSError(28, "No space left on device")
        real(path, content)
    monkeypatch.setattr(workspace, "_write", failing)
    with pytest.raises(OSError):
        update(mine, course("2", **second), "2.0")
    monkeypatch.undo()
    assert read_manifest(mine)["version"] == "1.0"
    update(mine, course("2", **second), "2.0")
    update(whole, course("2", **second), "2.0")
    visible = [{n: b for n, b in tree(f).items() if "backup" not in n} for f in (mine, whole)]
    assert visible[0] == visible[1] and "solved" in sources(read(mine))
    assert not list(mine.rglob("*.part"))


def test_an_interrupted_start_goes_on(mine, course, monkeypatch):
    source, real, count = course("1", one=ONE, two=TWO), workspace._write, []

    def failing(path, content):
        count.append(path)
        if len(count) == 3:
            raise KeyboardInterrupt
        real(path, content)
    monkeypatch.setattr(workspace, "_write", failing)
    with pytest.raises(KeyboardInterrupt):
        start(mine, source, "1.0")
    monkeypatch.undo()
    start(mine, source, "1.0")
    assert {n: b for n, b in tree(mine).items() if not n.startswith(".")} == tree(source)


def test_a_deleted_notebook_is_laid_out_afresh(mine, course):
    source = course("1", one=ONE, two=TWO)
    start(mine, source, "1.0")
    (mine / "one.ipynb").unlink()
    assert "one.ipynb: new" in str(update(mine, source, "1.0")) and read(mine) == ONE


@pytest.mark.parametrize("touch", ["write", "run", "nothing"])
def test_a_chapter_that_the_course_drops_goes_only_untouched(mine, course, touch):
    start(mine, course("1", one=ONE, two=TWO), "1.0")
    outputs = [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    if touch != "nothing":
        write(mine, edited(ONE, "b", **({"source": "solved"} if touch == "write" else {"outputs": outputs})))
    done = update(mine, course("2", two=TWO), "2.0")
    assert (mine / "one.ipynb").exists() == (touch != "nothing")
    assert ("one.ipynb: no longer in the course; you have changed or run it" in str(done)) == (touch != "nothing")
    assert not done.damaged


def test_a_changed_picture_is_kept_and_said(mine, course):
    start(mine, course("1", one=ONE, head_png=b"1"), "1.0")
    (mine / "head.png").write_bytes(b"mine")
    done = update(mine, course("2", one=ONE, head_png=b"2"), "2.0")
    assert "head.png: you have changed it; yours was kept" in str(done) and (mine / "head.png").read_bytes() == b"mine"


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", [b"", b"{", b'{"nbformat": 4}', b"\xff\x00"])
def test_a_damaged_notebook_is_left_alone_and_named(mine, course, damage):
    start(mine, course("1", one=ONE, two=TWO), "1.0")
    (mine / "one.ipynb").write_bytes(damage)
    source = course("2", one=edited(ONE, "b", source="2"), two=edited(TWO, "t", source="# Two, again"))
    done = update(mine, source, "2.0")
    assert (mine / "one.ipynb").read_bytes() == damage and done.damaged == 1
    assert "!! one.ipynb: left alone: one.ipynb is no notebook that can be read" in str(done)
    assert sources(read(mine, "two.ipynb")) == ["# Two, again"], "the others go on"
    write(mine, edited(ONE, "c", source="mine"))  # mended: what was shipped is still known
    done = update(mine, source, "2.0")
    assert sources(read(mine)) == ["# One", "2", "mine"] and not done.damaged


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", [
    "", "{", "[]", '{"format": 1}', '{"format": 1, "version": "1.0", "notebooks": [], "files": {}}',
    '{"format": 1, "version": "old?", "notebooks": {}, "files": {}}', '{"format": 2}',
    '{"format": 1, "version": "1.0", "files": {}, "notebooks": '
    '{"one.ipynb": {"whole": "", "metadata": "", "cells": [["a"]]}}}',
    '{"format": 1, "version": "1.0", "notebooks": {"one.ipynb": {}}, "files": {}}',
    '{"format": 1, "version": "1.0", "notebooks": {}, "files": {"a": 1}}'])
def test_a_damaged_manifest_stops_everything(mine, course, damage):
    start(mine, course("1", one=ONE), "1.0")
    write(mine, edited(ONE, "b", source="solved"))
    (mine / ".mmtutor" / "manifest.json").write_text(damage)
    before = tree(mine)
    for command in (start, update):
        with pytest.raises(ValueError, match="manifest.json cannot be read .*Nothing was changed. Begin a new"):
            command(mine, course("2", one=TWO), "2.0")
    assert tree(mine) == before


@pytest.mark.bad_input
def test_what_start_and_update_refuse(mine, course, tmp_path):
    source = course("1", one=ONE)
    with pytest.raises(ValueError, match="there is no working copy in .*my-course: `mmtutor start"):
        update(mine, source, "1.0")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="start: .*full holds other things.*expected a new or an empty folder"):
        start(tmp_path / "full", source, "1.0")
    with pytest.raises(ValueError, match="start: .*thesis.tex holds other things"):
        start(tmp_path / "full" / "thesis.tex", source, "1.0")
    with pytest.raises(ValueError, match="lies inside the course itself"):
        start(source / "copy", source, "1.0")
    assert list(tmp_path.glob("full/*")) == [tmp_path / "full" / "thesis.tex"] and not (source / "copy").exists()
    start(mine, source, "2.0")
    before = tree(mine)
    with pytest.raises(ValueError, match="comes from mmtutor 2.0, this is 1.0: upgrade mmtutor first"):
        update(mine, source, "1.0")
    assert tree(mine) == before


@pytest.mark.bad_input
def test_a_file_of_ones_own_with_the_name_of_a_new_chapter(mine, course):
    start(mine, course("1", one=ONE), "1.0")
    own = book(cell("x", "mine"))
    write(mine, own, "two.ipynb")
    (mine / "three.ipynb").mkdir()
    (mine / "head.png").mkdir()
    source = course("2", one=ONE, two=TWO, three=TWO, head_png=b"1")
    done = update(mine, source, "2.0")
    assert done.damaged == 3 and "!! two.ipynb: your own file has the name of a new one" in str(done)
    assert "!! three.ipynb: something else is in its place" in str(done) and read(mine, "two.ipynb") == own
    (mine / "two.ipynb").rename(mine / "mine.ipynb")
    done = update(mine, source, "2.0")
    assert read(mine, "two.ipynb") == TWO and read(mine, "mine.ipynb") == own and done.damaged == 2


def test_two_updates_at_once_wait_for_each_other(mine, course, monkeypatch):
    start(mine, course("1", one=ONE), "1.0")
    real = workspace.FileLock
    monkeypatch.setattr(workspace, "FileLock", lambda path, timeout: real(path, timeout=0.01))
    with real(mine / ".mmtutor" / "lock"), pytest.raises(ValueError, match="another update of .* is running"):
        update(mine, course("2", one=TWO), "2.0")


def test_each_update_has_a_backup_of_its_own(mine, course):
    start(mine, course("1", one=ONE), "1.0")
    places = []
    for n in range(3):
        write(mine, edited(read(mine), "a", source=f"mine {n}"))
        places.append(update(mine, course(f"2{n}", one=edited(ONE, "b", source=str(n))), "1.0").backup.name)
    assert places == ["1.0", "1.0-1", "1.0-2"]


def test_rights_of_a_file_stay(mine, course):
    start(mine, course("1", one=ONE), "1.0")
    assert (mine / "one.ipynb").stat().st_mode & 0o777 == 0o644
    os.chmod(mine / "one.ipynb", 0o600)
    update(mine, course("2", one=edited(ONE, "b", source="2")), "2.0")
    assert (mine / "one.ipynb").stat().st_mode & 0o777 == 0o600


def test_find(tmp_path, course):
    source = course("1", one=ONE)
    with pytest.raises(ValueError, match="no working copy in .* or above it: `mmtutor start my-course` makes one"):
        find(tmp_path)
    first = tmp_path / "first"
    start(first, source, "1.0")
    (first / "deep").mkdir()
    assert find(tmp_path) == find(first) == find(first / "deep") == first
    start(tmp_path / "second", source, "1.0")
    assert find(first) == first
    with pytest.raises(ValueError, match="2 working copies here: first, second.*`mmtutor lab first`"):
        find(tmp_path)


def test_the_real_course_and_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["start", "my-course"]) == 0
    ships = workspace.course_files(records.notebooks_dir())
    assert {"index.ipynb", "01_attention.ipynb", "course/ex_attention.ipynb", "headline.png"} <= set(ships)
    assert all((tmp_path / "my-course" / n).read_bytes() == p.read_bytes() for n, p in ships.items())
    assert f"{len(ships)} files laid out in my-course" in capsys.readouterr().out
    assert cli.main(["update"]) == 0 and "nothing to update" in capsys.readouterr().out
    assert [good for good, _ in cli.copy_report()] == [True]
    (tmp_path / "my-course" / "index.ipynb").write_text("{")
    (tmp_path / "my-course" / "headline.png").unlink()
    said = [line for good, line in cli.copy_report() if not good]
    assert len(said) == 2 and "index.ipynb is no notebook" in said[1]
    assert "headline.png is missing: mmtutor update" in said[0]
    assert cli.main(["update"]) == 1
    out = capsys.readouterr().out
    assert "headline.png: new" in out and "!! index.ipynb: left alone" in out
    (tmp_path / "my-course" / "index.ipynb").unlink()
    monkeypatch.chdir("my-course")
    assert cli.main(["start", "."]) == 0 and "index.ipynb: new" in capsys.readouterr().out
    (tmp_path / "my-course" / ".mmtutor" / "manifest.json").write_text("")
    assert cli.main(["update"]) == 1 and "cannot be read" in capsys.readouterr().err
    assert "cannot be read" in cli.copy_report()[0][1] and not cli.copy_report()[0][0]


@pytest.mark.bad_input
def test_a_version_that_is_none_and_a_manifest_that_is_none_are_refused(mine, course):
    start(mine, course("1", one=ONE), "1.0")
    with pytest.raises(ValueError, match="'zebra' is no version, expected one such as 1.0"):
        update(mine, course("2", one=ONE), "zebra")
    with pytest.raises(ValueError, match="KeyError: 'files'"):
        workspace.plan(mine, course("2", one=ONE), {"format": 1, "version": "1", "notebooks": {}}, "2.0")
