"""Do the tests notice? Small changes to the modules (a sign, an axis, a mask, an off-by-one), one at a time.

mutmut makes the changes and runs, for each, the tests that reach the changed function; pyproject.toml says where. There
are thousands: of each module a number is drawn, the same ones every time (--each 0: all). What no test noticed is a
survivor: a gap in the tests, or a change that changes nothing that matters. Those that were looked at and found
harmless are told in HARMLESS, with the reason. A run that was stopped goes on.
Writes results/mutants.json. Run: python benchmarks/mutants.py
"""
import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from mmtutor.course import records

ROOT = Path(__file__).resolve().parent.parent
KILLED, SURVIVED, UNREACHED, SLOW = (1, 3), (0,), (5, 33), (-24, 24, 36, 152, 255)  # mutmut's exit codes
# A part of the changed line → why it may live.
HARMLESS: dict[str, str] = {
    "display=None": "falsy like the False before",
    "remove_duplicate=None": "falsy like the False before",
    "batch_size: int = 65": "a size that decides how fast, not what",
    "cuda.is_initialized()": "a GPU is needed to see it",
    "device=None)": "a second device is needed to see it",
    "+ target = torch.arange(len(a), )": "a second device is needed to see it",
    'float("-INF")': "Python reads it the same",
    "+ return torch.arange(tokens, ) < lengths": "a second device is needed to see it",
    "+ log_scale = torch.as_tensor(log_scale, dtype=a.dtype, )": "a second device is needed to see it",
    "+ right = torch.eye(len(a), dtype=None": "0 and 1 are exact in every kind of number",
    "os.setpgid(": "seen in a worker's process alone, where changes are not tried",
    "if hasattr(os,": "seen in a worker's process alone, where changes are not tried",
    'hasattr(None, "setpgid")': "seen in a worker's process alone, where changes are not tried",
    "+ dead = None if mask is None else ~mask.any(None": "PyTorch's kernel gives such rows zeros by itself",
    "+ dead = None if mask is None else ~mask.any(keepdim": "PyTorch's kernel gives such rows zeros by itself",
    "+ return F.normalize(a.to(exact), )": "in a table the axis that is meant if none is named",
    "non_blocking=False": "decides how fast, not what",
    'precision == "XXfloat16XX"': "a GPU is needed to see it",
    '"weight" in name.rsplit(".", 2)[-1]': "the last part of a name in either case",
    "by >= 0": "it is never called with 0",
    "self.values: Tensor | None": "not looked at before keys are there",
}


def made(folder: Path) -> dict[str, dict[str, int | None]]:
    "Module → name of the change → exit code of its tests, None if they have not been run."
    return {path.name.removesuffix(".py.meta"): json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
            for path in sorted((folder / "mmtutor").glob("*.py.meta"))}


def drawn(changes: dict[str, dict[str, int | None]], each: int) -> dict[str, list[str]]:
    "Module → the names of at most `each` of its changes, always the same ones; 0: all of them."
    return {module: sorted(random.Random(module).sample(sorted(names), each) if 0 < each < len(names) else names)
            for module, names in changes.items()}


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


def mutmut(*words: str, processes: int, check: bool = True) -> None:
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *words], cwd=ROOT,
                   env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, check=check,
                   stdout=None if check else subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)


def shown(name: str) -> str:
    said = subprocess.run([sys.executable, "-m", "mutmut", "show", name], cwd=ROOT, capture_output=True, text=True)
    return change(said.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="changes tried at a time")
    parser.add_argument("--each", type=int, default=40, help="changes drawn of each module; 0: all")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    begun = records.commit()
    mutmut("none of this name", processes=args.processes, check=False)  # makes the changes and tries none
    names = drawn(made(ROOT / "mutants"), args.each)
    mutmut(*(name for some in names.values() for name in some), processes=args.processes)
    figures, there = {}, made(ROOT / "mutants")
    for module, some in names.items():
        codes = {name: there[module][name] for name in some}
        lines = {name: shown(name) for name, code in codes.items() if code in SURVIVED + UNREACHED}
        told = {line: next((why for part, why in HARMLESS.items() if part in line), None) for line in lines.values()}
        figures[module] = {"possible": len(there[module])} | count(codes.values()) | {
            "harmless": {name: f"{told[line]}" for name, line in lines.items() if told[line] is not None},
            "survivors": sorted(line for line in lines.values() if told[line] is None)}
        noticed = figures[module]["killed"] + figures[module]["slow"]
        print(f"{module:14} {noticed} of {len(codes)} noticed, {len(figures[module]['harmless'])} harmless", flush=True)
    if not args.dry:
        records.record("mutants", "python benchmarks/mutants.py", [0], {"modules": figures}, begun=begun)


if __name__ == "__main__":
    main()
