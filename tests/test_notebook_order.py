"""Notebooks stand alone: in any order, a second time, and without cached features, the outputs are the saved ones.

`pytest tests/test_notebook_order.py --notebooks 20` takes more than the suite does, and says which draw it was.
"""
import difflib
import random
import shutil
from pathlib import Path

import matplotlib
import nbformat
import notebooks
import pytest
from nbclient.exceptions import CellExecutionError

from mmtutor.course.files import cache_dir

pytestmark = [pytest.mark.slow, pytest.mark.reliability]
# Executed in a few seconds each; a draw of more than there are here is one of all notebooks.
QUICK = """index 00_notation 01_attention 02_positions 03_multihead 05_data 05_tasks 06_text 08_listening 13_optimiser
17_ledger 19_verdicts course/check course/checkpoints course/ex_attention course/ex_audio course/ex_pooled
course/exercises course/files course/progress course/records course/weights course/workspace""".split()
CACHED = ("16_conditions", "16_evaluation")  # the quickest of those that read `cached_features` from the cache


class Place:
    "A home, notebooks, a progress file and cached features of their own; data and weights are the usual ones."

    def __init__(self, home: Path):
        self.cache, self.home = home / "cache", home / "home"
        self.nbs = shutil.copytree(notebooks.NBS, home / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        self.cache.mkdir(), self.home.mkdir()
        for folder in ("data", "wheels", "files", "converted"):
            if (cache_dir() / folder).is_dir():
                (self.cache / folder).symlink_to(cache_dir() / folder)
        self.env = {"HOME": str(self.home), "MMTUTOR_CACHE": str(self.cache),
                    "MMTUTOR_PROGRESS": str(home / "progress.json"), "MPLCONFIGDIR": matplotlib.get_cachedir()}

    def differs(self, path: Path) -> str:
        "Execute the copy of a notebook here; what is not as in the saved one."
        try:
            fresh = notebooks.execute(self.nbs / path.relative_to(notebooks.NBS), env=self.env)
        except CellExecutionError as error:
            return notebooks.explain(path, error)
        saved = notebooks.normalise(nbformat.read(path, as_version=4))
        return "\n".join(line[:200] for line in difflib.unified_diff(
            notebooks.as_lines(saved), notebooks.as_lines(fresh), "saved", "fresh", lineterm="", n=1))

    def leavings(self) -> list[str]:
        "What was not there before: files beside the notebooks, or changed ones."
        theirs = {p.relative_to(self.nbs): p for p in self.nbs.rglob("*") if p.is_file()}
        return sorted(str(name) for name, p in theirs.items()
                      if not (notebooks.NBS / name).is_file() or p.read_bytes() != (notebooks.NBS / name).read_bytes())

    @property
    def features(self) -> set[str]:
        return {p.name for p in (self.cache / "features").glob("*")}


@pytest.fixture
def place(tmp_path, built):
    return Place(tmp_path)


def path_of(name: str) -> Path:
    return notebooks.NBS / f"{name}.ipynb"


def test_in_any_order_and_twice(place, request):
    count, seed = request.config.getoption("--notebooks"), request.config.getoption("--order")
    if seed is None:
        seed = 0 if count <= 4 else random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    pool = list(map(path_of, QUICK)) if count <= len(QUICK) else notebooks.chapters()
    chosen = draw.sample(pool, min(count, len(pool)))
    print(f"--notebooks {count} --order {seed}")
    wrong = {}
    for turn in (1, 2):
        draw.shuffle(chosen)
        for number, path in enumerate(chosen, 1):
            name = path.relative_to(notebooks.NBS).with_suffix("").as_posix()
            print(f"turn {turn}, {number}: {name}", flush=True)
            if said := place.differs(path):
                wrong[f"turn {turn}, {number} of {len(chosen)}: {name}"] = said
    assert not wrong, f"--notebooks {count} --order {seed}: " + "\n".join(f"{k}\n{v}" for k, v in wrong.items())
    assert place.leavings() == [], "notebooks leave files beside them"


@pytest.mark.parametrize("name", CACHED)
def test_cached_features_change_nothing(place, name):
    "Made anew in an empty cache, then read from the full one."
    assert not place.features and place.differs(path_of(name)) == ""
    made = place.features
    assert made, "this notebook caches no features: choose another"
    before = {p.name: p.stat().st_mtime_ns for p in (place.cache / "features").glob("*")}
    assert place.differs(path_of(name)) == "" and place.leavings() == []
    assert {p.name: p.stat().st_mtime_ns for p in (place.cache / "features").glob("*")} == before
