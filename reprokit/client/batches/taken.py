"""Batches of a generator as a script takes them: who does, and whether a loop over them can be entered again."""

from __future__ import annotations

from collections.abc import Generator
from types import CodeType
from typing import Any

from reprokit.client.batches.consumer import Consumer, caller, consumer_of
from reprokit.client.batches.wrappers import around

__all__ = ["BY_HAND", "OVER", "STALE", "Taken"]

BY_HAND = (
    "batches are taken by next(…), and nobody but the script knows how many more it would take of the epoch; take them "
    "in a loop, `for batch in ckpt.batches(…)`, or save at the ends of epochs"
)
OVER = (
    "reprokit: ckpt.save stood where this epoch goes on: a run resumed from that checkpoint would leave out the "
    "batches that follow. Save last in the body of the epoch, or in the loop over its batches"
)
STALE = (
    "reprokit: these batches are of an epoch that is over, and a resumed run would not have them: call ckpt.batches(…) "
    "in each epoch"
)


class Taken:
    """An iterator over the batches of a generator.

    Args:
        batches: The first that it gives may come after others that were skipped.

    Attributes:
        skipped: How many were; the generator's owner sets it, and `enumerate` around this goes on behind them.
    """

    def __init__(self, batches: Generator[Any, None, None]) -> None:
        self.skipped = 0
        self._batches = batches
        self._consumer: Consumer | None = None
        self._around: str | None = None
        self._code: CodeType | None = None
        self._counts_on = False
        self._closed: str | None = None

    def __iter__(self) -> Taken:
        return self

    def __next__(self) -> Any:
        if self._counts_on:
            return None
        if self._closed is not None:
            raise RuntimeError(self._closed)
        frame = caller()
        self._consumer = consumer_of(frame)
        if self._code is not None:
            return next(self._batches)
        found = around(self, frame)
        self._code, self._around = frame.f_code, found.obstacle
        batch = next(self._batches)
        self._counts_on = True
        try:
            for counter in found.counters:
                for _ in range(self.skipped):
                    next(counter)
        finally:
            self._counts_on = False
        return batch

    def is_inside(self) -> bool:
        """True if the caller runs inside the loop that takes the batches."""
        return self._consumer is not None and self._consumer.in_loop and self._consumer.find() is not None

    def obstacle(self) -> str | None:
        """Return why nobody could come back to this batch; None if one can."""
        if self._consumer is None:
            return None
        return self._around if self._consumer.in_loop else BY_HAND

    def close(self, why: str) -> None:
        """End it; who asks for more is told why there is none."""
        self._closed = why
        self._batches.close()
