"""What a registry in an object store looks like without a network: what came near, and what was written meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from reprokit.store.storage import FolderStorage, Readable, Storage, Stored

__all__ = ["OfflineStorage"]

_NEAR = ("log", "manifests")  # what a cached storage keeps as it is; objects that came near have an order of their own


class OfflineStorage(Storage):
    """What was written lies in a folder of its own, until it is sent; what came near is only read."""

    absence = "It is not on this machine: only the network would bring it."

    def __init__(self, url: str, own: Path, near: Path, *, marker: tuple[str, bytes]) -> None:
        """Look at two folders.

        Args:
            marker: Key and bytes of what says that the place is a registry.
        """
        self.url = url
        self.own = FolderStorage(own)
        self._near = FolderStorage(near)
        self._marker = marker

    def read(self, key: str, *, max_bytes: int) -> bytes:
        if key == self._marker[0]:
            return self._marker[1][: max_bytes + 1]
        return self._place(key).read(key, max_bytes=max_bytes)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self._place(key).read_range(key, offset, length)

    def open(self, key: str) -> AbstractContextManager[Readable]:
        return self._place(key).open(key)

    def stat(self, key: str) -> Stored | None:
        if key == self._marker[0]:
            return Stored(key, len(self._marker[1]), 0.0)
        return self._place(key).stat(key)

    def names(self, folder: str, *, after: str = "") -> list[str]:
        found = dict.fromkeys(self.own.names(folder, after=after))
        if folder.partition("/")[0] in _NEAR:
            found |= dict.fromkeys(self._near.names(folder, after=after))
        return list(found)

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        found = {one.key: one for one in self.own.walk(folder, after=after)}
        if folder.partition("/")[0] in _NEAR:
            found = {one.key: one for one in self._near.walk(folder, after=after)} | found
        yield from (found[key] for key in sorted(found))

    def create(self, key: str, data: bytes) -> None:
        if self.stat(key) is not None:
            raise FileExistsError(key)
        self.own.create(key, data)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.own.put(key, data)

    def delete(self, key: str) -> None:
        self.own.delete(key)

    def prune(self, folder: str) -> None:
        self.own.prune(folder)

    def _place(self, key: str) -> FolderStorage:
        near = key.partition("/")[0] in _NEAR and self.own.stat(key) is None
        return self._near if near else self.own
