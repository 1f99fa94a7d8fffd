"""A notebook of the course as a page of the docs site: nothing is executed, the saved outputs are shown.

nbdev's own `proc_nbs` is not used here, for three reasons seen on this course: it leaves exported code out of the page
(here the exported code is the lesson), it drops the prose below the title in the first cell, and it executes every
cell that contains an import.
"""
import ast
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import yaml

DIRECTIVE = re.compile(r"^\s*#\|\s*([\w-]+)(:?)\s*(.*)$")
QUARTO = {"echo", "output", "include", "label", "code-fold", "code-summary", "fig-cap", "fig-alt", "fig-align",
          "tbl-cap", "layout-ncol", "column"}  # the cell options that stay
HIDDEN = {"hide", "default_exp"}
EXPORTED = {"export", "exports"}
HIDE_LINE = re.compile(r"#\|\s*hide_line\s*$")
NOTEBOOK_LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*?)([^)/\s#]+)\.ipynb(#[^)\s]*)?\)")
FENCE = re.compile(r"(^(`{3,}|~{3,}).*?^\2[ \t]*$)", re.M | re.S)
NAME = re.compile(r"(?<![\[`\\\w])`([A-Za-z_][\w.]*)(?:\(\))?`(?![\]`])")


def page_name(notebook: Path | PurePosixPath | str) -> str:
    "The name of a notebook's page: its own, without the number: `03_multihead.ipynb` → `multihead`."
    return re.sub(r"^\d+[a-z]?_", "", PurePosixPath(notebook).stem)


def text(cell: Mapping) -> str:
    "The source of a cell, which the file may keep as one string or as lines."
    return "".join(cell["source"])


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines at the top of a cell, and the cell without those that mean nothing to Quarto."
    found, kept, lines = {}, [], source.split("\n")
    while lines and (match := DIRECTIVE.match(lines[0])):
        found[match[1]] = match[3]
        kept += [lines[0]] if match[2] and match[1] in QUARTO else []
        lines.pop(0)
    lines = [line for line in lines if not HIDE_LINE.search(line)]
    return found, "\n".join(kept + lines)


def module_of(notebook: Mapping) -> str | None:
    "What `#| default_exp` says: the module that the notebook exports, if any."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and (name := directives(text(cell))[0].get("default_exp")):
            return name
    return None


def defined(source: str) -> list[str]:
    "The public names that a cell defines at its top level."
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names += [n.id for n in ast.walk(target) if isinstance(n, ast.Name)] if target else []
    return [name for name in names if not name.startswith("_")]


def link_pages(markdown: str) -> str:
    "Links to notebooks as links to their pages: no number in the name, the anchor as the site writes it."
    def page(match: re.Match) -> str:
        anchor = re.sub(r"[^\w\s#.-]", "", (match[3] or "").lower())
        return f"]({match[1]}{page_name(match[2] + '.ipynb')}.ipynb{anchor})"
    return NOTEBOOK_LINK.sub(page, markdown)


def _linked(output: Mapping) -> Mapping:
    "An output with the links of its Markdown as links to pages."
    data = output.get("data", {})
    if "text/markdown" not in data:
        return output
    return {**output, "data": {**data, "text/markdown": link_pages(text({"source": data["text/markdown"]}))}}


def link_names(markdown: str, module: str | None, index: Mapping[str, str],
               near: Mapping[str, str] | None = None) -> str:
    """Names in backticks as links into the reference.

    A bare name is linked on the page of its own module and where the notebook imports it (`near`: name → place);
    elsewhere only a name that cannot be an ordinary word (it has a capital or an underscore), or one with its module
    in front.
    """
    def link(match: re.Match) -> str:
        name = match[1]
        own = index.get(f"{module}.{name}") or (near or {}).get(name)
        far = index.get(name) if re.search(r"[A-Z]|._.|\.", name) else None
        return f"[{match[0]}]({own or far})" if own or far else match[0]

    parts = FENCE.split(markdown)  # text, fenced block, its fence, text, …
    for i in range(0, len(parts), 3):
        parts[i] = "\n".join(line if line.startswith("#") else NAME.sub(link, line) for line in parts[i].split("\n"))
    return "".join(part for i, part in enumerate(parts) if i % 3 != 2)


def front_matter(source: str) -> tuple[dict[str, str], str]:
    "Title and promise from `# Title` and the first `> promise` of the first cell, and the cell without them."
    title = re.match(r"\s*#\s+(.+?)\s*$", source, re.M)
    if not title:
        return {}, source
    rest = source[title.end():].lstrip("\n")
    promise = re.match(r"((?:>.*(?:\n|$))+)", rest)
    found = {"title": title[1]}
    if promise:
        found["description"] = " ".join(line.lstrip("> ").strip() for line in promise[1].splitlines())
        rest = rest[promise.end():].lstrip("\n")
    return found, rest


def title_of(notebook: Mapping) -> str:
    "The title of a notebook: its first heading."
    return front_matter(text(notebook["cells"][0]))[0].get("title", "") if notebook["cells"] else ""


def to_page(notebook: dict, index: Mapping[str, str], *, numbered: bool = False, near: Mapping[str, str] | None = None,
            anchors: Collection[str] = (), **more: str) -> dict:
    """The notebook as the site shows it: front matter, no directives, hidden cells gone, names and pages linked.

    `index` maps `module.name` and `name` to places in the reference; empty leaves names alone; `near` has the names
    that this notebook imports. `numbered` keeps the numbers in links to notebooks. The cells with an id in `anchors`
    get an anchor `at-<id>`. `more` goes to the front matter.
    """
    module, cells = module_of(notebook), []
    for number, cell in enumerate(notebook["cells"]):
        cell = dict(cell)
        if cell["cell_type"] == "markdown":
            source = text(cell)
            if number == 0:
                meta, source = front_matter(source)
                front = f"---\n{yaml.safe_dump(meta | more, allow_unicode=True, width=10**6)}---"
                cells.append({"cell_type": "raw", "metadata": {}, "id": "front", "source": front})
            cell["source"] = link_names(source if numbered else link_pages(source), module, index, near)
            cells += [cell] if cell["source"].strip() else []
        elif cell["cell_type"] == "code":
            found, cell["source"] = directives(text(cell))
            if HIDDEN & found.keys():
                continue
            names = defined(text(notebook["cells"][number])) if EXPORTED & found.keys() else []
            ids = [f"mmtutor.{module}.{n}" for n in names] + ([f"at-{cell['id']}"] if cell.get("id") in anchors else [])
            if ids:
                places = "".join(f'<a id="{i}" class="exported-anchor"></a>' for i in ids)
                cells.append({"cell_type": "markdown", "metadata": {}, "id": f"at-{number}", "source": places})
            if not numbered:
                cell["outputs"] = [_linked(output) for output in cell.get("outputs", [])]
            cells += [cell] if cell["source"].strip() else []
            if names:
                into = f"`mmtutor.{module}`: " + ", ".join(
                    f"[`{n}`]({index[f'{module}.{n}']})" if f"{module}.{n}" in index else f"`{n}`" for n in names)
                cells.append({"cell_type": "markdown", "metadata": {}, "id": f"to-{number}",
                              "source": f"::: {{.exported}}\nexported to {into}\n:::"})
        else:
            cells.append(cell)
    return {**notebook, "cells": cells}
