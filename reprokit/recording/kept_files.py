"""Files on their way into a record, each by itself: one that cannot be kept costs no other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from reprokit.core.regular_files import open_regular
from reprokit.errors import DataMismatchError, RefusedError
from reprokit.registry.base import Sink
from reprokit.schema.manifest import Entry

__all__ = ["UnkeptError", "keep_file"]

_TRIES = 3


class UnkeptError(Exception):
    """A file cannot be kept; the reason is its text."""


class _UnreadableError(Exception):
    """Reading failed, and not storing."""


class _Source:
    """A file that says when it was reading it that failed."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    def readinto(self, buffer: memoryview) -> int:
        try:
            return int(cast("Any", self._handle).readinto(buffer))
        except OSError as error:
            raise _UnreadableError(error.strerror or str(error)) from error

    def read(self, size: int) -> bytes:
        try:
            return self._handle.read(size)
        except OSError as error:
            raise _UnreadableError(error.strerror or str(error)) from error


def keep_file(key: str, file: Path, sink: Sink) -> Entry:
    """Store a file as an entry.

    Raises:
        UnkeptError: It is gone, cannot be read, is written at this moment, or was purged from the registry.
        OSError: Storing failed.
    """
    for _ in range(_TRIES):
        try:
            handle = open_regular(file)
        except FileNotFoundError:
            raise UnkeptError("it vanished before it could be stored") from None
        except (OSError, DataMismatchError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no regular file any more"
            raise UnkeptError(f"it cannot be read: {why}" if isinstance(error, OSError) else str(why)) from None
        with handle:
            before = _seen(handle)
            try:
                digest, size = sink.put_stream(cast("BinaryIO", _Source(handle)), before[0])
            except _UnreadableError as error:
                raise UnkeptError(f"it cannot be read: {error}") from None
            except RefusedError as error:  # its bytes were purged from this registry, for good
                raise UnkeptError(error.message) from None
            if _seen(handle) == before and size == before[0]:
                return Entry(key, size, digest)
    raise UnkeptError("something was still writing to it when it was to be stored")


def _seen(handle: BinaryIO) -> tuple[int, int]:
    found = os.fstat(handle.fileno())
    return found.st_size, found.st_mtime_ns
