"""Everything that only a GPU can show, in one command of less than ten minutes; one record, results/gpu-run.json.

The sections are those of benchmarks/gpu.py, each in a process of its own with a limit. One that fails, or that no time
is left for, is named in the record under `not done`, and the others go on. Finished sections are kept in runs/gpu: the
same command again does what is left. The capstone writes results/capstone-gpu.json besides, when all of it is done.
Run: python scripts/gpu_run.py    (--toy: small sizes, on a CPU too, printed and not recorded)

For a machine without a network: `--pack FOLDER` here collects the embedded data, the weights and the wheels that such a
machine may lack, in pieces of at most 60 MB; `--packed FOLDER` there unpacks them first. The record is in results/.
"""
import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path("runs") / "gpu"
PIECE = 60_000_000  # bytes
# What a machine with torch, transformers and scikit-learn may lack; taken in the versions of this environment.
WHEELS = ("platformdirs", "datasets", "dill", "multiprocess", "soundfile", "cffi", "pycparser", "soxr")
NAMES = ("parity", "peers", "speed", "memory", "pipeline", "compile", "compiled peers", "capstone")  # gpu.SECTIONS
# The code of one section: name, toy, path of the result.
SECTION = """import json, sys, torch
import gpu
name, toy, path = sys.argv[1], sys.argv[2] == "toy", sys.argv[3]
torch.set_num_threads(1) if toy else None
found = gpu.SECTIONS[name][0](toy, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
open(path, "w").write(json.dumps(found, allow_nan=False))"""


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def section(name: str, toy: bool, limit: float, kept: Path) -> dict:
    "Run one section: `figures`, or `not done` with the reason and what there is `so far`; `seconds` that it took."
    path, part, begun = kept / f"{name}.done", kept / f"{name}.part", time.perf_counter()
    path.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    command = [sys.executable, "-c", SECTION, name, "toy" if toy else "full", str(path)]
    try:
        done = subprocess.run(command, env=environment() | {"GPU_RUN_PART": str(part.resolve())}, timeout=limit,
                              stderr=subprocess.PIPE, text=True)
        why = None if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}")[-500:]
    except subprocess.TimeoutExpired:
        why = f"stopped after {limit:.0f} s"
    taken = round(time.perf_counter() - begun, 1)
    if why is None:
        return {"figures": json.loads(path.read_text(encoding="utf-8")), "seconds": taken}
    print(f"{name}: {why}", flush=True)
    return {"not done": why, "seconds": taken, "so far": _json(part)}


def _json(path: Path) -> dict | None:
    "What a section left behind; None where that is nothing, or half of it."
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def run(names: list[str], toy: bool, seconds: float, kept: Path, begun: str | None) -> dict[str, dict]:
    "Section → what became of it. Those that `kept` holds from the same commit are not run again."
    import gpu
    until, found = time.perf_counter() + seconds, {}
    kept.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = kept / f"{name}.json"
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if "figures" in before and before["commit"] == begun and before["toy"] == toy:
                found[name] = before
                continue
        left = until - time.perf_counter()
        if left < 15:
            found[name] = {"not done": "no time was left; the same command again goes on here", "seconds": 0.0}
            continue
        print(f"==> {name}", flush=True)
        found[name] = section(name, toy, left if toy else min(left, gpu.SECTIONS[name][1]), kept)
        if name == "capstone" and "figures" not in found[name] and not toy:
            found[name]["so far"] = gpu.capstone_so_far()
        path.write_text(json.dumps({"commit": begun, "toy": toy, **found[name]}), encoding="utf-8")
        print(f"==> {name}: {found[name]['seconds']} s", flush=True)
        if not toy:
            write(found, begun)
    return found


def write(found: dict[str, dict], begun: str | None) -> Path:
    "The record of what is there so far."
    from mmtutor.course import records
    figures = {name: row.get("figures") or row.get("so far") for name, row in found.items()}
    return records.record("gpu-run", "python scripts/gpu_run.py", (0, 1, 2), {
        **{name: row for name, row in figures.items() if row},
        "not done": {name: row["not done"] for name, row in found.items() if "not done" in row},
        "seconds": {name: row["seconds"] for name, row in found.items()}}, begun=begun)


def pack(folder: Path, cache: Path, python: str, wheels: tuple[str, ...] = WHEELS) -> list[Path]:
    "Data, weights and wheels as one archive, cut into pieces of at most `PIECE` bytes."
    from importlib import metadata
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("piece-*"):
        old.unlink()
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 17)] + ["--platform=manylinux2014_x86_64"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
           f"--python-version={python}", *platforms, "--dest", str(folder / "wheels")]
    if wheels:
        subprocess.run([*pip, *(f"{name}=={metadata.version(name)}" for name in wheels)], check=True)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name in ("data", "files", "converted"):
            if (cache / name).exists():
                archive.add(cache / name, f"cache/{name}")
        if (folder / "wheels").exists():
            archive.add(folder / "wheels", "wheels")
    pieces, content = [], whole.getvalue()
    for number, at in enumerate(range(0, len(content), PIECE)):
        pieces.append(folder / f"piece-{number:02}")
        pieces[-1].write_bytes(content[at:at + PIECE])
    return pieces


def unpack(folder: Path) -> None:
    "Join the pieces and make this process, and what it starts, use them."
    if not (folder / "cache").exists():
        whole = io.BytesIO(b"".join(p.read_bytes() for p in sorted(folder.glob("piece-*"))))
        with tarfile.open(fileobj=whole) as archive:
            archive.extractall(folder, filter="data")
    os.environ["MMTUTOR_CACHE"] = str((folder / "cache").resolve())
    wheels, site = sorted((folder / "wheels").glob("*.whl")), folder.resolve() / "site"
    if wheels and not site.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site,
                        *wheels], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(site))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="small sizes, also on a CPU; nothing is recorded")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--minutes", type=float, default=9.5, help="for all sections together")
    parser.add_argument("--pack", type=Path, metavar="FOLDER")
    parser.add_argument("--python", default="3.12", help="the Python of the machine that --pack is for")
    parser.add_argument("--packed", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.packed:
        unpack(args.packed)
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    if args.pack:
        from mmtutor.course.files import cache_dir
        print(*pack(args.pack, cache_dir(), args.python), sep="\n")
        return 0
    import torch

    from mmtutor.course import records
    if not args.toy and not torch.cuda.is_available():
        sys.exit("gpu_run: no GPU here; --toy tries the code at a small size on a CPU")
    kept = KEPT.with_name("gpu-toy") if args.toy else KEPT
    found = run(args.only, args.toy, 60 * args.minutes, kept, records.commit())
    for name, row in found.items():
        print(f"{name:10} {'not done: ' + row['not done'] if 'not done' in row else 'done'}")
    return int(any("not done" in row for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
