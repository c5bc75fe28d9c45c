"""A registry published as static files, `https://host/path`: read, and never written to.

    listing.gz     the keys that are there and their lengths, sorted, a line each: "<bytes> <key>"

A web server lists nothing, so a listing is written beside the files (`reprokit registry listing`). It is as little
believed as all else that comes: it says what to ask for, and what comes has to give its hash.
"""

from __future__ import annotations

import gzip
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import NoReturn

from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.store.storage import Readable, Storage, Stored

__all__ = ["LISTING", "StaticStorage", "listing_of"]

LISTING = "listing.gz"
_MAX_LISTING = 256 * 1024 * 1024  # bytes, packed
_MAX_LINES = 2 * 1024 * 1024 * 1024  # bytes, unpacked
_HEADER = b"reprokit listing 1\n"
_SERVED = ("heads/", "log/", "manifests/", "objects/", "packs/", "recent/", "tombstones/", "reprokit-registry.json")


def listing_of(storage: Storage) -> bytes:
    """Return the listing of what of a registry is to be served: the same for the same keys."""
    lines = [
        b"%d %s\n" % (stored.size, stored.key.encode())
        for folder in sorted({start.partition("/")[0] for start in _SERVED})
        for stored in _below(storage, folder)
    ]
    return gzip.compress(_HEADER + b"".join(lines), mtime=0)


def _below(storage: Storage, folder: str) -> Iterable[Stored]:
    if "." in folder:
        found = storage.stat(folder)
        return [] if found is None else [found]
    return (stored for stored in storage.walk(folder) if "/." not in stored.key)


class StaticStorage(Storage):
    """See the module. What is there, and what is not, is what the listing said when it was read first."""

    def __init__(self, inner: Storage) -> None:
        """Read from a storage that can be read, and lists nothing."""
        self.url = inner.url
        self._inner = inner

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """The keys that are listed, sorted, with their lengths."""
        name = self.name(LISTING)
        try:
            packed = self._inner.read(LISTING, max_bytes=_MAX_LISTING)
        except FileNotFoundError:
            raise NotFoundError(
                f"There is no registry at {self.url}: it has no {LISTING}.",
                hint="Whoever publishes one writes that beside it: `reprokit registry listing --registry FOLDER`.",
            ) from None
        unpacking = zlib.decompressobj(31)
        try:
            text = unpacking.decompress(packed, _MAX_LINES)
            lines = text.split(b"\n")
            if not unpacking.eof or lines[0] + b"\n" != _HEADER or lines[-1]:
                raise ValueError("it is cut, or of another form")
            pairs = [line.split(b" ", 1) for line in lines[1:-1]]
            if not all(size.isdigit() for size, _ in pairs):
                raise ValueError("a length is none")
            return {key.decode(): int(size) for size, key in pairs}
        except (zlib.error, ValueError) as error:
            raise DataMismatchError(f"{name} is no listing: {error}.", hint="Have it written anew.") from None

    @cached_property
    def _keys(self) -> list[str]:
        return sorted(self._sizes)

    def name(self, key: str) -> str:
        return self._inner.name(key)

    def read(self, key: str, *, max_bytes: int) -> bytes:
        return self._inner.read(key, max_bytes=max_bytes)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self._inner.read_range(key, offset, length)

    def open(self, key: str) -> AbstractContextManager[Readable]:
        return self._inner.open(key)

    def stat(self, key: str) -> Stored | None:
        size = self._sizes.get(key)
        return None if size is None else Stored(key, size, 0.0)

    def names(self, folder: str, *, after: str = "") -> list[str]:
        start = f"{folder}/"
        names = {key.removeprefix(start).partition("/")[0] for key in self._below(start)}
        return [name for name in names if name > after]

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        return iter([Stored(key, self._sizes[key], 0.0) for key in self._below(f"{folder}/") if key > after])

    def _below(self, start: str) -> Iterator[str]:
        for position in range(bisect_right(self._keys, start), len(self._keys)):
            key = self._keys[position]
            if not key.startswith(start):
                return
            yield key

    def now(self) -> float:
        """Return 0, as every key was stored at 0: nothing here is alive."""
        return 0.0

    def create(self, key: str, data: bytes) -> None:  # noqa: ARG002
        self._refuse()

    def put(self, key: str, data: bytes | memoryview) -> None:  # noqa: ARG002
        self._refuse()

    def delete(self, key: str) -> None:  # noqa: ARG002
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RefusedError(
            f"{self.url} is a registry of static files, which is only read.",
            hint="`reprokit pull REF --from URL` brings what you need into a registry of your own.",
        )
