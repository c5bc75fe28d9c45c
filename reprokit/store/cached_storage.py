"""A storage, of which what never changes is kept in a folder: manifests, and the entries of logs.

What is kept is as little believed as what comes: a manifest must give its hash, and an entry of a log its seal.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from reprokit.core.atomic_files import durable_write
from reprokit.store.storage import FolderStorage, Readable, Storage, Stored

__all__ = ["CachedStorage"]

_KEPT = ("manifests/", "log/")
_LATE = 1.0  # seconds
_MAX_KEPT = 16 * 1024 * 1024  # bytes of one that is kept without having been asked for whole


class CachedStorage(Storage):
    """See the module."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.url = storage.url
        self.inner = storage
        self._near = FolderStorage(folder)
        self._listed: dict[str, tuple[float, list[str]]] = {}

    def name(self, key: str) -> str:
        return self.inner.name(key)

    def read(self, key: str, *, max_bytes: int) -> bytes:
        if not key.startswith(_KEPT):
            return self.inner.read(key, max_bytes=max_bytes)
        with contextlib.suppress(FileNotFoundError):
            return self._near.read(key, max_bytes=max_bytes)
        data = self.inner.read(key, max_bytes=max_bytes)
        if len(data) <= max_bytes:
            self._keep(key, data)
        return data

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self.inner.read_range(key, offset, length)

    def open(self, key: str) -> AbstractContextManager[Readable]:
        if not key.startswith(_KEPT):
            return self.inner.open(key)
        return contextlib.nullcontext(io.BytesIO(self.read(key, max_bytes=_MAX_KEPT)))

    def stat(self, key: str) -> Stored | None:
        return self.inner.stat(key)

    def names(self, folder: str, *, after: str = "") -> list[str]:
        """Return the names, which may be a second old; of a log only those behind the last one kept are asked for."""
        if after or not folder.startswith("log"):
            return self.inner.names(folder, after=after)
        known = self._listed.get(folder)
        if known is not None and time.monotonic() - known[0] < _LATE:
            return known[1]
        found = self._names(folder)
        self._listed[folder] = time.monotonic(), found
        return found

    def _names(self, folder: str, *, after: str = "") -> list[str]:
        if after or folder.count("/") != 2 or not folder.startswith("log/"):
            return self.inner.names(folder, after=after)
        kept = sorted(self._near.names(folder))
        if len(kept) < 2:
            return self.inner.names(folder)
        new = self.inner.names(folder, after=kept[-2])
        if kept[-1] in new:
            return [*kept[:-1], *new]
        return self.inner.names(folder)  # what was there is gone: what is kept says nothing of the rest

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        return self.inner.walk(folder, after=after)

    def create(self, key: str, data: bytes) -> None:
        if key.startswith("log/"):
            self._listed.clear()  # what was listed is old now, also where somebody was faster
        self.inner.create(key, data)
        self._keep(key, data)

    def put(self, key: str, data: bytes | memoryview) -> None:
        if key.startswith("log/"):
            self._listed.clear()
        self.inner.put(key, data)
        if key.startswith(_KEPT):
            self._near.delete(key)

    def delete(self, key: str) -> None:
        if key.startswith("log/"):
            self._listed.clear()
        self.inner.delete(key)
        if key.startswith(_KEPT):
            self._near.delete(key)

    def look_again(self) -> None:
        """Forget what was listed a moment ago."""
        self._listed.clear()

    def forget(self, key: str) -> None:
        """Keep nothing of a key any more."""
        self._near.delete(key)

    def _keep(self, key: str, data: bytes) -> None:
        if key.startswith(_KEPT):
            with contextlib.suppress(OSError):
                durable_write(self._near.root / key, data, sync=False)
