"""What can be wrong with an argument: every damage that fits its kind, for fuzzed.py."""
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HUGE = 10**12


class Damage(NamedTuple):
    where: tuple       # which argument, and where in it
    how: str
    value: object


def _shapes(x) -> Iterator[tuple[str, object]]:
    "A tensor or array of other shapes, with what can be kept kept."
    cat, flip = (torch.cat, torch.movedim) if isinstance(x, Tensor) else (np.concatenate, np.moveaxis)
    for axis, size in enumerate(x.shape):
        part = (slice(None),) * axis
        if size:
            yield f"axis {axis} longer", cat([x, x[(*part, slice(-1, None))]], axis)
            yield f"axis {axis} shorter", x[(*part, slice(1, None))]
            yield f"axis {axis} empty", x[(*part, slice(0, 0))]
            yield f"axis {axis} gone", x[(*part, 0)]
            if size > 1:
                yield f"axis {axis} of one", x[(*part, slice(0, 1))]
    yield "an axis in front", x[None]
    yield "an axis behind", x[..., None]
    if x.ndim > 1 and x.shape[-1] != x.shape[-2]:
        yield "last axes swapped", flip(x, -1, -2)


def _spoilt(x, number):
    "With `number` in its middle."
    x = x.clone() if isinstance(x, Tensor) else x.copy()
    if len(x := x.reshape(-1)):
        x[len(x) // 2] = number
    return x


def _array(x) -> Iterator[tuple[str, object]]:
    tensor = isinstance(x, Tensor)
    yield from _shapes(x)
    kind = x.dtype.kind if not tensor else "f" if x.is_floating_point() else "b" if x.dtype == torch.bool else \
        "c" if x.is_complex() else "i"
    spoilt = lambda number: _spoilt(x, number).reshape(x.shape)
    to = (lambda name: x.to(getattr(torch, name))) if tensor else (lambda name: x.astype(name.replace("bool", "bool_")))
    if kind == "f":
        yield from (("a NaN", spoilt(math.nan)), ("an infinity", spoilt(math.inf)), ("a huge number", spoilt(1e30)))
        yield from (("zeros", x * 0), ("negative", -abs(x)))
        yield from ((kind, to(kind)) for kind in ("float64", "float16", "int64", "bool"))
    elif kind in "iu":
        signed = [("negative", spoilt(-1))] if kind == "i" and str(x.dtype)[-5:] != "uint8" else []
        yield from (*signed, ("a large number", spoilt(100)), ("float32", to("float32")), ("bool", to("bool")))
        if str(x.dtype)[-5:] == "int64":
            yield from (("a huge number", spoilt(HUGE)), ("int32", to("int32")))
    elif kind == "b":
        yield from (("all false", x & False), ("all true", x | True))
        yield from ((kind, to(kind)) for kind in ("float32", "int64"))
    if tensor:
        yield "on another device", x.to("meta")


def _number(x) -> Iterator[tuple[str, object]]:
    if isinstance(x, bool):
        yield "the other", not x
    elif isinstance(x, int):
        yield from (("zero", 0), ("minus one", -1), ("one", 1), ("one more", x + 1), ("huge", HUGE))
    else:
        yield from (("zero", 0.0), ("negative", -1.0), ("one", 1.0), ("more than one", 1.5), ("a NaN", math.nan),
                    ("an infinity", math.inf), ("huge", 1e30))


def damages(value, where: tuple = ()) -> Iterator[Damage]:
    "Every way to damage a value of this kind, and what is in it."
    inside = ()
    if isinstance(value, (Tensor, np.ndarray)):
        yield from (Damage(where, how, new) for how, new in _array(value))
    elif isinstance(value, (bool, int, float)):
        yield from (Damage(where, how, new) for how, new in _number(value))
    elif isinstance(value, str):
        strings = ("empty", ""), ("unknown", "zebra"), ("long", "word " * 999)
        yield from (Damage(where, how, new) for how, new in strings)
    elif isinstance(value, bytes):
        cut, zeros = value[:len(value) // 2], bytes(len(value))
        files = ("empty", b""), ("cut off", cut), ("unknown", b"zebra"), ("zeros", zeros)
        yield from (Damage(where, how, new) for how, new in files)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init]
    elif hasattr(value, "_fields"):
        inside = list(zip(value._fields, value))
    elif isinstance(value, Mapping):
        yield Damage(where, "empty", {})
        for key in list(value)[:3]:
            yield Damage(where, f"without {key!r}", {k: v for k, v in value.items() if k != key})
        if value:
            yield Damage(where, "one unknown more", {**value, "zebra": next(iter(value.values()))})
        inside = list(value.items())[:3]
    elif isinstance(value, bytes):
        middle = len(value) // 2
        changed = value[:middle] + bytes([value[middle] ^ 255]) + value[middle + 1:] if value else b"zebra"
        yield from (Damage(where, how, new) for how, new in (
            ("empty", b""), ("half of it", value[:middle]), ("a byte changed", changed), ("other bytes", b"zebra")))
    elif isinstance(value, Sequence) and (not isinstance(value, list) or type(value) is list):  # none of its own class
        kind = tuple if isinstance(value, tuple) else list
        yield from (Damage(where, "empty", kind()), Damage(where, "one fewer", kind(value[1:])),
                    Damage(where, "one more", kind([*value, *value[-1:]])))
        inside = list(enumerate(value))[:3]
    for key, part in inside:
        yield from damages(part, (*where, key))


def put(whole, where: tuple, value):
    "`whole` with `value` in place `where`: a copy along the way."
    if not where:
        return value
    key, *rest = where
    if dataclasses.is_dataclass(whole):
        return dataclasses.replace(whole, **{key: put(getattr(whole, key), rest, value)})
    if hasattr(whole, "_fields"):
        return whole._replace(**{key: put(getattr(whole, key), rest, value)})
    if isinstance(whole, Mapping):
        return {**whole, key: put(whole[key], rest, value)}
    return type(whole)(put(part, rest, value) if i == key else part for i, part in enumerate(whole))
