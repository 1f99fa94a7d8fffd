"""README.md is the index notebook: `readme.py` writes it, a test compares."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def from_index() -> str:
    "The text of README.md as nbs/index.ipynb gives it."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [c for c in nb.cells if not c.source.startswith("#| hide")]
    for cell in nb.cells:
        if "#| echo: false" in cell.source:
            cell.source = ""
        if cell.cell_type == "markdown":  # chapters link to the notebooks; pictures are beside them
            cell.source = re.sub(r"\]\((?!https?:|#|\.\./|mailto:)([\w./-]+)\)", r"](nbs/\1)", cell.source)
            cell.source = re.sub(r"\]\(\.\./([\w./-]+)\)", r"](\1)", cell.source)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"```\w*\s*```\n*", "", text)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return "<!-- Written from nbs/index.ipynb by `make export`; edit that. -->\n\n" + text


if __name__ == "__main__":
    (ROOT / "README.md").write_text(from_index(), encoding="utf-8")
