"""Three-way merge of a notebook: no text of a learner is ever lost, whatever the learner and the course have done."""
import copy
import json
from collections import Counter

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.course.merging import NOTHING, dump, merge, parse, results, shipped, title_of, written


def cell(id, source="", kind="code", output=None):
    found = {"id": id, "cell_type": kind, "metadata": {}, "source": source}
    if kind == "code":
        outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
        found |= {"outputs": outputs, "execution_count": None}
    return found


def book(*cells, **metadata):
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)}


def sources(notebook):
    return [c["source"] for c in notebook["cells"]]


# --- properties: a learner and a course that do what they like ---

TEXTS = st.text(alphabet=st.sampled_from("ab`\n# "), max_size=6)
KINDS = st.sampled_from(["code", "markdown"])
ACTS = st.lists(st.tuples(st.sampled_from(["edit", "delete", "insert", "move", "run", "copy", "retype", "forget id"]),
                          st.integers(0, 99), st.integers(0, 99), TEXTS), max_size=8)
COURSES = st.lists(st.lists(st.tuples(st.sampled_from(["edit", "delete", "insert", "move", "rerun"]),
                                      st.integers(0, 99), st.integers(0, 99), TEXTS), max_size=6),
                   min_size=1, max_size=3)
FIRST = st.lists(st.tuples(KINDS, TEXTS), max_size=6)


def act(notebook, acts, prefix):
    "The notebook after some acts of its learner or of its authors; new cells get ids that begin with `prefix`."
    notebook = copy.deepcopy(notebook)
    cells = notebook["cells"]
    for n, (what, at, to, text) in enumerate(acts):
        if what == "insert" or not cells:
            cells.insert(to % (len(cells) + 1), cell(f"{prefix}{n}", text, "code" if at % 2 else "markdown"))
            continue
        one = cells[at % len(cells)]
        if what == "edit":
            one["source"] = text
        elif what == "delete":
            cells.remove(one)
        elif what == "move":
            cells.remove(one)
            cells.insert(to % (len(cells) + 1), one)
        elif what in ("run", "rerun") and one["cell_type"] == "code":
            one["outputs"] = [{"output_type": "stream", "name": "stdout", "text": what + text}]
        elif what == "copy":
            cells.insert(to % (len(cells) + 1), copy.deepcopy(one))
        elif what == "retype":
            cells[cells.index(one)] = cell(one.get("id", f"{prefix}r{n}"), one["source"],
                                           "code" if one["cell_type"] == "markdown" else "markdown")
        elif what == "forget id":
            one.pop("id", None)
    return notebook


def in_order(notebook, ids):
    return [c["id"] for c in notebook["cells"] if c["id"] in ids]


@settings(max_examples=400, deadline=None)
@given(FIRST, COURSES, st.lists(ACTS, min_size=3, max_size=3))
def test_nothing_that_was_written_is_ever_lost(first, upgrades, learner):
    course = book(*(cell(f"c{n}", text, kind) for n, (kind, text) in enumerate(first)))
    mine = copy.deepcopy(course)
    for n, (acts, upgrade) in enumerate(zip(learner, upgrades)):
        base = shipped(course)
        before = {id: text for id, text, _ in base["cells"]}
        mine, theirs = act(mine, acts, f"mine{n}-"), act(course, upgrade, f"new{n}-")
        snapshot = copy.deepcopy(mine)
        done = merge(base, mine, theirs, f"0.{n}")
        result = done.notebook
        assert mine == snapshot, "the input is left alone"
        there = Counter((c["cell_type"], c["source"]) for c in result["cells"])
        for c in mine["cells"]:
            if written(c) not in before.values() and "mmtutor" not in c["metadata"]:
                there[c["cell_type"], c["source"]] -= 1
        assert min(there.values(), default=0) >= 0, "a cell that the learner wrote is gone"
        ids = [c["id"] for c in result["cells"]]
        assert len(set(ids)) == len(ids)
        mine_ids = {c.get("id") for c in mine["cells"]}
        by_id = {c["id"]: c for c in result["cells"]}
        for c in theirs["cells"]:  # what the course has to say is said, unless the learner deleted it
            if c["id"] in by_id or c["id"] in before:
                kept = c["id"] in by_id and written(by_id[c["id"]]) == written(c)
                asked = before.get(c["id"]) == written(c) or c["id"] not in mine_ids
                assert kept or asked or c["id"] in done.conflicts
            else:
                raise AssertionError(f"the new cell {c['id']} did not come in")
        for id in done.conflicts:
            at = ids.index(id)
            assert result["cells"][at + 1]["metadata"]["mmtutor"]["about"] == id
        nbformat.validate(json.loads(dump(result)))
        # a second time there is nothing to do, and an update that was interrupted before its end is recognised
        again = merge(shipped(theirs), result, theirs, f"0.{n}")
        assert again.notebook["cells"] == result["cells"]
        assert not (again.updated or again.added or again.removed or again.conflicts)
        assert merge(base, result, theirs, f"0.{n}").notebook["cells"] == result["cells"]
        mine, course = result, theirs


@settings(max_examples=200, deadline=None)
@given(FIRST, COURSES)
def test_without_edits_the_result_is_the_new_course(first, upgrades):
    course = mine = book(*(cell(f"c{n}", text, kind) for n, (kind, text) in enumerate(first)))
    for n, upgrade in enumerate(upgrades):
        theirs = act(course, upgrade, f"new{n}-")
        done = merge(shipped(course), mine, theirs, "1")
        assert done.notebook == theirs and not done.kept + done.own + done.conflicts + done.deleted
        mine, course = done.notebook, theirs


@settings(max_examples=200, deadline=None)
@given(FIRST, ACTS, COURSES)
def test_a_learner_who_moves_nothing_gets_the_order_of_the_course(first, acts, upgrades):
    course = book(*(cell(f"c{n}", text, kind) for n, (kind, text) in enumerate(first)))
    mine = act(course, [a for a in acts if a[0] not in ("move", "copy", "forget id")], "mine")
    theirs = act(course, upgrades[0], "new")
    result = merge(shipped(course), mine, theirs, "1").notebook
    ids = {c["id"] for c in theirs["cells"]} & {c["id"] for c in result["cells"]}
    assert in_order(result, ids) == in_order(theirs, ids)
    own = {c["id"] for c in mine["cells"] if c["id"].startswith("mine")}
    assert in_order(result, own) == in_order(mine, own)


@given(st.lists(st.tuples(KINDS, st.text(max_size=20)), max_size=4))
def test_every_text_survives_the_file(cells):
    one = book(*(cell(f"c{n}", text, kind) for n, (kind, text) in enumerate(cells)))
    assert parse(dump(one), "x") == one
    assert dump(parse(dump(one), "x")) == dump(one)


# --- single cases ---

FIRST_BOOK = book(cell("a", "# A", "markdown"), cell("b", "b = 1", output="1\n"), cell("c", "c = 1"))


def edited(notebook, id, **changes):
    notebook = copy.deepcopy(notebook)
    next(c for c in notebook["cells"] if c["id"] == id).update(changes)
    return notebook


def test_results_of_the_learner_stay_while_the_cell_does():
    ran = [{"output_type": "stream", "name": "stdout", "text": "mine\n"}]
    mine = edited(FIRST_BOOK, "b", outputs=ran, execution_count=7)
    theirs = edited(FIRST_BOOK, "b", outputs=[])
    kept = merge(shipped(FIRST_BOOK), mine, theirs, "1").notebook["cells"][1]
    assert kept["outputs"] == ran and kept["execution_count"] == 7
    newer = edited(theirs, "b", source="b = 2")
    assert merge(shipped(FIRST_BOOK), mine, newer, "1").notebook["cells"][1] == newer["cells"][1]
    solved = edited(mine, "b", source="b = 3")
    done = merge(shipped(FIRST_BOOK), solved, newer, "1")
    assert done.conflicts == ["b"] and done.notebook["cells"][1]["outputs"] == ran


def test_lines_or_one_string_are_the_same_results():
    result = {"output_type": "execute_result", "metadata": {}, "execution_count": 1}
    lines = [result | {"data": {"text/plain": ["a\n", "b"]}}]
    joined = [result | {"data": {"text/plain": "a\nb"}, "metadata": {"x": 1}, "execution_count": 5}]
    stream = [{"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]}]
    assert results({"outputs": lines}) == results({"outputs": joined}) != results({"outputs": stream})
    assert results({"outputs": stream}) == results({"outputs": [stream[0] | {"text": "a\nb"}]})


def test_the_note_shows_the_new_version_whole_and_does_not_run():
    theirs = edited(FIRST_BOOK, "b", source="'''\n```python\n'''")
    done = merge(shipped(FIRST_BOOK), edited(FIRST_BOOK, "b", source="mine"), theirs, "0.2.0")
    note = done.notebook["cells"][2]
    assert note["cell_type"] == "markdown" and "mmtutor 0.2.0" in note["source"]
    assert "````python\n'''\n```python\n'''\n````" in note["source"], "the fence is longer than any inside"
    assert note["metadata"]["tags"] == ["course-update"]


def test_a_note_is_replaced_settled_or_kept():
    mine = edited(FIRST_BOOK, "b", source="mine")
    second, third = (edited(FIRST_BOOK, "b", source=f"b = {n}") for n in (2, 3))
    once = merge(shipped(FIRST_BOOK), mine, second, "2").notebook
    twice = merge(shipped(second), once, third, "3").notebook
    assert [s for s in sources(twice) if "The new one" in s] == [twice["cells"][2]["source"]]
    assert "b = 3" in twice["cells"][2]["source"], "the newer takes the place of the old"
    note = once["cells"][2]["id"]
    written_in = merge(shipped(second), edited(once, note, source="my thoughts"), third, "3").notebook
    assert "my thoughts" in sources(written_in) and len(written_in["cells"]) == 5
    taken = merge(shipped(third), edited(twice, "b", source="b = 3"), edited(third, "c", source="c = 2"), "4")
    assert sources(taken.notebook) == ["# A", "b = 3", "c = 2"], "whoever takes the new version is rid of the note"


def test_a_learner_who_wrote_the_same_as_the_course_has_no_conflict():
    both = edited(FIRST_BOOK, "b", source="b = 2")
    done = merge(shipped(FIRST_BOOK), both, copy.deepcopy(both), "1")
    assert done.notebook["cells"] == both["cells"] and not done.conflicts


def test_kind_and_pasted_pictures_count_as_writing():
    base = shipped(FIRST_BOOK)
    theirs = edited(FIRST_BOOK, "a", source="# A2")
    pasted = edited(FIRST_BOOK, "a", attachments={"x.png": {"image/png": "AAAA"}})
    assert merge(base, pasted, theirs, "1").conflicts == ["a"]
    raw = edited(FIRST_BOOK, "a", cell_type="raw")
    assert merge(base, raw, theirs, "1").notebook["cells"][0]["cell_type"] == "raw"


def test_deleted_cells_stay_deleted_and_gone_ones_go_only_untouched():
    mine = book(*FIRST_BOOK["cells"][:2])
    done = merge(shipped(FIRST_BOOK), mine, edited(FIRST_BOOK, "c", source="c = 2"), "1")
    assert done.deleted == ["c"] and sources(done.notebook) == ["# A", "b = 1"]
    theirs = book(FIRST_BOOK["cells"][0])
    done = merge(shipped(FIRST_BOOK), edited(FIRST_BOOK, "b", source="mine"), theirs, "1")
    assert sources(done.notebook) == ["# A", "mine"] and done.removed == ["c"] and done.own == ["b"]


def test_a_learner_who_moved_cells_keeps_the_order():
    a, b, c = FIRST_BOOK["cells"]
    theirs = book(a, b, cell("n", "new"), c)
    done = merge(shipped(FIRST_BOOK), book(c, b, a), theirs, "1")
    assert sources(done.notebook) == ["c = 1", "b = 1", "new", "# A"]


def test_ids_that_a_tool_has_dropped_are_found_again():
    mine = copy.deepcopy(FIRST_BOOK) | {"nbformat_minor": 4}
    for c in mine["cells"]:
        del c["id"]
    mine["cells"][2]["source"] = "solved"
    done = merge(shipped(FIRST_BOOK), mine, edited(FIRST_BOOK, "a", source="# A2"), "1")
    assert sources(done.notebook) == ["# A2", "b = 1", "solved"] and done.notebook["nbformat_minor"] == 5
    assert [c["id"] for c in done.notebook["cells"]][:2] == ["a", "b"]


def test_without_a_shipped_version_everything_that_differs_stays():
    done = merge(NOTHING, edited(FIRST_BOOK, "b", source="mine"), FIRST_BOOK, "1")
    assert sources(done.notebook)[:2] == ["# A", "mine"] and done.conflicts == ["b"]


def test_metadata_of_the_learner_stay():
    mine = copy.deepcopy(FIRST_BOOK) | {"metadata": {"kernelspec": {"name": "mine"}}}
    theirs = copy.deepcopy(FIRST_BOOK) | {"metadata": {"kernelspec": {"name": "python3"}, "title": "T"}}
    done = merge(shipped(FIRST_BOOK), mine, theirs, "1")
    assert done.notebook["metadata"] == {"kernelspec": {"name": "mine"}, "title": "T"}
    assert merge(shipped(FIRST_BOOK), FIRST_BOOK, theirs, "1").notebook["metadata"] == theirs["metadata"]


def test_titles():
    assert title_of(cell("x", "#| export\n\n  def f():\n")) == "def f():"
    assert title_of(cell("x", "\n")) == "an empty cell" and len(title_of(cell("x", "y" * 99))) == 60


def test_half_a_surrogate_pair_is_written():
    one = book(cell("a", "\ud83d"))
    assert parse(dump(one), "x") == one


@pytest.mark.bad_input
@pytest.mark.parametrize("raw, text", [
    (b"", "Expecting value"), (b"\xff\xfe", "codec"), (b"[]", "TypeError"),
    (b'{"nbformat": 3, "cells": []}', "format 3"), (b'{"nbformat": 4, "metadata": {}}', "KeyError: 'cells'"),
    (b'{"nbformat": 4, "cells": 7, "metadata": {}}', "TypeError"),
    (b'{"nbformat": 4, "cells": [{"source": 1}], "metadata": {}}', "TypeError"),
    (b'{"nbformat": 4, "cells": [{"source": "", "cell_type": "code"}], "metadata": {}}', "KeyError: 'metadata'"),
    (b'{"nbformat": 4, "cells": [{"source": "", "cell_type": 1, "metadata": {}}], "metadata": {}}', "without type"),
    (b"[" * 100_000, "")])
def test_what_is_no_notebook_is_named(raw, text):
    with pytest.raises(ValueError, match=f"01.ipynb is no notebook that can be read .*{text}"):
        parse(raw, "01.ipynb")


@pytest.mark.bad_input
def test_what_is_no_notebook_is_refused():
    one = book(cell("a", "1"), cell("b", "2"))
    base, twice = shipped(one), book(cell("a", "1"), cell("a", "2"))
    short = base | {"cells": [base["cells"][0][:2]]}
    nameless = book({k: v for k, v in cell("a").items() if k != "source"})
    for call, said in [
            (lambda: dump({}), "dump: there is no 'cells'"), (lambda: dump(nameless), "dump: there is no 'source'"),
            (lambda: written({}), "written: there is no 'cell_type'"),
            (lambda: shipped({"cells": []}), "shipped: there is no 'metadata'"),
            (lambda: title_of({}), "title_of: there is no 'source'"),
            (lambda: merge(base, nameless, one, "2"), "merge: mine: there is no 'source'"),
            (lambda: merge(base, one, {}, "2"), "merge: theirs: there is no 'cells'"),
            (lambda: merge({}, one, one, "2"), "merge: base: there is no 'cells'"),
            (lambda: merge(base, one, twice, "2"), "a course with an id for each cell"),
            (lambda: merge(short, one, one, "2"), "a base made by `shipped`")]:
        with pytest.raises(ValueError, match=said):
            call()
