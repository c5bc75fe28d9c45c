"""Records in files that grow: TFRecord, as TensorBoard's event files are, and LevelDB's log, as W&B's are.

Each record is compared with its checksum before anybody parses it. Sizes in a file are anybody's: what is longer than
`MAX_FRAME` is not read. A file whose writer was killed ends anywhere; what comes before is good.

Source: tensorflow/core/lib/io/record_writer.h; leveldb/doc/log_format.md; RFC 3720, B.4, for CRC-32C.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

__all__ = ["MAX_FRAME", "DamagedError", "crc32c", "leveldb_frames", "tf_frames"]

MAX_FRAME = 64 * 1024 * 1024  # bytes

_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")
_CHUNK = struct.Struct("<IHB")
_BLOCK = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

_POLYNOMIAL = 0x82F63B78
_ROW = 1024  # bytes of a long text that are summed beside others
_LONG = 16 * _ROW


class DamagedError(ValueError):
    """A file is not what it says from a byte on; the text says where and how."""


def tf_frames(handle: BinaryIO) -> Iterator[bytes]:
    """Yield the records of a TFRecord file.

    Raises:
        DamagedError: The file ends within a record, or a checksum is not right; what came before was yielded.
    """
    size = os.fstat(handle.fileno()).st_size
    at = 0
    while head := handle.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise DamagedError(f"it ends at byte {at + len(head):,}, within a record")
        length, crc = _HEAD.unpack(head)
        if crc != _masked(head[:8]):
            raise DamagedError(f"the record at byte {at:,} has a length that is not what was written")
        following = at + _HEAD.size + length + _TAIL.size
        if following > size:
            raise DamagedError(f"it ends at byte {size:,}, within a record")
        if length > MAX_FRAME:
            raise DamagedError(f"the record at byte {at:,} is {length:,} bytes long; at most {MAX_FRAME:,} are read")
        data = handle.read(length)
        tail = handle.read(_TAIL.size)
        if len(tail) < _TAIL.size or _TAIL.unpack(tail)[0] != _masked(data):
            raise DamagedError(f"the record at byte {at:,} is not what was written")
        yield data
        at = following


def leveldb_frames(handle: BinaryIO, *, at: int) -> Iterator[bytes]:
    """Yield the records of a log of LevelDB's with CRC-32 (not the masked CRC-32C of LevelDB itself).

    Args:
        at: Where the first record begins: what comes before belongs to the first block.
    Raises:
        DamagedError: As of `tf_frames`.
    """
    parts: list[bytes] = []
    held = 0
    while block := handle.read(_BLOCK - at % _BLOCK):
        end = at + len(block)
        start = 0
        while len(block) - start >= _CHUNK.size:
            crc, length, kind = _CHUNK.unpack_from(block, start)
            where = f"the record at byte {at + start:,}"
            data = block[start + _CHUNK.size : start + _CHUNK.size + length]
            if len(data) < length:
                cut = f"it ends at byte {end:,}, within a record"
                raise DamagedError(cut if end % _BLOCK else f"{where} goes beyond its block")
            if zlib.crc32(data, zlib.crc32(bytes([kind]))) != crc or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
                raise DamagedError(f"{where} is not what was written")
            if (kind in (_FULL, _FIRST)) == bool(parts):
                raise DamagedError(f"{where} does not go on with the one before")
            parts.append(data)
            held += length
            if held > MAX_FRAME:
                raise DamagedError(f"{where} belongs to one of more than {MAX_FRAME:,} bytes")
            if kind in (_FULL, _LAST):
                yield b"".join(parts)
                parts, held = [], 0
            start += _CHUNK.size + length
        at = end
        if at % _BLOCK and start < len(block):
            break
    else:
        if not parts:
            return
    raise DamagedError(f"it ends at byte {at:,}, within a record")


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of bytes."""
    state, at = 0xFFFF_FFFF, 0
    if len(data) >= _LONG:
        at = len(data) // _ROW * _ROW
        state = _of_rows(np.frombuffer(data, np.uint8, at).reshape(-1, _ROW))
    pairs, bytewise = _tables()
    even = (len(data) - at) // 2 * 2
    for pair in struct.unpack_from(f"<{even // 2}H", data, at):
        state = state >> 16 ^ pairs[(state ^ pair) & 0xFFFF]
    for byte in data[at + even :]:
        state = state >> 8 ^ bytewise[(state ^ byte) & 0xFF]
    return state ^ 0xFFFF_FFFF


def _of_rows(rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> int:
    """Return the state after rows of bytes: each is summed by itself, all at once, and the sums are put together."""
    table = np.array(_tables()[1], np.uint32)
    states = np.zeros(len(rows), np.uint32)
    for column in np.ascontiguousarray(rows.T):
        states = states >> 8 ^ table[(states ^ column) & 0xFF]
    moved = _moved_by_a_row()
    state = 0xFFFF_FFFF
    for own in states.tolist():
        state = (
            moved[0][state & 0xFF] ^ moved[1][state >> 8 & 0xFF] ^ moved[2][state >> 16 & 0xFF] ^ moved[3][state >> 24]
        ) ^ own
    return state


@functools.cache
def _tables() -> tuple[list[int], list[int]]:
    """Return what two bytes, the first in the lower half of a number, and what one byte does to the state."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    numbers = np.arange(1 << 16, dtype=np.uint32)
    first = table[numbers & 0xFF]
    pairs = first >> 8 ^ table[(first ^ numbers >> 8) & 0xFF]
    return pairs.tolist(), table.tolist()


@functools.cache
def _moved_by_a_row() -> list[list[int]]:
    """Return what the bytes of a state become by a row of zeros: the state is linear in them."""
    table = np.array(_tables()[1], np.uint32)
    states = np.concatenate([np.arange(256, dtype=np.uint32) << shift for shift in (0, 8, 16, 24)])
    for _ in range(_ROW):
        states = states >> 8 ^ table[states & 0xFF]
    return [states[first : first + 256].tolist() for first in range(0, 1024, 256)]
