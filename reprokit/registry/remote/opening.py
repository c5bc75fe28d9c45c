"""A storage whose registry is known from the last time: what says so is read beside the first request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from reprokit.store.storage import Readable, Storage, Stored

__all__ = ["CheckedStorage"]

_T = TypeVar("_T")


class CheckedStorage(Storage):
    """Gives nothing of what it reads, and writes nothing, before a check that runs meanwhile has passed."""

    def __init__(self, storage: Storage, check: Callable[[], None]) -> None:
        """Begin a check.

        Args:
            check: Raises what is wrong; called once, in a thread of its own.
        """
        self.url = storage.url
        self.listing_is_dear = storage.listing_is_dear
        self._inner = storage
        pool = ThreadPoolExecutor(1, thread_name_prefix="reprokit-open")
        self._check = pool.submit(check)
        pool.shutdown(wait=False)

    def _passed(self) -> Storage:
        self._check.result()
        return self._inner

    def _beside(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        finally:
            self._passed()  # what is wrong with the place says more than what was read there

    def name(self, key: str) -> str:
        return self._inner.name(key)

    def read(self, key: str, *, max_bytes: int) -> bytes:
        return self._beside(lambda: self._inner.read(key, max_bytes=max_bytes))

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self._beside(lambda: self._inner.read_range(key, offset, length))

    def open(self, key: str) -> AbstractContextManager[Readable]:
        @contextlib.contextmanager
        def opened() -> Iterator[Any]:
            with self._passed().open(key) as handle:
                yield handle

        return opened()

    def stat(self, key: str) -> Stored | None:
        return self._beside(lambda: self._inner.stat(key))

    def names(self, folder: str, *, after: str = "") -> list[str]:
        return self._beside(lambda: self._inner.names(folder, after=after))

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        listed = self._inner.walk(folder, after=after)
        first = self._beside(lambda: next(listed, None))
        if first is not None:
            yield first
            yield from listed

    def create(self, key: str, data: bytes) -> None:
        self._passed().create(key, data)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._passed().put(key, data)

    def delete(self, key: str) -> None:
        self._passed().delete(key)

    def prune(self, folder: str) -> None:
        self._passed().prune(folder)

    def now(self) -> float:
        return self._passed().now()
