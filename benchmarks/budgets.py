"""What the course set out to reach, and whether the records say that it did. Reads results/ alone; runs nothing.

`table()` gives a row for each budget: reached, short by how much, not resolved (beyond the limit by less than twice the
standard error of the turns), or not measured. Print it: python benchmarks/budgets.py
"""
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).resolve().parent.parent / "results"


class Case(NamedTuple):
    "One figure that a budget asks for. `value` None: it was tried and failed."
    name: str
    value: float | None
    noise: float = 0.0  # a miss smaller than this is not resolved


class Budget(NamedTuple):
    what: str
    to_reach: str
    record: str                                # results/<record>.json, or the test that holds it
    limit: float
    cases: Callable[[Mapping], list[Case]]     # the record's figures → what is judged
    least: bool = False                        # the limit is the least that is wanted; else the most
    unit: str = ""


class Row(NamedTuple):
    what: str
    to_reach: str
    found: str      # the case farthest from the limit on the wrong side
    verdict: str    # begins with one of VERDICTS
    record: str
    short: list[str]  # the cases that miss


VERDICTS = ("reached", "short", "not resolved", "not measured", "held by a test")


def _noise(turns: Mapping) -> float:
    "Twice the standard error of a figure of `records.spread`."
    return 2 * turns["sd"] / math.sqrt(turns["n"])


def _ratios(table: Mapping, keep: Callable[[str], bool]) -> list[Case]:
    return [Case(key, row["ratio"], _noise(row["turns"])) for key, row in table.items() if keep(key)]


def _layers(figures: Mapping) -> list[Case]:
    "Of benchmarks/attention.py: every block of weights, forward and backward."
    return _ratios(figures["ours / theirs"], lambda key: "/forward + backward/" in key and "/attend/" not in key)


def _overhead(*others: str) -> Callable[[Mapping], list[Case]]:
    def cases(figures: Mapping) -> list[Case]:
        steps = figures["seconds"]["small"]
        above, error = {w: r["ratio"] - 1 for w, r in steps.items()}, {w: _noise(r["turns"]) for w, r in steps.items()}
        found = []
        for other in [o for o in others if o in above]:
            theirs = max(above[other], 1e-3)  # nothing above the loop: a thousandth of it
            ratio = above["finetune"] / theirs
            noise = math.hypot(error["finetune"], ratio * error[other]) / theirs
            found.append(Case(f"overhead of finetune / {other}", round(ratio, 3), noise))
        return found
    return cases


def _flat(figures: Mapping) -> list[Case]:
    peaks = {key: value for key, value in figures["peak MiB"].items() if key.startswith("accumulated/")}
    first, *others = peaks
    return [Case(f"accumulated: {key.split('/')[1]} / {first.split('/')[1]} samples", peaks[key] / peaks[first])
            for key in others if peaks[key] is not None]


def _gradcache(figures: Mapping) -> list[Case]:
    peaks = figures["peak MiB"]
    pairs = [(key, key.replace("accumulated", "GradCache")) for key in peaks if key.startswith("accumulated/")]
    return [Case(f"GradCache / accumulated: {a.split('/')[1]} samples", peaks[b] / peaks[a]) for a, b in pairs
            if peaks[a] is not None and peaks[b] is not None]


def _peaks(figures: Mapping) -> dict:
    "Of the GPU run, in the form of bench-gradcache; None where a step did not fit."
    return {"peak MiB": {key: row and row["peak MiB"] for key, row in figures["memory"].items()}}


def _imports(figures: Mapping) -> list[Case]:
    return [Case("import mmtutor", figures["mmtutor"]["seconds"]["mean"], _noise(figures["mmtutor"]["seconds"]))]


def _brought(figures: Mapping) -> list[Case]:
    return [Case(name, float(len(set(row["brings"]) & set(figures["on use only"]))))
            for name, row in [("mmtutor", figures["mmtutor"]), *figures["modules"].items()]]


def _chapters(figure: str) -> Callable[[Mapping], list[Case]]:
    return lambda figures: [Case(name, row.get(figure)) for name, row in figures["chapters"].items()]


def _mfu(figures: Mapping) -> list[Case]:
    "The better of `as written` and `compiled` counts: a reader chooses one."
    rows = {key: row["MFU"] for key, row in figures["speed"].items() if key.startswith("large/full") and row["MFU"]}
    return [Case(max(rows, key=rows.get), max(rows.values()))] if rows else []


BUDGETS = (
    Budget("attention and encoder layer, forward + backward, ours / theirs", "≤ 1", "bench-attention", 1.0, _layers),
    Budget("attention, layers and encoders on a GPU, forward + backward, ours / theirs", "≤ 1", "gpu-run", 1.0,
           lambda f: _layers({"ours / theirs": f["peers"] | f.get("compiled peers", {})})),
    Budget("overhead of a training step / Fabric's", "≤ 1", "bench-frameworks", 1.0, _overhead("fabric")),
    Budget("overhead of a training step / Trainer's, Lightning's", "≤ 1/5", "bench-frameworks", 0.2,
           _overhead("trainer", "lightning")),
    Budget("log-mel of a batch, librosa's and transformers' (NumPy) time / ours", "≥ 3", "bench-logmel", 3.0,
           lambda f: _ratios(f["theirs / ours"], lambda key: "(torch)" not in key), least=True),
    Budget("an epoch on frozen encoders, recomputed / cached", "≥ 10", "frozen-features", 10.0,
           lambda f: [Case("MiniLM", f["recomputed / cached"]["mean"], _noise(f["recomputed / cached"]))], least=True),
    Budget("peak memory of accumulation, large / small batch", "flat: ≤ 1.05", "bench-gradcache", 1.05, _flat),
    Budget("peak memory, GradCache / accumulation", "≤ 1.15", "bench-gradcache", 1.15, _gradcache),
    Budget("peak memory of accumulation on a GPU, large / small batch", "flat: ≤ 1.05", "gpu-run", 1.05,
           lambda f: _flat(_peaks(f))),
    Budget("peak memory on a GPU, GradCache / accumulation", "≤ 1.15", "gpu-run", 1.15,
           lambda f: _gradcache(_peaks(f))),
    Budget("import mmtutor, torch aside", "< 0.3 s", "bench-imports", 0.3, _imports, unit=" s"),
    Budget("transformers, datasets, lightning, keras brought by an import", "0", "bench-imports", 0.0, _brought),
    Budget("one notebook, executed", "≤ 90 s", "chapters", 90.0, _chapters("seconds"), unit=" s"),
    Budget("all notebooks, executed", "≤ 20 min", "chapters", 1200.0,
           lambda f: [Case("together", f["seconds together"])], unit=" s"),
    Budget("memory of a notebook", "≤ 4 GB", "chapters", 4096.0, _chapters("peak MiB"), unit=" MiB"),
    Budget("docs site: no request leaves; page ≤ 1.5 MB, widget ≤ 20 KB", "always", "tests/test_docs.py", 0.0,
           lambda f: []),
    Budget("model FLOPs utilisation, ViT-B + BERT-base + Whisper-small, bfloat16", "≥ 0.40", "gpu-run", 0.4, _mfu,
           least=True),
    Budget("samples a second, loading / the training step", "≥ 1", "bench-pipeline", 1.0, lambda f: [
        *(Case(f"raw, {n} workers", ratio) for n, ratio in f["raw"]["supply / need"].items()),
        Case("cached features", f["cached"]["supply / need"])], least=True),
    Budget("samples a second on a GPU, loading / the training step", "≥ 1", "gpu-run", 1.0, lambda f: [
        Case(key, row["supply / need"]) for key, row in f["pipeline"].items()], least=True),
)


def figures_of(name: str, folder: Path = RESULTS) -> dict | None:
    "The figures of a record; None where there is none."
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else None


def judge(budget: Budget, figures: Mapping | None) -> Row:
    "What the figures of its record say about one budget."
    row = lambda found, verdict, short=(): Row(budget.what, budget.to_reach, found, verdict, budget.record, list(short))
    if budget.record.endswith(".py"):
        return row("", "held by a test")
    if figures is None:
        return row("", "not measured: there is no such record")
    try:
        cases = budget.cases(figures)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        return row("", f"not measured: the record lacks {error}")
    failed = [case.name for case in cases if case.value is None]
    if failed or not cases:
        return row("", f"not measured: {', '.join(failed[:3]) or 'nothing of it in the record'}"
                       f"{' and more' if len(failed) > 3 else ''}{' failed' if failed else ''}", failed)
    miss = lambda case: budget.limit - case.value if budget.least else case.value - budget.limit
    worst = max(cases, key=miss)
    found = f"{worst.value:.3g}{budget.unit} ({worst.name})"
    beyond = [case for case in cases if miss(case) > 0]
    short = [case.name for case in beyond if miss(case) > case.noise]
    kept = f"{len(cases) - len(beyond)} of {len(cases)} within" if len(cases) > 1 else ""
    if short:
        clear = max((case for case in beyond if case.name in short), key=miss)
        by = f"{miss(clear) / budget.limit:.0%}" if budget.limit else f"{miss(clear):.3g}"
        return row(f"{clear.value:.3g}{budget.unit} ({clear.name})",
                   f"short by {by}" + (f"; {kept}" if kept else ""), short)
    if beyond:
        return row(found, "not resolved: beyond it by less than the noise" + (f"; {kept}" if kept else ""))
    return row(found, "reached")


def table(folder: Path = RESULTS) -> list[Row]:
    "Every budget, judged by the records in `folder`."
    return [judge(budget, figures_of(budget.record, folder)) for budget in BUDGETS]


def as_text(rows: list[Row]) -> str:
    return "\n".join(f"{r.what} ({r.to_reach})\n    {r.verdict}{f'  [{r.found}]' if r.found else ''}  {r.record}"
                     for r in rows)


if __name__ == "__main__":
    print(as_text(table()))
