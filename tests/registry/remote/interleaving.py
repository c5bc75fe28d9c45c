"""Actors on one storage, of whose calls a seed decides the order: each waits before every call until it is its turn.

Time is virtual. It passes while an actor waits; how long one call may take at most is the scheduler's to say.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import Any

from reprokit.store.storage import Readable, Storage, Stored

__all__ = ["Memory", "Scheduler"]


_SHARES = (  # of the longest, that a call takes: seldom long, often long
    (*[1e-6] * 200, *[1e-3] * 20, 0.1, 0.9, 1.0),
    (*[1e-6] * 40, *[1e-3] * 10, 0.1, 0.9, 1.0, 1.0),
)


class Scheduler:
    """Lets one actor go on at a time."""

    def __init__(self, seed: int, *, longest: float) -> None:
        """Decide by a seed.

        Args:
            longest: Seconds that a call may take.
        """
        self.time = 1_000_000.0
        self.steps = 0
        self.errors: list[tuple[str, BaseException]] = []
        self._random = random.Random(seed)
        self._longest = longest
        self._shares = _SHARES[seed % 2]
        self._turn = threading.Condition()
        self._waiting: dict[str, bool] = {}  # actor → is it its turn?
        self._living: set[str] = set()
        self._local = threading.local()

    def step(self) -> None:
        """Wait for the turn of the actor that this thread is; a thread that is none goes on."""
        name = getattr(self._local, "name", None)
        if name is None:
            return
        with self._turn:
            self._waiting[name] = False
            self._choose()
            self._turn.wait_for(lambda: self._waiting.get(name))
            del self._waiting[name]

    def run(self, actors: dict[str, Callable[[], None]]) -> None:
        """Run actors until all have ended; what they raise is kept."""
        threads = [threading.Thread(target=self._act, args=one, daemon=True) for one in actors.items()]
        self._living = set(actors)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "an actor waits for ever"

    def _act(self, name: str, action: Callable[[], None]) -> None:
        self._local.name = name
        try:
            self.step()
            action()
        except BaseException as error:  # noqa: BLE001
            self.errors.append((name, error))
        finally:
            with self._turn:
                self._living.discard(name)
                self._choose()

    def _choose(self) -> None:
        """Let one go on, once all that live are waiting."""
        if self._living and self._waiting.keys() == self._living and not any(self._waiting.values()):
            self.steps += 1
            self.time += self._longest * self._random.choice(self._shares)
            self._waiting[self._random.choice(sorted(self._waiting))] = True
            self._turn.notify_all()


class Memory(Storage):
    """A storage in memory, whose calls a scheduler orders."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.url = "memory://scheduled"
        self.scheduler = scheduler
        self._data: dict[str, tuple[bytes, float]] = {}

    def _found(self, key: str) -> tuple[bytes, float]:
        self.scheduler.step()
        if key not in self._data:
            raise FileNotFoundError(2, "is not there", key)
        return self._data[key]

    def read(self, key: str, *, max_bytes: int) -> bytes:
        return self._found(key)[0][: max_bytes + 1]

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self._found(key)[0][offset : offset + length]

    def open(self, key: str) -> AbstractContextManager[Readable]:
        return nullcontext(BytesIO(self._found(key)[0]))

    def stat(self, key: str) -> Stored | None:
        self.scheduler.step()
        return Stored(key, len(self._data[key][0]), self._data[key][1]) if key in self._data else None

    def names(self, folder: str, *, after: str = "") -> list[str]:
        self.scheduler.step()
        start = f"{folder}/"
        names = {key.removeprefix(start).partition("/")[0] for key in self._data if key.startswith(start)}
        return sorted(name for name in names if name > after)

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        self.scheduler.step()
        chosen = sorted(key for key in self._data if key.startswith(f"{folder}/") and key > after)
        return iter([Stored(key, len(self._data[key][0]), self._data[key][1]) for key in chosen])

    def create(self, key: str, data: bytes) -> None:
        self.scheduler.step()
        if key in self._data:
            raise FileExistsError(17, "exists", key)
        self._data[key] = bytes(data), self.scheduler.time

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.scheduler.step()
        self._data[key] = bytes(data), self.scheduler.time

    def delete(self, key: str) -> None:
        self.scheduler.step()
        self._data.pop(key, None)

    def now(self) -> float:
        self.scheduler.step()
        return self.scheduler.time


def clock_of(scheduler: Scheduler) -> Any:
    """Return what stands in the place of the module `time`."""

    class Clock:
        monotonic = staticmethod(lambda: scheduler.time)

    return Clock
