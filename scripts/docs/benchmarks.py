"""The page of benchmarks: speed and memory beside others, drawn and judged from results/ alone."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from . import drawing, results, tables

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import budgets  # noqa: E402

INTRO = """How the course's blocks, its training step and its front end compare with those of others that do the same
work, side by side in one process, in turns. A point is a ratio, a bar its spread over the turns. Both are read from
`results/`; each section says the command that measures anew. Ratios travel from one machine to another better
than seconds, and not perfectly: the machine is named with each."""
MISSING = (
    "*No run on a GPU is recorded. `python scripts/gpu_run.py` (`make bench-gpu`) writes one where a GPU is at hand.*"
)


def ratios(figures: Mapping) -> dict[str, dict[str, tuple[float, float]]]:
    "The ratios in a record, group by group: name → (ratio, spread over the turns)."
    found: dict[str, dict[str, tuple[float, float]]] = {}

    def look(title: str, part: Mapping) -> None:
        here = {
            k: (v["ratio"], v["turns"]["sd"])
            for k, v in part.items()
            if isinstance(v, Mapping) and {"ratio", "turns"} <= v.keys()
        }
        if here:
            found[title] = here
        for key, value in part.items():
            if isinstance(value, Mapping) and not here:
                look(f"{title}, {key}" if title else str(key), value)

    look("", figures)
    return {title: part for name, group in found.items() for title, part in split(name, group).items()}


def split(title: str, found: Mapping) -> dict[str, dict]:
    "A long group in parts that have the beginnings of their names in common: `cpu/EncoderLayer/…`."
    if len(found) <= 16:
        return {title: dict(found)}
    parts: dict[str, dict] = {}
    for name, value in found.items():
        head, rest = (
            ("/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])) if name.count("/") > 1 else ("", name)
        )
        parts.setdefault(f"{title}: {head}" if head else title, {})[rest] = value
    return parts


def curves(figures: Mapping) -> dict[str, dict[str, dict[float, float]]]:
    "Numbers, or parts that hold numbers, whose names end in a size, `way/256`: group → way → size → number."
    found: dict[str, dict[str, dict[float, float]]] = {}
    for title, group in figures.items():
        for key, value in group.items() if isinstance(group, Mapping) else ():
            way, _, size = str(key).rpartition("/")
            parts = {f"{title}, {k}": v for k, v in value.items()} if isinstance(value, Mapping) else {title: value}
            for name, one in parts.items():
                if way and size.isdigit() and isinstance(one, int | float) and one > 0:
                    found.setdefault(name, {}).setdefault(way, {})[float(size)] = one
    return found


def draw_curves(title: str, unit: str, found: Mapping[str, Mapping[float, float]], file: Path) -> None:
    "A line for each way, both axes logarithmic."
    from mmtutor.course import figures

    with drawing.repeatable(file.name):
        fig, ax = figures.new(6.5, 3.2)
        for (way, line), colour in zip(found.items(), figures.COLOURS * 9, strict=False):
            ax.plot(list(line), list(line.values()), "o-", color=colour, markersize=4)
            ax.annotate(
                way, (max(line), line[max(line)]), xytext=(6, 0), textcoords="offset points", va="center", color=colour
            )
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ticks = sorted({size for line in found.values() for size in line})
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_xlabel("size")
        ax.set_ylabel(f"{title} ({unit})" if unit else title)
        drawing.save(fig, file)


def draw(title: str, found: Mapping[str, tuple[float, float]], file: Path) -> None:
    "Points with bars on a logarithmic axis, 1 marked; the same bytes for the same figures."
    from matplotlib import ticker

    from mmtutor.course import figures

    with drawing.repeatable(file.name):
        fig, ax = figures.new(8, 0.9 + 0.21 * len(found))
        for y, (value, sd) in enumerate(found.values()):
            ax.errorbar(
                value, -y, xerr=[[min(sd, 0.9 * value)], [sd]], fmt="o", color=figures.BLUE, capsize=2, markersize=4
            )
        ax.axvline(1, color="black", lw=0.8, ls=":")
        ax.set_xscale("log")
        low, high = min(v - min(s, 0.9 * v) for v, s in found.values()), max(v + s for v, s in found.values())
        ax.set_xlim(min(0.8, 0.9 * low), max(1.25, 1.1 * high))
        marks = [
            t
            for t in (0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 7, 10, 20, 50)
            if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]
        ]
        if ax.get_xlim()[1] > 2 * ax.get_xlim()[0]:
            marks = [t for t in marks if t not in (0.8, 0.9, 1.1, 1.2)]
        ax.xaxis.set_major_locator(ticker.FixedLocator(marks))
        ax.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        ax.xaxis.set_minor_locator(ticker.NullLocator())
        ax.set_yticks(range(0, -len(found), -1), list(found), fontsize=7)
        ax.set_ylim(-len(found) + 0.4, 0.6)
        ax.set_xlabel(f"{title} (1 = equal)")
        drawing.save(fig, file)


def judged(records: Mapping[str, Mapping]) -> list[list[str]]:
    "The budgets as rows: what, the goal, what was found, the verdict."
    rows = []
    for budget in budgets.BUDGETS:
        found = budgets.judge(budget, records.get(budget.record, {}).get("figures"))
        run = f" ([run](/results/{found.record}.md))" if found.found else ""
        rows.append([found.what, found.to_reach, f"{found.found}{run}", found.verdict])
    return rows


def page(records: Mapping[str, Mapping], folder: Path, widgets: Path) -> str:
    "The page as Markdown; its figures go to `folder`/media."
    rows = judged(records)
    sizes = sorted((p.stat().st_size, p.stem) for p in widgets.glob("*.js"))
    largest, name = sizes[-1]
    rows.append(
        [
            "interactive figures",
            "at most 20 kB each",
            f"{largest / 1000:.1f} kB ({name}), the largest of {len(sizes)}",
            "reached" if largest <= 20_000 else f"short by {largest / 200 - 100:.0f}\u00a0%",
        ]
    )
    parts = [
        tables.front("Benchmarks", "Speed and memory beside others, read from the recorded runs."),
        INTRO,
        "## Budgets",
        "What the course has set itself, and how far it is.",
        tables.table(["what", "to reach", "measured", "verdict"], rows),
    ]
    chosen = {n: r for n, r in records.items() if re.match(r"(bench|gpu)-", n)}
    for name, run in chosen.items():
        parts += [f"## {name}", results.provenance(run)]
        groups = ratios(run["figures"])
        for i, (title, found) in enumerate(groups.items()):
            file = f"media/{name}-{i}.svg"
            draw(title, found, folder / file)
            low, high = min(found.items(), key=lambda x: x[1]), max(found.items(), key=lambda x: x[1])
            alt = (
                f"{len(found)} ratios, {title}, from {low[1][0]:.2f} ({low[0]}) to {high[1][0]:.2f} ({high[0]}). "
                "All of them stand in the table of the run."
            )
            parts.append(drawing.figure(file, alt, f"{title}. Ratio and spread over the turns."))
        for title, found in curves(run["figures"]).items():
            file = f"media/{name}-{re.sub(r'[^a-zA-Z]+', '-', title)}.svg"
            draw_curves(title, str(run["figures"].get("unit", "")), found, folder / file)
            alt = f"{title} against size for " + "; ".join(
                f"{w}: {min(v.values()):g} to {max(v.values()):g}" for w, v in found.items()
            )
            parts.append(drawing.figure(file, alt, f"{title}: {run['figures'].get('what', 'against size')}."))
        if not groups:
            parts += [
                text.replace("## ", "### ", 1) if text.startswith("## ") else text for text in results.figures_of(run)
            ]
        parts.append(f"[All figures of the run](/results/{name}.md).")
    if not any(n.startswith("gpu-") for n in chosen):
        parts += ["## On a GPU", MISSING]
    return "\n\n".join(parts) + "\n"
