"""NumPy arrays, scalars and dtypes of a pickle, made from checked parts.

NumPy's own way back trusts what it reads: `dtype.__setstate__` takes fields that lie outside the item. Here a dtype is
made by NumPy's public constructor, which checks, and an array has as many bytes as its shape and dtype say.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "MalformedPickle",
    "PendingDtype",
    "count_of",
    "dtype_of",
    "empty_array",
    "fill",
    "from_buffer",
    "pending_dtype",
    "ready",
    "scalar",
    "told",
]

_RANK = 32
_MAX_ITEM = 64 * 1024 * 1024  # bytes
_SPEC = re.compile(r"[?bBhHiIlLqQefdgFDGcuOSUVMm][0-9]{0,9}")
_UNIT = re.compile(rb"[A-Za-z]{1,7}")


class MalformedPickle(ValueError):
    """A pickle that does what none of an array, a container or an estimator does."""


def told(value: Any) -> str:
    """Return what a message says of something in a pickle: never its repr, which may be endless."""
    if isinstance(value, str):
        return repr(value[:80])
    named = value if callable(value) else type(value)
    return f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"[:80]


class PendingDtype:
    """A dtype between the call that makes it and its state."""

    def __init__(self, spec: str) -> None:
        self.spec = spec


def pending_dtype(spec: Any, _align: Any = False, _copy: Any = True) -> PendingDtype:
    """Stand for `numpy.dtype` in a pickle."""
    if not isinstance(spec, str) or not _SPEC.fullmatch(spec):
        raise MalformedPickle(f"it has the dtype {told(spec)}")
    return PendingDtype(spec)


def ready(dtype: Any) -> np.dtype[Any]:
    """Return a dtype that stands in a pickle, whether its state has come or not."""
    if isinstance(dtype, PendingDtype):
        dtype = np.dtype(dtype.spec)
    if not isinstance(dtype, np.dtype):
        raise MalformedPickle("an array has no dtype")
    return dtype


def dtype_of(pending: PendingDtype, state: Any) -> np.dtype[Any]:
    """Return the dtype that the state of a pickled one describes."""
    if type(state) is not tuple or not 8 <= len(state) <= 9 or state[1] not in ("<", ">", "|", "="):
        raise MalformedPickle("a dtype has a malformed state")
    spec = pending.spec
    _, order, inner, names, fields, size, *rest = state
    if inner is not None:
        base, shape = inner
        dtype = np.dtype((ready(base), shape)) if count_of(shape, _MAX_ITEM) else np.dtype("V0")
    elif names is not None:
        dtype = _structured(names, fields, size)
    elif spec[0] in "Mm" and len(rest) == 3 and rest[2] is not None:
        unit, number = rest[2][1][0], rest[2][1][1]
        if not _UNIT.fullmatch(unit) or type(number) is not int:
            raise MalformedPickle("a dtype has a malformed unit")
        dtype = np.dtype(f"{order}{spec}[{number}{unit.decode()}]")
    else:
        dtype = np.dtype(spec).newbyteorder(order) if order in "<>" else np.dtype(spec)
    if dtype.itemsize > _MAX_ITEM:
        raise MalformedPickle("a dtype has items that are too large")
    return dtype


def _structured(names: Any, fields: Any, size: Any) -> np.dtype[Any]:
    well_named = type(names) is tuple and all(type(name) is str for name in names)
    if not well_named or type(fields) is not dict or set(names) != fields.keys() or type(size) is not int:
        raise MalformedPickle("a dtype has malformed fields")
    formats = [ready(fields[name][0]) for name in names]
    offsets = [fields[name][1] for name in names]
    if not all(type(offset) is int for offset in offsets):
        raise MalformedPickle("a dtype has malformed fields")
    dtype = np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size})
    if dtype.hasobject:
        raise MalformedPickle("a dtype has fields of objects")
    return dtype


def count_of(shape: Any, room: int) -> int:
    """Return how many items a shape has: no more than `room`, however many bytes each takes."""
    if type(shape) is not tuple or len(shape) > _RANK or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise MalformedPickle("an array has a malformed shape")
    count = math.prod(shape)
    if count > room:
        raise MalformedPickle(f"an array claims {count:,} items, and there are {room:,} bytes")
    return count


def empty_array(kind: Any, shape: Any, _code: Any) -> npt.NDArray[Any]:
    """Stand for `numpy.core.multiarray._reconstruct`, which makes an array that `fill` fills."""
    if kind is not np.ndarray or shape != (0,):
        raise MalformedPickle(f"it makes an array of the type {told(kind)}")
    return np.empty((0,), dtype=np.int8)


def fill(array: npt.NDArray[Any], state: Any, room: int) -> int:
    """Give an array its state, and return how many bytes or objects that copied."""
    *_, shape, given, fortran, raw = state
    dtype, count = ready(given), count_of(shape, room)
    whole = type(raw) is list and len(raw) == count if dtype.hasobject else _has(raw, count * dtype.itemsize)
    if not whole:
        raise MalformedPickle("an array is not as long as its shape says")
    set_state: Any = array.__setstate__
    set_state((1, shape, dtype, bool(fortran), raw))
    return len(raw)


def _has(raw: Any, size: int) -> bool:
    return type(raw) in (bytes, bytearray) and len(raw) == size


def scalar(given: Any, raw: Any) -> Any:
    """Stand for `numpy.core.multiarray.scalar`."""
    dtype = ready(given)
    if dtype.hasobject or not dtype.itemsize or not _has(raw, dtype.itemsize):
        raise MalformedPickle("a scalar does not have the bytes of its dtype")
    return np.frombuffer(raw, dtype=dtype)[0]


def from_buffer(raw: Any, given: Any, shape: Any, order: Any, _axes: Any = None) -> npt.NDArray[Any]:
    """Stand for `numpy.core.numeric._frombuffer`; also for what joblib writes after its notes."""
    dtype = ready(given)
    count = count_of(shape, max(len(raw), 1))
    if dtype.hasobject or len(raw) != count * dtype.itemsize:
        raise MalformedPickle("an array is not as long as its shape says")
    if order not in ("C", "F") or _axes is not None:
        raise MalformedPickle("an array has an order that is not known")
    flat = np.frombuffer(raw, dtype=dtype) if len(raw) else np.empty(count, dtype=dtype)
    return flat.reshape(shape, order=order).copy(order)
