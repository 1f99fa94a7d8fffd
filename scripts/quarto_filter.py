"""A notebook filter for Quarto itself (`ipynb-filters` in `_quarto.yml`): a notebook on stdin, its page on stdout.

UNVERIFIED: Quarto could not be run where this was written. Tested is the filter alone, notebook in and notebook out.
The site that `make docs` builds does not use it; both show the same cells because both call `docs.pages.to_page`.

Quarto does not say which notebook it sends. The ids of its cells do: they are unique, and they are in the file.
"""
import json
import sys
from pathlib import Path

from docs.pages import page_name, to_page

NBS = Path(__file__).resolve().parent.parent / "nbs"


def source_of(notebook: dict) -> Path | None:
    "The file whose cells have the most ids in common with `notebook`; None if none has any."
    ids, shared = {cell.get("id") for cell in notebook["cells"]}, {}
    for path in sorted(NBS.rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        shared[path] = sum(cell.get("id") in ids for cell in cells if cell.get("id"))
    best = max(shared, key=shared.get, default=None)
    return best if best and shared[best] else None


def main() -> None:
    notebook = json.loads(sys.stdin.buffer.read())
    path = source_of(notebook)
    more = {"output-file": f"{page_name(path)}.html"} if path else {}
    # Quarto resolves links between notebooks itself: the numbers stay in the links.
    page = to_page(notebook, {}, numbered=True, **more)
    sys.stdout.buffer.write(json.dumps(page, ensure_ascii=False).encode())


if __name__ == "__main__":
    main()
