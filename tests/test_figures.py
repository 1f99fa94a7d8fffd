"""The interactive figures: their mathematics against torch, their values, and what a reader meets in Chromium."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import axe_is_content, close, serve, write_figures

from mmtutor.course import interactive
from mmtutor.course.attention_explorer import AttentionExplorer, axis_parts, frames, patches
from mmtutor.course.interactive import BlockExplorer, PositionExplorer, SoftmaxExplorer, step

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from docs import offline  # noqa: E402

WIDGETS = sorted((ROOT / "mmtutor" / "course" / "widgets").glob("*.js"))
AB = ["a", "b"]
WORDS = ["the", "cat", "sat", "down"]


def softmax_figure() -> SoftmaxExplorer:
    return SoftmaxExplorer([2.0, 1.0, 0.5, -1.0], labels=WORDS, mask=[True, True, True, False], selected=1)


def attention_figure() -> AttentionExplorer:
    weights = np.random.default_rng(0).dirichlet(np.ones(9), size=(2, 3, 4))
    picture = np.random.default_rng(1).random((8, 8, 3))
    return AttentionExplorer(weights, WORDS, ["a", patches(picture, 2, 2), frames(4, 0.1)], layer=1, head=0, query=2)


def block_figure() -> BlockExplorer:
    x = torch.arange(24.0).reshape(1, 4, 6) - 12
    return BlockExplorer([step("x", x, "batch token width", "the input"),
                          step("half", x / 2, "batch token width"),
                          step("sum", 1.5 * x, "batch token width", "added again", adds="x")])


def every() -> list[interactive.Interactive]:
    return [softmax_figure(), attention_figure(), PositionExplorer(), block_figure()]


each = pytest.mark.parametrize("figure", every(), ids=lambda f: f.module)


# The modules

@pytest.mark.parametrize("path", WIDGETS, ids=lambda p: p.stem)
def test_a_module_is_small_and_stands_alone(path):
    code = path.read_text(encoding="utf-8")
    assert len(code.encode()) <= 20_000
    assert re.search(r"^export default \{ render \};$", code, re.M)
    assert not re.search(r"\bimport\b\s*[({*\w\"']|\bfetch\(|XMLHttpRequest|WebSocket|\beval\(|innerHTML", code)
    assert set(re.findall(r"https?://[^\s\"'`)]+", code)) <= {"http://www.w3.org/2000/svg"}


def test_the_shared_part_is_the_same_in_every_module():
    parts = {p.read_text(encoding="utf-8").split("// ---- shared")[1].split("// ---- end of the shared")[0]
             for p in WIDGETS}
    assert len(parts) == 1 and len(parts.pop()) > 2000


def test_every_figure_has_its_module_and_every_module_its_figure():
    here = {f.module for f in every()}
    others = {p.stem.removeprefix("test_") for p in Path(__file__).parent.glob("*.py")}
    assert here <= {p.stem for p in WIDGETS}
    alone = [p.stem for p in WIDGETS if p.stem not in here]
    assert all({stem, f"{stem}_explorer"} & others for stem in alone), "a widget without tests"
    for figure in every():
        assert interactive.source(figure.module) == (WIDGETS[0].parent / f"{figure.module}.js").read_text("utf-8")


def test_importing_the_figures_brings_no_widget_library():
    code = ("import sys, mmtutor.course.figures, mmtutor.course.interactive, mmtutor.course.attention_explorer\n"
            "print([m for m in ('anywidget', 'ipywidgets', 'traitlets', 'torch', 'IPython') if m in sys.modules])")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# What Python gives

@each
def test_static_html_has_a_picture_with_alt_text_and_a_table(figure):
    html = figure.static()
    assert html == figure.static(), "the same figure gives the same bytes"
    assert "<script" not in html and re.search(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{20,}"', html)
    assert re.search(r"<table><caption>.+</caption><thead><tr><th scope=\"col\">", html) and '<th scope="row">' in html
    state = re.search(r'data-values="([^"]*)"', html)[1].replace("&quot;", '"').replace("&amp;", "&")
    assert json.loads(state) == figure.values


@each
def test_the_output_always_carries_text_and_html(figure, monkeypatch):
    bundle = figure._repr_mimebundle_()
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= bundle.keys()
    assert bundle["text/plain"] == repr(figure) and figure.alt() in bundle["text/plain"]
    monkeypatch.setitem(sys.modules, "anywidget", None)
    bare = type(figure).__new__(type(figure))
    bare.__dict__.update(_widget=None, _values=figure.values)
    assert bare._repr_mimebundle_() == {k: bundle[k] for k in ("text/plain", "text/html")}


@each
def test_the_widget_has_the_values_and_the_module(figure):
    assert {n: getattr(figure.widget, n) for n in figure.values} == figure.values
    assert figure.widget._esm == interactive.source(figure.module)
    assert figure.widget is figure.widget


def test_values_go_to_the_widget_and_come_back():
    figure, seen = softmax_figure(), []
    figure.on_change("temperature", seen.append)
    figure.temperature = 0.5
    assert figure.widget.temperature == 0.5 and seen == [0.5]
    figure.widget.selected = 3  # as the browser does
    assert figure.selected == 3 and figure.values["selected"] == 3
    figure.update(logits=torch.tensor([1.0, 2.0]), labels=["a", "b"], mask=None, selected=0)
    assert figure.widget.logits == [1.0, 2.0] and figure.widget.mask == [True, True]
    with pytest.raises(ValueError, match="2 logits, 2 labels and a mask of 3"):
        figure.mask = [True] * 3
    assert figure.mask == [True, True] and figure.widget.mask == [True, True], "nothing changes when a value is refused"
    unseen = softmax_figure()  # the same before there is a widget
    with pytest.raises(ValueError, match="a mask of 1"):
        unseen.mask = [True]
    assert unseen.mask == [True, True, True, False]
    with pytest.raises(AttributeError, match="has no value 'temprature'; it has logits, labels, temperature"):
        figure.temprature = 1


def test_weights_are_torchs():
    figure = softmax_figure()
    figure.temperature = 0.3
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.5, -torch.inf], dtype=torch.float64) / 0.3, 0)
    torch.testing.assert_close(torch.from_numpy(figure.weights), expected, atol=1e-12, rtol=0)
    figure.mask = [False] * 4
    assert figure.weights.tolist() == [0.0] * 4


def test_attention_weights_of_any_rank_and_library():
    table = torch.tensor([[0.25, 0.75], [1.0, 0.0]], requires_grad=True)
    figure = AttentionExplorer(table, ["a", "b"], ["a", "b"])
    assert figure.shape == [1, 1, 2, 2] and figure.rows.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    figure.weights = np.stack([np.eye(2), np.full((2, 2), 0.5)])
    figure.head = -1
    assert figure.shape == [1, 2, 2, 2] and figure.rows.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert figure.strongest(0) == "a 0.75, b 0.25" and "mean of the heads" in figure.alt()
    figure.query = 1
    np.testing.assert_array_equal(figure.weights[0, 0], np.eye(2))


def test_axes_hold_words_patches_and_frames():
    parts = axis_parts(["a", "b", patches(np.zeros((4, 8)), 2, 3), "c", frames(2, 0.5, np.eye(3))])
    assert [p["kind"] for p in parts] == ["tokens", "patches", "tokens", "frames"]
    assert parts[0]["labels"] == ["a", "b"] and parts[1]["labels"][4] == "row 2, column 2" and parts[1]["aspect"] == 2
    assert parts[3]["labels"] == ["0.00 s", "0.50 s"] and parts[3]["image"].startswith("data:image/png;base64,")
    from PIL import Image
    same = np.full((4, 4, 3), 51, dtype=np.uint8)
    assert patches(Image.fromarray(same), 2, 2) == patches(same, 2, 2) == patches(torch.full((4, 4, 3), 0.2), 2, 2)


@pytest.mark.parametrize("make, said", [
    (lambda: SoftmaxExplorer([]), "SoftmaxExplorer: logits: expected 1 axes that are not empty, got shape (0,)"),
    (lambda: SoftmaxExplorer([1.0, float("nan")]), "not every number is finite"),
    (lambda: SoftmaxExplorer([1.0], temperature=0), "temperature is 0, expected 0.01 to 100"),
    (lambda: SoftmaxExplorer([1.0], selected=1), "selected: 1 is out of range, expected 0 to 0"),
    (lambda: AttentionExplorer(np.eye(2), ["a"], AB), "weights for 2 queries and 2 keys, but 1 and 2 are named"),
    (lambda: AttentionExplorer(2 * np.eye(2), AB, AB), "0 to 2: expected ([layer,] [head,] query, key)"),
    (lambda: AttentionExplorer(np.zeros((500, 500)), [], []), "at most 200,000"),
    (lambda: AttentionExplorer(np.eye(2), AB, AB, head=-2), "head: -2 is out of range, expected -1 to 0"),
    (lambda: PositionExplorer(width=7), "width 7 and length 48: expected an even width"),
    (lambda: PositionExplorer(offset=48), "offset: 48 is out of range, expected -47 to 47"),
    (lambda: step("x", torch.zeros(2, 3), "batch token width"), "step 'x': expected 3 axes"),
    (lambda: BlockExplorer([step("y", torch.zeros(2, 3), "token width", adds="x")]), "adds 'x', which is no earlier"),
    (lambda: BlockExplorer([{"name": "x"}]), "expected steps that are each made by `step`"),
    (lambda: SoftmaxExplorer([[1.0], [1.0, 2.0]]), "expected numbers in rows of one length"),
    (lambda: SoftmaxExplorer([1.0, 2.0], selected=0.5), "selected: 0.5 is out of range"),
    (lambda: patches(np.zeros((4, 4, 2)), 1, 1), "an image (4, 4, 2) from 0 to 0: expected (height, width)"),
    (lambda: patches(-np.ones((4, 4)), 1, 1), "from -1 to -1"),
    (lambda: patches(np.ones((4, 4)), 0, 1), "patches: 0 × 1 of them, expected 1 to 224"),
    (lambda: frames(-1, 0.1), "frames: -1 of 0.1 s each"),
    (lambda: frames(1, float("nan")), "frames: 1 of nan s each"),
    (lambda: axis_parts([{**patches(np.ones((4, 4)), 1, 2), "rows": 2}]), "axis_parts: 'patches' with kind, labels"),
])
def test_what_cannot_be_drawn_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_a_step_keeps_the_shape_and_a_corner():
    x = torch.randn(2, 3, 20, 30, dtype=torch.float64)
    one = step("scores", x, "batch head query key")
    assert one["shape"] == [2, 3, 20, 30] and one["axes"] == ["batch", "head", "query", "key"]
    assert np.abs(np.array(one["values"]) - x[0, 0, :8, :10].numpy()).max() <= 0.0005
    assert one["mean"] == round(x.mean().item(), 4) and one["std"] == round(x.std(correction=0).item(), 4)
    assert block_figure().steps[2]["adds"] == [0]


def holds_to_the_rules(figure: interactive.Interactive, monkeypatch) -> None:
    "What every figure promises."
    path = Path(interactive.__file__).with_name("widgets") / f"{figure.module}.js"
    test_a_module_is_small_and_stands_alone(path)
    test_static_html_has_a_picture_with_alt_text_and_a_table(figure)
    test_the_widget_has_the_values_and_the_module(figure)
    test_the_output_always_carries_text_and_html(figure, monkeypatch)


# In Chromium, as the docs site shows them

@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "A site of three pages: every figure, two of a kind, and one whose module is broken."
    site = tmp_path_factory.mktemp("figures")
    shown = {"all": every(), "two": [softmax_figure(), softmax_figure()], "broken": [softmax_figure()]}
    write_figures(site, **shown)
    path = site / "broken.html"
    path.write_text(path.read_text("utf-8").replace('"softmax"', '"gone"'), "utf-8")
    broken = offline.module_text("gone", "export default { render() { throw new Error('no'); } };")
    (site / "site_libs" / "figures" / "gone.text.js").write_text(broken)

    with serve(site) as address:
        yield address


@pytest.mark.browser
class TestMathematics:
    @pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
    def test_softmax_entropy_and_slopes(self, javascript, temperature):
        logits = torch.tensor([2.0, -1.5, 0.3, 700.0, -700.0], dtype=torch.float64, requires_grad=True)
        for mask in ([True] * 5, [True, True, True, False, True], [True, False, False, False, False]):
            banned = ~torch.tensor(mask)
            weights = torch.softmax((logits / temperature).masked_fill(banned, -torch.inf), 0)
            (found,) = javascript("softmax", ["softmax", logits.tolist(), temperature, mask])
            close(found, weights.detach())
            entropy, slopes = javascript("softmax", ["entropy", found], ["slopes", found, 2, temperature])
            assert entropy == pytest.approx(torch.special.entr(weights).sum().item(), abs=1e-12)
            close(slopes, torch.autograd.grad(weights[2], logits)[0])

    def test_softmax_over_nothing_is_zeros(self, javascript):
        zeros, entropy = javascript("softmax", ["softmax", [1, 2], 1, [False, False]], ["entropy", [0, 0]])
        assert zeros == [0, 0] and entropy == 0

    def test_rows_of_attention(self, javascript):
        figure = attention_figure()
        for layer, head, query in [(0, 0, 0), (1, 2, 3), (1, -1, 2)]:
            weights = torch.from_numpy(figure.weights[layer])
            expected = weights[:, query].mean(0) if head < 0 else weights[head, query]
            call = ["row", figure.packed, figure.shape, layer, head, query]
            (found,) = javascript("attention", call)
            close(found, expected)
            entropy, best = javascript("attention", ["entropy", found], ["strongest", found, 3])
            assert entropy == pytest.approx(torch.special.entr(expected).sum().item(), abs=1e-12)
            assert best == expected.topk(3).indices.tolist()

    def test_positions(self, javascript):
        width, places = 16, torch.arange(40, dtype=torch.float64)
        speeds = 1e4 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = places[:, None] * speeds
        encoded = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        close(javascript("positions", ["speeds", width])[0], speeds)
        close(javascript("positions", *(["sinusoid", p, width] for p in range(40))), encoded)
        dots = encoded @ encoded.T / (width / 2)
        close(javascript("positions", *(["similarity", k, width] for k in range(20))), dots[3, 3:23])
        pair = torch.tensor([0.3, -1.2], dtype=torch.float64)
        turned = torch.view_as_complex(pair) * torch.exp(7j * speeds[1])
        (found,) = javascript("positions", ["turn", pair.tolist(), 7 * speeds[1].item()])
        close(found, torch.view_as_real(turned))

    def test_moments_and_tints(self, javascript):
        x = torch.randn(4, 6, dtype=torch.float64)
        moments, tint = javascript("block", ["moments", x.tolist()], ["tint", x.tolist()])
        assert moments["mean"] == pytest.approx(x.mean().item(), abs=1e-12)
        assert moments["std"] == pytest.approx(x.std(correction=0).item(), abs=1e-12)
        close(tint, x / x.abs().max())
        assert javascript("block", ["tint", [[0, 0]]]) == [[[0, 0]]]


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_every_figure_is_live_and_asks_nothing_of_anyone(self, read):
        reader = read("all")
        states = reader.page.locator(".mmtutor-figure").evaluate_all("all => all.map(f => f.dataset.state)")
        assert states == ["live"] * 4
        assert not reader.page.locator(".mmtutor-figure img").first.is_visible(), "the widget replaces the picture"
        for number in range(4):
            frame = reader.frame(number)
            assert frame.locator(".mmt").is_visible()
            tried = "fetch('/x').then(() => 'came through', () => 'stopped')"
            assert frame.evaluate(tried) == "stopped"
            assert frame.evaluate("try { parent.document.title } catch { 'stopped' }") == "stopped"
        assert reader.foreign == []
        assert [s for s in reader.said if "Content Security Policy" not in s and "Fetch API" not in s] == []

    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, width):
        reader = read("all", viewport={"width": width, "height": 6000}, reduced_motion="reduce")
        for number in range(4):
            axe_is_content(reader, number)

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("all", java_script_enabled=False).page
        assert page.locator(".mmtutor-figure table").count() == page.locator(".mmtutor-figure img").count() == 4
        for place in (*page.locator(".mmtutor-figure table").all(), *page.locator(".mmtutor-figure img").all()):
            assert place.is_visible()

    def test_a_broken_module_leaves_the_picture_and_the_table(self, read):
        page = read("broken").page
        assert "Error: no" in page.locator(".mmtutor-figure").get_attribute("data-state")
        assert page.locator("iframe").count() == 0
        assert page.locator("table").is_visible() and page.locator("img").is_visible()

    def test_several_figures_do_not_disturb_each_other(self, read):
        reader = read("two")
        first, second = reader.frame(0), reader.frame(1)
        before = second.locator("p").last.inner_text()
        first.get_by_role("slider", name="logit of cat").press("ArrowUp")
        assert reader.hears(0, "v.logits[1] === 1.1") and reader.hears(1, "v.logits[1] === 1.0")
        assert second.locator("p").last.inner_text() == before != first.locator("p").last.inner_text()

    def test_softmax_by_keyboard_pointer_and_code(self, read):
        reader = read("all")
        frame = reader.frame(0)
        heights = ("[...document.querySelectorAll('svg')]"
                   ".map(s => [...s.querySelectorAll('.bar')].map(b => +b.getAttribute('height')))")
        handle, before = frame.get_by_role("slider", name="logit of sat"), frame.evaluate(heights)
        for key in ("ArrowUp", "ArrowRight", "PageUp", "ArrowDown", "ArrowLeft"):
            handle.press(key)
        assert reader.hears(0, "v.logits[2] === 1.5") and reader.hears(0, "v.selected === 2")
        assert handle.get_attribute("aria-valuenow") == "1.5"
        assert frame.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
        after = frame.evaluate(heights)
        assert after[1][2] > before[1][2] and after[1][0] < before[1][0], "one weight rises, the other falls"
        frame.locator("label", has_text="temperature").locator("input").press("Home")
        assert reader.hears(0, "v.temperature === 0.1")
        assert frame.evaluate(heights)[1][0] > after[1][0], "colder is sharper"
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        reader.page.mouse.move(box["x"] + 9, box["y"] + 9)
        reader.page.mouse.down()
        reader.page.mouse.move(box["x"] + 9, box["y"] - 40, steps=4)
        reader.page.mouse.up()
        assert reader.hears(0, "v.logits[2] > 2")
        frame.get_by_label("cat", exact=True).uncheck()
        assert reader.hears(0, "`${v.mask}` === `true,false,true,false`")
        assert frame.locator("tbody tr").nth(1).text_content() == "catno1.000.0000.000"
        reader.set(0, logits=[0, 0, 0, 0], mask=[True] * 4)
        frame.get_by_text("Entropy 1.39 of at most 1.39").wait_for()
        assert handle.evaluate("e => e.isConnected"), "the handle survives, and the focus with it"
        frame.get_by_role("button", name="reset").click()
        assert reader.hears(0, "`${v.logits}` === `2,1,0.5,-1`")

    def test_attention_by_keyboard_pointer_and_code(self, read):
        reader, figure = read("all"), attention_figure()
        frame = reader.frame(1)
        keys = frame.get_by_role("list", name="keys").locator("[role=listitem]")
        names = figure.names()[1]

        def spoken():
            said = [text.rsplit(": ", 1) for text in keys.evaluate_all("all => all.map(k => k.ariaLabel)")]
            assert [name for name, _ in said] == names
            return [float(weight) for _, weight in said]

        def expected(layer, head, query):
            weights = figure.weights[layer].mean(0) if head < 0 else figure.weights[layer, head]
            return pytest.approx(weights[query], abs=0.0051)  # two digits are shown

        assert spoken() == expected(1, 0, 2)
        frame.get_by_role("option", name="sat").press("ArrowRight")
        assert reader.hears(1, "v.query === 3") and spoken() == expected(1, 0, 3)
        assert frame.evaluate("document.activeElement.textContent") == "down"
        frame.get_by_role("option", name="the").hover()
        assert reader.hears(1, "v.query === 0") and spoken() == expected(1, 0, 0)
        frame.get_by_role("button", name="head 2").press("Enter")
        assert reader.hears(1, "v.head === 2") and spoken() == expected(1, 2, 0)
        frame.get_by_role("button", name="mean").click()
        assert spoken() == expected(1, -1, 0)
        frame.locator("label", has_text="layer").locator("input").press("ArrowLeft")
        assert reader.hears(1, "v.layer === 0") and spoken() == expected(0, -1, 0)
        veils = keys.evaluate_all("all => all.map(k => +k.style.getPropertyValue('--w'))")
        row = figure.weights[0].mean(0)[0]
        assert veils == pytest.approx(row / row.max(), abs=0.001), "patches are as bright as their weights"
        reader.set(1, head=1, query=2)
        frame.get_by_text("“sat” looks at").first.wait_for()
        assert spoken() == expected(0, 1, 2)

    def test_patches_and_frames_stand_in_their_places(self, read):
        frame = read("all").frame(1)
        tiles = frame.locator(".seen .patches .tile")
        boxes = [t.bounding_box() for t in tiles.all()]
        assert len(boxes) == 4 and boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] and boxes[0]["x"] < boxes[1]["x"]
        assert frame.locator(".seen .frames .tile").count() == 4

    def test_positions_by_keyboard_pointer_and_code(self, read):
        reader = read("all")
        frame = reader.frame(2)
        dials = "[...document.querySelectorAll('.turns svg')].map(s => s.ariaLabel.split(', between')[1])"
        curve = "document.querySelectorAll('svg')[0].innerHTML"
        apart, line = frame.evaluate(dials), frame.evaluate(curve)
        frame.locator("label", has_text="position").locator("input").press("ArrowRight")
        assert reader.hears(2, "v.position === 9") and frame.evaluate(dials) == apart, "the angles between stay"
        frame.locator("label", has_text="offset").locator("input").press("ArrowRight")
        assert reader.hears(2, "v.offset === 5") and frame.evaluate(dials) != apart
        frame.locator("label", has_text="width").locator("input").press("End")
        assert reader.hears(2, "v.width === 128") and frame.evaluate(curve) != line
        curves = frame.locator(".map")
        box = curves.bounding_box()
        curves.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})  # scrolls to it first
        assert reader.hears(2, "v.position === 4") and reader.hears(2, "v.offset === 39")
        reader.set(2, offset=0)
        frame.get_by_text("is 1.00 of its largest").wait_for()

    def test_the_block_by_keyboard_button_and_code(self, read):
        reader = read("all")
        frame = reader.frame(3)
        name = lambda: frame.locator(".name").inner_text()
        assert name() == "x" and frame.get_by_role("button", name="back").is_disabled()
        frame.get_by_role("button", name="next").click()
        assert name() == "half" and reader.hears(3, "v.step === 1")
        frame.get_by_role("option", name="half").press("ArrowDown")
        assert name() == "sum" and frame.evaluate("document.activeElement.textContent").startswith("sum")
        assert "1 batch × 4 token × 6 width" in frame.locator(".mmt").inner_text()
        assert frame.locator(".steps svg path").count() == 2, "the way round is drawn"
        reader.set(3, step=0)
        frame.locator(".name", has_text="x").wait_for()
        frame.get_by_role("button", name="play").click()
        frame.locator(".name", has_text="sum").wait_for()
        frame.get_by_role("button", name="play").wait_for()

    def test_less_motion_is_respected(self, read):
        frame = read("all", reduced_motion="reduce").frame(3)
        frame.get_by_text("play", exact=True).wait_for(state="hidden")
        frame.wait_for_function("getComputedStyle(document.querySelector('.mmt svg rect')).transitionDuration === '0s'")
