"""The page of reliability: kills, damaged arguments, small changes to the code; all of it from results/."""

from collections.abc import Mapping

from . import results, tables

INTRO = """What the course does when something goes wrong, counted. Three batteries, each with its command: training
runs that are killed; every public function with damaged arguments; the core modules with small changes, one at a time,
to see whether the tests notice. The tests hold smaller counts of the first two. Everything is read from `results/`."""


def missing(command: str) -> str:
    return f"*No run is recorded. `{command}` writes one.*"


def kills(run: Mapping) -> list[str]:
    columns = list(run["figures"]["all"])
    rows = {**run["figures"]["by kind"], "all": run["figures"]["all"]}
    return [
        "A process is killed (`kill -9`) at random moments, started again, killed again, until it comes to its end. "
        "Right is a model with the bits of the one whose run nobody disturbed.",
        tables.table(["run", *columns], [[name, *(row[c] for c in columns)] for name, row in rows.items()]),
    ]


def damage(run: Mapping) -> list[str]:
    modules, columns = run["figures"]["modules"], ("functions", "right", "refused", "broken")
    rows = [[f"`{name}`", *(row[c] for c in columns)] for name, row in modules.items()]
    together = ["all", *(sum(row[c] for row in modules.values()) for c in columns)]
    left = run["figures"]["left out"]
    return [
        "Each public function gets one good call. Then its arguments are damaged: other shapes, kinds of number and "
        "devices, NaN, infinities, nothing at all, far too much, unknown words; one at a time and several at once. "
        "*Right*: it returned, the shapes are those of its signature, finite numbers gave finite numbers, a NaN came "
        "out again, no argument was changed. *Refused*: a documented error. *Broken*: anything else, or more than "
        f"{run['figures']['seconds']} s or {run['figures']['GiB']} GiB.",
        tables.table(["module", "calls", *columns[1:]], [*rows, together]),
        "Left out: " + " ".join(f"{', '.join(f'`{n}`' for n in names)}: {why}." for why, names in left.items())
        if left
        else "",
    ]


def changes(run: Mapping) -> list[str]:
    modules = run["figures"]["modules"]
    heads = ["module", "changes", "noticed", "harmless", "not noticed", "noticed of those that matter"]

    def row(name: str, found: list[Mapping]) -> list[object]:
        noticed = sum(f["killed"] + f["slow"] for f in found)
        harmless, left = sum(len(f["harmless"]) for f in found), sum(len(f["survivors"]) for f in found)
        share = noticed / (noticed + left) if noticed + left else 1
        return [name, sum(f["changes"] for f in found), noticed, harmless, left, f"{share:.1%}"]

    rows = [row(f"`{name}`", [found]) for name, found in modules.items()]
    told: dict[str, int] = {}
    for found in modules.values():
        for why in found["harmless"].values():
            told[why] = told.get(why, 0) + 1
    alive = [f"- `{name}`: `{line}`" for name, found in modules.items() for line in found["survivors"]]
    return [
        "A sign, an axis, a mask, a comparison is changed in one place; then the tests that reach it run. What no "
        "test noticed is a gap in the tests, unless the change changes nothing that matters.",
        tables.table(heads, [*rows, row("all", list(modules.values()))]),
        tables.table(["harmless, because", "changes"], [[why, n] for why, n in told.items()]) if told else "",
        "Not noticed:\n\n" + "\n".join(alive) if alive else "",
    ]


PARTS = (
    ("Killed runs", "reliability-training", "python benchmarks/killed.py", kills),
    ("Damaged arguments", "fuzzed", "python benchmarks/fuzzed.py", damage),
    ("Changes to the code", "mutants", "python benchmarks/mutants.py", changes),
)


def page(records: Mapping[str, Mapping]) -> str:
    "The page as Markdown."
    parts = [tables.front("Reliability", "Kills, damaged arguments and changed code: what came of them."), INTRO]
    for title, name, command, shown in PARTS:
        parts.append(f"## {title}")
        if name in records:
            parts += [*filter(None, shown(records[name])), results.provenance(records[name])]
        else:
            parts.append(missing(command))
    return "\n\n".join(parts) + "\n"
