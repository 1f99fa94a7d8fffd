"""README.md is the index notebook: `readme.py` writes it, a test compares."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def from_the_root(markdown: str) -> str:
    "Chapters link to the notebooks beside them, and so do pictures: as the README, one folder up, finds them."
    markdown = re.sub(r"\]\((?!https?:|#|\.\./|mailto:)([\w./-]+)\)", r"](nbs/\1)", markdown)
    return re.sub(r"\]\(\.\./([\w./-]+)\)", r"](\1)", markdown)


def as_readme(nb: nbformat.NotebookNode, source: str, note: str) -> str:
    "An index as a README, with `note` under its title; `source` is the file to edit."
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [c for c in nb.cells if not c.source.startswith("#| hide")]
    for cell in nb.cells:
        if "#| echo: false" in cell.source:
            cell.source = ""
        if cell.cell_type == "markdown":
            cell.source = from_the_root(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = from_the_root("".join(output.data["text/markdown"]))
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"```\w*\s*```\n*", "", text)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    text = text.replace("\n\n", f"\n\n{note}\n\n", 1)
    return f"<!-- Written from {source} by `make export`; edit that. -->\n\n" + text


def from_index() -> str:
    "The text of README.md as nbs/index.ipynb gives it."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    return as_readme(nb, "nbs/index.ipynb", "English · [简体中文](README.zh.md)")


if __name__ == "__main__":
    import translate
    (ROOT / "README.md").write_text(from_index(), encoding="utf-8")
    (ROOT / "README.zh.md").write_text(translate.readme(), encoding="utf-8")
