"""Who takes batches from an iterator: a `for` loop, directly or through generators, or something else.

A loop's place is known: whoever enters it again where it stood goes on with the next batch. What is taken by `next(it)`
is counted by the script, and nobody else knows how.
"""

from __future__ import annotations

import dis
import inspect
import sys
from types import CodeType, FrameType
from typing import NamedTuple

__all__ = ["Consumer", "caller", "consumer_of"]

_THROUGH = ("FOR_ITER", "SEND", "YIELD_FROM")
_CACHE: dict[tuple[int, int], tuple[CodeType, str, int]] = {}


class Consumer(NamedTuple):
    """What took the last batch.

    Attributes:
        in_loop: It is a `for` loop whose body runs for each batch.
        frame: `id()` of the frame that the loop is in.
        code: That frame's code.
        begin, end: The loop's instructions.
    """

    in_loop: bool
    frame: int
    code: CodeType
    begin: int
    end: int

    def find(self) -> FrameType | None:
        """Return the frame of the loop, if the caller runs within the loop's body."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if id(frame) == self.frame and frame.f_code is self.code:
                return frame if self.begin <= frame.f_lasti < self.end else None
            frame = frame.f_back
        return None

    def is_same(self, other: Consumer) -> bool:
        """True for one and the same loop."""
        return (self.in_loop, self.frame, self.begin) == (other.in_loop, other.frame, other.begin)


def caller() -> FrameType:
    """Return the frame that called the function that calls this."""
    return sys._getframe(2)


def consumer_of(frame: FrameType) -> Consumer:
    """Return what takes a batch.

    Args:
        frame: The one that called `__next__`.
    """
    while True:
        what, end = _instruction(frame.f_code, frame.f_lasti)
        in_loop, above = what in _THROUGH, frame.f_back
        if not in_loop or above is None or not frame.f_code.co_flags & inspect.CO_GENERATOR:
            return Consumer(in_loop, id(frame), frame.f_code, frame.f_lasti, end)
        frame = above


def _instruction(code: CodeType, offset: int) -> tuple[str, int]:
    """Return the name of an instruction, and where it jumps to."""
    known = _CACHE.get((id(code), offset))
    if known is None:
        found = next((one for one in dis.get_instructions(code) if one.offset == offset), None)
        jumps = found is not None and found.opcode in (*dis.hasjrel, *dis.hasjabs)
        known = (code, found.opname if found else "", int(found.argval) if found and jumps else offset)
        _CACHE[id(code), offset] = known
    return known[1:]
