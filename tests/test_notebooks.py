"""Every notebook runs top to bottom in a fresh kernel; what is committed is clean, and acts on nobody."""
import json
import re
from pathlib import Path

import nbformat
import notebooks
import pytest
from docs.checks import Page
from markdown_it import MarkdownIt
from nbclient.exceptions import CellExecutionError

CHAPTERS = notebooks.chapters()
each = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: str(p.relative_to(notebooks.NBS)))
# What would differ on another machine or another day.
TRACES = {
    "a path": re.compile(r"(?<![\w.~/:<])/(?:home|root|work|tmp|usr|opt|Users|var|mnt)/[\w.]"),
    "a Windows path": re.compile(r"\b[A-Z]:\\\\"),
    "a timing": re.compile(r"\b\d+(\.\d+)? ?(ms|µs|us|seconds|s/it|it/s)\b|CPU times|Wall time"),
    "a memory address": re.compile(r"\bat 0x[0-9a-f]{6,}"),
    "a warning": re.compile(r"Warning\b|\bWARNING\b"),
    "a progress bar": re.compile(r"\d+%\|"),
}


def texts(output) -> str:
    "All text of an output, pictures and sounds left out."
    parts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
    text = "\n".join("".join(p) if isinstance(p, list) else p for p in parts)
    return re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+", "data:", text)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]


@pytest.mark.slow
@each
def test_runs_in_a_fresh_kernel(path):
    try:
        fresh = notebooks.execute(path)
    except CellExecutionError as error:
        pytest.fail(notebooks.explain(path, error), pytrace=False)
    loud = [o.text for c in fresh.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not loud, f"{path.name} writes to stderr: {loud[0][:500]}"


@each
def test_committed_outputs_are_whole_and_clean(path):
    cells = code_cells(path)
    counts = [c.execution_count for c in cells]
    assert counts == list(range(1, len(counts) + 1)), "not executed top to bottom: run scripts/notebooks.py --write"
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", f"{path.name}: a saved error in\n{cell.source}"
            assert output.get("name") != "stderr", f"{path.name}: saved stderr of\n{cell.source}\n{output.text[:300]}"
            text = texts(output)
            for what, pattern in TRACES.items():
                found = pattern.search(text)
                assert not found, f"{path.name}: {what}, {found[0]!r}, in the output of\n{cell.source}"


@each
def test_metadata_are_normalised(path):
    saved = nbformat.read(path, as_version=4)
    again = notebooks.normalise(nbformat.read(path, as_version=4))
    assert nbformat.writes(saved) == nbformat.writes(again), "metadata that change from run to run: save with --write"
    ids = [c.id for c in saved.cells]
    assert len(set(ids)) == len(ids)


@each
def test_form_of_a_chapter(path):
    nb = nbformat.read(path, as_version=4)
    first = nb.cells[0]
    assert first.cell_type == "markdown" and re.match(r"# .+\n\n?> ", first.source), "title, then a one-line promise"
    for cell in code_cells(path):
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")]
        exported = "#| export" in cell.source
        assert exported or len(lines) <= 25, f"a cell of {len(lines)} lines:\n{cell.source[:300]}"
        assert "eval: false" not in cell.source and "#| notest" not in cell.source, "a cell that is never run"
    for cell in nb.cells:
        assert not re.search(r"@(fig|eq|tbl|sec)-\w", cell.source), "a Quarto reference that the site prints literally"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", cell.source)


def test_traces_are_recognised():
    "The patterns above do find what they are for, and leave innocent text alone."
    found = {"a path": "saved to /home/ann/x", "a timing": "took 3.2 ms", "a memory address": "<f at 0x7f00deadbeef>",
             "a warning": "UserWarning: old", "a progress bar": " 45%|####", "a Windows path": "C:\\\\Users"}
    for what, text in found.items():
        assert TRACES[what].search(text), what
    for text in ("a mask of 3/4", "16 kHz, 25 tokens a second", "and/or", "0x10", "75 % done"):
        assert not any(p.search(text) for p in TRACES.values()), text


# --- outputs and prose act on nobody ---

# What an output is saved as. The mimetype of a live figure (application/vnd.jupyter.widget-view+json) is none of them:
# saved is its picture with its table, in a `div.mmtutor-figure` whose data the site's own script reads.
SAVED_AS = {"text/plain", "text/html", "text/markdown"}
TAGS = set("""a audio blockquote br caption code details div em figcaption figure h1 h2 h3 h4 hr img li ol p pre source
span strong sub summary sup table tbody td th thead tr ul""".split())


class Tags(Page):
    "Also which tags there are, and the data of interactive figures."

    def __init__(self, text: str):
        self.tags, self.figures = set(), []
        super().__init__(text)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        self.tags.add(tag)
        found = dict(attrs)
        if "mmtutor-figure" in found.get("class", "") or any(name.startswith("data-") for name in found):
            self.figures.append((tag, found))


def rendered(text: str) -> str:
    "Markdown as JupyterLab takes it: HTML in it is HTML, and no link is left out for what it would do."
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.validateLink = lambda url: True
    return markdown.render(text)


def harm(page: Tags, beside: Path | None = None) -> list[str]:
    "What could act, or load what the notebook does not carry; files in the folder `beside` are no harm."
    found = [f"{what} is active content" for what in page.active]
    loads = [url for url in page.loads if not re.match("data:(image|audio)/", url)]
    found += [f"loads {url[:60]}" for url in loads if not (beside and re.fullmatch(r"[\w.-]+", url)
                                                           and (beside / url).is_file())]
    found += [f"<{tag}>" for tag in sorted(page.tags - TAGS)]
    for tag, data in page.figures:
        names = {"class", "data-figure", "data-title", "data-values"}
        if tag != "div" or data.keys() != names or data["class"] != "mmtutor-figure":
            found.append(f"<{tag}> with {sorted(data)}, expected a div.mmtutor-figure with {sorted(names)}")
        elif not (notebooks.ROOT / "mmtutor" / "course" / "widgets" / f"{data['data-figure']}.js").is_file():
            found.append(f"a figure {data['data-figure']!r}, which is no module of ours")
        elif not isinstance(json.loads(data["data-values"]), dict):
            found.append("a figure whose values are no table")
    return found


@each
def test_saved_outputs_are_inert(path):
    nb = nbformat.read(path, as_version=4)
    assert set(nb.metadata) <= {"kernelspec", "title"}, "no state of widgets"
    for cell in nb.cells:
        assert cell.cell_type in ("code", "markdown")
        found = harm(Tags(rendered(cell.source)), path.parent) if cell.cell_type == "markdown" else []
        assert not found, f"{path.name}: {found} in\n{cell.source[:300]}"
        for attached in cell.get("attachments", {}).values():
            assert set(attached) <= {"image/png", "image/jpeg"}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert output.output_type in ("stream", "display_data", "execute_result") and data.keys() <= SAVED_AS
            for kind, read in (("text/html", str), ("text/markdown", rendered)):
                found = harm(Tags(read(data.get(kind, ""))))
                assert not found, f"{path.name}: {found} in the {kind} of\n{cell.source}"


@pytest.mark.parametrize("html", [
    "<script>evil()</script>", '<script src="a.js"></script>', '<div onclick="evil()">x</div>', "<style>p{}</style>",
    '<a href="javascript:evil()">x</a>', '<a href="java&#10;script:evil()">x</a>', '<iframe src="data:,"></iframe>',
    '<img alt="x" src="https://a.example/x.png">', '<img alt="x" src="x.png">', '<img src="data:text/html,x" alt="x">',
    '<img alt="x" src="data:image/png;base64,aa" srcset="https://a.example/x.png 2x">',
    '<div style="background: url(//a.example/x)">x</div>', '<svg><use href="https://a.example/x.svg#a"/></svg>',
    '<form action="x"></form>', '<link rel="stylesheet" href="https://a.example/x.css">', '<object data="x"></object>',
    '<meta http-equiv="refresh" content="0;url=https://a.example">', "<custom-element></custom-element>",
    '<div class="mmtutor-figure" data-figure="evil" data-title="x" data-values="{}"></div>',
    '<div data-values="{}">x</div>'])
def test_harm_is_recognised(html):
    assert harm(Tags(html)) and harm(Tags(rendered(f"Text.\n\n{html}\n"))), html
    assert harm(Tags(rendered("![x](https://a.example/x.png)"))) and harm(Tags(rendered("[x](javascript:evil())")))
