"""The fields of a message in protobuf's wire format, one after the other: no schema, no recursion, nothing built.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["BYTES", "DOUBLE", "FLOAT", "VARINT", "WireError", "as_double", "as_float", "fields", "signed", "text"]

VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5
"""Wire types: an integer; eight bytes; bytes of any length, as of a text or a message; four bytes."""

_MAX_VARINT = 10  # bytes
_DOUBLE, _FLOAT = struct.Struct("<d"), struct.Struct("<f")


class WireError(ValueError):
    """Bytes are no message."""


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield number, wire type and value of each field of a message: an integer of a varint, else bytes.

    Raises:
        WireError: A field goes beyond the end, has a wire type that nobody writes any more, or no number.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError(f"a field without a number ends at byte {at:,}")
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (DOUBLE, FLOAT):
            size = 8 if kind == DOUBLE else 4
        else:
            raise WireError(f"a field of the wire type {kind} ends at byte {at:,}")
        if size > end - at:
            raise WireError(f"a field of {size:,} bytes has {end - at:,}")
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the integer that begins at a byte, of 64 bits, and where it ends."""
    try:
        byte = data[at]
        if byte < 0x80:
            return byte, at + 1
        value, shift = byte & 0x7F, 7
        for place in range(at + 1, at + _MAX_VARINT):
            byte = data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
            shift += 7
    except IndexError:
        raise WireError(f"an integer is cut off at byte {at:,}") from None
    raise WireError(f"an integer at byte {at:,} has more than {_MAX_VARINT} bytes")


def signed(value: int | bytes) -> int:
    """Return a varint as the int64 that it stands for.

    Raises:
        WireError: It is none.
    """
    if isinstance(value, bytes):
        raise WireError("bytes stand where an integer is expected")
    return value - (1 << 64) if value >> 63 else value


def as_double(value: int | bytes) -> float:
    """Return a field of eight bytes as a number.

    Raises:
        WireError: It is none.
    """
    if not isinstance(value, bytes) or len(value) != 8:
        raise WireError("something else stands where eight bytes are expected")
    found: float = _DOUBLE.unpack(value)[0]
    return found


def as_float(value: int | bytes) -> float:
    """Return a field of four bytes as a number.

    Raises:
        WireError: It is none.
    """
    if not isinstance(value, bytes) or len(value) != 4:
        raise WireError("something else stands where four bytes are expected")
    found: float = _FLOAT.unpack(value)[0]
    return found


def text(value: int | bytes) -> str:
    """Return a field as text; bytes that are no UTF-8 become U+FFFD.

    Raises:
        WireError: It is an integer.
    """
    if not isinstance(value, bytes):
        raise WireError("an integer stands where a text is expected")
    return value.decode("utf-8", "replace")
