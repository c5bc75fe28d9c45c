"""State as JSON that gives back exactly what went in: tuples, bytes, odd keys, NaN, NumPy scalars and arrays.

`{"$tuple": […]}`, `{"$bytes": base64}`, `{"$float": "nan"}`, `{"$dict": [[key, value], …]}`,
`{"$array": {"dtype", "shape", "data": base64}}`, `{"$scalar": {"dtype", "data"}}`, and `{"$tensor": {"name", "kind"}}`
for what is stored among the tensors. Anything else is refused by name.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["from_json", "to_json"]

_MAX_DEPTH = 48
_DTYPE = re.compile(r"[<>|][biufcmMSU][0-9]{1,6}(\[[a-zA-Z]{1,2}\])?")
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_json(value: Any, name: str, *, tensor: Callable[[str, Any], Any] | None = None, _depth: int = 0) -> Any:
    """Return `value` as JSON values.

    Args:
        name: Where the value stands, for the error.
        tensor: Called with name and value of what is neither plain nor a container; returns what stands for it, or
            None to leave it to this function.
    Raises:
        TypeError: Something that has no faithful form here, by name.
    """
    if _depth > _MAX_DEPTH:
        raise TypeError(f"reprokit: {name} nests deeper than {_MAX_DEPTH} levels")
    if value is None or type(value) in (bool, str, int):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {
                key: to_json(item, f"{name}.{key}", tensor=tensor, _depth=_depth + 1) for key, item in value.items()
            }
        pairs = [
            [
                to_json(key, f"a key of {name}", _depth=_depth + 1),
                to_json(item, f"{name}.{key}", tensor=tensor, _depth=_depth + 1),
            ]
            for key, item in value.items()
        ]
        return {"$dict": pairs}
    if isinstance(value, (list, tuple)):
        items = [to_json(item, f"{name}[{i}]", tensor=tensor, _depth=_depth + 1) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if tensor is not None and (found := tensor(name, value)) is not None:
        return found
    if isinstance(value, (str, int, float)) and type(value).__module__ != "numpy":
        return to_json(_base_of(value), name, _depth=_depth + 1)
    return _array(value, name)


def _base_of(value: Any) -> Any:
    """Return an enum's or another subclass's value as the plain type below it."""
    return next(base(value) for base in (str, int, float) if isinstance(value, base))


def _array(value: Any, name: str) -> Any:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None or not hasattr(value, "tobytes") or getattr(dtype, "hasobject", True):
        kind = type(value)
        raise TypeError(
            f"reprokit: {name} is a {kind.__module__}.{kind.__qualname__}, which cannot be stored in a checkpoint. "
            "Give numbers, text, bytes, lists, tuples, mappings and arrays"
        )
    if not _DTYPE.fullmatch(dtype.str):
        raise TypeError(f"reprokit: {name} has the dtype {dtype}, which cannot be stored in a checkpoint")
    text = base64.b64encode(value.tobytes()).decode("ascii")
    if shape == () and not hasattr(value, "setflags"):
        return {"$scalar": {"dtype": dtype.str, "data": text}}
    return {"$array": {"dtype": dtype.str, "shape": list(shape), "data": text}}


def from_json(value: Any, *, tensor: Callable[[str, str], Any], _depth: int = 0) -> Any:
    """Return what `to_json` was given.

    Args:
        tensor: Called with name and kind; returns what is stored among the tensors under that name.
    Raises:
        ValueError: It is not of `to_json`'s making.
    """
    if _depth > 4 * _MAX_DEPTH:
        raise ValueError("state.json nests too deeply")
    if isinstance(value, list):
        return [from_json(item, tensor=tensor, _depth=_depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not next(iter(value)).startswith("$"):
        return {key: from_json(item, tensor=tensor, _depth=_depth + 1) for key, item in value.items()}
    ((kind, inner),) = value.items()
    try:
        if kind == "$tuple":
            return tuple(from_json(item, tensor=tensor, _depth=_depth + 1) for item in inner)
        if kind == "$dict":
            pairs = [[from_json(part, tensor=tensor, _depth=_depth + 1) for part in (key, item)] for key, item in inner]
            return dict(pairs)
        if kind == "$bytes":
            return base64.b64decode(inner, validate=True)
        if kind == "$float":
            return _FLOATS[inner]
        if kind == "$tensor":
            return tensor(str(inner["name"]), str(inner["kind"]))
        if kind in ("$array", "$scalar") and _DTYPE.fullmatch(inner["dtype"]):
            flat = np.frombuffer(base64.b64decode(inner["data"], validate=True), dtype=np.dtype(inner["dtype"]))
            return flat[0] if kind == "$scalar" else flat.reshape(inner["shape"]).copy()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"state.json holds a malformed {kind}: {error}") from None
    raise ValueError(f"state.json holds a {kind!r}, which this reprokit does not know")
