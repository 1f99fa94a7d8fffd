"""Markdown for figures and where they come from."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence


def cell(value: object) -> str:
    "A value inside a table: one line, nothing that Markdown or HTML would take for its own."
    text = " ".join(str(value).split())
    parts = re.split(r"(`[^`]*`|\[[^\]]*\]\([^)]*\)|<a id=\"[\w.-]+\"></a>)", text)
    parts[::2] = [re.sub(r"([*_$\[\]])", r"\\\1", p).replace("<", "&lt;") for p in parts[::2]]
    return "".join(p.replace("|", "\\|") for p in parts)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    "A Markdown table."
    lines = [[cell(v) for v in row] for row in (heads, *rows)]
    lines.insert(1, ["---"] * len(heads))
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def front(title: str, description: str, more: str = "") -> str:
    "The head of a generated page."
    return f'---\ntitle: "{title}"\ndescription: "{description}"\n{more}---'


def is_spread(value: object) -> bool:
    "Whether a figure was made by `records.spread`."
    return isinstance(value, Mapping) and {"mean", "sd", "n"} <= value.keys()


def number(value: float) -> str:
    "A number with about four figures that mean something."
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.3g}"
    return (
        f"{value:.3f}" if 0.01 <= abs(value) < 100 else f"{value:,.1f}" if 100 <= abs(value) < 1e6 else f"{value:.2e}"
    )


def shown(value: object) -> str:
    "A figure as text: with its spread where it has one."
    if is_spread(value):
        return f"{number(value['mean'])} ± {number(value['sd'])} (n = {value['n']})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        short = ", ".join(shown(v) for v in value[:8])
        return short + (f", … ({len(value)} in all)" if len(value) > 8 else "")
    return "none" if value is None else number(value)


def flat(figures: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    "The figures of a record one by one, each with its path."
    for key, value in figures.items():
        here = (*path, str(key))
        if isinstance(value, Mapping) and not is_spread(value):
            yield from flat(value, here)
        elif isinstance(value, Sequence) and value and all(isinstance(v, Mapping) for v in value):
            for i, v in enumerate(value):
                yield from flat(v, (*here, str(i)))
        else:
            yield here, value


def machine(run: Mapping) -> str:
    "The class of machine of a run, in words."
    m = run["machine"]
    return (
        f"{m['system']}, {m['cores']} cores {m['processor']}, {m['memory_gib']} GiB, "
        f"{m['accelerator'] or 'no accelerator'}; "
        f"Python {m['python']}, torch {m['torch']}"
    )


def seeds(run: Mapping) -> str:
    "The seeds of a run."
    found = run["seeds"]
    together = len(found) > 2 and found == list(range(found[0], found[0] + len(found)))
    return f"{found[0]} to {found[-1]}" if together else ", ".join(map(str, found))


def commit(run: Mapping) -> str:
    "The commit of a run, in words if the code had been changed since."
    found = str(run["commit"] or "not known")
    return f"`{found.rstrip('+')}`" + (" (with changes)" if found.endswith("+") else "")
