"""The gallery: what an item holds comes back, in Python and in the browser; everyone can see, read and hear it."""
import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from browsing import axe_is_content, close, serve_figures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_figures import holds_to_the_rules

from mmtutor.course.gallery import RATE, Gallery, from_mulaw, item, to_mulaw

QUICK = settings(max_examples=25, deadline=None)


def tone(hertz: float = 440, samples: int = 4000, rate: int = 8000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


def shade(level: int, side: int = 24) -> np.ndarray:
    picture = np.full((3, side, side), level, dtype=np.uint8)
    picture[:, :4] = 255 - level
    return picture


def gallery(**more) -> Gallery:
    "Seven items of two groups and of none; one lacks a sound, one a picture, one a name."
    rows = [("owl", shade(20), tone(300), "animals"), ("whale", shade(60), tone(200), "animals"),
            ("drum", shade(90), tone(100, 2000), "things"), ("key", shade(120), None, "things"),
            ("unseen", None, tone(500), "things"), ("", shade(200), tone(600), "animals"),
            ("stray & lost", shade(240), tone(700), "")]
    return Gallery([item(name, picture, sound, RATE, group) for name, picture, sound, group in rows], **more)


def decoded(one: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(one["picture"].split(",")[1]))).convert("RGB"))


# What an item holds

@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
@QUICK
def test_mulaw_is_near_and_finest_where_it_is_quiet(samples):
    samples = np.array(samples)
    back = from_mulaw(to_mulaw(samples))
    half = 256 ** (0.5 / 127) - 1  # half a step on the bent scale
    assert (np.abs(back - samples) <= half * (np.abs(samples) + 1 / 255) + 1e-12).all()
    assert from_mulaw(to_mulaw(back)).tolist() == back.tolist() and np.abs(back).max() <= 1


def test_mulaw_at_its_ends():
    assert list(to_mulaw(np.array([-1, 0, 1.0]))) == [1, 128, 255]
    assert from_mulaw(bytes([1, 128, 255])).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("picture", [shade(50), shade(50).transpose(1, 2, 0), torch.from_numpy(shade(50)), shade(50)[0],
                                     shade(50, 128), shade(50)[:, :9]], ids=lambda p: str(tuple(p.shape)))
def test_a_picture_of_any_layout_comes_back(picture):
    one = item("x", picture)
    expected = np.asarray(picture)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3)
    if expected.shape[2] != 3:
        expected = expected.transpose(1, 2, 0)
    assert np.array_equal(decoded(one), expected)
    assert one["pixels"] == f"{expected.shape[1]} × {expected.shape[0]}"


def test_many_colours_become_sixty_four():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    found = decoded(item("x", noise))
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 64 and np.abs(found.astype(int) - noise).mean() < 40


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_sound_arrives_at_eight_kilohertz_with_its_pitch(rate):
    one = item("x", sound=torch.from_numpy(tone(440, rate, rate)).float(), rate=rate)
    wave = from_mulaw(base64.b64decode(one["sound"]))
    assert one["rate"] == RATE and one["seconds"] == 1.0 and len(wave) == 8000
    assert np.abs(np.fft.rfft(wave)).argmax() == 440 and abs(np.abs(wave).max() - 0.5) < 0.03


def test_what_resampling_adds_stays_within_full_scale():
    square = np.sign(np.sin(2 * np.pi * 300 * np.arange(8000) / 16_000))  # its edges overshoot at another rate
    wave = from_mulaw(base64.b64decode(item("x", sound=square)["sound"]))
    assert np.abs(np.diff(wave)).max() > 1 and (np.abs(wave) == 1).mean() > 0.1
    assert np.corrcoef(wave, square[::2])[0, 1] > 0.9


@pytest.mark.parametrize("make, said", [
    (lambda: item(), "there is no name, no picture and no sound"),
    (lambda: item("x", np.zeros((4, 4))), "a picture of float64 (4, 4): expected uint8 (3, height, width)"),
    (lambda: item("x", np.zeros((4, 4, 4), np.uint8)), "a picture of uint8 (4, 4, 4)"),
    (lambda: item("x", np.zeros((0, 5), np.uint8)), "a picture of 5 × 0 pixels: expected 1 to 128"),
    (lambda: item("x", np.zeros((129, 5), np.uint8)), "a picture of 5 × 129 pixels: expected 1 to 128"),
    (lambda: item("x", sound=[]), "item: sound: expected 1 axes that are not empty, got shape (0,)"),
    (lambda: item("x", sound=[[0.0]]), "got shape (1, 1)"),
    (lambda: item("x", sound=[np.nan]), "not every number is finite"),
    (lambda: item("x", sound=[0.0, 1.5]), "up to 1.5: expected at most 4 s within ±1"),
    (lambda: item("x", sound=np.zeros(16_000 * 4 + 1)), "a sound of 4.00 s"),
    (lambda: item("x", sound=[0.0], rate=100), "rate is 100, expected 4,000 to 192,000 Hz"),
    (lambda: item("x", sound=[0.1], rate=48_000), "shorter than one at 8000 Hz"),
    (lambda: Gallery([]), "Gallery: 0 items; expected 1 to 48, each made by `item`"),
    (lambda: Gallery([item("x")] * 49), "Gallery: 49 items"),
    (lambda: Gallery([{"name": "x"}]), "each made by `item`"),
    (lambda: Gallery(["x"]), "each made by `item`"),
    (lambda: Gallery([item("x") | {"sound": "zebra"}]), "each made by `item`"),
    (lambda: Gallery([item("x") | {"seconds": np.nan}]), "each made by `item`"),
    (lambda: to_mulaw(np.array([0.0, np.nan])), "to_mulaw: samples up to nan, expected them within ±1"),
    (lambda: gallery(group="plants"), "no item is of group 'plants'; there are animals, things"),
    (lambda: Gallery([item("x")], group="y"), "no item is of group 'y'; there are no groups"),
    (lambda: gallery(selected=7), "Gallery: selected: 7 is out of range, expected 0 to 6"),
])
@pytest.mark.bad_input
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


# The figure in Python

def test_it_holds_to_the_rules_of_every_figure(monkeypatch):
    holds_to_the_rules(gallery(), monkeypatch)


@pytest.mark.parametrize("items", [[item("only a name")], [item("", shade(3))], [item("", None, tone())]], ids=str)
def test_an_item_with_one_thing_alone_can_be_shown(items, monkeypatch):
    holds_to_the_rules(Gallery(items), monkeypatch)


def test_a_group_and_its_table():
    figure = gallery(group="things", selected=3)
    assert figure.selected == 3 and [one["name"] for one in figure.shown] == ["drum", "key", "unseen"]
    assert figure.alt() == "3 items of things, 2 with a picture and 2 with a sound: drum, key, unseen"
    assert figure.table()[2] == [("drum", "things", "24 × 24", "0.25"), ("key", "things", "24 × 24", "none"),
                                 ("unseen", "things", "none", "0.50")]
    figure.group = "animals"
    assert figure.selected == 0, "the first of the group, as key is none of it"
    figure.update(group="", selected=6)
    assert len(figure.shown) == 7 and figure.selected == 6
    with pytest.raises(ValueError, match="out of range"):
        figure.selected = -1
    assert figure.selected == 6


def test_names_are_text_and_not_markup():
    html = Gallery([item("<b>bold</b>", shade(9), group="<i>")]).static()
    assert "<b>" not in html and "<i>" not in html and "&lt;b&gt;bold&lt;/b&gt;" in html


def test_sixteen_spoken_names_stay_light():
    rng = np.random.default_rng(0)
    drawn = lambda: np.kron(rng.integers(0, 200, (3, 6, 6)), np.ones((16, 16))).astype(np.uint8)
    items = [item(str(i), drawn(), rng.uniform(-1, 1, 12_800)) for i in range(16)]  # 0.8 s
    assert len(Gallery(items).static()) < 300_000


def test_import_is_light():
    code = ("import sys, mmtutor.course.gallery; "
            "print([m for m in ('soxr', 'datasets', 'mmtutor.data', 'torch') if m in sys.modules])")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# In the browser

@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve_figures(tmp_path_factory.mktemp("site"), one=[gallery()], still=[gallery()]) as address:
        yield address


@pytest.mark.browser
class TestMathematics:
    def test_samples_are_those_of_python(self, javascript):
        code = bytes(range(256))
        (found,) = javascript("gallery", ["unpack", base64.b64encode(code).decode()])
        close(found, torch.from_numpy(from_mulaw(code)), 1e-12)

    def test_groups_arrows_and_outlines(self, javascript):
        items = [{"group": g} for g in ("a", "b", "a", "")]
        assert javascript("gallery", ["within", items, ""], ["within", items, "a"]) == [[0, 1, 2, 3], [0, 2]]
        for key, at, expected in [("ArrowRight", 2, 3), ("ArrowRight", 9, 9), ("ArrowLeft", 0, 0), ("ArrowDown", 3, 7),
                                  ("ArrowDown", 7, 7), ("ArrowUp", 5, 1), ("ArrowUp", 2, 2), ("Home", 6, 0),
                                  ("End", 6, 9), ("a", 6, None)]:
            assert javascript("gallery", ["goes", key, at, 10, 4]) == [expected], (key, at)
        assert javascript("gallery", ["outline", [1, 3, -2, 0, 5], 2], ["outline", [1, 2], 4]) == [
            [[1, 3], [-2, 5]], [[1, 1], [1, 1], [2, 2], [2, 2]]]


def pressed(frame) -> list[str]:
    return frame.locator(".items button[aria-pressed=true]").all_text_contents()


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_it_is_live_and_asks_nothing_of_anyone(self, read):
        reader = read("one")
        frame = reader.frame(0)
        assert reader.page.locator(".mmtutor-figure").get_attribute("data-state") == "live"
        names = ["owl", "whale", "drum", "key", "unseen", "(no name)", "stray & lost"]
        assert frame.locator(".items button").all_text_contents() == names
        assert pressed(frame) == ["owl"] and reader.foreign == [] and reader.said == []
        widths = frame.evaluate("[...document.querySelectorAll('.items img, .one img')].map(i => i.naturalWidth)")
        assert widths == [24] * 7

    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, width):
        axe_is_content(read("one", viewport={"width": width, "height": 2000}, reduced_motion="reduce"))

    def test_by_keyboard_alone(self, read):
        reader = read("one")
        frame = reader.frame(0)
        press = reader.page.keyboard.press
        choose = frame.get_by_role("combobox", name="group")
        choose.focus()
        press("Tab")
        where = lambda: frame.evaluate("document.activeElement.textContent")
        assert where() == "owl", "one stop for the whole list"
        press("ArrowRight")
        assert reader.hears(0, "v.selected === 1") and where() == "whale" and pressed(frame) == ["whale"]
        frame.locator(".name", has_text="whale").wait_for()
        press("End")
        assert reader.hears(0, "v.selected === 6") and where() == "stray & lost"
        press("Home")
        grid = "getComputedStyle(document.querySelector('.items')).gridTemplateColumns.split(' ').length"
        columns = frame.evaluate(grid)
        assert 3 < columns < 8
        press("ArrowDown")
        assert reader.hears(0, f"v.selected === {columns if columns < 7 else 0}")
        press("Home")
        press("Tab")
        assert frame.evaluate("document.activeElement.ariaLabel") == "play owl"
        press("Shift+Tab")
        assert where() == "owl"

    def test_the_group_filters_and_keeps_or_moves_the_choice(self, read):
        reader = read("one")
        frame = reader.frame(0)
        choose = frame.get_by_role("combobox", name="group")
        assert choose.locator("option").all_text_contents() == ["all (7)", "animals (3)", "things (3)"]
        frame.locator(".items button", has_text="whale").click()
        choose.select_option("animals")
        assert reader.hears(0, "v.group === 'animals' && v.selected === 1") and pressed(frame) == ["whale"]
        choose.select_option("things")
        assert reader.hears(0, "v.group === 'things' && v.selected === 2") and pressed(frame) == ["drum"]
        assert frame.locator("tbody tr").count() == 3
        assert frame.locator("caption").text_content() == "The items of things"
        reader.set(0, group="", selected=5)
        frame.locator(".name", has_text="(no name)").wait_for()
        assert frame.locator("tbody tr").count() == 7 and choose.input_value() == ""
        reader.set(0, group="things", selected=0)  # the owl is none of them
        frame.locator(".name", has_text="drum").wait_for()
        assert pressed(frame) == ["drum"]

    def test_it_says_what_is_missing(self, read):
        reader = read("one")
        frame = reader.frame(0)
        live = frame.locator("[aria-live=polite]")
        frame.locator(".items button", has_text="key").click()
        live.get_by_text("things, no sound").wait_for()
        assert frame.locator(".one button").is_disabled()
        assert frame.locator(".one > img").get_attribute("alt") == "the picture of key"
        assert frame.locator(".one svg").get_attribute("aria-label") == "No waveform: there is no sound"
        frame.locator(".items button", has_text="unseen").click()
        live.get_by_text("things, no picture, 0.50 s of sound").wait_for()
        assert frame.locator(".one > img").is_hidden() and not frame.locator(".one button").is_disabled()
        rows = frame.locator("tbody tr").all_text_contents()
        assert rows[3] == "keythings24 × 24none" and rows[4] == "unseenthingsnone0.50"

    def test_it_plays_what_python_packed_and_stops(self, read):
        reader, figure = read("one"), gallery()
        frame = reader.frame(0)
        frame.evaluate("""() => { window.heard = []; const start = AudioBufferSourceNode.prototype.start;
          AudioBufferSourceNode.prototype.start = function () {
            heard.push([this.buffer.sampleRate, [...this.buffer.getChannelData(0)]]); start.call(this); };
          window.stopped = 0; const stop = AudioBufferSourceNode.prototype.stop;
          AudioBufferSourceNode.prototype.stop = function () { stopped++; stop.call(this); }; }""")
        button = frame.locator(".one button")
        button.press("Enter")
        frame.get_by_text("stop", exact=True).wait_for()
        frame.get_by_text("play", exact=True).wait_for()  # half a second later it has ended
        frame.locator(".items button", has_text="drum").click()
        button.click()
        frame.get_by_text("stop", exact=True).click()
        frame.get_by_text("play", exact=True).wait_for()
        button.click()
        before = frame.evaluate("stopped")
        frame.locator(".items button", has_text="whale").evaluate("b => b.click()")  # another item: silence
        frame.get_by_text("play", exact=True).wait_for()
        assert frame.evaluate("stopped") == before + 1 == 2
        heard = frame.evaluate("heard")
        assert [rate for rate, _ in heard] == [RATE] * 3
        for (_, wave), i in zip(heard, (0, 2, 2), strict=True):
            np.testing.assert_allclose(wave, from_mulaw(base64.b64decode(figure.items[i]["sound"])), atol=1e-6)
        assert reader.foreign == [] and reader.said == []

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("still", java_script_enabled=False).page
        assert page.locator("table").is_visible() and page.locator(".mmtutor-figure img").is_visible()
        state = page.locator(".mmtutor-figure").get_attribute("data-values")
        assert json.loads(state) == gallery().values
