"""Names of the course inside code cells as links into the reference."""

import ast
import re
from collections.abc import Mapping

from . import pages

BLOCK = re.compile(r'(<code class="sourceCode python">)(.*?)(</code>)', re.S)
SILENT = {"st", "co", "ss", "vs", "im"}  # strings, comments, import lines


def imported(notebook: Mapping) -> dict[str, str]:
    "What the cells of a notebook import from the course: the name in the cell → `module` or `module.name`."
    found = {}
    for cell in notebook["cells"]:
        source = pages.text(cell) if cell["cell_type"] == "code" else ""
        if "mmtutor" not in source:
            continue
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except SyntaxError:  # a magic, or a cell that shows an error on purpose
            continue
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmtutor":
                inner = node.module.removeprefix("mmtutor").lstrip(".")
                found |= {a.asname or a.name: f"{inner}.{a.name}".lstrip(".") for a in node.names}
    return found


def links(notebook: Mapping, index: Mapping[str, str]) -> dict[str, str]:
    "Every name that a notebook's code may mention → its place in the reference: own exports, imports, `module.name`."
    module, found = pages.module_of(notebook), {}
    if module:
        found |= {
            name.removeprefix(f"{module}."): place
            for name, place in index.items()
            if name.startswith(f"{module}.") and "." not in name.removeprefix(f"{module}.")
        }
    for name, far in imported(notebook).items():
        if far in index:
            found[name] = index[far]
        elif f"mmtutor.{far}" in index:  # a whole module: its names with the module in front
            found |= {
                f"{name}.{full.removeprefix(far + '.')}": place
                for full, place in index.items()
                if full.startswith(f"{far}.") and "." not in full.removeprefix(f"{far}.")
            }
    return found


def linked(page: str, known: Mapping[str, str], up: str) -> str:
    "A rendered page with the names in its Python cells as links. `known`: name → place, such as `/api/x.md#name`."
    if not known:
        return page
    names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    name = re.compile(rf"(?<![\w.])({names})(?!\w)(?!\s*=[^=])")

    def link(match: re.Match) -> str:
        place = up + known[match[1]].lstrip("/").replace(".md", ".html", 1)
        return f'<a class="mention" href="{place}">{match[1]}</a>'

    def block(match: re.Match) -> str:
        out, open_spans = [], []
        for part in re.split(r"(<[^>]+>)", match[2]):
            if part.startswith("</"):
                open_spans = open_spans[:-1]
            elif part.startswith("<"):
                open_spans.append(re.sub(r'.*class="([^"]*)".*', r"\1", part))
            elif not SILENT & set(" ".join(open_spans).split()):
                part = name.sub(link, part)
            out.append(part)
        return match[1] + "".join(out) + match[3]

    return BLOCK.sub(block, page)
