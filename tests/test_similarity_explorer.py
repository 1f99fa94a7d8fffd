"""The similarity explorer: its losses held to torch and to the chapter on objectives, its values, and its reader."""
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browsing import axe_is_content, close, label, serve_figures
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import holds_to_the_rules

from mmtutor.course.similarity_explorer import EXAMPLE, SimilarityExplorer, as_pairs, contrast, thumbnail
from mmtutor.objectives import contrastive_loss

LOSSES = ["clip", "siglip"]
COLD, USUAL, WARM = 0.004, 0.07, 1.3  # the first is beyond the cap of CLIP


def cosines(n: int = 5, seed: int = 0) -> torch.Tensor:
    a, b = torch.randn(2, n, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def outside(n: int, same=()) -> torch.Tensor:
    out = torch.zeros(n, n, dtype=torch.bool)
    for i, j in same:
        out[i, j] = out[j, i] = True
    return out


def reference(table: torch.Tensor, loss: str, temperature: float, bias: float, out: torch.Tensor) -> torch.Tensor:
    "Both losses written out in torch, as their papers do."
    n, target = len(table), torch.arange(len(table))
    if loss == "siglip":
        sign = 2 * torch.eye(n, dtype=table.dtype) - 1
        return -F.logsigmoid(sign * (table / temperature + bias))[~out].sum() / n
    logits = (table * min(1 / temperature, 100)).masked_fill(out, -torch.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def expected(table: torch.Tensor, loss: str, temperature: float, bias: float, out: torch.Tensor):
    table = table.clone().requires_grad_()
    value = reference(table, loss, temperature, bias, out)
    return value.item(), torch.autograd.grad(value, table)[0]


def explorer(**more) -> SimilarityExplorer:
    return SimilarityExplorer(EXAMPLE["cosines"], EXAMPLE["names"], **{"same": [(0, 1)], "row": 1, "column": 0} | more)


def squares(n: int) -> list[np.ndarray]:
    "Pictures of one colour each."
    return [np.full((3, 24, 24), 20 * i + 40, dtype=np.uint8) for i in range(n)]


# What Python computes and gives

@pytest.mark.parametrize("temperature", [COLD, USUAL, WARM])
def test_the_plain_case_is_the_loss_of_the_chapter(temperature):
    a, b = torch.randn(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = contrast((F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).numpy(), temperature=temperature)
    assert ours["loss"] == pytest.approx(contrastive_loss(a, b, math.log(1 / temperature)).item(), abs=1e-12)


@pytest.mark.parametrize("same", [(), [(0, 3)], [(0, 1), (1, 4), (0, 4)]])
@pytest.mark.parametrize("temperature", [COLD, USUAL, WARM])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_slopes_are_those_of_torch(loss, temperature, same):
    out = outside(5, same)
    value, gradient = expected(cosines(), loss, temperature, -3.0, out)
    found = contrast(cosines().numpy(), loss, temperature, -3.0, out.numpy())
    assert found["loss"] == pytest.approx(value, abs=1e-12, rel=1e-12)
    close(found["gradient"], gradient, 1e-11)
    assert (found["gradient"][out.numpy()] == 0).all()
    assert found["scale"] == pytest.approx(100 if (loss, temperature) == ("clip", COLD) else 1 / temperature)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 99), st.sampled_from(LOSSES), st.floats(0.002, 2), st.floats(-20, 0))
def test_rows_and_columns_add_up(n, seed, loss, temperature, bias):
    found = contrast(cosines(n, seed).numpy(), loss, temperature, bias)
    assert (found["rows"].mean() + found["columns"].mean()) / 2 == pytest.approx(found["loss"])
    assert np.isfinite(found["gradient"]).all() and (np.diag(found["gradient"]) <= 0).all()
    off = found["gradient"][~np.eye(n, dtype=bool)]
    assert (off >= 0).all(), "only pairs are pulled together"
    if loss == "siglip":
        assert found["rows"].mean() == pytest.approx(found["columns"].mean())
    else:
        np.testing.assert_allclose([found["p"].sum(1), found["q"].sum(0)], 1)
        assert abs(found["gradient"].sum()) < 1e-9 * found["scale"], "what is pulled together is pushed elsewhere"


def test_a_false_negative_left_out_lowers_the_loss_of_clip_and_moves_the_push():
    figure = explorer()
    wrong, without = figure.computed(), figure.computed(left_out=True)
    assert without["loss"] < wrong["loss"] and wrong["gradient"][1, 0] > 0.5 and without["gradient"][1, 0] == 0
    assert without["gradient"][1, 2] > wrong["gradient"][1, 2], "the next hardest is pushed more"
    figure.left_out = True
    assert figure.computed()["loss"] == without["loss"] and "marked as the same thing and left out" in figure.alt()


def test_the_cap_ends_the_influence_of_the_temperature():
    cold, colder = (explorer(temperature=t).computed()["loss"] for t in (0.01, 0.002))
    assert cold == pytest.approx(colder, abs=1e-12) != explorer(temperature=0.02).computed()["loss"]
    cold, colder = (explorer(temperature=t, loss="siglip").computed()["loss"] for t in (0.01, 0.002))
    assert colder > 2 * cold, "SigLIP has no cap"


@pytest.mark.slow
def test_the_example_is_what_the_encoders_of_the_course_give():
    "A ridge regression from the pictures of the training families to their names, both centred."
    from mmtutor.data import picture_of, view
    from mmtutor.fusion import mean_token
    from mmtutor.text import TextEncoder
    from mmtutor.vision import ConvEncoder
    reads, sees = TextEncoder.from_pretrained().eval(), ConvEncoder.from_pretrained().eval()

    @torch.no_grad()
    def embedded(rows):
        parts = [rows.select(range(i, min(len(rows), i + 64))) for i in range(0, len(rows), 64)]
        pictures = [mean_token(sees(*sees.prepare([picture_of(row) for row in part]))) for part in parts]
        names = [mean_token(reads(*reads.prepare(part["text"]))) for part in parts]
        return (F.normalize(torch.cat(all_), dim=1).double() for all_ in (pictures, names))

    pictures, names = embedded(view("train"))
    test = view("test")
    found = list(test["text"])
    new_pictures, new_names = embedded(test.select([found.index(name) for name in EXAMPLE["names"]]))
    left, right = pictures - pictures.mean(0), names - names.mean(0)
    weights = left.T @ torch.linalg.solve(left @ left.T + torch.eye(len(left)), right)
    predicted = F.normalize((new_pictures - pictures.mean(0)) @ weights, dim=1)
    table = F.normalize(new_names - names.mean(0), dim=1) @ predicted.T
    close(EXAMPLE["cosines"], table, 0.003)


@pytest.mark.parametrize("more", [{}, {"images": squares(8), "left_out": True}, {"loss": "siglip", "view": "row"}])
def test_it_holds_to_the_rules_of_every_figure(more, monkeypatch):
    holds_to_the_rules(explorer(**more), monkeypatch)


def test_values_and_tables():
    figure = SimilarityExplorer(torch.eye(3), images=squares(3), same=[(2, 0), (0, 2), (1, 2)])
    assert figure.captions == figure.pictures == ["item 0", "item 1", "item 2"] and figure.same == [[0, 2], [1, 2]]
    assert figure.images == [thumbnail(image) for image in squares(3)] and figure.images[0].startswith("data:image/png")
    figure.temperature = 0.5
    assert len(set(figure.images)) == 3, "what came as a picture goes on as a data: URL"
    found = figure.computed()
    caption, heads, rows = figure.table()
    assert caption == f"CLIP, temperature 0.5, loss {found['loss']:.3f}"
    assert rows[0][:4] == ("item 0", "1.00", f"{found['p'][0, 0]:.3f}", f"{found['rows'][0]:.3f}")
    shares = [int(row[5].split()[0]) for row in rows]
    assert len(heads) == len(rows[0]) and abs(sum(shares) - 100) <= 1
    with pytest.raises(ValueError, match="3 captions, 3 pictures and 3 images for 2 rows"):
        figure.similarity = np.eye(2)
    assert len(figure.similarity) == 3
    figure.update(similarity=np.eye(2), captions=None, pictures=None, images=None, same=())
    assert figure.captions == ["item 0", "item 1"] and figure.images == []


@pytest.mark.parametrize("given_, said", [
    ({"similarity": np.zeros((1, 1))}, "similarity (1, 1) from 0 to 0: expected cosines (n, n) for n from 2 to 8"),
    ({"similarity": np.zeros((9, 9))}, "similarity (9, 9)"),
    ({"similarity": np.zeros((2, 3))}, "similarity (2, 3)"),
    ({"similarity": 3 * np.eye(2)}, "from 0 to 3: expected cosines"),
    ({"similarity": [[0, float("nan")], [0, 0]]}, "similarity: not every number is finite"),
    ({"similarity": [1, 2]}, "similarity: expected 2 axes that are not empty, got shape (2,)"),
    ({"captions": ["a"]}, "1 captions, 1 pictures and 0 images for 3 rows and columns"),
    ({"pictures": ["a"]}, "3 captions, 1 pictures"),
    ({"images": squares(2)}, "and 2 images for 3 rows"),
    ({"images": [np.zeros((3, 4, 4))] * 3}, "an image of float64 (3, 4, 4), expected uint8 (3, height, width)"),
    ({"images": ["https://example.org/x.png"] * 3}, "expected uint8 (3, height, width)"),
    ({"loss": "triplet"}, "loss is 'triplet', expected one of clip, siglip"),
    ({"view": "rows"}, "view is 'rows', expected one of cosine, row, column"),
    ({"temperature": 0}, "temperature is 0, expected 0.002 to 2"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"bias": 1}, "bias is 1, expected -20 to 0"),
    ({"same": [(0, 3)]}, "same: 3 is out of range, expected 0 to 2"),
    ({"same": [(1,)]}, "same: (1,) is no pair of items"),
    ({"same": [(1, 1)]}, "item 1 is marked as the same as itself"),
    ({"row": 3}, "row: 3 is out of range, expected 0 to 2"),
    ({"column": -1}, "column: -1 is out of range"),
])
def test_what_is_no_table_of_cosines_is_refused(given_, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        SimilarityExplorer(**{"similarity": np.eye(3)} | given_)


@pytest.mark.bad_input
@pytest.mark.parametrize("given_, said", [
    ({"similarity": np.ones((2, 1))}, "cosines (2, 1)"), ({"similarity": np.ones((1, 2))}, "cosines (1, 2)"),
    ({"out": np.zeros((1, 2), bool)}, "left out bool (1, 2)"), ({"out": np.eye(2) > 0}, "no pair of the diagonal"),
    ({"loss": "triplet"}, "loss 'triplet'"), ({"temperature": 0}, "at temperature 0"),
])
def test_what_is_no_table_has_no_loss(given_, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        contrast(**{"similarity": np.eye(2)} | given_)


# In the browser

@pytest.fixture(scope="module")
def address(tmp_path_factory):
    pages = {"one": explorer(images=squares(8)), "sigmoid": explorer(loss="siglip", temperature=0.1, view="row"),
             "small": SimilarityExplorer(np.eye(2), temperature=0.005, same=[(0, 1)], left_out=True, view="column")}
    site = tmp_path_factory.mktemp("site")
    with serve_figures(site, **{name: [figure] for name, figure in pages.items()}) as address:
        yield address


@pytest.mark.browser
class TestMathematics:
    @pytest.mark.parametrize("temperature", [COLD, USUAL, WARM])
    def test_the_plain_case_is_the_loss_of_the_chapter(self, javascript, temperature):
        a, b = torch.randn(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        table = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).tolist()
        (found,) = javascript("similarity", ["contrast", table, {"loss": "clip", "temperature": temperature}])
        wanted = contrastive_loss(a, b, math.log(1 / temperature)).item()
        assert found["loss"] == pytest.approx(wanted, abs=1e-12)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_losses_and_slopes_are_those_of_torch(self, javascript, loss):
        table = cosines()
        for temperature in (COLD, USUAL, WARM):
            for same in ([], [[0, 3]], [[0, 1], [1, 4], [0, 4]]):
                out = outside(5, same)
                value, gradient = expected(table, loss, temperature, -3.0, out)
                how = {"loss": loss, "temperature": temperature, "bias": -3.0}
                (found,) = javascript("similarity", ["contrast", table.tolist(), how, same])
                assert found["loss"] == pytest.approx(value, abs=1e-12, rel=1e-12)
                close(found["gradient"], gradient, 1e-11)
                ours = contrast(table.numpy(), loss, temperature, -3.0, out.numpy())
                for name in ("scale", "rows", "columns", "p", "q"):
                    close(found[name], torch.as_tensor(ours[name], dtype=torch.float64), 1e-11)

    def test_extremes_stay_finite(self, javascript):
        table = [[1, -1], [1, -1]]
        for loss in LOSSES:
            how = {"loss": loss, "temperature": 0.002, "bias": -20}
            (found,) = javascript("similarity", ["contrast", table, how])
            assert found["loss"] == pytest.approx(contrast(np.array(table), loss, 0.002, -20)["loss"])

    def test_marks_hold_for_both_cells(self, javascript):
        calls = [["marked", [[0, 2]], i, j] for i in range(3) for j in range(3)]
        assert javascript("similarity", *calls) == [False, False, True, False, False, False, True, False, False]
        assert as_pairs([(2, 0)], 3) == [[0, 2]]


def cells(frame, name: str):
    return frame.get_by_role("grid", name=name).locator(".cell")


def spoken(frame, name: str) -> np.ndarray:
    "The numbers that a screen reader hears; NaN where a cell is left out."
    said = cells(frame, name).evaluate_all("all => all.map(c => c.ariaLabel.split(': ')[1].split(',')[0])")
    values = [math.nan if text == "left out" else float(text.replace("−", "-")) for text in said]
    return np.reshape(values, (math.isqrt(len(values)),) * 2)


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_it_is_live_and_asks_nothing_of_anyone(self, read):
        reader = read("one")
        assert reader.page.locator(".mmtutor-figure").get_attribute("data-state") == "live"
        frame = reader.frame(0)
        assert cells(frame, "what the model says").count() == cells(frame, "slope").count() == 64
        assert frame.get_by_role("columnheader").get_by_role("img").count() == 16
        assert reader.foreign == [] and reader.said == []

    @pytest.mark.parametrize("page", ["one", "sigmoid", "small"])
    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, page, width):
        axe_is_content(read(page, viewport={"width": width, "height": 2200}, reduced_motion="reduce"))

    def test_cells_by_keyboard_and_pointer(self, read):
        reader, figure = read("one"), explorer()
        frame = reader.frame(0)
        left, right = cells(frame, "what the model says"), cells(frame, "slope")
        np.testing.assert_allclose(spoken(frame, "what the model says"), figure.similarity, atol=0.00051)
        np.testing.assert_allclose(spoken(frame, "slope"), figure.computed()["gradient"], atol=0.00051)
        frame.get_by_text("cosine 0.498, logit 7.11").wait_for()
        left.nth(8).press("ArrowRight")
        left.nth(9).press("ArrowDown")
        assert reader.hears(0, "v.row === 2 && v.column === 1")
        assert frame.evaluate("document.activeElement.ariaLabel") == "pig face, picture of cat: 0.227"
        assert frame.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
        frame.locator(":focus").press("End")
        frame.locator(":focus").press("ArrowRight")
        assert reader.hears(0, "v.row === 2 && v.column === 7")
        right.nth(8 * 5 + 4).click()
        assert reader.hears(0, "v.row === 5 && v.column === 4")
        frame.get_by_text("they are pushed apart").wait_for()
        frame.locator(":focus").press("Home")
        assert reader.hears(0, "v.row === 5 && v.column === 0")
        assert frame.locator("[tabindex='0'].cell").count() == 2, "one stop of the Tab key for each table"

    def test_marking_and_leaving_out(self, read):
        reader, figure = read("one"), explorer(same=[(0, 1), (1, 2)])
        frame = reader.frame(0)
        frame.get_by_text("loss 1.303", exact=True).wait_for()
        cells(frame, "slope").nth(8 * 2 + 1).press("Enter")
        assert reader.hears(0, "JSON.stringify(v.same) === '[[0,1],[1,2]]'")
        box = frame.get_by_role("checkbox")
        assert frame.locator("label", has=box).inner_text() == "leave the 4 marked cells out"
        box.check()
        assert reader.hears(0, "v.left_out")
        without = figure.computed(left_out=True)
        frame.get_by_text(f"loss {without['loss']:.3f}", exact=True).wait_for()
        frame.get_by_text(f"counted as wrong: {figure.computed()['loss']:.3f}").wait_for()
        wanted = np.where(outside(8, figure.same), np.nan, without["gradient"])
        np.testing.assert_allclose(spoken(frame, "slope"), wanted, atol=0.00051)
        frame.get_by_text("Left out: no pull. As wrong, its slope is").wait_for()
        assert frame.locator("path[stroke-dasharray]").count() == 1, "the loss without them, at every temperature"
        frame.get_by_role("button", name="unmark: pig face, cat").click()
        assert reader.hears(0, "JSON.stringify(v.same) === '[[0,1]]'")
        cells(frame, "slope").nth(0).click()
        assert frame.get_by_role("button", name="mark as the same").is_disabled()
        cells(frame, "slope").nth(0).press(" ")
        assert reader.hears(0, "JSON.stringify(v.same) === '[[0,1]]'")
        frame.get_by_role("button", name="reset").click()
        assert reader.hears(0, "!v.left_out && v.row === 1 && v.column === 0")

    def test_temperature_views_and_the_other_loss(self, read):
        reader = read("one")
        frame = reader.frame(0)
        label(frame, "temperature").press("Home")
        assert reader.hears(0, "v.temperature === 0.002")
        frame.get_by_text("0.0020, scale 100.0, the cap").wait_for()
        assert frame.locator("rect.cap").count() == 1
        capped = explorer(temperature=0.002).computed()
        np.testing.assert_allclose(spoken(frame, "slope"), capped["gradient"], atol=0.00051)
        reader.set(0, temperature=0.07)
        frame.get_by_text("0.070, scale 14.3").wait_for()
        found = explorer().computed()
        for name, wanted in (("rows choose", "p"), ("columns choose", "q")):
            frame.get_by_role("button", name=name).press("Enter")
            frame.get_by_role("button", name=name, pressed=True).wait_for()
            np.testing.assert_allclose(spoken(frame, "what the model says"), found[wanted], atol=0.00051)
        assert reader.hears(0, "v.view === 'column'")
        rows = frame.locator("tbody tr").evaluate_all("all => all.map(r => [...r.children].map(c => c.textContent))")
        plain = [[cell.replace("−", "-") for cell in row] for row in rows]
        assert plain == [list(row) for row in explorer().table()[2]], "the table of the page is the table of Python"
        frame.get_by_role("button", name="SigLIP").click()
        assert reader.hears(0, "v.loss === 'siglip'")
        assert not frame.get_by_role("button", name="columns choose").is_visible()
        label(frame, "bias").press("ArrowRight")
        assert reader.hears(0, "v.bias === -9.5")
        sigmoid = explorer(loss="siglip", bias=-9.5).computed()
        np.testing.assert_allclose(spoken(frame, "what the model says"), sigmoid["p"], atol=0.00051)
        np.testing.assert_allclose(spoken(frame, "slope"), sigmoid["gradient"], atol=0.00051)
        frame.get_by_text(f"loss {sigmoid['loss']:.3f}", exact=True).wait_for()
        assert frame.locator("rect.cap").count() == 0

    def test_another_table_is_drawn(self, read):
        reader = read("small")
        frame = reader.frame(0)
        reader.set(0, similarity=cosines(3).tolist(), captions=["a", "b", "c"], pictures=["a", "b", "d"], same=[])
        frame.get_by_role("columnheader", name="d").first.wait_for()
        wanted = contrast(cosines(3).numpy(), temperature=0.005)["q"]
        np.testing.assert_allclose(spoken(frame, "what the model says"), wanted, atol=0.00051)

    def test_nothing_moves_by_itself(self, read):
        frame = read("one").frame(0)
        assert frame.evaluate("document.getAnimations().length") == 0
        moving = "[...document.querySelectorAll('.mmt *')].some(e => getComputedStyle(e).transitionDuration !== '0s')"
        assert not frame.evaluate(moving)

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("one", java_script_enabled=False).page
        assert page.locator("table").is_visible() and page.locator(".mmtutor-figure img").is_visible()
