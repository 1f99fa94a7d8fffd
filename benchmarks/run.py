"""All benchmarks of a CPU, one after the other, each in a process of its own with a limit; then the budgets.

One that fails or runs too long is named, and the others go on. The machine should have nothing else to do: close to 15
minutes on two cores. Run: python benchmarks/run.py    (--dry: toy sizes, nothing recorded; --only NAME …; --table)
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import budgets

HERE = Path(__file__).resolve().parent


class Job(NamedTuple):
    name: str
    command: tuple[str, ...]
    limit: int  # seconds


JOBS = (Job("imports", ("imports.py",), 180), Job("attention", ("attention.py",), 300),
        Job("compiled", ("attention.py", "compiled"), 300), Job("logmel", ("logmel.py",), 180),
        Job("frameworks", ("claim_T8.py", "times"), 360), Job("frozen", ("frozen_features.py",), 180),
        Job("gradcache", ("gradcache.py",), 300), Job("pipeline", ("pipeline.py",), 240))


def run(job: Job, dry: bool) -> str:
    "Run one; what became of it, in a few words."
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
        [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    begun = time.perf_counter()
    try:
        done = subprocess.run([sys.executable, str(HERE / job.command[0]), *job.command[1:], *["--dry"] * dry], env=env,
                              timeout=job.limit, cwd=HERE.parent)
    except subprocess.TimeoutExpired:
        return f"stopped after {job.limit} s"
    taken = f"{time.perf_counter() - begun:.0f} s"
    return f"done in {taken}" if done.returncode == 0 else f"FAILED after {taken}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="toy sizes; nothing is recorded")
    parser.add_argument("--only", nargs="+", choices=[job.name for job in JOBS], default=[job.name for job in JOBS])
    parser.add_argument("--table", action="store_true", help="run nothing; judge the records that are there")
    args = parser.parse_args()
    became = {}
    for job in JOBS if not args.table else ():
        if job.name in args.only:
            print(f"==> {job.name}", flush=True)
            became[job.name] = run(job, args.dry)
            print(f"==> {job.name}: {became[job.name]}", flush=True)
    if became:
        print("\nBenchmarks", *(f"{name:12} {what}" for name, what in became.items()), sep="\n  ")
    print("\nBudgets", budgets.as_text(budgets.table()), sep="\n")
    return int(any(not what.startswith("done") for what in became.values()))


if __name__ == "__main__":
    sys.exit(main())
