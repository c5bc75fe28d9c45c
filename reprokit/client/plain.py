"""State as JSON that gives back exactly what went in: tuples, bytes, odd keys, NaN, NumPy scalars and arrays.

`{"$tuple": […]}`, `{"$bytes": base64}`, `{"$float": "nan"}`, `{"$dict": [[key, value], …]}`,
`{"$array": {"dtype", "shape", "data": base64}}`, `{"$scalar": {"dtype", "data"}}`, and `{"$tensor": {"name", "kind"}}`
for what is stored among the tensors. Anything else is refused by name.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # the runner, which stores what scripts send, does without it
    import numpy as np

__all__ = ["from_json", "strict_json", "to_json"]

_MAX_DEPTH = 48
_MAX_BITS = 14_000  # Python reads and writes integers of up to 4300 digits
_KEY_LIMIT = 2**61 - 1  # integers from here on share their hashes with smaller ones: a mapping of them could take hours
_DTYPE = re.compile(r"[<>|][biufcmMSU][0-9]{1,6}(\[[a-zA-Z]{1,2}\])?")
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_LAST_CHARACTER = 0x10FFFF


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
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        if value.bit_length() > _MAX_BITS:
            raise TypeError(
                f"reprokit: {name} has more than {_MAX_BITS:,} bits, which cannot be stored in a checkpoint"
            )
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
                _key(to_json(key, f"a key of {name}", _depth=_depth + 1), name),
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
    if isinstance(value, str) or (isinstance(value, (int, float)) and not _is_numpy_scalar(value)):
        return to_json(_base_of(value), name, _depth=_depth + 1)
    return _array(value, name)


def _is_numpy_scalar(value: Any) -> bool:
    numpy = sys.modules.get("numpy")  # where nothing has loaded it there is none
    return numpy is not None and isinstance(value, numpy.generic)


def _key(key: Any, name: str) -> Any:
    if type(key) is int and abs(key) >= _KEY_LIMIT:
        raise TypeError(f"reprokit: {name} has the key {key}, which cannot be stored in a checkpoint: it is too large")
    return key


def _base_of(value: Any) -> Any:
    """Return an enum's or another subclass's value as the plain type below it."""
    if isinstance(value, str):
        return str.__str__(value)  # not str(value), which for many an enum is its name
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def _array(value: Any, name: str) -> Any:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None or not hasattr(value, "tobytes") or getattr(dtype, "hasobject", True):
        kind = type(value)
        raise TypeError(
            f"reprokit: {name} is a {kind.__module__}.{kind.__qualname__}, which cannot be stored in a checkpoint. "
            "Give numbers, text, bytes, lists, tuples, mappings and arrays"
        )
    import numpy as np

    if not _DTYPE.fullmatch(dtype.str) or isinstance(value, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(
            f"reprokit: {name} is a {type(value).__name__} of dtype {dtype}, which cannot be stored in a checkpoint"
        )
    text = base64.b64encode(value.tobytes()).decode("ascii")
    if _is_numpy_scalar(value):
        return {"$scalar": {"dtype": dtype.str, "data": text}}
    return {"$array": {"dtype": dtype.str, "shape": list(shape), "data": text}}


class _MalformedState(ValueError):
    """Says where: what it passes through on its way up adds nothing."""


def from_json(value: Any, *, tensor: Callable[[str, str], Any], _depth: int = 0) -> Any:
    """Return what `to_json` was given.

    Args:
        tensor: Called with name and kind; returns what is stored among the tensors under that name.
    Raises:
        ValueError: It is not of `to_json`'s making.
    """
    if _depth > _MAX_DEPTH:
        raise _MalformedState("state.json nests too deeply")
    if isinstance(value, list):
        return [from_json(item, tensor=tensor, _depth=_depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    marks = [key for key in value if not isinstance(key, str) or key.startswith("$")]
    if not marks:
        return {key: from_json(item, tensor=tensor, _depth=_depth + 1) for key, item in value.items()}
    kind = marks[0]
    if len(value) > 1 or kind not in _READ:
        raise _MalformedState(f"state.json holds a {str(kind)[:40]!r}, which this reprokit does not know")

    def read(item: Any) -> Any:
        return from_json(item, tensor=tensor, _depth=_depth + 1)

    try:
        return _READ[kind](value[kind], read, tensor)
    except _MalformedState:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _MalformedState(f"state.json holds a malformed {kind}: {str(error)[:200]}") from None


_Reader = Callable[[Any, Callable[[Any], Any], Callable[[str, str], Any]], Any]


def _tuple(inner: Any, read: Callable[[Any], Any], _: object) -> tuple[Any, ...]:
    return tuple(read(item) for item in _typed(inner, list))


def _dict(inner: Any, read: Callable[[Any], Any], _: object) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for pair in _typed(inner, list):
        key, item = _typed(pair, list)
        key = read(key)
        if type(key) is int and abs(key) >= _KEY_LIMIT:
            raise ValueError("a key is too large")
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = read(item)
    return found


def _bytes(inner: Any, _read: object, _tensor: object) -> bytes:
    return base64.b64decode(_typed(inner, str), validate=True)


def _float(inner: Any, _read: object, _tensor: object) -> float:
    return _FLOATS[inner]


def _stored(inner: Any, _read: object, tensor: Callable[[str, str], Any]) -> Any:
    if inner.keys() != {"name", "kind"}:
        raise ValueError("it has no name and kind")
    return tensor(_typed(inner["name"], str), _typed(inner["kind"], str))


def _flat(inner: Any) -> np.ndarray[Any, Any]:
    if not _DTYPE.fullmatch(inner["dtype"]):
        raise ValueError(f"the dtype {inner['dtype']!r} is not one that state.json holds")
    import numpy as np

    dtype = np.dtype(inner["dtype"])
    flat = np.frombuffer(base64.b64decode(_typed(inner["data"], str), validate=True), dtype=dtype)
    if dtype.kind == "U" and flat.size:
        characters = flat.view(np.dtype("u4").newbyteorder(dtype.byteorder))
        if characters.max() > _LAST_CHARACTER:
            raise ValueError("it holds what is no character")
    return flat


def _array_back(inner: Any, _read: object, _tensor: object) -> np.ndarray[Any, Any]:
    shape = _typed(inner["shape"], list)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its shape is not a list of lengths")
    return _flat(inner).reshape(shape).copy()


def _scalar(inner: Any, _read: object, _tensor: object) -> Any:
    (value,) = _flat(inner)
    return value


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {kind.__name__} is expected, not a {type(value).__name__}")
    return value


_READ: dict[str, _Reader] = {
    "$tuple": _tuple,
    "$dict": _dict,
    "$bytes": _bytes,
    "$float": _float,
    "$tensor": _stored,
    "$array": _array_back,
    "$scalar": _scalar,
}


def strict_json(data: bytes) -> Any:
    """Return the value of JSON in UTF-8 with no NaN or infinity and no key twice.

    Raises:
        ValueError: It is something else, or nests so deeply that nothing reads it.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
