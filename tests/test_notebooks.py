"""Every notebook runs top to bottom in a fresh kernel; what is committed is clean."""
import re

import nbformat
import notebooks
import pytest
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
