"""Every public function with damaged arguments: it has to return a right result or refuse, soon and in little memory.

benchmarks/calls/ holds one good call of each. Here one argument at a time is damaged in every way that fits its kind
(shape, dtype, device, NaN, infinite, empty, huge, unknown), then several at once, drawn at random. What may come:

- right: it returns. Then the arguments are as they were; arrays given and returned keep the signature's shapes and
  kinds; finite numbers gave finite numbers; a NaN that went in comes out.
- refused: a ValueError raised by a line of the package, or what the docstring names. Of a wrong dtype or device PyTorch
  itself may speak, if its message names it; of something huge, whoever has no memory left.

Anything else is broken, and so is a call of more than SECONDS or of more than MEMORY.
Writes results/fuzzed.json. Run: python benchmarks/fuzzed.py    (--only MODULE …; --draws N; --dry: nothing recorded)
"""
import argparse
import contextlib
import copy
import dataclasses
import importlib
import importlib.util
import inspect
import linecache
import pkgutil
import random
import re
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import numpy as np
import torch
from beartype.door import is_bearable
from damage import Damage, damages, put
from torch import Tensor, nn

import mmtutor
from mmtutor.course import records

CALLS = Path(__file__).resolve().parent / "calls"
SECONDS, MEMORY = 20, 3 * 2**30
WHOLE = (torch.int64, torch.bool, np.dtype("int64"), np.dtype("bool"))
SAID = re.compile(r"meta|device|dtype|scalar ?[tT]ype|not implemented for|data type|same type|Input type|bool tensor"
                  r"|Double|Half|Long|Bool|Int\b")
NO_ROOM = re.compile(r"allocate|memory|Storage size|overflow|too large|too big|Maximum allowed|maximum supported", re.I)


class Call(NamedTuple):
    "How to make a good call: `make()` gives the function and its arguments, new each time."
    name: str                                  # module.function, with words behind it if there are several
    make: Callable[[], tuple[Callable, dict]]
    raises: tuple[type[BaseException], ...] = ()  # besides ValueError; the docstring has to name them
    keep: tuple[str, ...] = ()                 # arguments that are not damaged
    swallows: tuple[str, ...] = ()             # arguments of which a NaN may rightly leave no trace
    takes: tuple[str, ...] = ()                # arguments that may be more than the signature says
    changes: tuple[str, ...] = ()              # arguments that the call is there to change
    infinite: bool = False                     # a result of finite numbers may be infinite or NaN


REGISTRY: dict[str, Call] = {}
LEFT_OUT: dict[str, str] = {}                  # name → why there is no call


def good(name: str, **more) -> Callable:
    "Decorator: this function makes a good call of `name`."
    def note(make):
        if name in REGISTRY:
            raise ValueError(f"fuzzed: {name} is there twice")
        REGISTRY[name] = Call(name, make, **more)
        return make
    return note


def left_out(why: str, *names: str) -> None:
    LEFT_OUT.update(dict.fromkeys(names, why))


def load_calls() -> None:
    "Read all files of benchmarks/calls/."
    sys.modules.setdefault("fuzzed", sys.modules[__name__])
    for path in sorted(CALLS.glob("*.py")):
        if (name := f"calls_{path.stem}") not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


def public() -> set[str]:
    "module.name of every function and class that the package exports where it is written."
    found = set()
    for info in pkgutil.walk_packages(mmtutor.__path__, "mmtutor."):
        if ".ex_" in info.name or info.name.endswith("_modidx"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if callable(thing) and getattr(thing, "__module__", None) == info.name:
                found.add(f"{info.name.removeprefix('mmtutor.')}.{name}")
    return found


# --- what came of it ---

class Hangs(BaseException):
    pass


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    "Time and memory of what is inside are limited."
    def ring(*_):
        raise Hangs
    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, (soft, hard) = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used() + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def numbers(x, depth: int = 0) -> Iterator[np.ndarray]:
    "Every array of numbers in a value."
    if isinstance(x, Tensor):
        if not x.is_meta and not x.is_sparse:
            yield x.detach().cpu().numpy() if x.dtype != torch.bfloat16 else x.detach().float().numpy()
    elif isinstance(x, (np.ndarray, float, int, np.generic)):
        if (array := np.asarray(x)).dtype.kind in "fiubc":
            yield array
    elif isinstance(x, nn.Module):
        yield from numbers(list(x.state_dict().values()), depth + 1)
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        yield from numbers([getattr(x, f.name) for f in dataclasses.fields(x)], depth + 1)
    elif isinstance(x, Mapping) and depth < 6:
        yield from numbers(list(x.values()), depth + 1)
    elif isinstance(x, (list, tuple)) and depth < 6:
        for part in x:
            yield from numbers(part, depth + 1)


def finite(x) -> bool:
    return all(np.isfinite(a).all() for a in numbers(x))


def same(a, b) -> bool:
    a, b = list(numbers(a)), list(numbers(b))
    return len(a) == len(b) and all(x.shape == y.shape and np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")
                                    for x, y in zip(a, b))


def _hints(function: Callable) -> dict[str, object]:
    "The parts of a signature that speak of arrays: name (or 'return') → annotation."
    function = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return {}
    hints = {name: p.annotation for name, p in signature.parameters.items()} | {"return": signature.return_annotation}
    return {name: hint for name, hint in hints.items() if "Iterator" not in repr(hint) and (
        "jaxtyping" in repr(hint) or "Tensor" in repr(hint) or hint in (Tensor, np.ndarray))}


def against_signature(function: Callable, arguments: dict, result, takes: Sequence[str]) -> str | None:
    "The first array, given or returned, whose shape or kind is not the one that the signature names."
    hints = _hints(function)
    with jaxtyping.jaxtyped("context"):  # the sizes named by one are those of all
        for name, value in [*arguments.items(), ("return", result)]:
            hint = hints.get(name)
            if name != "return" and "Float" in repr(hint) and getattr(value, "dtype", None) in WHOLE:
                continue  # whole numbers are numbers too, if the result is right
            if hint is None or name in takes or (name != "return" and not isinstance(value, (Tensor, np.ndarray))):
                continue
            try:
                fits = is_bearable(value, hint)
            except Exception:  # a size that is computed from other arguments
                continue
            if not fits:
                shape = f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__
                return f"{name} is {shape}, against the signature's {getattr(hint, '__name__', hint)}"
    return None


def seed() -> None:
    "The same random state for whatever draws from the global ones."
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


def outcome(call: Call, function: Callable, arguments: dict, done: Sequence[Damage]) -> tuple[str, str]:
    "`right`, `refused` or `broken`, and why."
    before = {name: copy.deepcopy(value) for name, value in arguments.items() if list(numbers(value))}
    seed()
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**arguments)
            if isinstance(result, Iterator):  # its parts are judged, not that it is one
                result = [part for _, part in zip(range(1000), result)]
    except Hangs:
        return "broken", f"not done after {SECONDS} s"
    except (SystemExit, KeyboardInterrupt) as error:
        return "refused" if isinstance(error, call.raises) else "broken", f"{type(error).__name__}: {error}"
    except Exception as error:
        return _judged(call, error, done)
    if changed := [name for name, was in before.items() if name not in call.changes and not same(was, arguments[name])]:
        return "broken", f"it changed {', '.join(changed)}"
    ill = not finite([v for name, v in arguments.items() if name not in call.swallows])
    if ill and any(d.how == "a NaN" for d in done) and finite(result) and list(numbers(result)):
        return "broken", "a NaN went in and nothing says so"
    # What is huge may overflow, and PyTorch multiplies with another device's memory as it finds it.
    wild = any(re.search("huge|float16|infinity|device", d.how) for d in done)
    if not ill and not wild and not call.infinite and finite(arguments) and not finite(result):
        return "broken", "finite numbers went in, others came out"
    if against := against_signature(function, arguments, result, call.takes):
        return "broken", against
    return "right", ""


def _judged(call: Call, error: Exception, done: Sequence[Damage]) -> tuple[str, str]:
    "Was this exception a documented refusal?"
    said, how = f"{type(error).__name__}: {str(error)[:200]}", " ".join(d.how for d in done)
    if isinstance(error, call.raises):
        return "refused", said
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    file, line = last.tb_frame.f_code.co_filename, last.tb_lineno
    ours = Path(file).is_relative_to(Path(mmtutor.__file__).parent) and "raise " in linecache.getline(file, line)
    if isinstance(error, ValueError) and ours:
        return "refused", said
    if re.search("device|float|int64|int32|bool", how) and SAID.search(str(error)) \
            and isinstance(error, (RuntimeError, TypeError, IndexError, ValueError)):
        return "refused", said
    if "huge" in how and (isinstance(error, MemoryError) or NO_ROOM.search(str(error))):
        return "refused", said
    return "broken", f"{said} ({Path(file).name}:{line})"


# --- trying ---

def prepared(call: Call, keys: Sequence[int] | None = None) -> Iterator[tuple[Callable, dict, list[Damage]]]:
    "Each single damage of a call; or, with `keys`, those of these numbers, together."
    def fresh():
        seed()
        return call.make()
    ways = [d for name, value in fresh()[1].items() if name not in call.keep for d in damages(value, (name,))]
    if keys is None:
        for damage in ways:
            yield (*_damaged(fresh, [damage]), [damage])
    elif ways:
        chosen = {}
        for key in keys:  # two damages of the same argument: the later one
            chosen[ways[key % len(ways)].where[0]] = ways[key % len(ways)]
        chosen = list(chosen.values())
        yield (*_damaged(fresh, chosen), chosen)


def _damaged(fresh: Callable, done: Sequence[Damage]) -> tuple[Callable, dict]:
    "The call with its damages put in; if an argument of this kind cannot even be made, that is what is called."
    function, arguments = fresh()
    try:
        for damage in done:
            arguments = put(arguments, damage.where, copy.deepcopy(damage.value))
    except Exception as error:
        def making(error=error):
            raise error
        return making, {}
    return function, arguments


def label(done: Sequence[Damage]) -> str:
    return "; ".join(f"{'.'.join(map(str, d.where))}: {d.how}" for d in done)


def attempt(call: Call, keys: Sequence[int] | None = None) -> tuple[Counter, list[str]]:
    "Count of what came, and what is broken."
    count, broken = Counter(), []
    for function, arguments, done in prepared(call, keys):
        what, why = outcome(call, function, arguments, done)
        count[what] += 1
        if what == "broken":
            broken.append(f"{call.name}({label(done)}): {why}")
    return count, broken


def sound(call: Call) -> None:
    "The undamaged call returns, and keeps its signature."
    function, arguments = call.make()
    what, why = outcome(call, function, arguments, [])
    if what != "right":
        raise AssertionError(f"{call.name}: the good call is {what}: {why}")


def undocumented(call: Call) -> list[str]:
    "Exceptions that a call may raise, by its entry here, and that its docstring does not name."
    module, _, name = call.name.split(" ")[0].rpartition(".")
    thing = getattr(importlib.import_module(f"mmtutor.{module}"), name)
    text = f"{thing.__doc__} {getattr(getattr(thing, 'forward', None), '__doc__', '')}"
    return [kind.__name__ for kind in call.raises if kind.__name__ not in text]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="modules, as in attention or course.files")
    parser.add_argument("--draws", type=int, default=30, help="of several damages at once, for each call")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_calls()
    begun, figures, bad = records.commit(), {}, []
    for call in REGISTRY.values():
        module = call.name.split(" ")[0].rpartition(".")[0]
        if args.only and module not in args.only:
            continue
        sound(call)
        draw = random.Random(call.name)
        tries = [None, *([draw.randrange(10**6) for _ in range(draw.choice([2, 3]))] for _ in range(args.draws))]
        row = figures.setdefault(module, {"functions": 0, "right": 0, "refused": 0, "broken": 0})
        row["functions"] += 1
        for keys in tries:
            count, broken = attempt(call, keys)
            bad += broken
            for what, n in count.items():
                row[what] += n
    for module, row in figures.items():
        print(f"{module:24}", row)
    print(*bad, f"{len(bad)} broken", sep="\n")
    if not args.dry and not args.only:
        left = {}
        for name, why in LEFT_OUT.items():
            left.setdefault(why, []).append(name)
        figures = {"modules": figures, "left out": left, "seconds": SECONDS, "GiB": MEMORY // 2**30}
        records.record("fuzzed", f"python benchmarks/fuzzed.py --draws {args.draws}", [0], figures, begun=begun)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
