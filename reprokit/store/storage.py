"""What a registry asks of the place that it lies in: bytes by a key, and one conditional write, "create".

Keys are relative, with `/` between their parts. All else that a registry promises is built from this, wherever it lies;
`FolderStorage` is a folder, `object_storage` what speaks like S3.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from reprokit.core.atomic_files import durable_write
from reprokit.core.regular_files import open_regular, read_regular

__all__ = ["FolderStorage", "Storage", "Stored"]


class Stored(NamedTuple):
    """What is stored under a key.

    Attributes:
        modified: Seconds since 1970, by the clock of the place.
    """

    key: str
    size: int
    modified: float


class Readable(Protocol):
    """What is read in blocks."""

    def read(self, size: int, /) -> bytes:
        """Return up to so many bytes; none at the end."""


class Storage(ABC):
    """Bytes by keys. What fails is an OSError where it is the operating system's, else an error of ours.

    Attributes:
        url: What a user calls the place.
    """

    url: str
    listing_is_dear = False
    """Whether to look for one key, or a few, takes less than to list a folder of thousands."""

    absence: str | None = None
    """Why something may not be there, where that is no damage."""

    def name(self, key: str) -> str:
        """Return what a user calls the place of a key."""
        return f"{self.url}/{key}"

    @abstractmethod
    def read(self, key: str, *, max_bytes: int) -> bytes:
        """Return what is stored; of what is longer, `max_bytes` and one more, so that the caller sees it.

        Raises:
            FileNotFoundError: Nothing is.
            DataMismatchError: Something else than bytes is there.
        """

    @abstractmethod
    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return part of what is stored, less of it where it ends before.

        Raises:
            FileNotFoundError, DataMismatchError: As `read`.
        """

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[Readable]:
        """Open what is stored, to read its beginning without the rest.

        Raises:
            FileNotFoundError, DataMismatchError: As `read`.
        """

    @abstractmethod
    def stat(self, key: str) -> Stored | None:
        """Return what is known of a key, None if nothing is stored there."""

    @abstractmethod
    def names(self, folder: str, *, after: str = "") -> list[str]:
        """Return the names of what lies directly below a folder, files and folders, in no order.

        Args:
            after: Only names behind this one, in the order of their characters.
        """

    @abstractmethod
    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        """Yield all that is stored below a folder, sorted by key.

        Args:
            after: Only keys behind this one.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Store bytes durably under a key that has none yet: all of them or nothing, and one of two writers.

        Raises:
            FileExistsError: Somebody was faster.
        """

    @abstractmethod
    def put(self, key: str, data: bytes | memoryview) -> None:
        """Store bytes durably, in the place of those that were there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove what is stored; nothing there is as good."""

    def prune(self, folder: str) -> None:  # noqa: B027
        """Remove a folder if nothing is in it, where folders are something of their own."""

    def now(self) -> float:
        """Return the time by the clock of the place, in seconds since 1970: no other clock is compared with it."""
        probe = f"clock/{os.urandom(8).hex()}"
        while True:
            self.put(probe, b"")
            found = self.stat(probe)
            self.delete(probe)
            if found is not None:  # else somebody tidied up at this moment
                return found.modified


class FolderStorage(Storage):
    """Files below a folder."""

    listing_is_dear = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, key: str) -> Path:
        return self.root / key

    def read(self, key: str, *, max_bytes: int) -> bytes:
        return read_regular(self.root / key, max_bytes=max_bytes)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        with open_regular(self.root / key) as handle:
            handle.seek(offset)
            return handle.read(length)

    def open(self, key: str) -> AbstractContextManager[Readable]:
        return open_regular(self.root / key)

    def stat(self, key: str) -> Stored | None:
        try:
            seen = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stored(key, seen.st_size, seen.st_mtime)

    def names(self, folder: str, *, after: str = "") -> list[str]:
        try:
            names = os.listdir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for name in names if name > after and not name.startswith(".")]

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        for name in sorted(self.names(folder)):
            key = f"{folder}/{name}"
            if (self.root / key).is_dir():
                yield from self.walk(key, after=after)
            elif key > after and (found := self.stat(key)) is not None:
                yield found

    def create(self, key: str, data: bytes) -> None:
        durable_write(self.root / key, data, exclusive=True)

    def put(self, key: str, data: bytes | memoryview) -> None:
        durable_write(self.root / key, data)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def prune(self, folder: str) -> None:
        with contextlib.suppress(OSError):
            (self.root / folder).rmdir()
