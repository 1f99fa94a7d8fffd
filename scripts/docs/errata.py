"""The page of errata: what popular articles get wrong, each with the cell that proves it; and how to report ours."""

from collections.abc import Callable, Mapping, Sequence

from . import tables
from .cells import Cell

INTRO = """Sentences and programs that are printed again and again, and what is the case. Each entry ends in a cell of
the course that you can run; what the cell printed is quoted below the entry as it was saved. Which articles? We do
not name them: the point is the sentence, and you will know it when you meet it."""
OURS = """## How to report ours {#ours}

This course has mistakes too. If you find one, open an issue in the repository with

1. the page and the heading, or the link of the cell (every cell on these pages that shows a claim or an erratum
   has an address of its own);
2. what it says, and what you hold to be right, with a source or a few lines that show it;
3. for a figure that you could not repeat: the command, the commit, your machine, and what came out.

A correction that changes what a page says is noted in `CHANGELOG.md`. A recorded figure that turns out wrong is
measured anew: no figure is edited by hand. How to send a change yourself: `CONTRIBUTING.md`."""
LONGEST = 12  # lines of output that are quoted


def quoted(output: str) -> str:
    "What a cell printed, as a block; nothing for a cell that drew or printed too much."
    lines = output.splitlines()
    return "```\n" + output + "\n```" if 0 < len(lines) <= LONGEST else ""


def page(entries: Sequence[Mapping], find: Callable[[str, str], Cell], recorded: Mapping[str, Mapping]) -> str:
    "The page as Markdown. `find` gives the cell that holds some words. ValueError for a claim that has no run."
    parts = [
        tables.front(
            "Errata", "What popular articles get wrong, with the cell that proves it; and how to report ours."
        ),
        INTRO,
    ]
    for entry in entries:
        cell = find(*entry["proof"])
        parts += [f"## {tables.cell(entry['said'])} {{#{entry['id']}}}", tables.cell(entry["so"])]
        proof = f"Proof: [{cell.title}{': ' + cell.heading if cell.heading else ''}]({cell.link})."
        if "claim" in entry:
            if entry["claim"] not in recorded:
                raise ValueError(
                    f"errata.yml: {entry['id']} names the claim {entry['claim']}, which is not in results/claims.json"
                )
            proof += f" Measured as claim [{entry['claim']}](/claims.md#claim-{entry['claim']})."
        parts += [proof, quoted(cell.output)]
    return "\n\n".join(part for part in [*parts, OURS] if part) + "\n"
