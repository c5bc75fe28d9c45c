"""State as JSON that gives back exactly what went in: tuples, bytes, odd keys, NaN, NumPy scalars and small arrays.

`{"$tuple": […]}`, `{"$bytes": base64}`, `{"$float": "nan"}`, `{"$dict": [[key, value], …]}`,
`{"$array": {"dtype", "shape", "data": base64}}`, `{"$scalar": {"dtype", "data"}}`. Anything else is refused by name.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["to_json"]

_MAX_DEPTH = 48


def to_json(value: Any, name: str, *, array: Callable[[Any], Any] | None = None, _depth: int = 0) -> Any:
    """Return `value` as JSON values.

    Args:
        name: Where the value stands, for the error.
        array: Turns a framework's tensor into a NumPy array; returns None for what is no tensor.
    Raises:
        TypeError: Something that has no faithful form here, by name.
    """
    if _depth > _MAX_DEPTH:
        raise TypeError(f"reprokit: {name} nests deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, (bool, str)):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: to_json(item, f"{name}.{key}", array=array, _depth=_depth + 1) for key, item in value.items()}
        pairs = [
            [
                to_json(key, f"a key of {name}", _depth=_depth + 1),
                to_json(item, f"{name}.{key}", array=array, _depth=_depth + 1),
            ]
            for key, item in value.items()
        ]
        return {"$dict": pairs}
    if isinstance(value, (list, tuple)):
        items = [to_json(item, f"{name}[{i}]", array=array, _depth=_depth + 1) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    converted = array(value) if array is not None else None
    return _array(value if converted is None else converted, name)


def _array(value: Any, name: str) -> Any:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None or not hasattr(value, "tobytes") or getattr(dtype, "hasobject", True):
        kind = type(value)
        raise TypeError(
            f"reprokit: {name} is a {kind.__module__}.{kind.__qualname__}, which cannot be stored in a checkpoint. "
            "Give numbers, text, bytes, lists, tuples, mappings and arrays"
        )
    text = base64.b64encode(value.tobytes()).decode("ascii")
    if shape == () and not hasattr(value, "setflags"):
        return {"$scalar": {"dtype": dtype.str, "data": text}}
    return {"$array": {"dtype": dtype.str, "shape": list(shape), "data": text}}
