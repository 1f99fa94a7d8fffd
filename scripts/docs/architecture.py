"""The page for those who carry on: which module imports which, read from the code and drawn."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import drawing, reference, tables

INTRO = """The notebooks are the only source. Each exports one module, and a module imports only what earlier chapters
exported. So the modules form a ladder, and you can change a rung when you know what stands on it. This page is
drawn from the imports in the code whenever the site is built; the test of the same rule is
`test_imports_climb_the_ladder` in `tests/test_repository.py`. How to change something: `CONTRIBUTING.md`."""
LAYERS = [
    ["`nbs/*.ipynb`", "the chapters, exported to `mmtutor/`", "later chapters, by explicit names"],
    ["`nbs/course/*.ipynb`",
     "support: files, records, figures, exercises, the command line; exported to `mmtutor/course/`",
     "every chapter; support imports no chapter, except the command line and the exercises"],
    ["`mmtutor/course/widgets/*.js`", "the interactive figures, one module each, without dependencies",
     "`mmtutor.course.interactive` and this site"],
    ["`benchmarks/`, `scripts/`", "recorded runs; building README, outputs and site", "nobody"],
    ["`results/`", "what the runs recorded", "chapters and this site, through `mmtutor.course.records`"],
    ["`tests/`", "one file for each module, and the repository's own rules", "nobody"],
]


def imports(path: Path, known: Sequence[str]) -> list[str]:
    "The modules of the package that a file imports, by name without the package, in the order of `known`."
    package = "mmtutor." + (f"{path.parent.name}." if path.parent.name != "mmtutor" else "")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = (package if node.level else "") + (node.module or "")
            found |= {base, *(f"{base.rstrip('.')}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return [name for name in known if f"mmtutor.{name}" in found]


def draw(names: Sequence[str], uses: Mapping[str, Sequence[str]], parts: Mapping[str, str], file: Path) -> None:
    "A square: a dot in row i and column j says that module i imports module j."
    from mmtutor.course import figures

    size = len(names)
    colours = dict(
        zip(
            dict.fromkeys(parts.get(n, "") for n in names),
            (figures.BLUE, figures.GREEN, figures.VERMILION, "#7b4f94", "#6b6b6b"),
            strict=False,
        )
    )
    with drawing.repeatable(file.name):
        fig, ax = figures.new(8.4, 8.4)
        ax.plot([-0.5, size - 0.5], [-0.5, size - 0.5], color="0.6", lw=0.8)
        for i, name in enumerate(names):
            for other in uses[name]:
                ax.plot(names.index(other), i, "o", ms=4.2, color=colours.get(parts.get(name), "0.3"))
        ax.set_xlim(-0.7, size - 0.3)
        ax.set_ylim(size - 0.3, -0.7)
        ax.set_yticks(range(size), names, fontsize=6.5)
        ax.set_xticks(range(size), names, fontsize=6.5, rotation=90)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.grid(color="0.93", lw=0.5)
        ax.set_axisbelow(True)
        for axis in (ax.get_yticklabels(), ax.get_xticklabels()):
            for label in axis:
                label.set_color(colours.get(parts.get(label.get_text()), "0.3"))
        for part, colour in colours.items():
            rows = [i for i, n in enumerate(names) if parts.get(n, "") == part]
            ax.text(size - 0.6, sum(rows) / len(rows), part, color=colour, ha="right", va="center", fontsize=10)
        drawing.save(fig, file)


def rows_of(
    names: Sequence[str], uses: Mapping[str, Sequence[str]], chapters: Mapping[str, tuple[str, str]]
) -> list[list[str]]:
    "Module, its notebook, what it imports, what imports it."
    link = lambda name: f"[`{name}`](/api/{name}.md)"
    return [
        [
            link(n),
            "[{1}](/{0})".format(*chapters[n]) if n in chapters else "",
            ", ".join(map(link, uses[n])) or "nothing of the course",
            ", ".join(link(o) for o in names if n in uses[o]) or "nothing yet",
        ]
        for n in names
    ]


def page(package: Path, chapters: Mapping[str, tuple[str, str]], parts: Mapping[str, str], folder: Path) -> str:
    """The page as Markdown. `chapters` maps a module to the place and title of its notebook, in reading order; `parts`
    maps it to the part of the sidebar. The figure goes to `folder`/media.
    """
    files = reference.modules(package, chapters)
    uses = {name: imports(path, list(files)) for name, path in files.items()}
    order = list(parts)  # that of the sidebar
    ladder = sorted(
        (n for n in files if n in chapters and "." not in n), key=lambda n: order.index(n) if n in order else len(order)
    )
    support = [n for n in files if n not in ladder]
    climbs = {n: [m for m in uses[n] if m in ladder and m != n] for n in ladder}
    draw(ladder, climbs, parts, folder / "media" / "ladder.svg")
    below = sum(len(v) for v in climbs.values())
    up = [(n, m) for n, found in climbs.items() for m in found if ladder.index(m) >= ladder.index(n)]
    alt = (
        f"A square with {len(ladder)} modules on both sides, in reading order. {below} dots say which imports which; "
        f"{'all' if not up else below - len(up)} of them lie below the diagonal."
    )
    where = (
        "None lies on or above the diagonal."
        if not up
        else "Above the diagonal: " + ", ".join(f"{n} imports {m}" for n, m in up) + "."
    )
    caption = f"Row imports column: {len(ladder)} modules, {below} imports. {where}"
    return (
        "\n\n".join(
            [
                tables.front("Architecture", "Which module imports which, drawn from the code."),
                INTRO,
                "## The layers",
                tables.table(["where", "what", "who may import it"], LAYERS),
                "## The ladder",
                drawing.figure("media/ladder.svg", alt, caption),
                tables.table(
                    ["module", "notebook", "imports of the ladder", "imported by"], rows_of(ladder, climbs, chapters)
                ),
                "## Support",
                tables.table(["module", "notebook", "imports", "imported by"], rows_of(support, uses, chapters)),
            ]
        )
        + "\n"
    )
