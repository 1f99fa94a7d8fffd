"""The pages of recorded runs: every file in results/, its provenance and its figures. Nothing here is typed by hand."""

from collections.abc import Mapping, Sequence

from . import tables
from .cells import Cell

INTRO = """Every figure of this course comes from a run that says how it came about: the command, the commit, the seeds,
the machine. The files stand in `results/`; each has a page here, with its figures (mean ± standard deviation
over the runs) and the cells that read it. A commit *with changes* was not clean when the run began. What the
runs say about the claims: [claims](claims.md). Speed and memory against others: [benchmarks](benchmarks.md). Kills and
damage: [reliability](reliability.md)."""


def provenance(run: Mapping) -> str:
    "How a run came about, as a table."
    rows = [
        ["command", f"`{run['command']}`"],
        ["commit", tables.commit(run)],
        ["seeds", tables.seeds(run)],
        ["machine", tables.machine(run)],
        ["version", run["version"]],
    ]
    return tables.table(["provenance", "recorded"], rows)


def common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    "The columns that figures with these paths share at their ends, if they make a table."
    return tuple(dict.fromkeys(path[-1] for path in paths))


def grid(title: str, figures: Mapping) -> list[str]:
    "The figures below one name: as a table with columns where they have the same parts, else one by one."
    found = (
        list(tables.flat(figures))
        if isinstance(figures, Mapping) and not tables.is_spread(figures)
        else [((), figures)]
    )
    columns = common([path for path, _ in found if path])
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    for path, value in found:
        rows.setdefault(path[:-1], {})[path[-1] if path else ""] = value
    full = len(found) / (len(rows) * max(1, len(columns)))
    if 2 <= len(columns) <= 6 and len(rows) > 1 and full > 0.6:
        body = [
            [" / ".join(key), *(tables.shown(row[c]) if c in row else "" for c in columns)] for key, row in rows.items()
        ]
        return [f"## {tables.cell(title)}", tables.table([title, *columns], body)]
    body = [[" / ".join(path) or title, tables.shown(value)] for path, value in found]
    return [f"## {tables.cell(title)}", tables.table([title, "figure"], body)]


def figures_of(run: Mapping) -> list[str]:
    "All figures of a run: those without parts in one table, every group under its own heading."
    single = [
        [k, tables.shown(v)] for k, v in run["figures"].items() if not isinstance(v, Mapping) or tables.is_spread(v)
    ]
    parts = ["## Figures", tables.table(["figure", "value"], single)] if single else []
    for name, group in run["figures"].items():
        if isinstance(group, Mapping) and not tables.is_spread(group):
            parts += grid(name, group)
    return parts


def page(title: str, file: str, run: Mapping, readers: Sequence[Cell]) -> str:
    "The page of one run; `file` is its place in results/."
    links = [f"[{c.title}{': ' + c.heading if c.heading else ''}]({c.link})" for c in readers]
    said = (
        [f"{tables.cell(run['claim'])} [What came out](/claims.md#claim-{title.split()[-1]})."]
        if "claim" in run
        else []
    )
    used = f"Read in {'; '.join(links)}." if links else "No chapter reads it yet."
    front = tables.front(title, f"A recorded run, from results/{file}.", "search: false\n")
    return "\n\n".join([front, *said, provenance(run), used, *figures_of(run)]) + "\n"


def build(records: Mapping[str, Mapping], readers: Mapping[str, Sequence[Cell]]) -> dict[str, str]:
    "Every page, by its place: the list, and one for each record and each claim. `records`: file name → content."
    found, rows = {}, []
    for name, record in records.items():
        runs = (
            {f"claim-{id}": (f"Claim {id}", run, f"claims/{id}") for id, run in record.items()}
            if name == "claims"
            else {name: (name, record, name)}
        )
        for place, (title, run, key) in runs.items():
            found[f"results/{place}.md"] = page(title, f"{name}.json", run, readers.get(key, ()))
            rows.append(
                [
                    f"[{title}](results/{place}.md)",
                    f"`{run['command']}`",
                    tables.commit(run),
                    tables.seeds(run),
                    run["machine"]["accelerator"] or f"{run['machine']['cores']} cores, no accelerator",
                ]
            )
    head = tables.front("Results", "Every recorded run, with its provenance.")
    listing = tables.table(["run", "command", "commit", "seeds", "machine"], rows)
    found["results.md"] = "\n\n".join([head, INTRO, listing]) + "\n"
    return found
