"""The fusion chooser: its four fusions held to torch, what its toy models do, its values, and its reader."""
import re

import numpy as np
import pytest
import torch
from browsing import axe_is_content, close, label, serve_figures
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import holds_to_the_rules
from torch import nn

from mmtutor.course import fusion_chooser
from mmtutor.course.fusion_chooser import CLASSES, KINDS, MODALITIES, FusionChooser, draw, fuse, observe, places, toy

SUBSETS = [[bool(n >> m & 1) for m in range(3)] for n in range(1, 8)]
LEVELS = [(0.0, 0.0, 0.0), (0.3, 0.6, 2.0), (2.0, 0.05, 1.0)]


def weights_of(kind: str, classes: int = 6, hidden: int = 6, keys: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in fusion_chooser.shapes(kind, classes, hidden, keys).items()}


def random_models(**more) -> dict[str, dict]:
    return {kind: weights_of(kind, **more) for kind in KINDS}


@torch.no_grad()
def reference(kind: str, model: dict, x: torch.Tensor, present: torch.Tensor):
    "The same with layers of torch.nn, item by item, leaving absent modalities out in place of masking them."
    def linear(weight, bias=None):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        return layer

    answers, weights = [], []
    for seen, here in zip(x, present):
        there = [m for m in range(3) if here[m]]
        h = [nn.functional.relu(linear(model["A"][m], model["a"][m])(seen[m])) for m in range(3)]
        w = torch.zeros(3, dtype=torch.float64)
        if kind == "average":
            alone = [linear(model["C"][m], model["c"][m])(h[m]).softmax(0) for m in there]
            answers.append(torch.stack(alone).mean(0))
            w[there] = 1 / len(there)
        elif kind == "concatenation":
            parts = [h[m] if here[m] else model["absent"][m] for m in range(3)]
            answers.append(linear(model["C"], model["c"])(torch.cat(parts)).softmax(0))
            w = None
        elif kind == "gated":
            parts = [h[m] if here[m] else model["absent"][m] for m in range(3)]
            w[there] = linear(model["G"], model["g"])(torch.cat(parts))[there].softmax(0)
            answers.append(linear(model["C"], model["c"])(sum(w[m] * h[m] for m in there)).softmax(0))
        else:
            values = torch.stack([h[m] for m in there])[None]
            keys = linear(model["K"])(values)
            attended = nn.functional.scaled_dot_product_attention(model["q"][None, None], keys, values)[0, 0]
            w[there] = (keys[0] @ model["q"] / len(model["q"]) ** 0.5).softmax(0)
            answers.append(linear(model["C"], model["c"])(attended).softmax(0))
        weights.append(w)
    return torch.stack(answers), None if kind == "concatenation" else torch.stack(weights)


def world(count: int = 6, noise=(0.3, 0.6, 2.0)) -> torch.Tensor:
    return torch.from_numpy(observe(places(), *draw(count, 5), np.array(noise)))


@pytest.fixture(scope="module")
def models() -> dict:
    return toy()


def mean_weights(chooser: FusionChooser) -> dict[str, np.ndarray]:
    return {kind: w.mean(0) for kind, (_, w) in chooser.answers().items() if w is not None}


# What Python computes and gives

@pytest.mark.parametrize("present", SUBSETS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_is_what_torch_gives(kind, present):
    x, there = world(), torch.tensor(present).expand(6, 3)
    model = weights_of(kind)
    p, weights = fuse(kind, model, x, there)
    wanted, wanted_weights = reference(kind, model, x, there)
    close(p.tolist(), wanted)
    if weights is not None:
        close(weights.tolist(), wanted_weights)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(SUBSETS), st.integers(0, 99), st.floats(-1e3, 1e3))
def test_what_is_absent_never_matters(kind, present, seed, value):
    x, there = world(), torch.tensor(present).expand(6, 3)
    other = torch.where(there[..., None], x, torch.tensor(value, dtype=torch.float64))
    (p, weights), (q, _) = (fuse(kind, weights_of(kind, seed=seed), seen, there) for seen in (x, other))
    torch.testing.assert_close(p, q, atol=0, rtol=0)
    close(p.sum(1).tolist(), torch.ones(6, dtype=torch.float64))
    assert weights is None or ((weights == 0) | there).all()


def test_the_world_shows_its_classes():
    where = places()
    np.testing.assert_allclose(np.linalg.norm(where, axis=-1), 1)
    for modality, order in zip(where, fusion_chooser.ORDERS):
        round_ = modality[list(order)]
        np.testing.assert_allclose(np.linalg.norm(round_ - np.roll(round_, 1, axis=0), axis=1), 1, err_msg="a hexagon")
    targets, draws = draw(500, 0)
    clean, noisy = (observe(where, targets, draws, np.array(noise)) for noise in ((0, 0, 0), (0.5, 1, 2)))
    np.testing.assert_array_equal(clean[..., 2], 0)
    np.testing.assert_array_equal(clean[..., :2], where[:, targets].transpose(1, 0, 2))
    spread = (noisy - clean)[..., :2].std((0, 2))
    np.testing.assert_allclose(spread, [0.5, 1, 2], rtol=0.08)
    np.testing.assert_allclose((noisy[..., 2] ** 2).mean(0) ** 0.5, [0.5, 1, 2], rtol=0.08)


def test_training_is_deterministic_and_small():
    one, two = toy(steps=20), toy(steps=20)
    for kind in KINDS:
        assert all(torch.equal(one[kind][name], two[kind][name]) for name in one[kind])
        assert sum(w.numel() for w in one[kind].values()) < 250


def test_the_toy_does_what_the_page_says(models):
    chooser = FusionChooser(models)
    assert min(chooser.right().values()) > 90
    calm = mean_weights(chooser)
    chooser.noise = (0.3, 0.3, 2)
    loud = mean_weights(chooser)
    for kind in ("gated", "attention"):
        assert loud[kind][2] < 0.6 * calm[kind][2] and loud[kind][2] < 0.2, "they turn away from the noisy one"
    assert loud["average"].tolist() == pytest.approx([1 / 3] * 3)
    chooser.update(noise=(0.6, 0.6, 0.6), present=(False, True, True))
    masked, masked_weights = chooser.right(), mean_weights(chooser)
    chooser.missing = "zeros"
    zeros, zero_weights = chooser.right(), mean_weights(chooser)
    assert all(zeros[kind] < masked[kind] for kind in ("concatenation", "gated", "attention"))
    for kind in ("gated", "attention"):
        assert masked_weights[kind][0] == 0 and zero_weights[kind][0] > 0.35, "zeros are believed"


@pytest.mark.parametrize("more", [{}, {"present": (False, True, True), "missing": "zeros", "noise": (0, 1, 2)}])
def test_it_holds_to_the_rules_of_every_figure(more, monkeypatch):
    holds_to_the_rules(FusionChooser(random_models(), **more), monkeypatch)


def test_values_and_tables():
    chooser = FusionChooser(random_models(), item=7)
    targets, draws = draw(100, 99)
    assert chooser.targets == targets.tolist() and np.abs(np.array(chooser.draws) - draws).max() <= 0.0005
    found = chooser.answers()
    caption, heads, rows = chooser.table()
    assert caption == f"Item 7: {CLASSES[targets[7]]}" and heads[-1] == "right of 100 items"
    assert [row[0] for row in rows] == list(KINDS) and rows[0][3:6] == ("–",) * 3
    assert rows[1][2] == f"{found['gated'][0][7, targets[7]]:.3f}" and rows[3][-1] == chooser.right()["attention"]
    assert f"{CLASSES[targets[7]]} shown by text with noise 0.30" in chooser.alt()
    chooser.present = [True, False, True]
    assert "picture missing (masked)" in chooser.alt()
    with pytest.raises(ValueError, match="expected three, one of them True"):
        chooser.present = [False] * 3
    assert chooser.present == [True, False, True]
    chooser.update(targets=[1, 2], draws=draws[:2], item=1)
    assert chooser.table()[1][-1] == "right of 2 items"


def test_other_classes_and_widths():
    chooser = FusionChooser(random_models(classes=4, hidden=3, keys=2), targets=[3, 0], draws=np.zeros((2, 3, 3)),
                            where=np.random.default_rng(0).normal(size=(3, 4, 2)), classes=list("abcd"))
    assert chooser.answers()["gated"][0].shape == (2, 4) and "d shown by" in chooser.alt()


def broken(kind: str, name: str, value) -> dict:
    models = random_models()
    models[kind][name] = value
    return {"models": models}


@pytest.mark.parametrize("given_, said", [
    ({"models": {}}, "models of nothing; expected concatenation, gated, average, attention"),
    ({"models": {**random_models(), "sum": {}}}, "models of concatenation, gated, average, attention, sum; expected"),
    (broken("gated", "G", torch.zeros(3, 6)), "gated: G is (3, 6), expected (3, 18)"),
    (broken("average", "c", torch.zeros(6)), "average: c is (6,), expected (3, 6)"),
    (broken("attention", "q", torch.full((4,), torch.nan)), "attention: q: not every number is finite"),
    ({"models": {**random_models(), "attention": {}}},
     "attention has the weights of nothing; expected A, a, K, q, C, c"),
    ({"classes": ["a"]}, "concatenation: C is (6, 18), expected (1, 18)"),
    ({"noise": (0, 0)}, "noise is [0.0, 0.0], expected three numbers from 0 to 2"),
    ({"noise": (0, -1, 0)}, "noise is [0.0, -1.0, 0.0]"),
    ({"noise": (0, float("nan"), 0)}, "noise is [0.0, nan, 0.0]"),
    ({"present": (True, True)}, "present is [True, True]"),
    ({"missing": "mean"}, "missing 'mean': expected three, one of them True, and 'mask' or 'zeros'"),
    ({"item": 100}, "item: 100 is out of range, expected 0 to 99"),
    ({"targets": [0]}, "targets and draws come together"),
    ({"targets": [0], "draws": np.zeros((2, 3, 3))},
     "1 targets, draws (2, 3, 3) and places (3, 6, 2): expected (1, 3, 3)"),
    ({"targets": [6], "draws": np.zeros((1, 3, 3))}, "targets: 6 is out of range, expected 0 to 5"),
    ({"where": np.zeros((3, 5, 2))}, "places (3, 5, 2): expected (100, 3, 3) and (3, 6, 2)"),
])
def test_what_does_not_fit_is_refused(given_, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        FusionChooser(**{"models": random_models()} | given_)


@pytest.mark.bad_input
def test_what_cannot_be_fused_or_shown_is_refused():
    model, x, there = weights_of("gated"), world(), torch.ones(6, 3, dtype=torch.bool)
    targets, draws = draw(2, 0)
    for call, said in [
            (lambda: fuse("sum", model, x, there), "'sum' of 6 classes"),
            (lambda: fuse("average", model, x, there), "fuse: average of {'A': (3, 6, 3)"),
            (lambda: fuse("gated", model, x, there[:1]), "present torch.bool (1, 3)"),
            (lambda: fuse("gated", model, x, there & False), "of some item no modality is present"),
            (lambda: observe(places(), targets, draws[:1], np.ones(3)), "draws (1, 3, 3)"),
            (lambda: observe(places(), targets, draws, np.ones(1)), "noise (1,)"),
            (lambda: observe(places(), targets - 6, draws, np.ones(3)), "expected whole numbers below 6"),
            (lambda: fusion_chooser.shapes("gated", -1), "'gated' of -1 classes"),
            (lambda: draw(-1, 0), "count -1 and seed 0"), (lambda: toy(batch=0), "1500 steps and batches of 0")]:
        with pytest.raises(ValueError, match=re.escape(said)):
            call()


# In the browser

@pytest.fixture(scope="module")
def address(tmp_path_factory, models):
    away = {"present": (False, True, True), "missing": "zeros"}
    with serve_figures(tmp_path_factory.mktemp("site"), one=[FusionChooser(models, noise=(0.3, 0.3, 1.5), item=3)],
                away=[FusionChooser(models, **away)]) as address:
        yield address


@pytest.mark.browser
class TestMathematics:
    @pytest.mark.parametrize("noise", LEVELS, ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_fusion_subset_and_noise_is_torchs(self, javascript, kind, noise):
        model, x = weights_of(kind), world(noise=noise)
        plain = {name: w.tolist() for name, w in model.items()}
        for present in SUBSETS:
            there = torch.tensor(present).expand(6, 3)
            wanted, wanted_weights = reference(kind, model, x, there)
            found = javascript("fusion", *(["fuse", kind, plain, one, present] for one in x.tolist()))
            close([f["p"] for f in found], wanted)
            if wanted_weights is None:
                assert all(f["weights"] is None for f in found)
            else:
                close([f["weights"] for f in found], wanted_weights)
            assert javascript("fusion", *(["best", f["p"]] for f in found)) == wanted.argmax(1).tolist()

    def test_what_an_item_shows(self, javascript):
        targets, draws = draw(8, 3)
        for noise in LEVELS:
            x = observe(places(), targets, draws, np.array(noise))
            for present in SUBSETS:
                found = javascript("fusion", *(["observe", places().tolist(), int(t), d, list(noise), present]
                                               for t, d in zip(targets, draws.tolist())))
                close(found, torch.from_numpy(x * np.array(present)[:, None]))

    def test_large_scores_stay_finite(self, javascript):
        for kind in KINDS:
            model = {name: 100 * w for name, w in weights_of(kind).items()}
            p, _ = reference(kind, model, world(1), torch.tensor([[True, False, True]]))
            plain = {name: w.tolist() for name, w in model.items()}
            (found,) = javascript("fusion", ["fuse", kind, plain, world(1)[0].tolist(), [True, False, True]])
            close([found["p"]], p, 1e-9)


def rows(frame) -> list[list[str]]:
    "The table of the page, as Python writes numbers."
    found = frame.locator("tbody tr").evaluate_all("all => all.map(r => [...r.children].map(c => c.textContent))")
    return [[cell.replace("−", "-") for cell in row] for row in found]


def written(chooser: FusionChooser) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in chooser.table()[2]]


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_it_is_live_and_asks_nothing_of_anyone(self, read):
        reader = read("one")
        assert reader.page.locator(".mmtutor-figure").get_attribute("data-state") == "live"
        assert reader.frame(0).locator("svg.field").count() == 3 and reader.foreign == [] and reader.said == []

    @pytest.mark.parametrize("page", ["one", "away"])
    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, page, width):
        axe_is_content(read(page, viewport={"width": width, "height": 2200}, reduced_motion="reduce"))

    def test_noise_switches_and_zeros(self, read, models):
        reader, chooser = read("one"), FusionChooser(models, noise=(0.3, 0.3, 1.5), item=3)
        frame = reader.frame(0)
        assert rows(frame) == written(chooser), "the table of the page is the table of Python"
        for name, m in zip(MODALITIES, range(3)):
            slider = frame.get_by_role("slider", name=f"noise of the {name}")
            slider.press("ArrowRight")
            noise = [s + 0.05 * (i == m) for i, s in enumerate(chooser.noise)]
            chooser.noise = [round(s, 2) for s in noise]
            assert reader.hears(0, f"v.noise[{m}] === {chooser.noise[m]}")
        assert rows(frame) == written(chooser)
        frame.get_by_role("checkbox", name="text").press(" ")
        chooser.present = (False, True, True)
        assert reader.hears(0, "`${v.present}` === 'false,true,true'")
        assert rows(frame) == written(chooser) and frame.locator("circle.seen").count() == 2
        assert frame.get_by_role("slider", name="noise of the text").is_disabled()
        frame.get_by_text("Text: missing: masked.").wait_for()
        frame.get_by_role("button", name="zeros").press("Enter")
        chooser.missing = "zeros"
        assert reader.hears(0, "v.missing === 'zeros'") and rows(frame) == written(chooser)
        middle = frame.locator("circle.seen").first
        assert (middle.get_attribute("cx"), middle.get_attribute("cy")) == ("85", "85"), "a point in the middle"
        frame.get_by_role("checkbox", name="picture").uncheck()
        assert reader.hears(0, "`${v.present}` === 'false,false,true'")
        assert frame.get_by_role("checkbox", name="sound").is_disabled(), "the last one stays"
        frame.get_by_role("button", name="reset").click()
        assert reader.hears(0, "`${v.present}` === 'true,true,true'")
        assert rows(frame) == written(FusionChooser(models, noise=(0.3, 0.3, 1.5), item=3))

    def test_items_by_keyboard_pointer_and_code(self, read, models):
        reader, chooser = read("one"), FusionChooser(models, noise=(0.3, 0.3, 1.5), item=3)
        frame = reader.frame(0)
        frame.get_by_role("button", name="next item").click()
        label(frame, "item").press("ArrowRight")
        assert reader.hears(0, "v.item === 5")
        chooser.item = 5
        assert rows(frame) == written(chooser)
        label(frame, "item").press("End")
        frame.get_by_role("button", name="next item").press("Enter")
        assert reader.hears(0, "v.item === 0")
        reader.set(0, item=42, noise=[2, 2, 2])
        chooser.update(item=42, noise=(2, 2, 2))
        frame.get_by_text(f"Item 42 is {CLASSES[chooser.targets[42]]}.").wait_for()
        assert rows(frame) == written(chooser)
        bars = frame.get_by_role("img", name="gated").get_attribute("aria-label")
        p = chooser.answers()["gated"][0][42]
        assert bars == "gated: " + ", ".join(f"{c} {v:.2f}" for c, v in zip(CLASSES, p))

    def test_other_values_are_drawn(self, read):
        reader = read("one")
        other = FusionChooser(random_models(classes=2, hidden=2), targets=[1], draws=np.zeros((1, 3, 3)),
                              where=np.ones((3, 2, 2)), classes=["yes", "no"])
        reader.set(0, **other.values)
        frame = reader.frame(0)
        frame.get_by_text("Item 0 is no.").wait_for()
        assert rows(frame) == written(other)

    def test_less_motion_is_respected(self, read):
        for less, seconds in (("reduce", "0s"), ("no-preference", "0.2s")):
            frame = read("one", reduced_motion=less).frame(0)
            bar = "getComputedStyle(document.querySelector('.mmt .bars i')).transitionDuration"
            assert frame.evaluate(bar) == seconds

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("away", java_script_enabled=False).page
        assert page.locator("table").is_visible() and page.locator(".mmtutor-figure img").is_visible()
