"""Opening files that a stranger may have laid: only regular ones, and never waiting for who else might open them.

A registry may lie on a shared disk; a pipe or a device in the place of a file would block whoever reads it, or never
end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from reprokit.errors import DataMismatchError

__all__ = ["open_lock", "open_regular", "read_regular"]


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        DataMismatchError: It is a pipe, a device, a socket or a folder.
        OSError: As `open` raises.
    """
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def open_lock(path: Path | str) -> BinaryIO:
    """Open a regular file to hold a lock on it; it is made if it is not there, and what it holds stays.

    Raises:
        DataMismatchError, OSError: As `open_regular`.
    """
    return os.fdopen(_opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)


def read_regular(path: Path | str, *, max_bytes: int) -> bytes:
    """Return what a regular file holds; of a longer one, `max_bytes` and one more, so that the caller sees it.

    Raises:
        DataMismatchError, OSError: As `open_regular`.
    """
    with open_regular(path) as handle:
        return handle.read(min(os.fstat(handle.fileno()).st_size, max_bytes) + 1)


def _opened(path: Path | str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError:
        if not _is_odd(path):  # nobody reads a pipe that is opened for writing, nobody opens a socket
            raise
        raise _refused(path) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _refused(path)


def _is_odd(path: Path | str) -> bool:
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


def _refused(path: Path | str) -> DataMismatchError:
    return DataMismatchError(
        f"{path} is no regular file, so nothing is read from it.", hint="Remove it, and restore it from another copy."
    )
