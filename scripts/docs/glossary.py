"""The glossary as a page of its own: the table of the notation notebook, with letters to jump to and linked symbols."""

import re
from collections.abc import Mapping

from . import pages, tables

ROW = re.compile(r'^\| <a id="(term-[\w-]+)"></a>(.+?) \|')


def table_of(notebook: Mapping) -> list[str]:
    "The lines of the glossary's table in the notation notebook; ValueError if it has none."
    for cell in notebook["cells"]:
        lines = pages.text(cell).splitlines()
        if cell["cell_type"] == "markdown" and any(ROW.match(line) for line in lines):
            return [line for line in lines if line.startswith("|")]
    raise ValueError('the notation notebook has no glossary: expected rows that begin with | <a id="term-…"></a>')


def page(notebook: Mapping, index: Mapping[str, str]) -> str:
    "The page as Markdown: one table for each letter."
    heads, rule, *rows = table_of(notebook)
    letters: dict[str, list[str]] = {}
    for row in rows:
        letters.setdefault(ROW.match(row)[2][0].upper(), []).append(row)
    jump = " · ".join(f"[{letter}](#{'letter-' + letter.lower()})" for letter in letters)
    parts = [
        tables.front(
            "Glossary", f"{len(rows)} terms: what each means, where it is introduced, and its symbol in the code."
        ),
        f"A term in *italics* in a chapter stands here. The last column leads to the reference.\n\n{jump}",
    ]
    for letter, found in letters.items():
        parts.append(f"## {letter} {{#letter-{letter.lower()}}}\n\n" + "\n".join([heads, rule, *found]))
    return pages.link_names(pages.link_pages("\n\n".join(parts)), "", index) + "\n"
