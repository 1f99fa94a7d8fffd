"""The patch explorer: patches held to einops, receptive fields to gradients in torch, its values, and its reader."""
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from browsing import axe_is_content, label, serve_figures
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_figures import holds_to_the_rules
from torch import nn

from mmtutor.course import patch_explorer
from mmtutor.course.patch_explorer import PatchExplorer, as_layers, field
from mmtutor.vision import LITE0, ConvEncoder

DEEP = [("stem", 3, 2), ("middle", 5, 2, 2), ("top", 3, 1, 0)]


def picture(height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))


def deep() -> PatchExplorer:
    return PatchExplorer(picture(), patch=16, layers=DEEP, mode="field", layer=1, row=3, column=4)


def lite0() -> list[tuple]:
    "The kernels and strides of ConvEncoder from the picture upwards."
    found = [("stem", 3, 2)]
    for stage, (repeats, kernel, stride, *_) in enumerate(LITE0):
        found += [(f"stage {stage}, block {i}", kernel, stride if i == 0 else 1) for i in range(repeats)]
    return found


def touched(output, inputs: torch.Tensor) -> tuple[int, int, int, int]:
    "The rows and columns of the picture on which an output depends: first and last."
    gradient, = torch.autograd.grad(output, inputs, retain_graph=True)
    _, _, rows, columns = gradient.nonzero().T
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def expected(layers: list[dict], layer: int, row: int, column: int, height: int, width: int) -> tuple:
    "The same by the formula, cut at the edges of the picture."
    (y, high, _), (x, wide, _) = field(layers, layer, row, 0), field(layers, layer, column, 1)
    return max(0, y), min(height, y + high) - 1, max(0, x), min(width, x + wide) - 1


def pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    "TensorFlow's rule: what ⌈size / stride⌉ places need, the odd pixel behind."
    down, across = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in x.shape[2:])
    return nn.functional.pad(x, [across // 2, across - across // 2, down // 2, down - down // 2])


def meets_padding(layers: list[dict], layer: int, place: tuple[int, int], height: int, width: int) -> bool:
    "Whether padding of any layer belongs to what a place sees."
    below = [(height, width), *(one["size"] for one in layers)]
    for axis in (0, 1):
        first = last = place[axis]
        for i in range(layer, -1, -1):
            one = layers[i]
            first, last = (end * one["stride"] - one["pad"][axis] + more for end, more in
                           ((first, 0), (last, one["kernel"] - 1)))
            if first < 0 or last >= below[i][axis]:
                return True
    return False


@st.composite
def kinds(draw) -> tuple:
    "A layer without gaps: its kernel is no smaller than its stride."
    stride = draw(st.integers(1, 3))
    kernel = draw(st.integers(stride, 6))
    return kernel, stride, draw(st.one_of(st.just("same"), st.integers(0, kernel - 1)))


@settings(max_examples=60, deadline=None)
@given(st.lists(kinds(), min_size=1, max_size=4), st.integers(24, 40), st.integers(24, 40), st.data())
def test_the_formula_is_what_gradients_say(given_, height, width, data):
    try:
        layers = as_layers(given_, height, width)
    except ValueError as error:
        assert "has no place" in str(error)
        return
    inputs = x = torch.ones(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    for layer, (kernel, stride, padding) in enumerate(given_):
        x = pad_same(x, kernel, stride) if padding == "same" else nn.functional.pad(x, [padding] * 4)
        x = nn.functional.conv2d(x, torch.ones(1, 1, kernel, kernel, dtype=torch.float64), stride=stride)
        assert layers[layer]["size"] == list(x.shape[2:])
        row, column = (data.draw(st.integers(0, n - 1)) for n in x.shape[2:])
        wanted = expected(layers, layer, row, column, height, width)
        if not meets_padding(layers, layer, (row, column), height, width):
            assert touched(x[0, 0, row, column], inputs) == wanted
        elif x[0, 0, row, column] > 0:  # of the picture it sees no more than the square
            top, bottom, left, right = touched(x[0, 0, row, column], inputs)
            assert wanted[0] <= top <= bottom <= wanted[1] and wanted[2] <= left <= right <= wanted[3]


def test_the_network_of_the_chapter_sees_what_the_formula_says():
    encoder, size = ConvEncoder().double().eval(), 96
    layers = as_layers(lite0(), size, size)
    inputs = x = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    for i, block in enumerate([encoder.stem, *encoder.blocks][:7]):
        x = block(x)
        h, w = x.shape[2:]
        assert layers[i]["size"] == [h, w]
        for row, column in [(0, 0), (h // 2, w // 2), (h - 1, 1)]:
            weight = torch.randn(x.shape[1], dtype=torch.float64)
            assert touched(x[0, :, row, column] @ weight, inputs) == expected(layers, i, row, column, size, size)
    assert layers[-1]["size"] == [3, 3] and field(layers, len(layers) - 1, 0, 0)[1:] == (851, 32)


def test_patches_are_cut_as_in_the_chapter():
    "Token n of the explorer is row n of the rearranged picture."
    figure = PatchExplorer(picture(), patch=8)
    tokens = rearrange(picture().numpy(), "c (h p) (w q) -> (h w) c p q", p=8, q=8)
    np.testing.assert_array_equal(figure.pixels, picture().numpy())
    for token in (0, 9, 47):
        figure.token = token
        row, column = map(int, re.search(r"row (\d+), column (\d+)", figure.alt()).groups())
        np.testing.assert_array_equal(figure.pixels[:, 8 * row:8 * row + 8, 8 * column:8 * column + 8], tokens[token])


@pytest.mark.parametrize("make", [lambda: PatchExplorer(picture(), patch=16, token=5), deep])
def test_it_holds_to_the_rules_of_every_figure(make, monkeypatch):
    holds_to_the_rules(make(), monkeypatch)


def test_tables_and_values():
    figure = deep()
    assert figure.seen == (8, 12, 11, 11)  # stem: nothing in front; middle: 2 · 2 in front, 4 pixels a place
    assert figure.table()[2] == [("stem", 3, 2, "24 × 32", 2, "3 × 3"), ("middle", 5, 2, "12 × 16", 4, "11 × 11"),
                                 ("top", 3, 1, "10 × 14", 4, "19 × 19")]
    figure.mode = "patches"
    assert ("16 × 16", "3 × 4", 12, "768", "144") in figure.table()[2]
    figure.pixels = picture(32, 32)
    assert figure.layers[0]["size"] == [16, 16], "the layers follow the picture"
    with pytest.raises(ValueError, match="token: 4 is out of range, expected 0 to 3"):
        figure.token = 4
    assert figure.token == 0


@pytest.mark.parametrize("given_, said", [
    ({"picture": picture().float()}, "picture float32 (3, 48, 64), expected uint8 (3, height, width)"),
    ({"picture": picture()[0]}, "picture uint8 (48, 64)"),
    ({"picture": picture()[:, :4]}, "sides from 8 to 512"),
    ({"picture": torch.zeros(3, 0, 0, dtype=torch.uint8)}, "picture uint8 (3, 0, 0)"),
    ({"picture": picture(47, 61)}, "patches of 16 in a picture of 47 × 61: expected one of []"),
    ({"patch": 5}, "patches of 5 in a picture of 48 × 64: expected one of [4, 8, 16]; cut or scale the picture"),
    ({"token": 12}, "token: 12 is out of range, expected 0 to 11"),
    ({"mode": "field"}, "mode 'field' with 0 layers, expected 'patches', or 'field' with layers"),
    ({"mode": "fields", "layers": DEEP}, "mode 'fields' with 3 layers"),
    ({"layers": [(3, 0)]}, "layer 0 has kernel 3, stride 0 and padding 'same'"),
    ({"layers": [(3, 1, 3)]}, "layer 0 has kernel 3, stride 1 and padding 3"),
    ({"layers": [(3, 1, "valid")]}, "padding 'valid': expected 1 to 64, 1 to 64, and 'same' or 0 to kernel − 1"),
    ({"layers": [(3,)]}, "layer 0 is (3,): expected ([name,] kernel, stride[, padding])"),
    ({"layers": [(64, 1, 0)]}, "layer 0 with kernel 64 has no place in 48 × 64"),
    ({"layers": DEEP, "layer": 3}, "layer: 3 is out of range, expected 0 to 2"),
    ({"layers": DEEP, "layer": 2, "row": 10}, "row: 10 is out of range, expected 0 to 9"),
])
def test_what_cannot_be_drawn_is_refused(given_, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        PatchExplorer(**{"picture": picture()} | given_)


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [(3, 0, 0), (-1, 0, 0), (0, 99, 0), (0, 0, 2)])
def test_a_place_that_is_not_there_sees_nothing(call):
    with pytest.raises(ValueError, match="is out of range"):
        field(as_layers(DEEP, 48, 64), *call)


# In the browser

@pytest.fixture(scope="module")
def address(tmp_path_factory):
    shown = [PatchExplorer(picture(), patch=16, layers=DEEP, token=5), deep(), PatchExplorer(picture(), patch=4)]
    with serve_figures(tmp_path_factory.mktemp("site"), one=shown[:1], field=shown[1:2], many=shown[2:]) as address:
        yield address


@pytest.mark.browser
class TestMathematics:
    def test_sizes_and_places_of_patches(self, javascript):
        for height, width in [(48, 64), (96, 96), (97, 96), (224, 224)]:
            assert javascript("patch", ["sizes", height, width]) == [patch_explorer.patch_sizes(height, width)]
        number = np.arange(48 * 64).reshape(48, 64)
        tokens = rearrange(number, "(h p) (w q) -> (h w) p q", p=8, q=8)
        cells = javascript("patch", *(["cell", i, 8, 64] for i in range(48)))
        assert [c["top"] * 64 + c["left"] for c in cells] == tokens[:, 0, 0].tolist()
        assert [(c["row"], c["column"]) for c in cells] == [(i // 8, i % 8) for i in range(48)]
        owner = javascript("patch", *(["tokenAt", y, x, 8, 64] for y in range(48) for x in range(64)))
        for token, pixels in enumerate(tokens):
            assert {owner[pixel] for pixel in pixels.flat} == {token}

    @pytest.mark.parametrize("given_", [DEEP, lite0(), [(1, 1)], [(2, 2, 0)] * 3])
    def test_receptive_fields(self, javascript, given_):
        layers = as_layers(given_, 48, 64)
        calls = [(i, place, axis) for i, one in enumerate(layers) for axis in (0, 1)
                 for place in range(one["size"][axis])]
        found = javascript("patch", *(["field", layers, *call] for call in calls))
        assert [(f["start"], f["size"], f["jump"]) for f in found] == [field(layers, *call) for call in calls]
        middle = [f["start"] + (f["size"] - 1) / 2 for f in found]
        back = javascript("patch", *(["placeAt", layers, i, at, axis] for (i, _, axis), at in zip(calls, middle)))
        assert back == [place for _, place, _ in calls], "the place over the middle of a field is its own"


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_it_is_live_and_asks_nothing_of_anyone(self, read):
        reader = read("one")
        assert reader.page.locator(".mmtutor-figure").get_attribute("data-state") == "live"
        assert reader.frame(0).locator(".stage").is_visible() and reader.foreign == [] and reader.said == []

    @pytest.mark.parametrize("page", ["one", "field", "many"])
    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, page, width):
        axe_is_content(read(page, viewport={"width": width, "height": 2000}, reduced_motion="reduce"))

    def test_tokens_by_keyboard_pointer_and_code(self, read):
        reader = read("one")
        frame = reader.frame(0)
        tokens = frame.get_by_role("option")
        assert tokens.count() == 12
        assert tokens.nth(5).get_attribute("aria-label") == "token 5: row 1, column 1"
        tokens.nth(5).press("ArrowRight")
        assert reader.hears(0, "v.token === 6")
        frame.locator(".token:focus").press("ArrowDown")
        assert reader.hears(0, "v.token === 10")
        assert frame.evaluate("document.activeElement.ariaLabel") == "token 10: row 2, column 2"
        frame.get_by_text("Token 10: row 2, column 2, for 2 × 4 + 2 = 10. Its pixels: 32 to 47 down").wait_for()
        frame.locator(".token:focus").press("Home")
        assert reader.hears(0, "v.token === 0")
        frame.locator(".token:focus").press("End")
        assert reader.hears(0, "v.token === 11")
        tokens.nth(2).hover()
        assert reader.hears(0, "v.token === 2")
        photo = frame.locator(".photo")
        box = photo.bounding_box()
        photo.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.5})
        assert reader.hears(0, "v.token === 5")
        assert frame.locator(".edge").get_attribute("d") == "M16,16h16v16h-16z"
        reader.set(0, token=9)
        frame.get_by_text("Token 9: row 2, column 1").wait_for()
        assert tokens.nth(9).get_attribute("aria-selected") == "true"

    def test_another_size_keeps_what_was_chosen(self, read):
        reader = read("one")
        frame = reader.frame(0)
        label(frame, "patch").press("ArrowLeft")  # 16 → 8
        assert reader.hears(0, "v.patch === 8 && v.token === 18")  # pixel (16, 16): row 2, column 2 of 8
        assert frame.get_by_role("option").count() == 48
        frame.get_by_text("8 × 8 × 3 = 192 numbers; attention compares 48 × 48 = 2,304 pairs").wait_for()
        assert frame.locator("tbody tr").count() == 3

    def test_tiles_show_their_patch(self, read):
        "A screenshot of a tile is the patch itself."
        reader = read("one", viewport={"width": 900, "height": 1200})
        frame = reader.frame(0)
        for token in (0, 6, 11):
            frame.get_by_role("option").nth(token).hover()
            frame.get_by_text(f"Token {token}:").wait_for()
            shown = Image.open(BytesIO(frame.locator(".big").screenshot())).convert("RGB")  # 96 × 96, 6 a pixel
            shown = np.asarray(shown)[3::6, 3::6][:16, :16]
            row, column = 16 * (token // 4), 16 * (token % 4)
            patch = picture().numpy().transpose(1, 2, 0)[row:row + 16, column:column + 16]
            assert np.abs(shown.astype(int) - patch).max() <= 3

    def test_fields_by_keyboard_pointer_and_code(self, read):
        reader = read("one")
        frame = reader.frame(0)
        frame.get_by_role("button", name="receptive field").press("Enter")
        assert reader.hears(0, "v.mode === 'field'")
        stage = frame.get_by_role("slider", name="place in the layer")
        frame.get_by_text("Row 0, column 0 sees 3 × 3 pixels: 0 to 2 down, 0 to 2 across.").wait_for()
        label(frame, "layer").press("ArrowRight")
        assert reader.hears(0, "v.layer === 1 && v.row === 0 && v.column === 0")
        frame.get_by_text("sees 11 × 11 pixels: −4 to 6 down, −4 to 6 across. 60 % of the square is padding").wait_for()
        for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"):
            stage.press(key)
        assert reader.hears(0, "v.row === 1 && v.column === 1")
        frame.get_by_text("Row 1, column 1 sees 11 × 11 pixels: 0 to 10 down").wait_for()
        assert stage.get_attribute("aria-valuetext") == "row 1, column 1: sees 11 by 11 pixels"
        assert frame.locator(".edge").get_attribute("d") == "M0,0h11v11h-11z"
        stage.press("End")
        assert reader.hears(0, "v.row === 11 && v.column === 15")
        photo = frame.locator(".photo")
        box = photo.bounding_box()
        photo.click(position={"x": box["width"] * 29.5 / 64, "y": box["height"] * 21.5 / 48})
        assert reader.hears(0, "v.row === 5 && v.column === 7")  # middles at 4 × place + 1
        chart = frame.locator(".map")
        box = chart.bounding_box()
        chart.click(position={"x": box["width"] * 2.5 / 16, "y": box["height"] * 3.5 / 12})
        assert reader.hears(0, "v.row === 3 && v.column === 2")
        reader.set(0, layer=2, row=9, column=13)
        frame.get_by_text("Row 9, column 13 sees 19 × 19 pixels").wait_for()
        assert frame.locator("tbody tr").nth(2).locator("td").last.text_content() == "19 × 19"
        frame.get_by_role("button", name="patches").click()
        frame.get_by_text("12 tokens, in reading order").wait_for()

    def test_without_layers_there_is_one_mode(self, read):
        frame = read("many").frame(0)
        assert frame.get_by_role("option").count() == 192 and frame.get_by_role("button").count() == 0

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("field", java_script_enabled=False).page
        assert page.locator("table").is_visible() and page.locator(".mmtutor-figure img").is_visible()
