"""What `import mmtutor` and each of its modules cost, torch aside, and which heavy libraries they bring.

The package: every repeat in a fresh process, which imports torch first. The modules: every repeat in a process forked
from one that has imported torch and nothing else of ours. Seconds of the wall clock, and of the processor beside it.
Writes results/bench-imports.json. Run: python benchmarks/imports.py
"""
import argparse
import importlib.util
import json
import pkgutil
import subprocess
import sys

from mmtutor.course import records

HEAVY = ("transformers", "datasets", "lightning", "keras", "accelerate", "librosa", "sklearn", "matplotlib", "IPython",
         "ipywidgets", "jupyterlab", "pandas", "scipy", "soundfile", "PIL")
ON_USE = ("transformers", "datasets", "lightning", "keras")  # what the budget names
# Runs in the fresh process: argv[1] is a module of ours; prints seconds and what came with it.
ONE = """import json, sys, time
import torch
from importlib import import_module
before, wall, used = set(sys.modules), time.perf_counter(), time.process_time()
import_module(sys.argv[1])
print(json.dumps([time.perf_counter() - wall, time.process_time() - used,
                  sorted({m.partition(".")[0] for m in set(sys.modules) - before})]))"""
# The same in forks: argv[1] is a JSON list of modules, argv[2] how often.
MANY = """import json, os, sys, time
import torch
from importlib import import_module
for name in json.loads(sys.argv[1]) * int(sys.argv[2]):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        before, wall, used = set(sys.modules), time.perf_counter(), time.process_time()
        import_module(name)
        found = [name, time.perf_counter() - wall, time.process_time() - used,
                 sorted({m.partition(".")[0] for m in set(sys.modules) - before})]
        os.write(theirs, json.dumps(found).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        print(pipe.read(), flush=True)
    os.wait()"""


def _run(code: str, *arguments: str) -> list:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"imports: {arguments[0]} could not be imported:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def modules() -> list[str]:
    "Every module of the package, by its full name; the command line's `__main__` is none."
    import mmtutor
    return sorted(m.name for m in pkgutil.walk_packages(mmtutor.__path__, "mmtutor.")
                  if not m.name.endswith(("__main__", "_modidx")) and not m.ispkg)


def package(repeats: int = 5) -> dict:
    "`import mmtutor` in fresh processes. The first, which may read from the disk, is thrown away."
    rows = [_run(ONE, "mmtutor")[0] for _ in range(repeats + 1)][1:]
    return {"seconds": records.spread([r[0] for r in rows]), "processor seconds": records.spread([r[1] for r in rows]),
            "brings": [m for m in HEAVY if m in rows[0][2]]}


def each(names: list[str], repeats: int = 3) -> dict:
    "Module → seconds, and the heavy libraries that it brings."
    rows: dict[str, list] = {}
    for name, *row in _run(MANY, json.dumps(names), str(repeats + 1)):
        rows.setdefault(name, []).append(row)
    return {name: {"seconds": records.spread([r[0] for r in found[1:]]),
                   "brings": [m for m in HEAVY if m in found[0][2]]} for name, found in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="two modules, once; print, and write nothing")
    dry = parser.parse_args().dry
    begun = records.commit()
    names = [n for n in modules() if importlib.util.find_spec(n)]
    whole, found = package(1 if dry else 5), each(names[:2] if dry else names, 1 if dry else 3)
    print("import mmtutor", records.show(whole["seconds"]), "s; brings", whole["brings"] or "none of the heavy ones")
    for name, row in sorted(found.items(), key=lambda item: -item[1]["seconds"]["mean"])[:12]:
        print(f"{name:36} {records.show(row['seconds'], 2)} s  {', '.join(row['brings'])}")
    if not dry:
        records.record("bench-imports", "python benchmarks/imports.py", [0], {
            "mmtutor": whole, "modules": found, "looked for": list(HEAVY), "on use only": list(ON_USE)}, begun=begun)


if __name__ == "__main__":
    main()
