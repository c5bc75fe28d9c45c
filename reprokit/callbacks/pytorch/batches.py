"""The batches that a hand-written loop takes, from one loader or several in step, and how a resumed run comes back."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from types import CodeType, FrameType
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset

from reprokit.callbacks.pytorch import private
from reprokit.callbacks.pytorch.held import HELD
from reprokit.client.batches.consumer import Consumer, caller, consumer_of
from reprokit.client.batches.taken import BY_HAND, OVER, STALE
from reprokit.client.batches.wrappers import Around, around

__all__ = ["LoopParts", "Reading", "Readings", "remake_workers"]

_END = object()
_WITHIN = (
    "ckpt.batches(…) was called inside the loop over another, and is still open there; call it before that loop begins"
)
_NESTED = "the checkpoint is saved in a loop over ckpt.batches(…) inside another; save in the outer one"


class LoopParts(NamedTuple):
    """What readings ask of the loop that they are in.

    Attributes:
        random: Returns the random state.
        set_random: Puts it back.
        between: Called after a batch, with how many were given of the epoch, and whether it is known that none follows.
        stands_at: Called with how many were given; None if no reading is open.
        reached: Called when a resumed run has come to the batch of its checkpoint.
    """

    random: Callable[[], dict[str, Any]]
    set_random: Callable[[dict[str, Any]], None]
    between: Callable[[int, bool], None]
    stands_at: Callable[[int | None], None]
    reached: Callable[[], None]


class Reading:
    """One reading of a loader within an epoch, an iterator.

    Attributes:
        number: How many others were made before it in this epoch.
        within: It was made inside the loop over another.
        given, done: Batches given; those of this round, where it is endless.
        start: The random state before this round.
        begun, over, stale: Its first batch was asked for; its last was given; its epoch is over.
        obstacle: What around it would not go on where it stood.
    """

    def __init__(self, readings: Readings, loader: Any, number: int, *, endless: bool, within: bool) -> None:
        self.loader = loader
        self.number = number
        self.endless = endless
        self.within = within
        self.given = self.done = 0
        self.start: Any = None
        self.begun = self.over = self.stale = False
        self.obstacle: str | None = None
        self.consumer: Consumer | None = None
        self.batches: Iterator[Any] = iter(())
        self._readings = readings

    def __iter__(self) -> Reading:
        return self

    def __len__(self) -> int:
        if self.endless:
            raise TypeError("reprokit: endless batches have no length")
        return len(self.loader)

    def __bool__(self) -> bool:
        return True

    def __next__(self) -> Any:
        return self._readings.take(self, caller())  # a frame that is kept in a variable would keep all others

    @property
    def in_loop(self) -> bool:
        """True if a `for` loop takes its batches."""
        return self.consumer is not None and self.consumer.in_loop

    @property
    def is_running(self) -> bool:
        """True if that loop is on the stack."""
        return self.consumer is not None and self.consumer.in_loop and self.consumer.find() is not None

    def is_beside(self, other: Reading) -> bool:
        """True if one and the same loop takes both."""
        return self.consumer is not None and other.consumer is not None and self.consumer.is_same(other.consumer)

    @property
    def is_at_end(self) -> bool:
        """True if the last batch was given, as far as the loader says how many it has."""
        if self.endless or not self.begun or isinstance(getattr(self.loader, "dataset", None), IterableDataset):
            return False
        with contextlib.suppress(Exception):  # a loader's own __len__ may raise whatever it likes
            return len(self.loader) == self.done
        return False

    def place(self) -> dict[str, Any]:
        """Return what it takes to come back to this batch."""
        return {"batch": self.given, "start": self.start, **({} if self.done == self.given else {"done": self.done})}


class Readings:
    """The readings of an epoch. The outermost `for` loop over one leads: it counts, and checkpoints are saved in it.

    Attributes:
        saved_end: The epoch's end was saved, so that no batch may follow.
    """

    def __init__(self, loop: LoopParts, skip: str) -> None:
        self.saved_end = False
        self._loop = loop
        self._skip = skip
        self._made: list[weakref.ref[Reading]] = []  # what a script lets go of is over
        self._count = 0
        self._position: dict[str, Any] | None = None
        self._counts_on = False  # a counter is brought to its number, and asks for batches that nobody gets
        self._known: dict[tuple[int, int], tuple[CodeType, str | None]] = {}

    def make(self, loader: Any, *, endless: bool) -> Reading:
        """Return a new reading."""
        reading = Reading(self, loader, self._count, endless=endless, within=bool(self._running()))
        self._count += 1
        self._made.append(weakref.ref(reading))
        return reading

    def begin_epoch(self, position: dict[str, Any] | None = None) -> None:
        """Begin an epoch; `position` is that of the checkpoint inside it that a resumed run goes on from."""
        for one in self._alive():
            one.stale = True
        self._made, self._count, self.saved_end = [], 0, False
        self._position = position

    def _alive(self) -> list[Reading]:
        found = [one for made in self._made if (one := made()) is not None and not one.over]
        if len(found) < len(self._made):
            self._made = [weakref.ref(one) for one in found]
        return found

    def _open(self) -> list[Reading]:
        return [one for one in self._alive() if one.begun]

    def _running(self) -> list[Reading]:
        return [one for one in self._open() if one.is_running]

    @property
    def first(self) -> Reading | None:
        """The reading that counts: the one that leads, or else the first that is open."""
        found = self._open()
        if len(found) == 1:
            return found[0]
        running = [one for one in found if one.is_running]
        return next(iter(running or found), None)

    def count(self) -> int:
        """Return how many batches the first reading has; raises where it does not know."""
        found = self.first
        return 0 if found is None else len(found)

    def is_inside(self) -> bool:
        """True if the caller runs inside a loop that takes batches."""
        return bool(self._running())

    def position(self) -> dict[str, Any]:
        """Return what it takes to come back to this batch of the epoch."""
        first = self.first
        if first is None:
            raise RuntimeError("reprokit: no batch was taken")
        others = {str(one.number): one.place() for one in self._open() if one is not first}
        waiting = [one.number for one in self._alive() if not one.begun]
        more = {"reading": first.number, "made": self._count, "others": others, "waiting": waiting}
        return {**first.place(), **({} if self._count == 1 else more)}

    def obstacle(self) -> str | None:
        """Return why nobody could come back to this batch; None if one can."""
        first, found = self.first, self._open()
        if first is None:
            return None
        if not first.in_loop:
            return BY_HAND
        for one in found:
            if not one.is_beside(first) and one.is_running:
                return _NESTED
            if one is not first and one.within:
                return _WITHIN
        return next((one.obstacle for one in found if one.obstacle is not None), None)

    def take(self, reading: Reading, frame: FrameType) -> Any:
        """Return a reading's next batch; before that, what is due between two batches is done."""
        if self._counts_on:
            return None
        reading.consumer = consumer_of(frame)
        if reading.over:
            raise StopIteration
        if reading.stale:
            raise RuntimeError(STALE)
        if not reading.begun:
            self._begin(reading, frame)
        elif reading is self.first and not self.saved_end:
            self._loop.between(reading.given, self._ends_after(reading))
        batch = next(reading.batches, _END)
        if batch is _END and reading.endless and reading.done:
            self._read(reading, 0)
            batch = next(reading.batches, _END)
        reading.over = batch is _END
        if self.saved_end and not reading.over:
            raise RuntimeError(OVER)
        reading.given += not reading.over
        reading.done += not reading.over
        first = self.first
        self._loop.stands_at(None if first is None else first.given)
        if reading.over:
            raise StopIteration
        return batch

    def _ends_after(self, reading: Reading) -> bool:
        """True if the loop that takes a reading's batches gets no more: this one is at its end, or one beside it."""
        return reading.is_at_end or any(one.is_at_end for one in self._open() if one.is_beside(reading))

    def _begin(self, reading: Reading, frame: FrameType) -> None:
        position = self._position
        lead = -1 if position is None else int(position.get("reading", 0))
        told = position if reading.number == lead else (position or {}).get("others", {}).get(str(reading.number))
        waited = position is None or reading.number in position.get("waiting", ())
        reading.begun = True
        if told is None and reading.number < lead and not waited:  # it was over when the checkpoint was saved
            return
        found = self._look(reading, frame, again=told is not None)
        if told is None:
            self._read(reading, 0)
            return
        before = self._loop.random()
        self._loop.set_random(told["start"])
        self._read(reading, int(told.get("done", told["batch"])))
        reading.given = int(told["batch"])
        if reading.number == lead and position is not None:
            self._loop.reached()
            self._count = int(position.get("made", 1))
        else:
            self._loop.set_random(before)
        beside = any(one is not reading and one.in_loop and one.is_beside(reading) for one in self._open())
        if found is not None and not beside:
            self._count_on(found, reading.given)

    def _count_on(self, found: Around, given: int) -> None:
        """Bring `enumerate` to the number that it had: it asks for as many batches, and gets none."""
        self._counts_on = True
        try:
            for counter in found.counters:
                for _ in range(given):
                    next(counter)
        finally:
            self._counts_on = False

    def _look(self, reading: Reading, frame: FrameType, *, again: bool) -> Around | None:
        """Look for what stands around a reading, once for each place in the script."""
        code, place = frame.f_code, (id(frame.f_code), frame.f_lasti)
        found = around(reading, frame) if again or place not in self._known else None
        if found is not None:
            self._known[place] = (code, found.obstacle)
        _, reading.obstacle = self._known[place]
        return found

    def _read(self, reading: Reading, done: int) -> None:
        """Begin to read a loader, without its first batches."""
        loader = reading.loader
        remake_workers(loader)
        reading.start, reading.done = self._loop.random(), done
        later = _later(loader, done) if done and self._skip == "index" else None
        with HELD.ours():
            reading.batches = iter(loader if later is None else private.with_sampler(loader, later.attribute, later))
            if later is not None:
                later.skip()  # a sampler draws when it is asked first: now, and not once the moment's state is put back
        if done and self._skip == "load":
            found = sum(1 for _ in islice(reading.batches, done))
            if found < done:
                raise RuntimeError(f"reprokit: the loader has {found} batches, the run was at batch {done}")


def remake_workers(loader: Any) -> None:
    """Have the workers of a loader started anew: what persistent ones have drawn is nowhere to be read."""
    if getattr(loader, "persistent_workers", False):
        private.end_workers(loader)


def _later(loader: Any, done: int) -> _Later:
    """Return the loader's sampler from its n-th element on, so that the batches before are not loaded."""
    attribute = "batch_sampler" if loader.batch_sampler is not None else "sampler"
    if isinstance(loader.dataset, IterableDataset):
        raise RuntimeError('reprokit: skip="index" needs a dataset with indices; use skip="load" for this loader')
    return _Later(getattr(loader, attribute), attribute, done)


class _Later:
    """A sampler from its n-th element on. The indices before are still drawn: before the first, or when told to.

    A loader draws a seed for its workers after it asked for the sampler's iterator, and before it asks that for
    anything; the order stays.

    Attributes:
        attribute: Of the loader, whose sampler it is.
    """

    def __init__(self, sampler: Any, attribute: str, done: int) -> None:
        self.attribute = attribute
        self._sampler = sampler
        self._done = done
        self._inner: Iterator[Any] = iter(())
        self._left = 0

    def __iter__(self) -> Iterator[Any]:
        self._inner, self._left = iter(self._sampler), self._done
        return self

    def __next__(self) -> Any:
        self.skip()
        return next(self._inner)

    def skip(self) -> None:
        """Draw the first indices now, and give them to nobody."""
        while self._left:
            self._left -= 1
            next(self._inner, None)

    def __len__(self) -> int:
        return max(len(self._sampler) - self._done, 0)
