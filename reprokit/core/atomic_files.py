"""Writes that survive a crash, and what the operating system's errors mean to a user."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from reprokit.errors import RegistryError

__all__ = ["durable_write", "explain_os_error", "fsync_folder", "make_folder", "new_file", "os_errors"]

_PERMISSION = "You lack the permission: ask the owner, or choose another place with --registry or REPROKIT_HOME."


def durable_write(path: Path, data: bytes | memoryview, *, exclusive: bool = False, sync: bool = True) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename (or link), fsync of the folder.

    Args:
        exclusive: Fail if `path` exists, atomically.
    Raises:
        FileExistsError: `exclusive` and it is there.
    """
    unsynced = make_folder(path.parent)
    descriptor, temporary = new_file(path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            if sync:
                os.fsync(handle.fileno())
        if exclusive:
            os.link(temporary, path)
        else:
            Path(temporary).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    if sync:
        for folder in {path.parent, *unsynced}:
            fsync_folder(folder)


def new_file(folder: Path | str, *, prefix: str = "", mode: int = 0o666) -> tuple[int, str]:
    """Make a file of a name that nobody has, open for writing and reading; return its descriptor and path.

    Args:
        mode: As `open` takes it: who may do what is left to the umask, as for every other file of the user's.
    """
    while True:
        path = f"{folder}/{prefix}{os.urandom(8).hex()}"
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode), path


def make_folder(folder: Path) -> set[Path]:
    """Make a folder and those it is in; return the ones to sync before what is in it is durable."""
    made = []
    while not folder.exists():
        made.append(folder)
        folder = folder.parent
    for new in reversed(made):
        new.mkdir(exist_ok=True)
    return {new.parent for new in made}


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a file system that cannot is left alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a RegistryError that says what was being done and what to do."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, what) from error


def explain_os_error(error: OSError, what: str) -> RegistryError:
    """Return the RegistryError that tells a user about `error`; `what` is e.g. ``Writing objects to /r``."""
    hints = {
        errno.ENOSPC: "The disk is full: free some space and repeat the command; what was published is intact.",
        errno.EDQUOT: "Your disk quota is used up: free some space and repeat the command.",
        errno.EACCES: _PERMISSION,
        errno.EPERM: _PERMISSION,
        errno.EROFS: "The file system is read-only: choose another registry with --registry.",
        errno.EIO: "The device reports an input/output error: check the disk, then run `reprokit verify --all`.",
    }
    where = f" ({error.filename})" if error.filename else ""
    return RegistryError(f"{what} failed: {error.strerror or error}{where}.", hint=hints.get(error.errno or 0))
