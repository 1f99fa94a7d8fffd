"""The glossary: every symbol exists, every link leads somewhere, every term in italics is in it."""
import importlib
import re

import nbformat
import notebooks
import pytest
from test_repository import LADDER

PAGE = notebooks.NBS / "00_notation.ipynb"
CHAPTERS = [name for name in LADDER if "01" <= name < "19" and (notebooks.NBS / f"{name}.ipynb").exists()]
ROW = re.compile(r'^\| <a id="(term-[a-z0-9-]+)"></a>([^|]+?) \| ([^|]+?) \| '
                 r'\[([^\]]+)\]\((\w+)\.ipynb\) \| (.*?) ?\|$')
# Set in italics to stress a word, or in another sense than a term's: no entry of their own.
STRESSED = {"where", "kind", "number", "ahead", "everything", "add", "compute", "cards", "axes", "two", "front", "nan",
            "float16", "nothing", "same", "all", "nan in a real token", "before", "p",
            "start", "stop", "rich", "exact", "step", "partition", "with", "without", "batch size",
            "all sentences of the batch", "woman judge", "man judge", "thumbs up", "thumbs down"}
# A form of a term that the glossary has under another name.
SAME = {"fused": "fused kernel", "flops": "flop", "causal": "causal mask", "leaks": "leak", "rates": "rate",
        "rotary": "rotary positions", "grouped": "grouped heads", "multi-query attention": "grouped heads",
        "recurrent": "recurrent network", "modalities": "modality", "splits": "split", "families": "family",
        "workers": "worker", "decibels": "decibel", "brightness": "brightness, contrast, saturation",
        "contrast": "brightness, contrast, saturation", "saturation": "brightness, contrast, saturation",
        "leakage": "leak", "tied": "tied weights", "nyquist": "nyquist limit", "folded": "aliasing",
        "discrete fourier transform": "fourier transform", "fast fourier transform": "fourier transform",
        "patches": "patch", "convolutions": "convolution", "stretches": "position interpolation",
        "depthwise": "depthwise convolution", "micro-batches": "micro-batch", "scaler": "loss scaler",
        "tokens": "token",
        "gradient accumulation": "accumulation", "channels_last": "channels last",
        "macro": "macro, micro", "micro": "macro, micro", "units": "unit", "r@k": "recall at k",
        "calibrated": "calibration", "nominal": "nominal, ordinal, interval", "ordinal": "nominal, ordinal, interval",
        "interval": "nominal, ordinal, interval",
        "collapsed": "collapse", "cosine": "cosine similarity", "hard negatives": "hard negative",
        "bound": "binding", "folds": "fold", "k-centre problem": "k-centre", "subwords": "subword", "padded": "padding",
        "long short-term memory": "lstm", "buckets": "bucket", "confident learning": "confident joint"}


def table() -> str:
    (cell,) = [c.source for c in nbformat.read(PAGE, as_version=4).cells if "| term | meaning |" in c.source]
    return cell


def rows() -> list[tuple[str, ...]]:
    "Anchor, term, meaning, what the link says, chapter, code."
    lines = [line for line in table().splitlines() if line.startswith("| <a")]
    found = [ROW.match(line) for line in lines]
    assert len(lines) > 60 and all(found), [line for line, match in zip(lines, found) if not match]
    return [match.groups() for match in found]


ROWS = rows()


def italics(source: str) -> list[str]:
    "What a markdown text sets in italics, formulas and code left out."
    source = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|^\|.*$", "", source, flags=re.S | re.M)
    found = re.findall(r"(?<![*\w])\*(?!\s)([^*]{1,40}?)(?<!\s)\*(?![*\w])", source)
    return [" ".join(text.split()).rstrip(".,:") for text in found]


def test_one_cell_holds_the_whole_table():
    lines = table().strip().splitlines()
    assert lines[0] == "| term | meaning | chapter | in code |" and len(lines) == len(ROWS) + 2


def test_terms_are_sorted_once_each_and_anchors_follow_from_them():
    terms = [row[1] for row in ROWS]
    assert terms == sorted(terms, key=str.lower) and len({t.lower() for t in terms}) == len(terms)
    for anchor, term, *_ in ROWS:
        assert anchor == "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


@pytest.mark.parametrize("row", [r for r in ROWS if r[5]], ids=lambda r: r[1])
def test_symbol_exists(row):
    match = re.fullmatch(r"`(mmtutor(?:\.\w+)+)\.(\w+)`", row[5])
    assert match, row[5]
    module = importlib.import_module(match[1])
    assert match[2] in module.__all__, f"{row[1]}: {match[1]} does not export {match[2]}"


def test_chapters_exist_or_are_on_the_ladder():
    for _, term, _, _, chapter, _ in ROWS:
        assert (notebooks.NBS / f"{chapter}.ipynb").exists() or chapter in LADDER, f"{term}: {chapter}"


def test_the_link_says_the_chapters_number():
    for _, term, _, says, chapter, _ in ROWS:
        assert says.split(",")[0] == str(int(chapter[:2])), f"{term}: {says} → {chapter}"


def test_meanings_are_one_line_each():
    for _, term, meaning, *_ in ROWS:
        assert 10 < len(meaning) <= 140 and meaning.endswith("."), f"{term}: {meaning!r}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_terms_in_italics_are_in_the_glossary(chapter):
    path = notebooks.NBS / f"{chapter}.ipynb"
    terms, missing = {row[1].lower() for row in ROWS}, []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for term in italics(cell.source.split("## Sources")[0]):
                low = term.lower()
                if SAME.get(low, low) not in terms and low not in STRESSED:
                    missing.append(term)
    assert not missing, f"in italics in {chapter}, and not in the glossary of 00_notation (stress with **?): {missing}"


def test_links_within_the_page_have_their_anchors():
    source = "\n".join(c.source for c in nbformat.read(PAGE, as_version=4).cells if c.cell_type == "markdown")
    wanted, there = re.findall(r"\]\(#([\w-]+)\)", source), re.findall(r'<a id="([\w-]+)">', source)
    assert wanted and set(wanted) <= set(there) and len(set(there)) == len(there)


def test_italics_are_found_and_other_stars_are_not():
    text = "A *query* is **not** a *key,* nor $a*b*c$, `x*y*z`, 2 * 3 * 4; a *dead\nrow*."
    assert italics(text) == ["query", "key", "dead row"]


def test_same_and_stressed_are_needed():
    "Forms that point to no term are wrong."
    terms = {row[1].lower() for row in ROWS}
    assert set(SAME.values()) <= terms and not STRESSED & terms
