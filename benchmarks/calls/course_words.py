"""Good calls of what the course is made of: dates, emoji, exercises, the report, what watches a training run."""
import contextlib
import datetime
import io
import os
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from fuzzed import good, left_out
from PIL import Image

from mmtutor.course import dates, emoji, exercises, report, watching
from mmtutor.course.outcomes import Case
from mmtutor.finetune import History

# --- dates ---

DAY = datetime.date(1998, 5, 3)


@good("course.dates.write")
def _():
    return partial(dates.write, DAY), dict(template="{d} {month} {year}")


@good("course.dates.is_held_out")
def _():
    return partial(dates.is_held_out, DAY), {}


@good("course.dates.Example")
def _():
    return dates.Example, dict(text="a", iso="1998-05-03", phrasing="b")


@good("course.dates.examples")
def _():
    return dates.examples, dict(count=3, phrasings=["{d} {month} {year}", "{words}"], seed=1, held_out=True)


@good("course.dates.tokens")
def _():
    return dates.tokens, dict(text="the 3rd of May, 1998")


@good("course.dates.Vocabulary")
def _():
    def used(words, lists):
        vocabulary = dates.Vocabulary(words)
        numbers = vocabulary.encode(lists)
        assert [vocabulary.decode(row) for row in numbers] == [[w for w in row if w] for row in lists]
        return numbers
    return used, dict(words=["a", "b", "c"], lists=[["a", "b"], ["c"]])


@good("course.dates.Vocabulary decode")
def _():
    return dates.Vocabulary("abc").decode, dict(numbers=torch.tensor([3, 4, 5, 2, 0]))


@good("course.dates.encode")
def _():
    return dates.encode, dict(found=dates.examples(3, dates.TRAINING, 0, held_out=False))


# --- emoji ---

SVG = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><g id="color"><rect width="36" height="72"/></g>'
       '<g id="line"><rect x="36" width="36" height="36"/></g></svg>')


@good("course.emoji.Emoji")
def _():
    return emoji.Emoji, dict(id="1F600", emoji="😀", name="grinning face", group="Smileys & Emotion", subgroup="x")


@good("course.emoji.read_names")
def _():
    return emoji.read_names, dict(limit=3)


@good("course.emoji.draw")
def _():
    return emoji.draw, dict(svg=SVG, style="lines", size=16)


@good("course.emoji.drawings")
def _():
    return emoji.drawings, dict(names=[emoji.Emoji("1F433", "🐳", "spouting whale", "x", "y")], size=16)


@good("course.emoji.Voice")
def _():
    return emoji.Voice, dict(name="en-us", speed=160, pitch=50)


@good("course.emoji.find_espeak")
def _():
    return emoji.find_espeak, {}


@good("course.emoji.speak", raises=(RuntimeError,))
def _():
    return emoji.speak, dict(texts=["owl", "red"], voice=emoji.Voice("en-us", 160, 50), rate=8000)


@good("course.emoji.word_family")
def _():
    return emoji.word_family, dict(name="woman judge")


def _png(level: int, side: int = 16) -> bytes:
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@good("course.emoji.distances")
def _():
    return emoji.distances, dict(pictures=[_png(10), _png(90)], side=8)


@good("course.emoji.distances of other sizes")
def _():
    return (lambda width, height, side: emoji.distances(
        [_png(9), emoji.draw(SVG.replace("0 0 72 72", f"0 0 {width} {height}"), "colour", 16)], side)), dict(
            width=72, height=72, side=16)


# --- exercises ---

def noted(call):
    "With a progress file of its own."
    def used(**given):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(
                os.environ, MMTUTOR_PROGRESS=str(Path(folder) / "progress.json")):
            return call(**given)
    return used


def _twice(x):
    return 2 * x


def _cases():
    yield Case((torch.ones(1),))
    yield Case((torch.randn(2),))


def _about() -> dict:
    return dict(name="twice", chapter="01_x", title="Twice", minutes=5, hints=("a", "b"), gradients=True,
                tolerance=1e-5, remark="c", wrong=(exercises.Wrong("thrice", lambda x: 3 * x, "Count again."),))


def _exercise(**about) -> exercises.Exercise:
    return exercises.Exercise(reference=_twice, another=lambda x: x + x, cases=_cases, **about)


@good("course.exercises.Wrong")
def _():
    return exercises.Wrong, dict(name="thrice", fn=None, hint="Count again.")


@good("course.exercises.Exercise")
def _():
    def used(**about):
        one = _exercise(**about)
        return [one.check(f) for f in (_twice, lambda x: 3 * x, None)], one.hint(), one.solution(), repr(one)
    return noted(used), _about()


@good("course.exercises.judge")
def _():
    return partial(exercises.judge, fn=lambda x: 3 * x), dict(exercise=_exercise(**_about()))


@good("course.exercises.Choice")
def _():
    return exercises.Choice, dict(text="a", why="b", right=True)


CHOICES = (exercises.Choice("one", "because", True), exercises.Choice("two", "because not"))


@good("course.exercises.Quiz")
def _():
    return noted(lambda letter, **about: exercises.Quiz(**about).answer(letter)), dict(
        letter="b", name="q", chapter="01_x", question="How many?", choices=CHOICES)


@good("course.exercises.Chapter")
def _():
    quiz = exercises.Quiz(name="q", chapter="01_x", question="How many?", choices=CHOICES)
    return noted(lambda **about: exercises.Chapter(**about).progress()), dict(
        name="01_x", exercises=(_exercise(**_about()),), quizzes=(quiz,))


@good("course.exercises.all_chapters")
def _():
    return exercises.all_chapters, {}


@good("course.exercises.all_exercises")
def _():
    return exercises.all_exercises, {}


@good("course.exercises.all_quizzes")
def _():
    return exercises.all_quizzes, {}


# --- the report ---

def _table() -> dict:
    return {"head": ["a", "b"], "rows": [["c", "1"], ["d"]], "title": "e", "note": "f"}


def _run() -> dict:
    return {"predicted": [0, 1], "best": [[0, 1], [1, 0]], "rank": {"picture": [1, 1]}, "losses": [2.0, 1.0]}


def _rows():
    from datasets import ClassLabel, Dataset, Features, Value
    file = {"bytes": Value("binary")}
    return Dataset.from_dict({"text": ["owl", "red"], "picture": [{"bytes": b"a"}] * 2, "sound": [{"bytes": b"b"}] * 2,
                              "group": [0, 1]}, Features({"text": Value("string"), "picture": file, "sound": file,
                                                          "group": ClassLabel(names=["Animals & more", "Things"])}))


SPREAD = {"mean": 0.5, "sd": 0.1, "n": 3}


@good("course.report.as_text")
def _():
    return report.as_text, dict(table=_table())


@good("course.report.learning_curves")
def _():
    return report.learning_curves, dict(runs={"a/0": {"losses": [2.0, 1.0]}, "a/1": {"losses": [2.5, 1.5]}})


@good("course.report.bars")
def _():
    return report.bars, dict(results={"a": {"top": SPREAD}, "b": {"top": SPREAD}}, keys={"top": "first"})


@good("course.report.confusion")
def _():
    return report.confusion, dict(truth=[0, 1, 1], predicted=[0, 1, 0], names=["a", "b"])


@good("course.report.data_url")
def _():
    return report.data_url, dict(kind="image/png", content=b"abc")


@good("course.report.examples")
def _():
    run = _run()
    return partial(report.examples, _rows()), dict(run={"best": run["best"], "rank": run["rank"]}, count=2)


def _written(tables, runs, provenance, title="a"):
    with tempfile.TemporaryDirectory() as folder:
        return report.write_report(Path(folder) / "report.html", title, tables, {"top": "first"},
                                   {"a": {"top": SPREAD}}, runs, _rows(), provenance).read_text()


@good("course.report.write_report")
def _():
    return partial(_written, runs={"a/0": _run()}), dict(tables=[_table()], provenance={"command": "b"}, title="a")


@good("course.report.write_report of some runs")  # what is in a run is damaged above
def _():
    return (lambda names: _written([_table()], {name: _run() for name in names}, {})), dict(
        names=["a/0", "b decoder/0"])


# --- watching ---

def _history(losses: list[float], rates: list[float], total: int, score: float) -> History:
    history = History(total)
    history.losses, history.rates, history.step, history.best = losses, rates, len(losses), 0
    history.append({"epoch": 1, "step": 1, "loss": 1.0, "parts": {"size": 2.0}, "validation": {"score": score}})
    return history


def _stand() -> dict:
    return dict(losses=[2.0, 1.0], rates=[0.1, 0.1], total=2, score=0.5)


@good("course.watching.peak_mib")
def _():
    return watching.peak_mib, dict(device="cpu")


@good("course.watching.LivePlot")
def _():
    def used(seconds):
        plot = watching.LivePlot(seconds)
        plot(_history(**_stand()))
        return plot.picture()
    return used, dict(seconds=0.5)


@good("course.watching.LivePlot of a run", keep=("rates",))  # which are not drawn
def _():
    def used(**given):
        plot = watching.LivePlot()
        plot(_history(**given))
        return plot.picture()
    return used, _stand()


@good("course.watching.in_notebook")
def _():
    return watching.in_notebook, {}


@good("course.watching.TensorBoard")
def _():
    def used(**given):
        with tempfile.TemporaryDirectory() as folder:
            board = watching.TensorBoard(folder)
            with contextlib.closing(board):
                board(_history(**given))
    return used, _stand()


# --- the sketch ---

left_out("part of a program with five defects, which the reader looks for; what it does to odd input is one of them",
         *(f"course.sketch.{name}" for name in ("flattened", "first_token", "along_width", "no_memory", "Sketch")))
