"""What is asked for in one request: neighbours in a pack, and the blocks of a large object one behind the other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

from reprokit.schema.manifest import Entry
from reprokit.store.index import PackPlace
from reprokit.store.packs import Member

__all__ = ["BLOCK", "Piece", "pieces_of", "stream_of"]

BLOCK = 8 * 1024 * 1024  # bytes that one request brings of a large object, or of a pack
_GAP = 128 * 1024  # bytes between two members of a pack that are rather read than left out


class Piece(NamedTuple):
    """Part of a pack that holds objects that are wanted."""

    pack: str
    offset: int
    length: int
    members: list[tuple[Member, Entry]]


def pieces_of(placed: list[tuple[PackPlace, Entry]]) -> Iterator[Piece]:
    """Join what lies near each other in a pack."""
    placed.sort(key=lambda one: (one[0][0], one[0][1].offset))
    piece: Piece | None = None
    for (name, member), entry in placed:
        end = member.offset + member.size
        if piece is not None and piece.pack == name:
            last = piece.offset + piece.length
            if member.offset - last <= _GAP and end - piece.offset <= BLOCK:
                piece = piece._replace(length=max(piece.length, end - piece.offset))
                piece.members.append((member, entry))
                continue
        if piece is not None:
            yield piece
        piece = Piece(name, member.offset, member.size, [(member, entry)])
    if piece is not None:
        yield piece


def stream_of(blocks: Iterator[bytes]) -> BinaryIO:
    """Return blocks as a stream."""
    return cast("BinaryIO", io.BufferedReader(_Stream(blocks), BLOCK))


class _Stream(io.RawIOBase):
    """Blocks as a stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(cast("bytearray", buffer)).cast("B")
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
