"""Execute the notebooks in fresh kernels: `notebooks.py --check` (what differs), `--write` (save the outputs)."""
import argparse
import difflib
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def chapters() -> list[Path]:
    "Every notebook of the course, in reading order."
    return sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def normalise(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    "Leave in `nb` only what every execution reproduces."
    nb.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, **{
            k: v for k, v in nb.metadata.items() if k == "title"}})
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output["metadata"] = nbformat.from_dict({})
            widget = output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if widget and not output["data"]:
                output["data"]["text/plain"] = "an interactive widget: run the notebook to use it"
    return nb


def execute(path: Path, timeout: int = 600, env: dict[str, str] | None = None) -> nbformat.NotebookNode:
    "Run the notebook at `path` top to bottom in a fresh kernel and return it with its outputs; `env` adds variables."
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(nb, timeout=timeout, kernel_name="python3", coalesce_streams=True, record_timing=False,
                            resources={"metadata": {"path": str(path.parent)}})
    with tempfile.TemporaryDirectory() as folder:  # nobody's own progress is read or changed
        progress = os.path.join(folder, "progress.json")
        own = {"PYTHONHASHSEED": "0", "MMTUTOR_NOTEBOOK": "1", "MMTUTOR_PROGRESS": progress}
        client.execute(env=os.environ | own | (env or {}))
    return normalise(nb)


def explain(path: Path, error: CellExecutionError) -> str:
    "A failure as plain text: the notebook and the traceback."
    return f"{path.relative_to(ROOT)}\n{ANSI.sub('', str(error))}"


def as_lines(nb: nbformat.NotebookNode) -> list[str]:
    return nbformat.writes(nb).splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all of them if none is named")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", action="store_true", help="save the outputs into the notebooks")
    how.add_argument("--check", action="store_true", help="show which saved outputs a fresh run does not reproduce")
    args = parser.parse_args()
    differing = 0
    for path in [p.resolve() for p in args.paths] or chapters():
        print(f"{path.relative_to(ROOT)} …", end=" ", flush=True)
        try:
            fresh = execute(path)
        except CellExecutionError as error:
            print("FAILED\n" + explain(path, error))
            return 1
        if args.write:
            nbformat.write(fresh, path)
            print("saved")
            continue
        saved = normalise(nbformat.read(path, as_version=4))
        diff = list(difflib.unified_diff(as_lines(saved), as_lines(fresh), "saved", "fresh", lineterm="", n=2))
        differing += bool(diff)
        print("differs" if diff else "same")
        print("\n".join(line[:200] for line in diff[:60]))
    if args.check:
        print(f"{differing} notebook(s) differ")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
