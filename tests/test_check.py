"""`mmtutor check`: the stored progress beside the list of all exercises."""
import json

import pytest

from mmtutor.course import cli
from mmtutor.course.check import go_on, in_reading_order, lines, overview, reading_minutes, standing
from mmtutor.course.exercises import Chapter, Choice, Exercise, Quiz, all_chapters
from mmtutor.course.progress import note_progress, progress_file
from mmtutor.course.records import notebooks_dir


@pytest.fixture(autouse=True)
def progress(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTUTOR_PROGRESS", str(tmp_path / "progress.json"))


def exercise(chapter, name, minutes=5):
    return Exercise(name=name, chapter=chapter, title=f"Write {name}", minutes=minutes, reference=abs, another=abs,
                    cases=lambda: (), wrong=(), hints=("?",))


def quiz(chapter, name):
    return Quiz(name=name, chapter=chapter, question="Why?", choices=(Choice("a", "", True), Choice("b", "")))


CHAPTERS = [Chapter("01_a", (exercise("01_a", "f"), exercise("01_a", "g", 7)), (quiz("01_a", "why"),)),
            Chapter("02_b", (exercise("02_b", "h"),))]


def test_nothing_is_done_at_first():
    found = standing(CHAPTERS)
    assert {k: found[k] for k in ("done", "tried", "open", "total", "percent", "minutes_left")} == {
        "done": 0, "tried": 0, "open": 4, "total": 4, "percent": 0, "minutes_left": 18}
    assert found["next"] == {"chapter": "01_a", "name": "f", "title": "Write f", "kind": "exercise", "minutes": 5,
                             "state": "open"}


def test_done_tried_and_open_are_told_apart():
    note_progress("01_a.f", True)
    note_progress("01_a.why", False)
    note_progress("00_old.x", True)
    found = standing(CHAPTERS)
    first = found["chapters"][0]
    assert [(r["name"], r["state"], r["kind"]) for r in first["items"]] == [
        ("f", "done", "exercise"), ("g", "open", "exercise"), ("why", "tried", "quiz")]
    assert (first["done"], first["tried"], first["open"], first["total"]) == (1, 1, 1, 3) and found["percent"] == 25
    assert found["exercises"]["done"] == 1 and found["quizzes"] == {"done": 0, "tried": 1, "open": 0, "total": 1}
    assert found["next"]["name"] == "why", "what was tried comes first"
    said = lines(found)
    assert said[0] == "01_a  ####----....   1 of 3; tried: why" and said[1] == "02_b  ............   0 of 1"
    assert said[2] == "in all: 1 of 4 done (25 %), 1 tried, 2 open; 1 of 3 exercises, 0 of 1 quizzes"
    assert said[3] == "go on with 01_a: the quiz why"
    assert said[4] == "1 noted under names that this version does not have: 00_old.x"
    assert said[-1] == f"noted in {progress_file()}"


def test_the_order_is_that_of_the_index():
    names = [c.name for c in in_reading_order([*CHAPTERS, *all_chapters()])]
    assert names.index("05_data") < names.index("05_augment") < names.index("06_text")
    assert names[-2:] == ["01_a", "02_b"]


def test_where_to_go_on():
    for key in ("01_a.f", "02_b.h"):
        note_progress(key, True)
    assert standing(CHAPTERS)["next"]["name"] == "g", "behind the last chapter it begins at the front"
    for key in ("01_a.g", "01_a.why"):
        note_progress(key, True)
    found = standing(CHAPTERS)
    assert found["next"] is None and found["percent"] == 100 and "all is done" in lines(found)
    entries = json.loads(progress_file().read_text())
    entries["01_a.g"]["passed"] = None
    entries["02_b.h"]["passed"] = "2020-01-01"
    progress_file().write_text(json.dumps(entries))
    assert standing(CHAPTERS)["next"]["chapter"] == "01_a"
    assert go_on([]) is None


def test_one_percent_short_is_not_all():
    many = [Chapter("01_a", tuple(exercise("01_a", f"f{n}") for n in range(300)))]
    entries = {f"01_a.f{n}": {"tries": 1, "passed": "2026-01-01"} for n in range(299)}
    progress_file().write_text(json.dumps(entries))
    assert standing(many)["percent"] == 99


@pytest.mark.bad_input
def test_a_damaged_file_is_said_and_the_check_goes_on(capsys):
    progress_file().write_text("{")
    found = standing(CHAPTERS)
    assert found["done"] == 0 and "could not be read" in found["warnings"][0]
    progress_file().write_text("[]")
    assert cli.main(["check"]) == 0 and "not a table of exercises" in capsys.readouterr().out


def test_the_command_knows_every_exercise(capsys):
    note_progress("01_attention.scores", True)
    assert cli.main(["check"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{c.name} " in f"\n{out}" for c in all_chapters()) and "go on with 01_attention: softmax" in out
    assert cli.main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["done"] == 1 and found["total"] == sum(len(c.exercises) + len(c.quizzes) for c in all_chapters())
    assert found["chapters"][0]["items"][0]["state"] == "done"


def test_the_overview_has_a_line_for_every_chapter_and_adds_up():
    names = [p.stem for p in notebooks_dir().glob("[0-9]*.ipynb")]
    head, _, *rows, last = overview({name: {"seconds": 10.0, "peak MiB": 500} for name in names}).splitlines()
    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    assert len(rows) == len(names) and head.count("|") == 7 and all(f"({n}.ipynb)" in "".join(rows) for n in names)
    whole = [c.strip() for c in last.strip("|").split("|")][1:]
    column = lambda i: [int(row[i] or 0) for row in cells]
    assert list(map(int, whole)) == [sum(column(1)), 10 * len(names), 500, sum(column(4)), sum(column(5))]
    assert sum(column(4)) == sum(len(c.exercises) + len(c.quizzes) for c in all_chapters())
    with pytest.raises(ValueError, match="overview: the record has no '0"):
        overview({})


@pytest.mark.parametrize("opening, minutes", [
    ("You need x. About 50 minutes of reading, and an hour and a half for the exercises.", 50),
    ("About\n15 minutes.", 15), ("About an hour of reading.", 60),
    ("| part | reading |\n|---|---|\n| 1 | 15 minutes |\n| 2 | 20 minutes |\n", 35)])
def test_reading_minutes(opening, minutes):
    assert reading_minutes(opening) == minutes
    with pytest.raises(ValueError, match="reading_minutes: no 'About"):
        reading_minutes("You need x.")
