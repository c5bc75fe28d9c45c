"""Tensors as safetensors spells them, and a strict parser of its header. No file is opened here.

Source: https://github.com/huggingface/safetensors (format): 8 bytes length, JSON header, bytes without holes.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "DTYPE_BYTES", "MalformedError", "StoredArray", "as_array", "parse"]

# names as NumPy and the frameworks spell them; what is not here is refused by name
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1", "C64": "<c8",
}  # fmt: skip

_MAX_HEADER = 64 * 1024 * 1024
_MAX_RANK = 64


class MalformedError(ValueError):
    """Bytes that are not a safetensors file with one possible reading."""


class StoredArray(NamedTuple):
    """One tensor's bytes: C-contiguous, little-endian; `dtype` as safetensors spells it."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def parse(data: memoryview) -> dict[str, StoredArray]:
    """Return the tensors of a safetensors file by name.

    Raises:
        MalformedError: A header too long, not JSON, with a name twice; an unknown dtype; a shape that is not its
            bytes; bytes that overlap, lie outside the file, or belong to no tensor.
    """
    if len(data) < 8:
        raise MalformedError(f"it has {len(data)} bytes, too few for a header")
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        raise MalformedError(f"its header claims {length:,} bytes of {len(data):,}")
    try:
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise MalformedError("its header is not a mapping")
    header.pop("__metadata__", None)
    body = data[8 + length :]
    found: dict[str, StoredArray] = {}
    places: list[tuple[int, int]] = []
    for name, row in header.items():
        dtype, shape, start, end = _row(name, row)
        if end > len(body):
            raise MalformedError(f"tensor {name!r} lies outside the file")
        places.append((start, end))
        found[name] = StoredArray(dtype, shape, body[start:end])
    position = 0
    for start, end in sorted(places):
        if start != position:
            raise MalformedError(f"its tensors overlap or leave a hole at byte {position}")
        position = end
    if position != len(body):
        raise MalformedError(f"{len(body) - position:,} bytes at its end belong to no tensor")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _row(name: str, row: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise MalformedError(f"tensor {name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise MalformedError(f"tensor {name!r} has the dtype {dtype!r}, which is not known")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise MalformedError(f"tensor {name!r} has a malformed shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise MalformedError(f"tensor {name!r} has malformed offsets")
    start, end = offsets
    if math.prod(shape) * DTYPE_BYTES[dtype] != end - start:
        raise MalformedError(f"tensor {name!r} of shape {shape} and dtype {dtype} cannot have {end - start} bytes")
    return dtype, tuple(shape), start, end


def as_array(stored: StoredArray) -> npt.NDArray[Any]:
    """Return a tensor as a read-only array over the same memory.

    BF16 comes as float32, which holds every value of it (a copy); 8-bit floats come as their bytes.
    """
    if stored.dtype == "BF16":
        wide = np.frombuffer(stored.data, dtype="<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(stored.shape)
    return np.frombuffer(stored.data, dtype=_NUMPY.get(stored.dtype, "|u1")).reshape(stored.shape)
