"""How much memory a piece of work needs on a CPU, beyond what its process holds already. Linux only."""
import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path

# The C library gives large blocks back as soon as they are free, so that what came before is not counted as held.
EAGER = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def _status(field: str) -> int:
    "A field of /proc/self/status in KiB."
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def peak_of(work: Callable[[], object]) -> float:
    "MiB at the peak of `work()` beyond what was resident when it began."
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew, at what is held now
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 0) / 1024


def alone(function: Callable, *arguments):
    "`function(*arguments)` in a process of its own. Raises what it raised."
    before = {name: os.environ.get(name) for name in EAGER}
    os.environ.update(EAGER)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fork would hang on torch's threads
            return pool.apply(function, arguments)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
