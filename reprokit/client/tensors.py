"""Tensors as safetensors spells them, and a strict parser of its header. No file is opened here.

Source: https://github.com/huggingface/safetensors (format): 8 bytes length, JSON header, bytes without holes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reprokit.client.plain import strict_json

if TYPE_CHECKING:  # the runner, which stores what scripts send, does without it
    import numpy.typing as npt

__all__ = [
    "DTYPES",
    "DTYPE_BYTES",
    "MAX_HEADER",
    "MAX_RANK",
    "MalformedError",
    "Place",
    "StoredArray",
    "as_array",
    "by_rows",
    "check_shape",
    "is_native",
    "parse",
    "places_of",
    "spell",
]

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

MAX_HEADER = 16 * 1024 * 1024  # bytes; JSON of that size takes some hundred MB while it is parsed
MAX_RANK = 32  # NumPy's limit before version 2
_MAX_BYTES = 2**63 - 1


class MalformedError(ValueError):
    """Bytes that are not a safetensors file with one possible reading."""


class StoredArray(NamedTuple):
    """One tensor's bytes: C-contiguous, little-endian; `dtype` as safetensors spells it."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def by_rows(data: memoryview, dtype: str, shape: Sequence[int]) -> memoryview:
    """Return the bytes of an array that is stored column by column (Fortran's order) in C's order."""
    if not data:
        return data
    import numpy as np

    array = np.frombuffer(data, f"V{DTYPE_BYTES[dtype]}").reshape(shape, order="F")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class Place(NamedTuple):
    """Where a tensor lies in a safetensors file: bytes `offset … offset + nbytes`, counted from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def spell(
    tensors: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, Place]]:
    """Return the one header that reprokit writes for these tensors, and where they lie, in the order of their bytes.

    Widest dtype first, then by name; padded to 8 bytes.

    Args:
        tensors: Name → dtype, shape and length in bytes.
    """
    ordered = sorted(tensors, key=lambda name: (-DTYPE_BYTES[tensors[name][0]], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in ordered:
        dtype, shape, nbytes = tensors[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (position, position + nbytes)}
        position += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = {
        name: Place(dtype, tuple(shape), start + row["data_offsets"][0], nbytes)
        for name, row in header.items()
        if name in tensors
        for dtype, shape, nbytes in [tensors[name]]
    }
    return len(text).to_bytes(8, "little") + text, places


def parse(data: memoryview) -> dict[str, StoredArray]:
    """Return the tensors of a safetensors file by name.

    Raises:
        MalformedError: As `places_of`.
    """
    return {
        name: StoredArray(dtype, shape, data[offset : offset + nbytes])
        for name, (dtype, shape, offset, nbytes) in places_of(data).items()
    }


def places_of(data: memoryview) -> dict[str, Place]:
    """Return where the tensors of a safetensors file lie, by name, from its header.

    Raises:
        MalformedError: A header too long, not JSON in UTF-8, with a name twice; an unknown dtype; a shape that is not
            its bytes; bytes that overlap, lie outside the file, or belong to no tensor.
    """
    if len(data) < 8:
        raise MalformedError(f"it has {len(data)} bytes, too few for a header")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise MalformedError(f"its header claims {length:,} bytes of {len(data):,}; at most {MAX_HEADER:,} are read")
    header = _header(bytes(data[8 : 8 + length]))
    body = len(data) - 8 - length
    found: dict[str, Place] = {}
    ranges: list[tuple[int, int]] = []
    for name, row in header.items():
        if name == "__metadata__":
            if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
                raise MalformedError("its __metadata__ is not a mapping of text")
            continue
        dtype, shape, start, end = _row(name, row)
        if end > body:
            raise MalformedError(f"tensor {_told(name)} lies outside the file")
        ranges.append((start, end))
        found[name] = Place(dtype, shape, 8 + length + start, end - start)
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            raise MalformedError(f"its tensors overlap or leave a hole at byte {position}")
        position = end
    if position != body:
        raise MalformedError(f"{body - position:,} bytes at its end belong to no tensor")
    return found


def check_shape(dtype: str, shape: Any, nbytes: int) -> str | None:
    """Return what is wrong with an untrusted dtype and shape for that many bytes; None if nothing is."""
    if dtype not in DTYPE_BYTES:
        return f"has the dtype {_told(dtype)}, which is not known"
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK or not all(_is_size(n) for n in shape):
        return "has a malformed shape"
    # an empty tensor's other lengths must fit in memory too, or no array can have that shape
    if math.prod(n for n in shape if n) * DTYPE_BYTES[dtype] > _MAX_BYTES:
        return "has a shape that nothing can have"
    if math.prod(shape) * DTYPE_BYTES[dtype] != nbytes:
        return f"of shape {list(shape)} and dtype {dtype} cannot have {nbytes} bytes"
    return None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_BYTES  # a bool is no int


def _told(value: Any) -> str:
    return repr(value)[:200]


def _header(text: bytes) -> dict[str, Any]:
    if text[:1] != b"{":
        raise MalformedError("its header is not a mapping")
    try:
        header: dict[str, Any] = strict_json(text)
        "".join(header).encode("utf-8")  # "\ud800" is JSON, and no text
    except ValueError as error:
        raise MalformedError(f"its header is not JSON: {_told(str(error))}") from None
    return header


def _row(name: str, row: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise MalformedError(f"tensor {_told(name)} has no dtype, shape and data_offsets, or more than these")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise MalformedError(f"tensor {_told(name)} has malformed offsets")
    start, end = offsets
    wrong = check_shape(dtype, shape, end - start) if isinstance(dtype, str) else "has no dtype"
    if wrong:
        raise MalformedError(f"tensor {_told(name)} {wrong}")
    return dtype, tuple(shape), start, end


def as_array(stored: StoredArray) -> npt.NDArray[Any]:
    """Return a tensor as a read-only array over the same memory.

    BF16 comes as float32, which holds every value of it (a copy); 8-bit floats come as their bytes.
    """
    import numpy as np

    if stored.dtype == "BF16":
        wide = np.frombuffer(stored.data, dtype="<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(stored.shape)
    return np.frombuffer(stored.data, dtype=_NUMPY.get(stored.dtype, "|u1")).reshape(stored.shape)


def is_native(dtype: Any) -> bool:
    """True if NumPy itself has the dtype, so that `as_array` gives back an array of just that."""
    return DTYPES.get(str(dtype)) in _NUMPY
