"""The pages that no notebook holds: claims, errata, results, benchmarks, reliability, architecture, glossary."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from mmtutor.verdicts import CLAIMS

from . import architecture, benchmarks, cells, claims, errata, glossary, pages, reliability, results

HERE = Path(__file__).resolve().parent
TITLES = {
    "claims.md": "Claims",
    "errata.md": "Errata",
    "results.md": "Results",
    "benchmarks.md": "Benchmarks",
    "reliability.md": "Reliability",
    "architecture.md": "Architecture",
    "glossary.md": "Glossary",
}


@dataclass(frozen=True)
class Course:
    "What the generated pages are made from."

    root: Path  # the repository
    sources: Mapping[Path, Mapping]  # the notebooks, in reading order
    place: Callable[[Path], str]  # where a notebook's page stands
    parts: Mapping[Path, str]  # the part of the sidebar that holds a notebook
    index: Mapping[str, str]  # where the reference describes a name

    def records(self) -> dict[str, Mapping]:
        "Every file in results/, by its name."
        return {
            p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((self.root / "results").glob("*.json"))
        }


def build(course: Course, folder: Path) -> set[str]:
    "Write the pages that this course can have into `folder`; return the ids of the cells that they link to."
    walked, records = cells.walk(course.sources, course.place), course.records()
    by_record, used = cells.readers(walked), set()
    recorded = records.get("claims", {})
    by_name = {path.stem: (course.place(path), pages.title_of(nb)) for path, nb in course.sources.items()}
    by_module = {m: (p, nb) for p, nb in course.sources.items() if (m := pages.module_of(nb))}

    def find(notebook: str, words: str) -> cells.Cell:
        cell = cells.holding(walked, notebook, words)
        used.add(cell.id)
        return cell

    used |= {cell.id for found in by_record.values() for cell in found}
    how = yaml.safe_load((HERE / "claims.yml").read_text(encoding="utf-8"))
    entries = yaml.safe_load((HERE / "errata.yml").read_text(encoding="utf-8"))
    found = results.build(records, by_record)
    found["claims.md"] = claims.page(CLAIMS, how, recorded, by_record, by_name)
    found["errata.md"] = errata.page(entries, find, recorded)
    found["benchmarks.md"] = benchmarks.page(records, folder, course.root / "mmtutor" / "course" / "widgets")
    found["reliability.md"] = reliability.page(records)
    found["architecture.md"] = architecture.page(
        course.root / "mmtutor",
        {m: (course.place(p), pages.title_of(nb)) for m, (p, nb) in by_module.items()},
        {m: part for path, part in course.parts.items() for m, (p, _) in by_module.items() if p == path},
        folder,
    )
    notation = next((nb for path, nb in course.sources.items() if path.stem == "00_notation"), None)
    if notation:
        found["glossary.md"] = glossary.page(notation, course.index)
    for place, text in found.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        linked = text if place.startswith("results/") else pages.link_names(text, None, course.index)
        (folder / place).write_text(linked, encoding="utf-8")
    return used
