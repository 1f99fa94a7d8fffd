"""The rating form: its values, the files of the raters, and what a rater meets in Chromium."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from browsing import axe_is_content, serve_figures
from test_figures import holds_to_the_rules

from mmtutor.course.gallery import item
from mmtutor.course.rating import Rating, gather

NAMES = ["owl: a bird", "drum: an animal", "key & lock: tools", ""]
SCALE = ["no", "in part", "yes"]


def shade(value: int) -> np.ndarray:
    return np.full((24, 24, 3), value, np.uint8)


def form(**more) -> Rating:
    items = [item(name, shade(60 * i) if i != 1 else None) for i, name in enumerate(NAMES) if name] + [
        item("", shade(200))]
    return Rating(items, "Is it right?", SCALE, **({"rater": "anna", "seed": 3} | more))


# What does not fit

@pytest.mark.parametrize("make, said", [
    (lambda: Rating([], "?", SCALE), "Rating: 0 items; expected 1 to 48, each made by `gallery.item`"),
    (lambda: Rating(["x"], "?", SCALE), "each made by `gallery.item`"),
    (lambda: Rating([item("x")] * 49, "?", SCALE), "Rating: 49 items"),
    (lambda: Rating([item("x")], "?", ["yes"]), "Rating: scale ['yes']; expected 2 to 9 different answers in words"),
    (lambda: Rating([item("x")], "?", ["yes", "yes"]), "2 to 9 different answers"),
    (lambda: Rating([item("x")], "?", ["yes", " "]), "2 to 9 different answers"),
    (lambda: Rating([item("x")], "?", list("abcdefghij")), "2 to 9 different answers"),
    (lambda: Rating([item("x")], " ", SCALE), "the question is missing"),
    (lambda: form(seed=-1), "Rating: seed -1, expected None, or 0 or more"),
    (lambda: form(ratings=[0, 1]), "ratings [0, 1] for 4 items; expected one each, from 0 to 2, or −1 for none"),
    (lambda: form(ratings=[0, 1, 3, 0]), "from 0 to 2, or −1 for none"),
    (lambda: form(ratings=[0, 1, -2, 0]), "from 0 to 2, or −1 for none"),
])
@pytest.mark.bad_input
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


@pytest.mark.bad_input
def test_a_refused_value_changes_nothing():
    one = form(ratings=[0, 1, 2, -1])
    for name, value in (("ratings", [9] * 4), ("order", [0, 0, 1, 2]), ("at", 4), ("scale", ["no", "yes"])):
        with pytest.raises(ValueError, match=f"Rating: {name if name != 'scale' else 'ratings'}"):
            setattr(one, name, value)
    assert one.ratings == [0, 1, 2, -1] and one.scale == SCALE and one.at == 0


# The figure in Python

@pytest.mark.parametrize("figure", [form(), Rating([item("words alone")], "Good?", ["no", "yes"])], ids=str)
def test_it_holds_to_the_rules_of_every_figure(figure, monkeypatch):
    holds_to_the_rules(figure, monkeypatch)


def test_scores_are_in_the_order_of_the_items_whatever_is_shown():
    orders = {tuple(form(seed=seed).order) for seed in range(20)}
    assert len(orders) > 8 and all(sorted(o) == [0, 1, 2, 3] for o in orders)
    assert form(seed=None).order == [0, 1, 2, 3] and form(seed=5).order == form(seed=5).order
    one = form()
    assert np.isnan(one.scores).all()
    one.ratings = [2, -1, 0, 1]
    assert one.scores.tolist()[:1] + one.scores.tolist()[2:] == [2, 0, 1] and np.isnan(one.scores[1])


def test_alt_and_table_say_what_was_rated():
    one = form(ratings=[2, -1, 0, -1])
    assert one.alt() == "“Is it right?” for 4 items, to be answered by no, in part, yes; 2 of them are rated"
    assert one.table() == ("Is it right?", ["item", "rating"], [
        ("owl: a bird", "yes"), ("drum: an animal", "not rated"), ("key & lock: tools", "no"),
        ("item 3", "not rated")])


def test_names_are_text_and_not_markup():
    html = Rating([item("<b>bold</b>")], "<i>Good</i>?", ["<no>", "yes"], ratings=[0]).static()
    assert not re.search("<b>|<i>|<no>", html) and "&lt;b&gt;bold" in html and "&lt;no&gt;" in html


# Files

def test_what_is_saved_comes_back(tmp_path):
    said = {"anna": [2, -1, 0, 1], "ben": [2, 2, 2, 2], "cleo": [-1, -1, -1, -1]}
    paths = [form(rater=name, seed=i, ratings=r).save(tmp_path / f"{name}.json")
             for i, (name, r) in enumerate(said.items())]
    raters, table = gather(paths)
    assert raters == list(said) and table.shape == (3, 4) and table.dtype == float
    assert np.array_equal(np.nan_to_num(table, nan=-1), list(said.values()))
    form(rater="ben", ratings=[0, 0, 0, 0]).save(paths[1])  # again: the file is replaced
    assert gather(paths)[1][1].tolist() == [0, 0, 0, 0]


@pytest.mark.bad_input
def test_files_that_do_not_belong_together_are_named(tmp_path):
    one = form(rater="anna").save(tmp_path / "anna.json")
    others = {"question": {"question": "Is it wrong?"}, "scale": {"scale": ["no", "partly", "yes"]}}
    for name, change in others.items():
        other = form(rater=name)
        other.update(**change)
        with pytest.raises(ValueError, match=f"gather: {name}.json was asked something else than anna.json"):
            gather([one, other.save(tmp_path / f"{name}.json")])
    fewer = Rating(form().items[:3], "Is it right?", SCALE, rater="fewer").save(tmp_path / "fewer.json")
    with pytest.raises(ValueError, match="fewer.json was asked something else"):
        gather([one, fewer])
    with pytest.raises(ValueError, match="rater 'anna' is there twice, the second time in again.json"):
        gather([one, form(rater="anna").save(tmp_path / "again.json")])
    with pytest.raises(ValueError, match="gather: no files"):
        gather([])
    for name, text in (("cut", one.read_text()[:40]), ("list", "[]"), ("empty", ""), ("other", '{"rater": "x"}')):
        (tmp_path / f"{name}.json").write_text(text)
        with pytest.raises(ValueError, match=f"gather: {name}.json is no file of ratings"):
            gather([tmp_path / f"{name}.json"])
    changed = json.loads(one.read_text()) | {"rater": "dora", "ratings": [0, 0, 0, 7]}
    (tmp_path / "dora.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="dora.json was asked something else than anna.json, or was changed by hand"):
        gather([one, tmp_path / "dora.json"])


def test_import_is_light():
    code = ("import sys, mmtutor.course.rating; "
            "print([m for m in ('soxr', 'datasets', 'mmtutor.data', 'torch', 'anywidget') if m in sys.modules])")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# In the browser

@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve_figures(tmp_path_factory.mktemp("site"), one=[form()], two=[form(seed=None), form(seed=None)],
                still=[form()]) as address:
        yield address


@pytest.mark.browser
def test_keys_and_the_way_through_the_order(javascript):
    calls = [("1", 3, 0), ("3", 3, 2), ("4", 3, None), ("0", 3, None), ("a", 3, None), ("12", 3, None), ("9", 9, 8)]
    assert javascript("rating", *[["answer", key, n] for key, n, _ in calls]) == [value for *_, value in calls]
    order = [2, 0, 3, 1]
    for ratings, at, expected in [([-1] * 4, 0, 1), ([-1, -1, 0, -1], 3, 1), ([0, 1, 2, -1], 0, 2),
                                  ([0, 1, 2, -1], 2, 2), ([0, 0, 0, 0], 1, 1), ([0, -1, 0, 0], 1, 3),
                                  ([0, 0, -1, 0], 3, 0)]:
        assert javascript("rating", ["next", order, ratings, at]) == [expected], (ratings, at)
    assert javascript("rating", ["rated", [-1, 2, -1], 2, 0]) == [[-1, 2, 0]]


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_it_is_live_and_asks_nothing_of_anyone(self, read):
        reader, one = read("one"), form()
        frame = reader.frame(0)
        assert reader.page.locator(".mmtutor-figure").get_attribute("data-state") == "live"
        assert frame.locator("legend").text_content() == "Is it right?" and frame.get_by_role("radio").count() == 3
        assert frame.locator(".shown p").text_content() == one.items[one.order[0]]["name"]
        assert frame.get_by_text("item 1 of 4, 0 rated, rater anna").is_visible()
        assert reader.foreign == [] and reader.said == []

    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, width):
        axe_is_content(read("one", viewport={"width": width, "height": 2000}, reduced_motion="reduce"))

    def test_by_keyboard_alone(self, read):
        reader, one = read("one"), form()
        frame, press = reader.frame(0), reader.page.keyboard.press
        frame.get_by_role("radio").first.focus()
        press("ArrowDown")
        first = one.order[0]
        assert reader.hears(0, f"v.ratings[{first}] === 1 && v.at === 0"), "an arrow chooses and stays"
        press("3")
        assert reader.hears(0, f"v.ratings[{first}] === 2 && v.at === 1"), "a number chooses and goes on"
        frame.get_by_text("item 2 of 4, 1 rated, rater anna").wait_for()
        assert frame.locator("input:checked").count() == 0
        press("4")
        press("1")
        assert reader.hears(0, f"v.ratings[{one.order[1]}] === 0 && v.at === 2"), "4 is none of three answers"
        for _ in range(5):
            press("Tab")
            if frame.evaluate("document.activeElement.textContent") == "back":
                break
        press("Enter")
        assert reader.hears(0, "v.at === 1")
        frame.get_by_text("item 2 of 4, 2 rated, rater anna").wait_for()
        assert frame.locator("input:checked").get_attribute("value") == "0"

    def test_by_mouse_to_the_end(self, read):
        reader, one = read("one"), form()
        frame = reader.frame(0)
        button = lambda name: frame.get_by_role("button", name=name, exact=True)
        assert button("back").is_disabled()
        button("next").click()
        assert reader.hears(0, "v.at === 1")
        frame.get_by_label("yes").check()
        assert reader.hears(0, f"v.ratings[{one.order[1]}] === 2 && v.at === 1")
        button("next without a rating").click()
        assert reader.hears(0, "v.at === 2")
        for place in (2, 3, 0):
            frame.get_by_text(f"item {place + 1} of 4").wait_for()
            frame.get_by_label("no").check()
            if place:
                button("next without a rating").click()
        frame.get_by_text("item 1 of 4, 4 rated").wait_for()
        assert button("next without a rating").is_disabled()
        rows = frame.locator("tbody tr td").all_text_contents()
        assert [rows[i] for i in one.order] == ["no", "yes", "no", "no"]

    def test_an_item_without_a_picture_has_none_and_python_is_heard(self, read):
        reader, one = read("one"), form()
        frame = reader.frame(0)
        reader.set(0, at=one.order.index(1))
        frame.locator(".shown p", has_text="drum").wait_for()
        assert frame.locator(".shown img").is_hidden()
        reader.set(0, at=one.order.index(0), ratings=[1, -1, -1, -1])
        frame.locator(".shown p", has_text="owl").wait_for()
        assert frame.locator(".shown img").get_attribute("alt") == "the picture to be rated"
        assert frame.locator("input:checked").get_attribute("value") == "1"
        reader.set(0, scale=["bad", "good"], ratings=[-1] * 4, question="How is it?")
        frame.get_by_label("good").check()
        assert reader.hears(0, "v.ratings[0] === 1") and frame.locator("legend").text_content() == "How is it?"

    def test_two_forms_on_a_page_are_two(self, read):
        reader = read("two")
        reader.frame(0).get_by_label("yes").check()
        reader.frame(1).get_by_label("no").check()
        assert reader.hears(0, "v.ratings[0] === 2") and reader.hears(1, "v.ratings[0] === 0")
        assert reader.frame(0).locator("input:checked").get_attribute("value") == "2"

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("still", java_script_enabled=False).page
        assert page.locator("table").is_visible() and page.locator(".mmtutor-figure img").is_visible()
        assert json.loads(page.locator(".mmtutor-figure").get_attribute("data-values")) == form().values
