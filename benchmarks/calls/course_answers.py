"""One good call of each public function of what exercises say, what is noted of them, and of the rating form."""
import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from fuzzed import good

from mmtutor.course import cards, check, outcomes, progress, rating
from mmtutor.course.exercises import Chapter, Choice, Exercise, Quiz
from mmtutor.course.gallery import item

HOME = tempfile.TemporaryDirectory()


@contextlib.contextmanager
def _noted(content: str = "{}"):
    "Inside, this is what the file of the progress holds."
    before = os.environ.get("MMTUTOR_PROGRESS")
    path = Path(tempfile.mkdtemp(dir=HOME.name)) / "progress.json"
    path.write_text(content, encoding="utf-8")
    os.environ["MMTUTOR_PROGRESS"] = str(path)
    try:
        yield path
    finally:
        os.environ.pop("MMTUTOR_PROGRESS") if before is None else os.environ.update(MMTUTOR_PROGRESS=before)


# --- cards ---

@good("course.cards.Folded")
def _():
    def written(**given):
        card = cards.Card("note", "A title", (cards.Folded(**given),))
        return repr(card), card._repr_html_()
    return written, dict(line="a line", more="and `more`")


@good("course.cards.Card")
def _():
    def written(**given):
        card = cards.Card(**given)
        return repr(card), card._repr_html_()
    return written, dict(status="fail", title="Write f", mistake="sign",
                         blocks=("So it is.", {"expected": "1\n2", "got": "3"}, cards.Folded("a line", "more")))


@good("course.cards.kind")
def _():
    return cards.kind, dict(value=[1, 2])


@good("course.cards.shown")
def _():
    return cards.shown, dict(value=[torch.randn(2, 3), 1.5, "a", (torch.arange(3), True)])


@good("course.cards.display_card")
def _():
    def printed(card):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            cards.display_card(card)
        return out.getvalue()
    return printed, dict(card=cards.Card("pass", "Write f", ("So it is.",)))


# --- outcomes ---

@good("course.outcomes.difference")
def _():
    return outcomes.difference, dict(expected=torch.tensor([1.0, 2.0]), got=torch.tensor([1.0, 2.5]), tolerance=0.1)


@good("course.outcomes.difference of lists")
def _():
    return outcomes.difference, dict(expected=[1, 2.0, "a", torch.arange(2)], got=[1, 2.5, "a", torch.arange(2)],
                                     tolerance=0.1)


def _edits(x, times=1):
    x += 1
    return [x * times, x.sum()]


@good("course.outcomes.Case")
def _():
    def seen(**given):
        return outcomes.observe(lambda x, times: x * times, outcomes.Case(**given), gradients=True)
    return seen, dict(args=(torch.randn(3),), kwargs={"times": 2}, raises=None)


@good("course.outcomes.Outcome")
def _():
    return outcomes.Outcome, dict(value=torch.randn(2), edited=(0,), gradients=(torch.randn(3),), error=None,
                                  printed="so")


@good("course.outcomes.observe", swallows=("case",))  # what fails becomes part of the outcome
def _():
    return outcomes.observe, dict(fn=_edits, case=outcomes.Case((torch.randn(3),), {"times": 2}), gradients=True)


@good("course.outcomes.observe with gradients", swallows=("case",))
def _():
    return outcomes.observe, dict(fn=lambda x, y: (x @ y).relu(), gradients=True,
                                  case=outcomes.Case((torch.randn(2, 3), torch.randn(3, 2))))


@good("course.outcomes.floating", swallows=("value",))  # it asks for the kind of the numbers
def _():
    return outcomes.floating, dict(value=torch.randn(3))


# --- check ---

def _chapters():
    exercise = Exercise(name="f", chapter="01_a", title="Write f", minutes=5, reference=abs, another=abs,
                        cases=lambda: (), wrong=(), hints=("?",))
    quiz = Quiz(name="why", chapter="01_a", question="Why?", choices=(Choice("a", "", True), Choice("b", "")))
    return [Chapter("01_a", (exercise,), (quiz,)), Chapter("02_b", ())]


@good("course.check.in_reading_order")
def _():
    def names(chapters):
        return [chapter.name for chapter in check.in_reading_order(chapters)]
    return names, dict(chapters=_chapters())


@good("course.check.standing")
def _():
    def found(chapters, noted):
        with _noted(noted):
            return check.standing(chapters)
    return found, dict(chapters=_chapters(), noted='{"01_a.f": {"tries": 2, "passed": "2026-01-01"}}')


def _standing():
    with _noted('{"01_a.f": {"tries": 2, "passed": "2026-01-01"}, "01_a.why": {"tries": 1}}'):
        return check.standing(_chapters())


@good("course.check.go_on")
def _():
    return check.go_on, dict(parts=_standing()["chapters"])


@good("course.check.lines")
def _():
    return check.lines, dict(found=_standing())


@good("course.check.reading_minutes")
def _():
    return check.reading_minutes, dict(opening="About 50 minutes of reading.")


@good("course.check.overview")
def _():
    names = [path.stem for path in sorted(check.notebooks_dir().glob("[0-9]*.ipynb"))]
    return check.overview, dict(costs={name: {"seconds": 3.0, "peak MiB": 500} for name in names},
                                chapters=_chapters())


# --- progress ---

@good("course.progress.progress_file")
def _():
    return progress.progress_file, {}


@good("course.progress.read_progress")
def _():
    def read(content):
        with _noted(content):
            return progress.read_progress()
    return read, dict(content='{"01_a.f": {"tries": 2, "passed": null}}')


@good("course.progress.note_progress")
def _():
    def note(key, passed, before):
        with _noted(before):
            progress.note_progress(key, passed)
            progress.note_progress(key, passed)
            return progress.read_progress()
    return note, dict(key="01_a.f", passed=True, before='{"01_a.f": {"tries": 2, "passed": null}}')


# --- rating ---

def _form(**more):
    return dict(items=[item("owl", np.full((4, 4, 3), 7, np.uint8)), item("drum")], question="Is it right?",
                scale=["no", "in part", "yes"], rater="anna", seed=3, ratings=[2, -1]) | more


@good("course.rating.Rating", infinite=True)  # NaN: not rated
def _():
    def used(**given):
        form = rating.Rating(**given)
        return form.scores, form.alt(), form.table()
    return used, _form()


@good("course.rating.asked")
def _():
    def asked(question, scale):
        return rating.asked(rating.Rating(**_form(question=question, scale=scale)))
    return asked, dict(question="Is it right?", scale=["no", "yes", "both"])


@good("course.rating.gather", infinite=True)  # NaN: not rated
def _():
    folder = Path(tempfile.mkdtemp(dir=HOME.name))
    paths = [rating.Rating(**_form(rater=name)).save(folder / f"{name}.json") for name in ("anna", "ben")]
    return rating.gather, dict(paths=paths)


@good("course.rating.gather what a file holds", infinite=True)
def _():
    def gathered(content, ratings):
        path = Path(tempfile.mkdtemp(dir=HOME.name)) / "anna.json"
        path.write_text(content.replace("[]", str(ratings)), encoding="utf-8")
        return rating.gather([path])
    return gathered, dict(content='{"rater": "anna", "asked": "x", "scale": ["no", "yes"], "ratings": []}',
                          ratings=[0, 1, -1])
