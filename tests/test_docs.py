"""The docs site, built once and read in Chromium: nothing missing, nothing broken, nothing from another host."""
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from browsing import axe, complaints, fence, new_page, serve
from test_repository import LADDER

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import build_docs  # noqa: E402
import smalldocs.site  # noqa: E402
from docs import checks, generated, pages, reference  # noqa: E402


def cell(kind: str, source: str, **more) -> dict:
    extra = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": more.pop("id", "c1"), "metadata": {}, "source": source, **extra, **more}


# Notebooks to pages

def test_a_page_keeps_code_and_prose_and_drops_directives():
    notebook = {"cells": [
        cell("markdown", "# Masks\n\n> Who may look at whom.\n\n- Time: an hour, [4](04_transformer.ipynb#The-Stack)"),
        cell("code", "#| default_exp masks"),
        cell("code", "#| hide\nimport secret"),
        cell("code", "#| export\nSIZE = 3\ndef causal(n):\n    return n  #| hide_line\n"),
        cell("code", "#| notest\n#| code-fold: true\nprint(1)"),
        cell("markdown", "Use `causal`, `SIZE`, `far_away` and `near`.\n\n```python\n`causal`\n```"),
    ]}
    index = {"masks.causal": "/api/masks.md#causal", "masks.SIZE": "/api/masks.md#SIZE",
             "far_away": "/api/far.md#far_away", "near": "/api/far.md#near"}
    page = pages.to_page(notebook, index)
    sources = [c["source"] for c in page["cells"]]
    assert yaml.safe_load(sources[0].strip("-\n")) == {"title": "Masks", "description": "Who may look at whom."}
    assert "- Time: an hour" in sources[1] and "[4](transformer.ipynb#the-stack)" in sources[1]
    assert 'id="mmtutor.masks.causal"' in sources[2] and 'id="mmtutor.masks.SIZE"' in sources[2]
    assert sources[3] == "SIZE = 3\ndef causal(n):\n"
    assert "[`causal`](/api/masks.md#causal)" in sources[4]
    assert sources[5] == "#| code-fold: true\nprint(1)"
    assert "secret" not in "".join(sources) and "default_exp" not in "".join(sources)
    assert sources[6] == ("Use [`causal`](/api/masks.md#causal), [`SIZE`](/api/masks.md#SIZE), "
                          "[`far_away`](/api/far.md#far_away) and `near`.\n\n```python\n`causal`\n```")


def test_the_reference_shows_signatures_as_written(tmp_path):
    package = tmp_path / "lib"
    package.mkdir()
    (package / "one.py").write_text('''"""About one."""
__all__ = ["RATE", "Thing", "loud"]
RATE = 16_000  # Hz
class Thing(Base):
    "A thing with <brackets> and *stars*."
    width: int  # pixels
    def __init__(self, dim: int):  # the width
        super().__init__()
    def forward(self, x):
        "Do it."
    def _hidden(self): ...
@cached
def loud(
    volume: float,  # dB
) -> float:
    """Louder.

    Raises ValueError below 0.
    Source: somewhere.
    """
def quiet(): ...
''')
    index = reference.build(package, tmp_path / "api", {"one": ("one.ipynb", "The first")})
    text = (tmp_path / "api" / "one.md").read_text()
    assert "## loud {#loud}\n\n```python\n@cached\ndef loud(\n    volume: float,  # dB\n) -> float:\n```" in text
    assert "class Thing(Base):\n    width: int  # pixels\n    def __init__(self, dim: int):" in text
    assert "### Thing.forward {#Thing.forward}" in text and "_hidden" not in text and "quiet" not in text
    assert "A thing with &lt;brackets> and \\*stars\\*." in text
    assert "Raises ValueError below 0.\n\nSource: somewhere." in text
    assert "(/one.ipynb#mmtutor.one.loud)" in text and "[The first](/one.ipynb)" in text
    assert index["loud"] == index["one.loud"] == "/api/one.md#loud" and "quiet" not in index


def test_names_that_two_modules_define_are_not_linked_bare(tmp_path):
    package = tmp_path / "lib"
    package.mkdir()
    for name in ("one", "two"):
        (package / f"{name}.py").write_text('__all__ = ["show"]\ndef show(): ...\n')
    index = reference.build(package, tmp_path / "api", {})
    assert "show" not in index and index["two.show"] == "/api/two.md#show"


def test_the_quarto_filter_finds_the_notebook_by_its_cells():
    path = ROOT / "nbs" / "course" / "records.ipynb"
    command = [sys.executable, ROOT / "scripts" / "quarto_filter.py"]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    page = json.loads(done.stdout)
    front = yaml.safe_load(page["cells"][0]["source"].strip("-\n"))
    assert front["output-file"] == "records.html" and front["title"] == pages.title_of(json.loads(path.read_text()))
    code = [c for c in page["cells"] if c["cell_type"] == "code"]
    assert code and not any(re.search(r"^#\|\s*(export|default_exp)", c["source"], re.M) for c in code)


def test_pictures_become_files(tmp_path):
    before = '<p><img alt="a dot" src="data:image/png;base64,aGVsbG8="></p>'
    after = build_docs.take_out_media(before, tmp_path / "media", "../")
    (file,) = (tmp_path / "media").iterdir()
    assert file.read_bytes() == b"hello" and after == f'<p><img alt="a dot" src="../media/{file.name}"></p>'


# The checks notice what they are there for

GOOD = '<html><head><title>t</title></head><body><p id="here">x</p><a href="#here">y</a></body></html>'


@pytest.mark.parametrize("body, said", [
    ('<a href="gone.html">x</a>', "broken link gone.html"),
    ('<a href="index.html#gone">x</a>', "broken anchor index.html#gone"),
    ('<img src="data:,">', "without alt text"),
    ('<script src="https://cdn.example/x.js"></script>', "from another host"),
    ('<img alt="x" src="data:," srcset="https://cdn.example/x.png 2x">', "from another host"),
    ('<svg><image href="//cdn.example/x.png"/></svg>', "from another host"),
    ('<video poster="https://cdn.example/x.png"></video>', "from another host"),
    ('<p style="background: url(https://cdn.example/x.png)">x</p>', "from another host"),
    ("<p>costs $n^2$ steps</p>", "a formula that is not rendered: $n^2$"),
    ("<p>see @fig-cost</p>", "@fig-cost is printed as it stands"),
    (f"<p>{'x' * 1_600_000}</p>", "use fewer or smaller pictures"),
    ("</body></html>", "no title"),
])
def test_a_fault_in_a_page_is_named(tmp_path, body, said):
    (tmp_path / "index.html").write_text(GOOD)
    assert checks.problems(tmp_path, ["index.html"]) == []
    (tmp_path / "page.html").write_text(body if said == "no title" else GOOD.replace("<a", body + "<a"))
    found = checks.problems(tmp_path, ["index.html"])
    assert len(found) == 1 and found[0].startswith("page.html: ") and said in found[0]


def test_a_missing_page_a_heavy_picture_and_a_foreign_style_sheet_are_named(tmp_path):
    (tmp_path / "index.html").write_text(GOOD + "<p><code>costs $n$ and $m$</code></p>")
    (tmp_path / "big.png").write_bytes(bytes(1_600_000))
    (tmp_path / "big.html").write_text(GOOD.replace("<a", '<img alt="noise" src="big.png"><a'))
    (tmp_path / "a.css").write_text('@import url("https://fonts.example/css");')
    found = checks.problems(tmp_path, ["index.html", "attention.html"])
    assert found == ["attention.html: the page is missing",
                     "big.html: 1.60 MB, more than 1.5 MB: use fewer or smaller pictures",
                     "a.css: loads https://fonts.example/css from another host"]


def test_a_chapter_outside_the_sidebar_is_named():
    contents = [{"section": "1", "contents": ["nbs/01_a.ipynb", "nbs/02_b.ipynb"]}]
    present = [Path("nbs/01_a.ipynb"), Path("nbs/03_c.ipynb")]
    found = build_docs.sidebar_problems({"website": {"sidebar": {"contents": contents}}}, present)
    assert found == ["_quarto.yml names nbs/02_b.ipynb, which does not exist: take it out",
                     "nbs/03_c.ipynb is not in the sidebar of _quarto.yml: add it to its part"]


def test_the_sidebar_is_the_present_notebooks_in_the_order_of_the_ladder():
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    named = list(build_docs.listed(config["website"]["sidebar"]["contents"]))
    assert sorted(named) == sorted(p.as_posix() for p in build_docs.notebooks())
    chapters = [LADDER.index(Path(n).stem) for n in named if not n.startswith("nbs/course/")]
    assert chapters == sorted(chapters) and named[len(chapters)].startswith("nbs/course/")


# The site itself

@pytest.fixture(scope="module")
def build(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    site = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, ROOT / "scripts" / "build_docs.py", "--output", site]
    return site, subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def address(build):
    with serve(build[0]) as address:
        yield address


TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LOOK = """() => {
  const rgb = s => { const v = (s.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    if (s.startsWith('color(')) for (const i of [0, 1, 2]) v[i] *= 255;
    return v[3] === undefined ? [...v, 1] : v; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const ground = e => { let all = []; for (; e; e = e.parentElement) all.push(rgb(getComputedStyle(e).backgroundColor));
    return all.reverse().reduce((b, a) => over(a, b), [255, 255, 255, 1]); };
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const solid = e => { let o = 1; for (; e; e = e.parentElement) o *= +getComputedStyle(e).opacity; return o; };
  const weak = new Map(), seen = new Set();
  const kinds = 'main p, main li, main h1, main h2, main h3, main td, main th, main a, main figcaption, main pre span, '
    + 'main :not(pre) > code, main .cell-output code, .sidebar-link, #TOC a, .navbar-title, .nav-footer-left';
  for (const e of document.querySelectorAll(kinds)) {
    const kind = [e, e.parentElement, e.parentElement.parentElement].map(o => o.tagName + '.' + o.className).join(' ');
    if (seen.has(kind)) continue;
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('.katex')) continue;
    seen.add(kind);
    const b = ground(e), c = rgb(getComputedStyle(e).color); c[3] *= solid(e);
    const [x, y] = [light(over(c, b)), light(b)].sort((p, q) => q - p), ratio = (x + .05) / (y + .05);
    if (ratio < 4.5) weak.set(e.tagName + '.' + e.className, ratio.toFixed(2) + ' ' + e.textContent.slice(0, 30));
  }
  const main = document.querySelector('main').cloneNode(true);
  main.querySelectorAll('.katex, code, pre, script').forEach(e => e.remove());
  return {
    formulas: document.querySelectorAll('span.math').length,
    rendered: document.querySelectorAll('span.math .katex-html').length,
    wrong: [...document.querySelectorAll('.katex-error')].map(e => e.textContent + ' ' + e.title),
    red: [...document.querySelectorAll('.katex [style*="#cc0000"]')].map(e => e.textContent),
    raw: main.textContent.match(/\\$[^$\\n]{1,60}\\$|\\\\\\(|\\\\\\[/g) || [],
    fonts: [...document.fonts].filter(f => f.family.startsWith('KaTeX') && f.status === 'error').length,
    broken: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src.slice(0, 60)),
    alt: [...document.images].filter(i => !i.alt.trim()).length,
    ground: light(ground(document.body)), weak: [...weak], title: document.title,
  };
}"""


AXE = """async known => {
  const told = r => r.violations.map(v => `${v.id}: ${v.nodes.length}, as ${v.nodes[0].html.slice(0, 120)}`);
  const found = { iframes: false, resultTypes: ["violations"] };
  // What stands inside code and formulas are spans alone: their contrast is judged below.
  const plain = { ...found, rules: { "color-contrast": { enabled: false } } };
  const rest = await axe.run({ exclude: ["pre code", ".katex-html"] }, plain);
  // The contrast of equals is equal: of each kind of text the first one that any page shows.
  const seen = new Set(known), one = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!e.getClientRects().length || e.closest(".katex-mathml, .katex-html *")) continue;
    const kind = [e, e.parentElement, e.parentElement.parentElement].map(o => o.tagName + "." + o.className).join(" ");
    if (!seen.has(kind)) seen.add(kind), one.push(e);
  }
  const contrast = one.length ? await axe.run({ include: one }, { ...found, runOnly: ["color-contrast"] }) : null;
  return { said: [...told(rest), ...contrast ? told(contrast) : []], known: [...seen] };
}"""
SETTINGS = [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]
JUDGED = {("light", 1280), ("dark", 390)}  # by axe; the other two have the same colours and the same shape


@pytest.fixture(scope="module")
def visits(build, chromium, address) -> dict[tuple[str, str, int], dict]:
    "Every page, loaded once and looked at in light and in dark, on a desk and on a phone."
    found, known = {}, {"light": [], "dark": []}
    page = new_page(chromium)
    foreign, said = fence(page, address), complaints(page)
    page.on("response", lambda r: said.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    for file in checks.pages_of(build[0]):
        name = file.relative_to(build[0]).as_posix()
        foreign.clear(), said.clear()
        page.emulate_media(color_scheme="light", reduced_motion="reduce")  # no fading while colours are read
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(address + name, wait_until="load")
        page.evaluate(axe())
        for scheme, width in SETTINGS:
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function("dark => document.documentElement.classList.contains('quarto-dark') === dark",
                                   arg=scheme == "dark")
            seen = page.evaluate(LOOK) | {"wide": page.evaluate(TOO_WIDE), "axe": []}
            if (scheme, width) in JUDGED:
                judged = page.evaluate(AXE, known[scheme])
                known[scheme], seen["axe"] = judged["known"], judged["said"]
            found[name, scheme, width] = seen | {"foreign": list(foreign), "said": list(said)}
    page.close()
    return found


@pytest.mark.slow
def test_the_build_finds_nothing_wrong(build):
    site, done = build
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problem(s)" in done.stdout


@pytest.mark.slow
def test_every_notebook_and_every_module_has_a_page(build):
    site, _ = build
    wanted = {build_docs.place(p).replace(".ipynb", ".html") for p in build_docs.notebooks()} | {"index.html"}
    wanted |= {f"api/{m}.html" for m in reference.modules(ROOT / "mmtutor")} | {"api/index.html"}
    wanted |= {name.replace(".md", ".html") for name in generated.TITLES}
    wanted |= {f"results/{p.stem}.html" for p in (ROOT / "results").glob("*.json") if p.stem != "claims"}
    assert wanted <= {p.relative_to(site).as_posix() for p in checks.pages_of(site)}


@pytest.mark.slow
def test_pages_lead_to_the_next_and_the_previous(build):
    site, _ = build
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    named = [build_docs.page_of(Path(n)) for n in build_docs.listed(config["website"]["sidebar"]["contents"])]
    text = (site / named[1]).read_text("utf-8")
    (bar,) = re.findall(r'<nav [^>]*aria-label="Previous and next page".*?</nav>', text, re.S)
    assert re.findall(r'href="([^"]+)"', bar) == [named[0], named[2]]
    for name in ("claims.html", "errata.html", "glossary.html", "api/index.html"):
        assert "pagination-link" in (site / name).read_text("utf-8")


@pytest.mark.slow
def test_everything_can_be_taken_away(build):
    site, _ = build
    for path in build_docs.notebooks():
        file = site / "notebooks" / path.relative_to("nbs")
        assert file.read_bytes() == (ROOT / path).read_bytes()
        page = site / build_docs.page_of(path)
        (href,) = re.findall(r'<a href="([^"]+)" download>Download this notebook', page.read_text("utf-8"))
        assert (page.parent / href).resolve() == file.resolve()
    assert 'href="mmtutor-site.zip" download' in (site / "index.html").read_text("utf-8")
    linked = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text("utf-8"))
    assert len(linked) > len(build_docs.notebooks()) and all((site / place).is_file() for place in linked)
    carried = re.compile(r";base64,[A-Za-z0-9+/]{200}")
    assert not [p for p in site.rglob("*.llms.md") if carried.search(p.read_text("utf-8"))]
    places = re.findall(r"<loc>([^<]+)</loc>", (site / "sitemap.xml").read_text("utf-8"))
    assert sorted(places) == sorted(p.relative_to(site).as_posix() for p in checks.pages_of(site))


@pytest.mark.slow
def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, ROOT / "scripts" / "build_docs.py", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "holds no site" in done.stderr and (tmp_path / "thesis.txt").exists()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(3600)  # `visits` opens every page; a busy machine is not an error
class TestInChromium:
    def test_no_error_and_no_other_host(self, visits):
        assert len(visits) >= 30
        assert {k: v["said"] for k, v in visits.items() if v["said"]} == {}
        assert {k: v["foreign"] for k, v in visits.items() if v["foreign"]} == {}

    def test_every_formula_is_rendered(self, visits):
        assert {k: (v["formulas"], v["rendered"]) for k, v in visits.items() if v["formulas"] != v["rendered"]} == {}
        for fault in ("wrong", "red", "raw", "fonts"):
            assert {k: v[fault] for k, v in visits.items() if v[fault]} == {}, fault
        assert sum(v["rendered"] for v in visits.values()) > 0

    def test_every_picture_is_there_and_described(self, visits):
        assert {k: (v["broken"], v["alt"]) for k, v in visits.items() if v["broken"] or v["alt"]} == {}

    def test_text_stands_out_from_its_ground(self, visits):
        assert {k: v["weak"] for k, v in visits.items() if v["weak"]} == {}
        assert all(v["ground"] < 0.1 if k[1] == "dark" else v["ground"] > 0.8 for k, v in visits.items())

    def test_axe_finds_nothing(self, visits):
        assert {k: v["axe"] for k, v in visits.items() if v["axe"]} == {}

    def test_a_screen_scrolls_in_one_direction(self, visits):
        assert {k: v["wide"] for k, v in visits.items() if v["wide"] > 0} == {}

    def test_search_finds_a_term_and_leads_to_it(self, chromium, address):
        page = new_page(chromium)
        page.goto(address)
        page.get_by_label("Search").first.fill("Okabe")
        page.locator(".smalldocs-search-results a[href*='course/figures.html']").first.click()
        page.wait_for_url("**/course/figures.html*")
        assert "Okabe" in page.inner_text("main")
        page.close()

    def test_the_reference_shows_signatures_and_leads_to_the_course(self, chromium, address):
        page = new_page(chromium)
        page.goto(address + "api/course.records.html#spread")
        assert "def spread(values: Sequence[float]) -> dict:" in page.inner_text("main")
        page.locator("a[href*='mmtutor.course.records.spread']").first.click()
        page.wait_for_url("**/course/records.html#mmtutor.course.records.spread")
        assert page.locator("[id='mmtutor.course.records.spread']").count() == 1
        page.close()

    def test_interactive_figures_live_on_the_site_and_follow_its_theme(self, build, chromium, address):
        for module in (ROOT / "mmtutor" / "course" / "widgets").glob("*.js"):
            text = (build[0] / "site_libs" / "figures" / f"{module.stem}.text.js").read_text("utf-8")
            name, _, source = text.partition(" = ")
            assert name == f'window.mmtutorModules["{module.stem}"]'
            assert json.loads(source.rstrip(";\n")) == module.read_text("utf-8")
        page = new_page(chromium)
        page.emulate_media(color_scheme="light")
        page.goto(address + "course/interactive.html")
        figures = page.locator(".mmtutor-figure").all()
        assert len(figures) >= 3
        grounds = []
        for figure in figures:
            figure.scroll_into_view_if_needed()
            page.locator(f".mmtutor-figure[data-figure={figure.get_attribute('data-figure')}] iframe").wait_for()
            frame = figure.locator("iframe").element_handle().content_frame()
            frame.locator(".mmt").wait_for()
            grounds.append(frame.evaluate("getComputedStyle(document.querySelector('.mmt')).backgroundColor"))
            assert not figure.locator("img").is_visible(), "the widget stands in the picture's place"
            assert figure.locator("iframe").bounding_box()["height"] > 200
        assert set(grounds) == {"rgb(255, 255, 255)"}
        page.locator(".quarto-color-scheme-toggle").first.click()
        frame.locator("html[data-theme=dark]").wait_for()
        ground = frame.evaluate("getComputedStyle(document.querySelector('.mmt')).backgroundColor")
        assert ground == "rgb(23, 26, 31)"
        page.close()

    def test_the_reader_switches_between_light_and_dark(self, chromium, address):
        page = new_page(chromium)
        page.goto(address)
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator(".quarto-color-scheme-toggle").first.click()
        page.wait_for_timeout(200)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        page.reload()  # the choice is kept
        page.wait_for_timeout(100)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        page.close()

    def test_a_figure_on_its_page_answers_to_keyboard_and_mouse(self, chromium, address):
        page = new_page(chromium)
        page.goto(address + "attention.html")
        figure = page.locator(".mmtutor-figure[data-figure=softmax]").first
        figure.scroll_into_view_if_needed()
        figure.locator("iframe").wait_for()
        frame = figure.locator("iframe").element_handle().content_frame()
        frame.locator(".mmt").wait_for()
        values = [figure.get_attribute("data-values")]
        bars = frame.get_by_role("slider")
        bars.nth(1).press("ArrowUp")
        page.wait_for_function("([f, old]) => f.dataset.values !== old", arg=[figure.element_handle(), values[0]])
        values.append(figure.get_attribute("data-values"))
        box = bars.nth(1).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 30, steps=4)
        page.mouse.up()
        page.wait_for_function("([f, old]) => f.dataset.values !== old", arg=[figure.element_handle(), values[1]])
        page.close()

    def test_the_zip_is_the_site_without_a_server(self, build, chromium, tmp_path):
        with zipfile.ZipFile(build[0] / "mmtutor-site.zip") as file:
            file.extractall(tmp_path)
        root, page = tmp_path / "mmtutor-site", new_page(chromium)
        said = complaints(page)
        page.goto((root / "index.html").as_uri())
        assert "offline copy" in page.inner_text("main")
        page.goto((root / "attention.html").as_uri())
        page.wait_for_load_state("load")
        assert page.locator("span.math .katex-html").count() == page.locator("span.math").count() > 20
        figure = page.locator(".mmtutor-figure").first
        figure.scroll_into_view_if_needed()
        page.wait_for_function("f => f.dataset.state === 'live'", arg=figure.element_handle())
        page.get_by_label("Search").first.fill("Okabe")
        page.locator(".smalldocs-search-results a[href*='course/figures.html']").first.click()
        page.wait_for_url("**/course/figures.html*")
        assert said == []
        page.close()

    def test_nothing_that_a_notebook_brings_runs(self, chromium, tmp_path):
        mark = "document.documentElement.dataset.ran = 1; parent.document.documentElement.dataset.ran = 1"
        hostile = (f"<script>{mark}</script><img alt=x src=gone.png onerror='{mark}'>"
                   f"<a id=go href='javascript:{mark}'>go</a><iframe srcdoc=\"<script>{mark}</script>\"></iframe>"
                   "<script src='https://elsewhere.example/x.js'></script>"
                   "<object data='https://elsewhere.example/x'></object>"
                   f"<svg onload='{mark}'></svg>"
                   "<form action='https://elsewhere.example/'><button id=send>s</button></form>")
        output = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [hostile]}}
        notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
            cell("markdown", f"# T\n\n<script>{mark}</script>\n\nText"),
            cell("code", "1", id="c2") | {"outputs": [output]}]}
        (tmp_path / "index.ipynb").write_text(json.dumps(pages.to_page(notebook, {})))
        (tmp_path / "_quarto.yml").write_text("project:\n  type: website\nwebsite:\n  title: t\nformat:\n  html:\n"
                                              "    theme:\n      light: cosmo\n      dark: darkly\n")
        site = smalldocs.site.build(tmp_path, quiet=True).out
        build_docs.finish(site, {})
        assert any("<script> is active content" in line for line in checks.problems(site, []))
        asked, page = [], new_page(chromium)
        page.on("request", lambda r: asked.append(r))
        with serve(site) as address:
            page.goto(address)
            page.evaluate("document.querySelector('#go').click(), document.querySelector('#send').click()")
            page.wait_for_timeout(500)
            assert page.evaluate("document.documentElement.dataset.ran") is None
            assert {r.failure for r in asked if "elsewhere" in r.url} <= {"csp"}, "stopped before it left"
            assert page.url.startswith("http://127.0.0.1") and "Text" in page.inner_text("main")
            page.close()
