"""Signs of life of runs, in a folder: a file that its runner holds locked for as long as it lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from reprokit.core.regular_files import open_lock, open_regular
from reprokit.core.terminal_text import printable
from reprokit.errors import DataMismatchError, RefusedError
from reprokit.registry.package_log import writer

__all__ = ["SignsOfLife", "in_use", "in_use_by", "sign", "signature", "signed"]

_ATTEMPTS = 50
_MAX_SIGN = 1000  # bytes


def sign(handle: BinaryIO) -> None:
    """Write into a file that this process holds locked who that is, for those who find it locked."""
    handle.truncate(0)
    handle.seek(0)
    handle.write(signature())
    handle.flush()


def signature() -> bytes:
    """Return who this process is, and since when it says so."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{writer()}, process {os.getpid()}, since {at}".encode()


def in_use(run_id: str, lock: Path) -> RefusedError:
    """Return what to tell who would execute a run that somebody executes: `lock` is the file that is held locked."""
    said = b""
    with contextlib.suppress(OSError, DataMismatchError), open_regular(lock) as handle:
        said = handle.read(_MAX_SIGN)
    return in_use_by(run_id, said)


def in_use_by(run_id: str, said: bytes) -> RefusedError:
    """Return what to tell who would execute a run that somebody executes, by the signature that was found."""
    who = signed(said)
    return RefusedError(
        f"Run {run_id} is executed already{f' by {who}' if who else ''}: two cannot go on with one run.",
        hint=f"Wait for its end, which `reprokit show {run_id}` tells, or stop that process and resume the run then.",
    )


def signed(said: bytes) -> str:
    """Return a signature as it may be shown."""
    return printable(said[:_MAX_SIGN].decode(errors="replace"), 200)


class SignsOfLife:
    """`running/<run id>` below a registry's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "running"

    def claim(self, run_id: str) -> AbstractContextManager[None]:
        """Hold the sign of a run for as long as the context is open; who asks later finds it held.

        Raises:
            RefusedError: Somebody holds it.
        """
        path = self.folder / run_id
        path.parent.mkdir(parents=True, exist_ok=True)
        return _held(path, _claimed(path))

    def holders(self) -> dict[str, str]:
        """Return who says that they execute the runs that are alive."""
        found = {}
        for run in self._names():
            if self.is_claimed(run):
                with contextlib.suppress(OSError, DataMismatchError), open_regular(self.folder / run) as handle:
                    found[run] = signed(handle.read(_MAX_SIGN))
        return found

    def alive_since(self) -> list[float]:
        """Return when the runs began that are alive now, in seconds since 1970."""
        return [(self.folder / run).stat().st_mtime for run in self._names() if self.is_claimed(run)]

    def dead_runs(self) -> Iterator[Path]:
        """Yield the signs of life of runs that are not alive; nobody takes one up while the caller has it."""
        for run in self._names():
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                path = self.folder / run
                with open_regular(path) as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield path

    def is_claimed(self, run_id: str) -> bool:
        """True while somebody holds the sign."""
        try:
            with open_regular(self.folder / run_id) as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if not name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []


@contextlib.contextmanager
def _held(path: Path, handle: BinaryIO) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        handle.close()


def _claimed(path: Path) -> BinaryIO:
    """Open and lock a sign of life; who only looks whether it is locked is waited for, and gc may have removed it."""
    for attempt in range(_ATTEMPTS, -1, -1):
        handle = open_lock(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_nlink:
                sign(handle)
                break
        except BlockingIOError:
            if not attempt:
                raise in_use(path.name, path) from None
            time.sleep(0.01)
        handle.close()
    return handle
