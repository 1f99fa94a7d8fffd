"""Which cell of the course shows what: found in the notebooks, so that no generated page keeps a list of its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import pages

READ = re.compile(r"""\bread\(\s*["']([\w-]+)["']\s*\)""")
CLAIM = re.compile(r"""(?:\[|\.get\()\s*["']([A-Z]\d+)["']\s*[\])]""")


@dataclass(frozen=True)
class Cell:
    "One cell of a notebook: where it stands in the site, under which heading, and what it printed."

    notebook: str  # "02_positions"
    page: str  # "/positions.ipynb"
    title: str  # of the page
    heading: str  # the nearest one above
    id: str
    output: str  # plain text

    @property
    def link(self) -> str:
        return f"{self.page}#at-{self.id}"


def printed(cell: Mapping) -> str:
    "What a cell printed, as it was saved."
    return "".join("".join(o["text"]) for o in cell.get("outputs", []) if o.get("output_type") == "stream").rstrip()


def walk(sources: Mapping[Path, Mapping], place) -> list[tuple[Cell, str]]:
    "Every visible code cell of every notebook, with its source; chapters before support, in reading order."
    found = []
    for path, notebook in sources.items():
        heading, title = "", pages.title_of(notebook)
        for cell in notebook["cells"]:
            source = pages.text(cell)
            if cell["cell_type"] == "markdown":
                plain = pages.FENCE.split(source)[::3]
                heading = (re.findall(r"^##+ +(.+?)\s*$", "\n".join(plain), re.M) or [heading])[-1]
            elif cell["cell_type"] == "code" and not pages.HIDDEN & pages.directives(source)[0].keys():
                found.append((Cell(path.stem, f"/{place(path)}", title, heading, cell["id"], printed(cell)), source))
    return found


def readers(cells: list[tuple[Cell, str]]) -> dict[str, list[Cell]]:
    'The cells that read each record: by its name, a claim as "claims/A1".'
    found: dict[str, list[Cell]] = {}
    for cell, source in cells:
        for name in READ.findall(source):
            keys = [f"claims/{c}" for c in CLAIM.findall(source)] if name == "claims" else [name]
            for key in dict.fromkeys(keys):
                if cell not in found.setdefault(key, []):
                    found[key].append(cell)
    return found


def holding(cells: list[tuple[Cell, str]], notebook: str, words: str) -> Cell:
    "The one cell of `notebook` (by name, without .ipynb) whose source holds `words`; ValueError if there is none."
    found = [cell for cell, source in cells if cell.notebook == notebook and words in source]
    if not found:
        raise ValueError(f"no code cell of nbs/{notebook}.ipynb holds {words!r}: name one that does")
    return found[0]
