"""Loose objects in a folder, named by their digest: written whole and durable or not at all, verified when read."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from reprokit.digest import CHUNKED, Digest, copy_hashed, hash_bytes
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.paths import fsync_folder

__all__ = ["ObjectStore", "Staging"]

_SYNC_EACH = 64  # more new objects than this and one sync(2) is cheaper than an fsync each


class ObjectStore:
    """`<root>/<algorithm>/<2 hex>/<rest>`, plus `<root>/tmp` for what is not an object yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: Digest) -> Path:
        hexadecimal = digest.hex
        return self.root / digest.type / hexadecimal[:2] / hexadecimal[2:]

    def has(self, digest: Digest, size: int) -> bool:
        """True if an object of that digest and length is there; its bytes are not read."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def open(self, digest: Digest) -> BinaryIO:
        """Open an object; the caller verifies what it reads.

        Raises:
            NotFoundError: No such object.
        """
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFoundError(
                f"Object {digest.hex[:12]}… is missing from {self.root}.",
                hint="Restore it from another copy of the registry; `reprokit verify REF` lists all that is missing.",
            ) from None

    def read(self, digest: Digest, size: int, *, what: str) -> bytes:
        """Return an object's bytes, verified; for objects that fit in memory."""
        with self.open(digest) as handle:
            data = handle.read(size + 1)
        found = hash_bytes(data, digest.type)
        if found != digest:
            raise corrupt(what, digest, found)
        return data

    def copy_to(self, digest: Digest, size: int, sink: BinaryIO | None, *, what: str) -> None:
        """Copy an object to `sink` (None: nowhere) and verify it on the way; the caller discards `sink` on error."""
        with self.open(digest) as handle:
            found, length = copy_hashed(handle, sink, size, digest.type)
        if found != digest or length != size:
            raise corrupt(what, digest, found)

    def read_range(self, digest: Digest, offset: int, length: int) -> bytes:
        """Return part of an object, unverified: the caller checks it against a digest of that part."""
        with self.open(digest) as handle:
            handle.seek(offset)
            return handle.read(length)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Staging]:
        """Collect new objects; on leaving without an error all are durable, then all get their names."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.root))
        try:
            staging = Staging(self, folder)
            yield staging
            staging.settle()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Staging:
    """New objects on their way into a store. Safe to use from several threads."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._new: dict[Digest, Path] = {}
        self.new_bytes = 0

    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        digest, size = hash_bytes(data), len(data)
        if digest in self._new or self._store.has(digest, size):
            return digest, size
        return self._put(io.BytesIO(data), size)

    def put_stream(self, source: BinaryIO, size: int) -> tuple[Digest, int]:
        """Store a stream of about `size` bytes; returns the digest and the number of bytes that came."""
        return self._put(source, size)

    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        """Store a stream that must have this digest, as when an object comes from another registry."""
        if digest in self._new or self._store.has(digest, size):
            return
        found, _ = self._put(source, size, digest.type)
        if found != digest:
            raise corrupt(what, digest, found)

    def _put(self, source: BinaryIO, size: int, type_: str = CHUNKED) -> tuple[Digest, int]:
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(descriptor, "wb") as sink:
            digest, length = copy_hashed(source, sink, size, type_)
            os.fchmod(sink.fileno(), 0o444)
        if digest in self._new or self._store.has(digest, length):
            Path(name).unlink()
        else:
            self._new[digest] = Path(name)
            self.new_bytes += length
        return digest, length

    def settle(self) -> None:
        """Make every new object durable, then name it: a name never stands for bytes that a crash could lose."""
        if len(self._new) > _SYNC_EACH:
            os.sync()
        else:
            for path in self._new.values():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
        folders: set[Path] = set()
        for digest, temporary in self._new.items():
            final = self._store.path(digest)
            if final.parent not in folders:
                final.parent.mkdir(parents=True, exist_ok=True)
                folders.add(final.parent)
            temporary.replace(final)
        if len(folders) > _SYNC_EACH:
            os.sync()
        else:
            for folder in folders:
                fsync_folder(folder)
        self._new.clear()


def corrupt(what: str, expected: Digest, found: Digest) -> DataMismatchError:
    return DataMismatchError(
        f"{what} is corrupt: expected {expected.hex[:12]}…, read {found.hex[:12]}….",
        hint="Nothing of it was used. Restore the object from another copy of the registry.",
    )
