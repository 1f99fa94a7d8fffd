"""The page of claims: what is said, what was measured, with its spread, and the run and the cell that show it."""

from collections.abc import Mapping, Sequence

from . import tables
from .cells import Cell

VERDICTS = ("not resolved at this scale", "holds when", "holds", "fails")  # a longer one before its beginning
WAITING = "not measured yet"
INTRO = """Articles about multimodal Transformers and about fine-tuning repeat the sentences below, most of them with no
figure behind them. The course measures each with three seeds or more, on small models and data, and writes down
a verdict: *holds*, *holds when* …, *fails*, or *not resolved at this scale* where the seeds differ by more than
the ways compared. Everything here is read from `results/claims.json`. A verdict is about our tasks and sizes;
the chapter says what they are, and the command repeats the run."""
SHOWN = 30  # figures with their spread below a claim; the page of the run has all


def short(verdict: str) -> str:
    "The verdict without its condition."
    return next(v for v in VERDICTS if verdict.startswith(v))


def every(listed: Mapping[str, str], how: Mapping[str, str], recorded: Mapping[str, Mapping]) -> list[tuple]:
    "Id, wording, what is measured, and the recorded run if there is one, of all that are listed."
    if odd := sorted((how.keys() ^ listed.keys()) | (recorded.keys() - listed.keys())):
        raise ValueError(f"claims: {', '.join(odd)}: not in all of 19_verdicts, claims.yml, claims.json")
    return [(id, claim, how[id], recorded.get(id)) for id, claim in listed.items()]


def where(cells: Sequence[Cell], chapter: str, pages: Mapping[str, tuple[str, str]]) -> list[str]:
    "Links to the cells that show a claim, its own chapter first; to the chapter where no cell reads the record."
    found = sorted(cells, key=lambda c: c.notebook != chapter)
    links = [f"[{c.title}: {c.heading}]({c.link})" if c.heading else f"[{c.title}]({c.link})" for c in found]
    if not found:
        if chapter not in pages:
            raise ValueError(f"results/claims.json names the chapter {chapter}, which has no notebook in nbs/")
        links = ["[{1}](/{0})".format(*pages[chapter])]
    return links


def spread(figures: Mapping, id: str) -> str:
    "The first figures of a run with their spread, to unfold."
    found = [(" / ".join(path), tables.shown(value)) for path, value in tables.flat(figures) if tables.is_spread(value)]
    if not found:
        return ""
    more = (
        f"\n\n{len(found) - SHOWN} more stand on [the page of the run](/results/claim-{id}.md)."
        if len(found) > SHOWN
        else ""
    )
    return (
        f"<details><summary>Figures of {id} with their spread</summary>\n\n"
        f"{tables.table(['figure', 'mean ± standard deviation'], found[:SHOWN])}{more}\n\n</details>"
    )


def page(
    listed: Mapping[str, str],  # id → wording
    how: Mapping[str, str],  # id → what is measured
    recorded: Mapping[str, Mapping],
    readers: Mapping[str, Sequence[Cell]],
    pages: Mapping[str, tuple[str, str]],
) -> str:
    "The page as Markdown; `pages` maps a notebook's name to its place and title."
    rows, parts = [], []
    for id, claim, test, run in every(listed, how, recorded):
        rows.append([f"[{id}](#claim-{id})", claim, short(run["verdict"]) if run else WAITING])
        parts.append(f"## {id}: {tables.cell(claim)} {{#claim-{id}}}")
        parts.append(f"Measured: {tables.cell(test)}.")
        if run is None:
            parts.append(f"**Verdict: {WAITING}.** No run is recorded.")
            continue
        name = short(run["verdict"])
        rest = run["verdict"][len(name) :]
        parts += [
            f"**Verdict: {name}**{' ' * rest.startswith(' ')}{tables.cell(rest) or '.'}",
            f"Figures: {tables.cell(run['summary'])}",
            spread(run["figures"], id),
            f"Shown in {'; '.join(where(readers.get(f'claims/{id}', ()), run['chapter'], pages))}. "
            f"[All figures of the run](/results/claim-{id}.md).",
            f"Repeat it: `{run['command']}` · commit {tables.commit(run)} · seeds {tables.seeds(run)} · "
            + tables.machine(run),
        ]
    order = ("holds", "holds when", "fails", "not resolved at this scale", WAITING)
    told = ", ".join(f"*{v}* {n}" for v in order if (n := sum(row[2] == v for row in rows)))
    front = tables.front("Claims", "What is said, what was measured, and the run that shows it.")
    head = [
        front,
        INTRO,
        "## All claims",
        f"{len(rows)} claims; {told}.",
        tables.table(["claim", "in words", "verdict"], rows),
    ]
    return "\n\n".join(part for part in [*head, *parts] if part) + "\n"
