"""What stands around an iterator of batches, such as `enumerate` and `zip`, and whether it can go on in the middle.

Only the objects of the standard library are known; they say nothing to what is inside them, so they are looked for
among those that hold the iterator.
"""

from __future__ import annotations

import gc
import inspect
import itertools
from collections.abc import Iterable, Iterator
from types import FrameType, GeneratorType
from typing import Any

__all__ = ["Around", "around"]

_ANEW = (itertools.islice, itertools.cycle, itertools.chain, itertools.accumulate, itertools.zip_longest)
_PASSING = (map, filter, itertools.takewhile, itertools.dropwhile, itertools.starmap)
_KNOWN = (enumerate, zip, *_ANEW, *_PASSING)


class Around:
    """The wrappers around an iterator, from the inside out.

    Attributes:
        counters: `enumerate` objects that can be brought to any number.
        obstacle: Why a loop over them cannot be entered again in the middle; None if it can.
    """

    def __init__(self, wrappers: Iterable[Any], own: type) -> None:
        self.counters: list[Any] = []
        self.obstacle: str | None = None
        fixed = True  # it can be asked for its next item while it is being asked
        for one in wrappers:
            name = f"itertools.{type(one).__name__}" if isinstance(one, _ANEW) else type(one).__name__
            if isinstance(one, enumerate) and fixed:
                self.counters.append(one)
            elif isinstance(one, enumerate):
                self._refuse(
                    "enumerate(…) is not right around ckpt.batches(…) and would count from its start again; write "
                    "enumerate(ckpt.batches(…)), and what else there is around it"
                )
            elif isinstance(one, zip):
                if others := [part for part in one.__reduce__()[1] if not _has_no_place(part, own)]:
                    self._refuse(
                        f"zip(…) has a {type(others[0]).__name__} beside ckpt.batches(…), which would begin anew; "
                        "write enumerate(…) to count, and ckpt.batches(…) for each loader"
                    )
            elif isinstance(one, _ANEW):
                self._refuse(
                    f"{name} stands around ckpt.batches(…) and would begin anew; leave the loop with `break`, and "
                    "repeat a loader with ckpt.batches(loader, endless=True)"
                )
            else:
                fixed = False

    def _refuse(self, why: str) -> None:
        self.obstacle = self.obstacle or why


def around(iterator: Any, frame: FrameType) -> Around:
    """Look for what stands around an iterator.

    Args:
        frame: What called its `__next__`.
    """
    return Around(_wrappers(iterator, frame), type(iterator))


def _wrappers(inner: Any, frame: FrameType | None) -> Iterator[Any]:
    while True:
        outer = _holder(inner)
        if outer is None and frame is not None and frame.f_code.co_flags & inspect.CO_GENERATOR:
            outer, frame = _generator(frame), frame.f_back
        if outer is None:
            return
        yield outer
        inner = outer


def _holder(inner: Any) -> Any:
    """Return the wrapper that holds an iterator, itself or in a tuple; None if there is none."""
    holders = gc.get_referrers(inner)
    tuples = [one for one in holders if type(one) is tuple]
    if tuples:
        holders += gc.get_referrers(*tuples)
    return next((one for one in holders if isinstance(one, _KNOWN)), None)


def _generator(frame: FrameType) -> Any:
    found = (one for one in gc.get_referrers(frame) if isinstance(one, GeneratorType))
    return next((one for one in found if one.gi_frame is frame), None)


def _has_no_place(part: Any, own: type) -> bool:
    """True for what does not count, or is one of ours, whose place is kept."""
    if isinstance(part, enumerate):
        return _has_no_place(part.__reduce__()[1][0], own)
    return isinstance(part, (own, itertools.repeat))
