"""What every notebook costs when it is executed: wall seconds and the peak of resident memory.

Each in a process of its own, in a fresh kernel (scripts/notebooks.py); the peak is that of the kernel together with the
processes it starts, looked at twenty times a second. One after the other: the machine should have nothing else to do.
A notebook that fails keeps its place, with the message. A run that was stopped goes on where it was: finished notebooks
are kept beside the record until all are done. Writes results/chapters.json. Run: python benchmarks/chapters.py
"""
import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import notebooks

from mmtutor.course import records
from mmtutor.course.files import atomically

LIMIT = 600  # seconds for one notebook


def _mib_below(process) -> float:
    "Resident memory of what `process` has started, in MiB."
    import psutil
    total = 0
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def one(path: Path) -> dict:
    "Execute one notebook here and measure: `seconds`, `peak MiB`."
    import psutil
    done, peak, process = threading.Event(), [0.0], psutil.Process()

    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], _mib_below(process))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begun = time.perf_counter()
    try:
        notebooks.execute(path, LIMIT)
    finally:
        seconds = time.perf_counter() - begun
        done.set()
        watcher.join()
    return {"seconds": round(seconds, 1), "peak MiB": round(peak[0])}


def measure(path: Path) -> dict:
    "`one` in a process of its own; `failed` with the end of the message in place of the figures if it does not run."
    command = [sys.executable, __file__, "--one", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT + 60, env=os.environ)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {LIMIT + 60} s"}
    if done.returncode:
        return {"failed": notebooks.ANSI.sub("", done.stderr).strip()[-300:]}
    return json.loads(done.stdout.splitlines()[-1])


def name_of(path: Path) -> str:
    return path.relative_to(notebooks.NBS).with_suffix("").as_posix()


def run(paths: list[Path], kept: Path, begun: str | None) -> dict[str, dict]:
    "Notebook → its figures. What `kept` holds from the same commit is not measured again."
    found = {}
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        found = before["chapters"] if before["commit"] == begun else {}
    for path in paths:
        if "seconds" not in found.get(name_of(path), {}):
            found[name_of(path)] = measure(path)
            with atomically(kept) as part:
                part.write_text(json.dumps({"commit": begun, "chapters": found}), encoding="utf-8")
        print(f"{name_of(path):32}", found[name_of(path)], flush=True)
    return {name_of(path): found[name_of(path)] for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all of them if none is named (then recorded)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one)))
        return
    begun, kept = records.commit(), Path("runs") / "chapters.json"
    if args.paths:
        for path in args.paths:
            print(f"{path.name:32}", measure(path.resolve()), flush=True)
        return
    found = run(notebooks.chapters(), kept, begun)
    whole = {name: row for name, row in found.items() if "seconds" in row}
    figures = {"chapters": found, "seconds together": round(sum(r["seconds"] for r in whole.values()), 1),
               "largest peak MiB": max((r["peak MiB"] for r in whole.values()), default=None)}
    print(figures["seconds together"], "s together,", figures["largest peak MiB"], "MiB at most,",
          len(found) - len(whole), "failed")
    records.record("chapters", "python benchmarks/chapters.py", [0], figures, begun=begun)
    kept.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
