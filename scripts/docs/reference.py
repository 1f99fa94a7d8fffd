"""The API reference, read from the source of `mmtutor/` without importing it.

Signatures are shown as they are written: the shapes and the comments beside the parameters are their documentation.
"""
import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def modules(package: Path, order: Iterable[str] = ()) -> dict[str, Path]:
    "Every public module below `package`, those in `order` first: its name without the package, and its file."
    files = sorted(p for p in package.rglob("*.py") if not p.name.startswith("_"))
    found = {".".join(p.relative_to(package).with_suffix("").parts): p for p in files}
    return {name: found[name] for name in [*(n for n in order if n in found), *(n for n in found if n not in order)]}


def exported(tree: ast.Module) -> list[str]:
    "The names in `__all__`."
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def names_of(node: ast.stmt) -> list[str]:
    "The names that a top-level statement defines."
    if isinstance(node, Definition):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def prose(node: ast.AST) -> str:
    "The docstring as Markdown: what is not in backticks is plain text."
    found = re.sub(r"\n(?=(?:Source|Raises)\b)", "\n\n", inspect.cleandoc(ast.get_docstring(node, clean=False) or ""))
    parts = re.split(r"(`[^`]*`)", found)
    parts[::2] = [re.sub(r"([*$\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts)


def header(node: Definition, lines: list[str]) -> str:
    "The definition as written, from its decorators to the colon; for a class also its fields and its `__init__`."
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    body = node.body[0]
    starts = min([body.lineno, *(d.lineno for d in getattr(body, "decorator_list", []))]) - 1
    found = lines[first:max(starts, node.lineno)]
    while found[-1].strip().startswith("#") or not found[-1].strip():
        found.pop()
    for part in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(part, ast.AnnAssign):
            found += lines[part.lineno - 1:part.end_lineno]
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            found += textwrap.indent(header(part, lines), "    ").split("\n")
    return textwrap.dedent("\n".join(found))


def entry(node: Definition, lines: list[str], prefix: str, chapter: str) -> list[str]:
    "Heading, signature, docstring, and where the course teaches it; the methods of a class below it."
    name = prefix + node.name
    out = [f"{'###' if prefix else '##'} {name} {{#{name}}}", f"```python\n{header(node, lines)}\n```", prose(node)]
    if not prefix and chapter:
        out.append(f"[Where the course builds it]({chapter}){{.taught}}")
    for method in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(method, Definition) and not method.name.startswith("_"):
            out += entry(method, lines, f"{node.name}.", "")
    return out


def page(module: str, path: Path, chapter: tuple[str, str] | None) -> tuple[str, list[str]]:
    "The reference page of one module as Markdown, and the names on it."
    source = path.read_text(encoding="utf-8")
    lines, tree = source.split("\n"), ast.parse(source)
    public, found, title = exported(tree), [], f"mmtutor.{module}"
    out = [f"---\ntitle: {title}\ncode-overflow: wrap\n---", prose(tree)]
    if chapter:
        out.append(f"Built step by step in the notebook [{chapter[1]}](/{chapter[0]}).")
    constants = [node for node in tree.body
                 if isinstance(node, ast.Assign | ast.AnnAssign) and set(names_of(node)) & set(public)]
    if constants:
        found += [n for node in constants for n in names_of(node) if n in public]
        spans = "".join(f'<a id="{n}"></a>' for n in found)
        code = "\n".join("\n".join(lines[node.lineno - 1:node.end_lineno]) for node in constants)
        fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`{3,}", code))])  # longer than any in the code
        out.append(f"## Constants\n\n{spans}\n\n{fence}python\n{code}\n{fence}")
    for node in tree.body:
        if isinstance(node, Definition) and node.name in public:
            out += entry(node, lines, "", f"/{chapter[0]}#{title}.{node.name}" if chapter else "")
            found.append(node.name)
    return "\n\n".join(part for part in out if part) + "\n", found


def build(package: Path, folder: Path, chapters: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Write a page for every module into `folder`, and their index; return where each name is described.

    `chapters` maps a module to the place, from the site's root, and the title of its notebook, in reading order.
    """
    folder.mkdir(parents=True)
    index: dict[str, list[str]] = {}
    rows = []
    for module, path in modules(package, chapters).items():
        markdown, names = page(module, path, chapters.get(module))
        (folder / f"{module}.md").write_text(markdown, encoding="utf-8")
        at = f"/api/{module}.md"
        index[f"mmtutor.{module}"] = [at]
        for name in names:
            for called in {name, f"{module}.{name}", f"{module.split('.')[-1]}.{name}", f"mmtutor.{module}.{name}"}:
                index.setdefault(called, []).append(f"{at}#{name}")
        summary = prose(ast.parse(path.read_text(encoding="utf-8"))).split("\n\n")[0]
        summary = summary.replace("\n", " ").replace("|", "\\|")
        rows.append(f"| [`mmtutor.{module}`]({module}.md) | {summary} | "
                    + ", ".join(f"[`{n}`]({module}.md#{n})" for n in names) + " |")
    table = "\n".join(["| module | what it is for | names |", "|---|---|---|", *rows])
    intro = "Every module of `mmtutor`. The signatures are the source's own: shapes first, units in the comments."
    (folder / "index.md").write_text(f"---\ntitle: API reference\n---\n\n{intro}\n\n{table}\n", encoding="utf-8")
    # A name that two modules define needs its module in front.
    return {name: places[0] for name, places in index.items() if len(places) == 1}
