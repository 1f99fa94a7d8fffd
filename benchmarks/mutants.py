"""Do the tests notice? Small changes to the modules (a sign, an axis, a mask, an off-by-one), one at a time.

mutmut makes the changes and runs, for each, the tests that reach the changed function; pyproject.toml says where. What
no test noticed is a survivor: a gap in the tests, or a change that changes nothing that matters. Those that were looked
at and found harmless are told in HARMLESS, with the reason. A run that was stopped goes on.
Writes results/mutants.json. Run: python benchmarks/mutants.py
"""
import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from mmtutor.course import records

ROOT = Path(__file__).resolve().parent.parent
KILLED, SURVIVED, UNREACHED, SLOW = (1, 3), (0,), (5, 33), (-24, 24, 36, 152, 255)  # mutmut's exit codes
# A part of the changed line → why it may live.
HARMLESS: dict[str, str] = {}


def results(folder: Path) -> dict[str, dict[str, int]]:
    "Module → name of the change → exit code of its tests; changes that have not been tried are left out."
    found = {}
    for path in sorted((folder / "mmtutor").glob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if tried := {name: code for name, code in codes.items() if code is not None}:
            found[path.name.removesuffix(".py.meta")] = tried
    return found


def count(codes: Iterable[int]) -> dict[str, int]:
    "How many were noticed, by a failing test or by hanging, how many not, and how many no test reaches."
    codes = list(codes)
    named = {"killed": KILLED, "slow": SLOW, "survived": SURVIVED, "unreached": UNREACHED}
    found = {name: sum(code in known for code in codes) for name, known in named.items()}
    return {"changes": len(codes), **found, "other": len(codes) - sum(found.values())}


def change(diff: str) -> str:
    "The changed lines of a diff: `- before + after`."
    lines = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("---", "+++")]
    return " ".join(f"{line[0]} {line[1:].strip()}" for line in lines)


def shown(name: str) -> str:
    said = subprocess.run([sys.executable, "-m", "mutmut", "show", name], cwd=ROOT, capture_output=True, text=True)
    return change(said.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="changes tried at a time")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    begun = records.commit()
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", str(args.processes)], cwd=ROOT,
                   env=os.environ | quiet, check=True)
    figures = {}
    for module, codes in results(ROOT / "mutants").items():
        lines = {name: shown(name) for name, code in codes.items() if code in SURVIVED + UNREACHED}
        told = {line: next((why for part, why in HARMLESS.items() if part in line), None) for line in lines.values()}
        figures[module] = count(codes.values()) | {
            "harmless": {name: f"{told[line]}" for name, line in lines.items() if told[line] is not None},
            "survivors": sorted(line for line in lines.values() if told[line] is None)}
        noticed = figures[module]["killed"] + figures[module]["slow"]
        print(f"{module:14} {noticed} of {len(codes)} noticed, {len(figures[module]['harmless'])} harmless", flush=True)
    if not args.dry:
        records.record("mutants", "python benchmarks/mutants.py", [], {"modules": figures}, begun=begun)


if __name__ == "__main__":
    main()
