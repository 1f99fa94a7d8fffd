"""The exercises of every chapter prove themselves, and the machinery that checks them holds what it promises."""
import ast
import functools
import importlib
import inspect
import json
import math
import threading
from html.parser import HTMLParser

import nbformat
import notebooks
import pytest
import torch
from torch import Tensor

from mmtutor.course import progress
from mmtutor.course.cards import Card, Folded, kind, shown
from mmtutor.course.exercises import (
    Case,
    Chapter,
    Choice,
    Exercise,
    Quiz,
    Wrong,
    all_chapters,
    all_exercises,
    all_quizzes,
)
from mmtutor.course.outcomes import difference, observe

every_exercise = pytest.mark.parametrize("exercise", all_exercises(), ids=lambda e: e.key)
every_quiz = pytest.mark.parametrize("quiz", all_quizzes(), ids=lambda q: q.key)
every_chapter = pytest.mark.parametrize("chapter", all_chapters(), ids=lambda c: c.name)
every_mistake = pytest.mark.parametrize(
    "exercise, wrong", [(e, w) for e in all_exercises() for w in e.wrong], ids=lambda x: getattr(x, "key", x.name))


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTUTOR_PROGRESS", str(tmp_path / "mine" / "progress.json"))
    return tmp_path / "mine" / "progress.json"


@functools.cache
def cells(chapter: str, kind: str) -> list[str]:
    nb = nbformat.read(notebooks.NBS / f"{chapter}.ipynb", as_version=4)
    return [c.source for c in nb.cells if c.cell_type == kind]


def stub_cell(exercise) -> str:
    "The cell of the shipped notebook that defines the function and only raises NotImplementedError."
    found = []
    for source in cells(exercise.chapter, "code"):
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a cell with a magic
            continue
        if any(isinstance(n, ast.FunctionDef) and n.name == exercise.name for n in tree.body):
            if "raise NotImplementedError" in source:
                assert len(tree.body) == 1, f"the cell of the stub {exercise.key} defines more than the stub"
                found.append(source)
    assert len(found) == 1, f"{exercise.key}: {len(found)} stubs in the notebook, expected one"
    return found[0]


def define(source: str, name: str):
    import torch.nn.functional as F
    from jaxtyping import Bool, Float, Int
    from torch import nn
    space = {"torch": torch, "Tensor": Tensor, "nn": nn, "F": F, "math": math, "Float": Float, "Bool": Bool, "Int": Int}
    exec(compile(source, f"<{name}>", "exec"), space)
    return space[name]


def form(signature: inspect.Signature) -> list[tuple]:
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


# ---- every exercise of the course


@every_exercise
def test_the_reference_passes_and_does_what_its_cases_say(exercise):
    assert exercise.check(exercise.reference).status == "pass"
    assert len(exercise.case_list()) >= 2
    for case in exercise.case_list():
        outcome = observe(exercise.reference, case)
        assert not outcome.edited and not outcome.printed
        assert isinstance(outcome.error, case.raises) if case.raises else outcome.error is None, outcome.error


@every_exercise
def test_an_independent_right_answer_passes_and_no_proof_is_the_readers_progress(exercise, own_file):
    assert exercise.another.__code__.co_code != exercise.reference.__code__.co_code
    card = exercise.check(exercise.another)
    assert card.status == "pass", card
    for wrong in exercise.wrong:
        exercise.check(wrong.fn)
    assert not own_file.exists()
    exercise.check(exercise.reference)
    assert progress.read_progress()[exercise.key]["tries"] == 1


@every_mistake
def test_every_mistake_gets_exactly_its_own_hint(exercise, wrong):
    card = exercise.check(wrong.fn)
    assert card.status in ("fail", "error") and card.mistake == wrong.name, card
    said = repr(card)
    assert [w.name for w in exercise.wrong if w.hint in said] == [wrong.name]


@every_exercise
def test_no_hint_without_a_mistake(exercise):
    assert len(exercise.wrong) >= 2 and len(exercise.hints) >= 2
    assert all(w.name.strip() and w.hint.strip() and callable(w.fn) for w in exercise.wrong)
    for texts in ([w.name for w in exercise.wrong], [w.hint for w in exercise.wrong], exercise.hints):
        assert len(set(texts)) == len(texts)


@every_exercise
def test_the_stub_in_the_notebook_is_to_do(exercise):
    stub = define(stub_cell(exercise), exercise.name)
    card = exercise.check(stub)
    assert card.status == "todo" and f"{exercise.minutes} minutes" in repr(card)
    assert form(inspect.signature(stub)) == form(exercise.signature)
    assert stub.__doc__, "a stub says what to write"


@every_exercise
def test_the_notebook_checks_it_and_states_the_time(exercise):
    call = f".{exercise.name}.check({exercise.name})"
    code = cells(exercise.chapter, "code")
    assert sum(call in source for source in code) == 1, f"no cell with {call}"
    assert any(f"({exercise.minutes} minutes)" in text for text in cells(exercise.chapter, "markdown"))


@every_exercise
def test_the_solution_shown_passes(exercise):
    text = exercise.solution_text()
    assert text.startswith(f"def {exercise.name}(") and text in repr(exercise.solution()).replace("\n    ", "\n")
    module = importlib.import_module(exercise.reference.__module__)
    space = dict(vars(module))
    exec(text, space)
    assert exercise.check(space[exercise.name]).status == "pass"


@every_exercise
def test_cases_repeat_and_leave_the_random_state_alone(exercise):
    before = torch.get_rng_state()
    first, second = exercise.case_list(), exercise.case_list()
    assert torch.equal(before, torch.get_rng_state())
    tensors = lambda case: [a for a in case.args if isinstance(a, Tensor)]
    assert all(difference(tensors(a), tensors(b), 0) is None for a, b in zip(first, second, strict=True))


@every_quiz
def test_every_choice_of_a_quiz_is_explained(quiz):
    letters = "abcdefgh"[:len(quiz.choices)]
    right = [at for at in letters if quiz.answer(at).status == "pass"]
    assert len(right) == 1 and len(quiz.choices) >= 2
    for letter, choice in zip(letters, quiz.choices):
        assert choice.why in repr(quiz.answer(letter))
    assert len({c.why for c in quiz.choices}) == len(quiz.choices)
    assert quiz.answer().status == "todo"
    asked = [source for source in cells(quiz.chapter, "code") if f".{quiz.name}.answer(" in source]
    assert len(asked) == 1 and f".{quiz.name}.answer()" in asked[0], "asked once, and not answered yet"


@every_chapter
def test_a_chapter_has_exercises_of_every_length(chapter):
    assert len(chapter.exercises) >= 5 and len(chapter.quizzes) >= 2
    assert min(e.minutes for e in chapter.exercises) <= 2 and max(e.minutes for e in chapter.exercises) >= 30
    names = [item.name for item in (*chapter.exercises, *chapter.quizzes)]
    module = importlib.import_module(chapter.exercises[0].reference.__module__)
    for name, thing in vars(module).items():
        if isinstance(thing, Exercise | Quiz):
            assert thing.name == name and name in names, f"{name} is not listed in the chapter"
    text = repr(module.progress())
    assert all(name in text for name in names) and f"0 of {len(names)} passed" in text


def test_exercises_belong_to_chapters_that_are_there():
    there = {p.stem for p in notebooks.chapters()}
    assert {c.name for c in all_chapters()} <= there and len(all_exercises()) >= 8


# ---- the check


def centre(x):
    return x - x.mean(-1, keepdim=True)


def two_cases():
    yield Case((torch.randn(4, 3, dtype=torch.float64),))
    yield Case((torch.tensor([[1.0, 2.0], [3.0, 5.0]]),))


def exercise(**changes):
    given = {"name": "centre", "chapter": "00_demo", "title": "Centre", "minutes": 2, "reference": centre,
             "another": centre, "cases": two_cases, "hints": ("one", "two"),
             "wrong": (Wrong("columns", lambda x: x - x.mean(0, keepdim=True), "rows, please"),
                       Wrong("in place", lambda x: x.sub_(x.mean(-1, keepdim=True)), "no underscore"))}
    return Exercise(**given | changes)


def test_the_smallest_failing_case_is_shown_with_its_numbers():
    card = exercise().check(lambda x: x - x.mean())
    text = repr(card)
    assert card.status == "fail" and card.mistake is None and "Diagnosis" not in text
    assert "2 of 2 cases fail" in text and "[3., 5.]]  float32 (2, 2)" in text and "[-1. ,  1. ]]" in text
    assert "4 of 4 numbers differ, first at [0, 0]: expected -0.5, got -1.75" in text


def test_only_the_failing_cases_are_counted():
    text = repr(exercise().check(lambda x: centre(x) if x.shape[1] == 2 else x))
    assert "1 of 2 cases fail" in text and "float64 (4, 3)" in text


def test_a_mistake_is_named_only_if_it_explains_every_case():
    half = exercise().check(lambda x: x - x.mean(0, keepdim=True) if x.shape[1] == 2 else centre(x))
    assert half.status == "fail" and half.mistake is None
    assert exercise().check(lambda x: x - x.mean(0, keepdim=True)).mistake == "columns"
    assert exercise().check(lambda x: x.sub_(x.mean(0, keepdim=True))).mistake is None, "one mistake more than columns"


FAULTS = {
    "in place": (lambda x: x.sub_(x.mean(-1, keepdim=True)), "fail", "changed its input `x`"),
    "shape": (lambda x: centre(x).T, "fail", "xpected shape (4, 3), got (3, 4)"),
    "dtype": (lambda x: centre(x).double(), "fail", "xpected dtype torch.float32, got torch.float64"),
    "a list": (lambda x: centre(x).tolist(), "fail", "xpected a tensor, got a list"),
    "nothing": (lambda x: None, "fail", "got None (is a return missing?)"),
    "NaN": (lambda x: centre(x) * math.nan, "fail", "4 of 4 numbers are NaN"),
    "exception": (lambda x: x[:, 9], "error", "IndexError"),
    "its line": (lambda x: 1 / 0, "error", "ZeroDivisionError: division by zero, in the line `"),
    "too few parameters": (lambda: None, "error", "takes 0 positional arguments but 1 was given"),
    "exit": (lambda x: exec("raise SystemExit(3)"), "error", "SystemExit"),
    "recursion": (lambda x: exec("def f(): f()\nf()"), "error", "RecursionError"),
    "stopped": (lambda x: exec("raise KeyboardInterrupt"), "error", "Stopped by hand"),
    "a called function": (None, "error", "Expected the function itself, got None"),
    "not implemented elsewhere": (lambda x: torch.autograd.Function.forward(None, x), "error", "NotImplementedError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_a_result_never_an_exception(name):
    fn, status, words = FAULTS[name]
    cases = (lambda: [Case((torch.arange(12.0).view(4, 3),))]) if name == "shape" else two_cases
    card = exercise(cases=cases).check(fn)
    assert card.status == status and words in repr(card), card


class Odd:
    def __eq__(self, other):
        raise OSError("compare me not")

    def __repr__(self):
        raise OSError("show me not")


def test_answers_that_cannot_be_compared_or_shown():
    for fn in (lambda x: Odd(), lambda x: (yield), lambda x: torch.ones(2, 2, device="meta"), lambda x: [Odd()]):
        for reference in (centre, lambda x: 1.0, lambda x: [1.0], lambda x: None):
            assert exercise(reference=reference).check(fn).status in ("fail", "error")


def test_nothing_is_left_behind():
    torch.manual_seed(5)
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    exercise().check(lambda x: torch.manual_seed(1) and centre(x))
    assert torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled() == grad


def test_what_it_prints_is_shown_with_the_case(capsys):
    def talks(x):
        print("rows:", len(x))
        return x
    assert "your function printed: rows: 2" in repr(exercise().check(talks))
    assert exercise().check(lambda x: print("fine") or centre(x)).status == "pass"
    assert capsys.readouterr().out == ""


def test_gradients_are_judged_if_asked():
    def stopped(x):
        return x - x.detach().mean(-1, keepdim=True)
    assert exercise().check(stopped).status == "pass"
    card = exercise(gradients=True).check(stopped)
    assert card.status == "fail" and "not the gradient for `x`" in repr(card)
    assert exercise(gradients=True).check(lambda x: centre(x.detach())).status == "fail"
    assert exercise(gradients=True).check(centre).status == "pass"
    named = exercise(gradients=True, wrong=(Wrong("detached", stopped, "let it flow"),))
    assert named.check(stopped).mistake == "detached"


def test_a_due_exception():
    def root(x: float) -> float:
        if x < 0:
            raise ValueError("below zero")
        return x ** 0.5

    def cases():
        yield Case((4.0,))
        yield Case((-1.0,), raises=ValueError)
    due = exercise(reference=root, cases=cases, wrong=(Wrong("no test", lambda x: abs(x) ** 0.5, "test it"),))
    assert due.check(root).status == "pass"
    card = due.check(lambda x: abs(x) ** 0.5)
    assert card.mistake == "no test" and "should raise a ValueError; yours gave a result" in repr(card)
    card = due.check(lambda x: math.sqrt(x) if x >= 0 else {}[x])
    assert card.status == "fail" and "yours gave KeyError" in repr(card)


def test_case_wants_a_tuple():
    with pytest.raises(ValueError, match=r"args is a Tensor, expected a tuple; write Case\(\(x,\)\)"):
        Case(torch.ones(2))


def test_hints_come_one_by_one():
    one = exercise()
    said = [repr(one.hint()) for _ in range(4)]
    assert "hint 1 of 2\none" in said[0] and "hint 2 of 2\ntwo" in said[1]
    assert said[2] == said[3] and ".solution()" in said[2]


def test_use_falls_back_and_says_so(capsys):
    mine = lambda x: x - x.mean(-1).unsqueeze(-1)
    assert exercise().use(mine) is mine and capsys.readouterr().out == ""
    assert exercise().use(lambda x: x) is centre
    assert "The cells below use the course's own `centre` until yours passes." in capsys.readouterr().out


# ---- comparing and showing


@pytest.mark.parametrize("expected, got, words", [
    (1.0, 1.0 + 1e-7, None), (1.0, torch.tensor(1.0), None), (math.nan, math.nan, None),
    (1.0, 1.1, "expected 1, got 1.1"), (1.0, math.nan, "got nan"), (1, True, "expected a number"), (True, True, None),
    (True, 1, "expected True, got 1"), ("a", "b", "expected 'a', got 'b'"), (None, None, None),
    ([1, 2], (1, 2), None), ([1, 2], [1], "expected a list of 2, got a list of 1"),
    ((1, 2.0), (1, 3.0), "entry 1: expected 2, got 3"), (torch.tensor([True]), torch.tensor([1]), "dtype"),
    (torch.tensor([math.inf]), torch.tensor([math.inf]), None),
    (torch.tensor([1, 2]), torch.tensor([1, 3]), "first at [1]"),
    (torch.tensor(2.0), torch.tensor(3.0), "1 of 1 numbers differ: expected 2, got 3"),
    (torch.tensor(2 / 3), torch.tensor(2 / 3, dtype=torch.float64), None),
    (torch.tensor(2 / 3, dtype=torch.float64), torch.tensor(2 / 3), None),
    (torch.tensor(2 / 3), torch.tensor(0.7, dtype=torch.float64), "1 of 1 numbers differ"),
    (torch.tensor(2.0), torch.tensor(2), "expected dtype torch.float32, got torch.int64"),
    (torch.ones(1), torch.ones(1, dtype=torch.float64), "expected dtype torch.float32, got torch.float64"),
    (torch.tensor([math.nan]), torch.tensor([1.0]), "expected nan"), (torch.zeros(0, 2), torch.zeros(0, 2), None),
])
def test_differences_are_words(expected, got, words):
    found = difference(expected, got)
    assert found is None if words is None else words in found


@pytest.mark.bad_input
def test_a_tolerance_or_a_status_that_is_none_is_refused():
    with pytest.raises(ValueError, match="difference: tolerance nan, expected a number of 0 or more"):
        difference(1.0, 2.0, math.nan)
    with pytest.raises(ValueError, match="Card: status 'good', expected one of todo, pass"):
        Card("good", "Write f")


def test_values_are_short():
    assert shown(torch.tensor([1.0, 1 / 3])) == "[1.    , 0.3333]  float32 (2,)"
    assert shown(torch.ones(2, dtype=torch.bfloat16)) == "[1., 1.]  bfloat16 (2,)"
    assert shown([1.5, torch.tensor(True)]) == "[1.5, True  bool ()]" and shown(math.sqrt) == "sqrt"
    assert len(shown(torch.zeros(100, 100))) < 200 and len(shown("x" * 1000)) == 300
    assert kind({}) == "a dict of 0" and kind(3) == "a int"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_cards_are_plain_html():
    nasty = "<script>alert(1)</script> & `a<b`"
    card = Card("fail", nasty, (nasty, {nasty: nasty}, Folded(nasty, nasty)))
    tags = Tags(card._repr_html_()).seen
    known = "div p strong code table tbody tr th td pre details summary".split()
    assert {tag for tag, _ in tags} <= set(known)
    assert ("th", "row") in [(tag, attrs.get("scope")) for tag, attrs in tags]
    styles = ";".join(attrs.get("style", "") for _, attrs in tags)
    colours = {part.split(":")[1] for part in styles.split(";") if part.startswith("color:")}
    assert "background:#" not in styles and colours <= {"inherit"}, "text keeps the reader's colours"


STATES = [("todo", "to do"), ("pass", "passed"), ("fail", "not yet"), ("error", "error")]


@pytest.mark.parametrize("status, word", STATES)
def test_the_state_is_a_word(status, word):
    assert word in repr(Card(status, "x")) and word in Card(status, "x")._repr_html_()


# ---- quizzes


def quiz(**changes):
    given = {"name": "q", "chapter": "00_demo", "question": "Why?", "choices": (
        Choice("so", "Because.", right=True), Choice("not so", "Why should it?"))}
    return Quiz(**given | changes)


def test_quiz_answers_never_raise():
    assert quiz().answer(" A ").status == "pass" and quiz().answer("b").status == "fail"
    for odd in ("z", "ab", 3, None, []):
        card = quiz().answer(odd)
        assert card.status == "error" and "There is no choice" in repr(card)
    assert "Right. Because." in quiz().answer()._repr_html_() and "Because" not in repr(quiz().answer())


def test_quiz_and_chapter_refuse_contradictions():
    for odd in ({"minutes": 0}, {"tolerance": -1}, {"tolerance": math.nan}):
        with pytest.raises(ValueError, match="Exercise centre: .* expected 1 or more, and 0 to 1"):
            exercise(**odd)
    with pytest.raises(ValueError, match="Quiz q: expected exactly one right choice"):
        quiz(choices=(Choice("a", "b"),))
    with pytest.raises(ValueError, match="expected different names"):
        Chapter("00_demo", (exercise(), exercise()))
    with pytest.raises(ValueError, match="all of this chapter"):
        Chapter("01_other", (exercise(),))


# ---- progress


def test_progress_counts_tries_and_keeps_what_is_passed(own_file):
    one, chapter = exercise(), Chapter("00_demo", (exercise(),), (quiz(),))
    assert "centre (2 minutes): to do" in repr(chapter.progress()) and not own_file.exists()

    def stub(x):
        raise NotImplementedError
    one.check(stub)
    assert not own_file.exists(), "a stub is no try"
    one.check(lambda x: x)
    assert "centre (2 minutes): tried, 1×" in repr(chapter.progress())
    one.check(centre)
    one.check(lambda x: x)
    quiz().answer("b")
    text = repr(chapter.progress())
    assert "1 of 2 passed" in text and "centre (2 minutes): passed" in text and "q (quiz): tried, 1×" in text
    saved = json.loads(own_file.read_text())
    assert saved["00_demo.centre"]["tries"] == 3 and saved["00_demo.centre"]["passed"]


def test_a_damaged_file_is_set_aside_and_named(own_file):
    own_file.parent.mkdir()
    for number, content in ((1, b'{"00_demo.centre": {"tri'), (2, b"[1]"), (3, b"\xff\xfe"), (4, b'{"a": 3}')):
        own_file.write_bytes(content)
        with pytest.warns(UserWarning, match=f"progress.damaged-{number}.json"):
            assert exercise().check(centre).status == "pass"
        assert (own_file.parent / f"progress.damaged-{number}.json").read_bytes() == content
        assert json.loads(own_file.read_text())["00_demo.centre"]["tries"] == 1


def test_entries_of_a_later_course_survive(own_file):
    own_file.parent.mkdir()
    own_file.write_text('{"99_later.x": {"stars": 5}, "00_demo.centre": {"tries": 2, "passed": null, "mood": "good"}}')
    exercise().check(centre)
    saved = json.loads(own_file.read_text())
    assert saved["99_later.x"] == {"stars": 5}
    assert saved["00_demo.centre"]["tries"] == 3 and saved["00_demo.centre"]["mood"] == "good"


def test_a_disk_that_refuses_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMTUTOR_PROGRESS", str(tmp_path / "file" / "progress.json"))
    card = exercise().check(centre)
    assert card.status == "pass" and "The progress was not saved" in repr(card)
    assert quiz().answer("a").status == "pass"


def test_a_full_disk_leaves_the_old_file(own_file, monkeypatch):
    exercise().check(centre)
    before = own_file.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(progress.os, "fsync", full)
    assert "No space left" in repr(exercise().check(centre))
    assert own_file.read_bytes() == before and {p.name for p in own_file.parent.iterdir()} <= {
        "progress.json", "progress.json.lock"}


def test_no_try_is_lost_when_two_notebooks_write(own_file):
    def work():
        for _ in range(20):
            progress.note_progress("00_demo.centre", False)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert json.loads(own_file.read_text())["00_demo.centre"]["tries"] == 80


def test_where_the_file_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("MMTUTOR_PROGRESS", "~/p.json")
    assert progress.progress_file().is_absolute() and progress.progress_file().name == "p.json"
    monkeypatch.delenv("MMTUTOR_PROGRESS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert progress.progress_file().name == "progress.json" and "mmtutor" in progress.progress_file().parts


def test_executing_a_notebook_leaves_the_own_progress_alone(own_file, tmp_path):
    "The learner's file is neither read nor written when the course's own notebooks are built."
    own_file.parent.mkdir()
    own_file.write_text('{"00_demo.x": {"tries": 7, "passed": "2001-01-01"}}')
    path = tmp_path / "small.ipynb"
    code = ("from mmtutor.course.progress import note_progress, read_progress\n"
            "print(read_progress()); note_progress('00_demo.x', True); print(read_progress()['00_demo.x']['tries'])")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    (cell,) = notebooks.execute(path).cells
    assert cell.outputs[0].text == "{}\n1\n" and json.loads(own_file.read_text())["00_demo.x"]["tries"] == 7
