"""Iterators over DataLoaders that a script holds from one epoch to the next: no checkpoint has their place."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from reprokit.callbacks.pytorch import private

__all__ = ["HELD", "Held"]


class Held:
    """Knows in which epoch each iterator was made.

    Attributes:
        carried: One that was made before the present epoch was asked for a batch in it.
    """

    def __init__(self) -> None:
        self.carried = False
        self._now: object | None = None
        self._made: weakref.WeakKeyDictionary[Any, tuple[object | None, int, bool]] = weakref.WeakKeyDictionary()
        self._watches = False
        self._ours = False

    def begin(self) -> None:
        """A loop over epochs begins."""
        self._now, self.carried = None, False

    def begin_epoch(self) -> None:
        if not self._watches:
            self._watches = True
            private.watch_iterators(self._begins, self._asked, self._ended)
        self._now = object()

    def end(self) -> None:
        """The loop over the epochs is over."""
        self._now = None

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Iterators that are made meanwhile have a place that is kept."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def is_open(self, loaders: Iterable[Any]) -> bool:
        """True if an iterator over one of the loaders was made in this epoch, and came to no end."""
        known = {id(one) for one in loaders}
        return any(now is self._now and loader in known and not ours for now, loader, ours in self._made.values())

    def _begins(self, iterator: Any, loader: Any) -> None:
        self._made[iterator] = (self._now, id(loader), self._ours)

    def _asked(self, iterator: Any) -> None:
        if self._now is not None and self._made.get(iterator, (None, 0, False))[0] is not self._now:
            self.carried = True

    def _ended(self, iterator: Any) -> None:
        self._made.pop(iterator, None)


HELD = Held()
