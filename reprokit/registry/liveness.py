"""Signs of life of runs, in a folder: a file that its runner holds locked for as long as it lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

__all__ = ["SignsOfLife"]

_ATTEMPTS = 50


class SignsOfLife:
    """`running/<run id>` below a registry's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "running"

    def claim(self, run_id: str) -> AbstractContextManager[None]:
        """Hold the sign of a run for as long as the context is open; who asks later finds it held."""
        path = self.folder / run_id
        path.parent.mkdir(parents=True, exist_ok=True)
        return _held(path, _claimed(path))

    def alive_since(self) -> list[float]:
        """Return when the runs began that are alive now, in seconds since 1970."""
        return [(self.folder / run).stat().st_mtime for run in self._names() if self.is_claimed(run)]

    def dead_runs(self) -> Iterator[Path]:
        """Yield the signs of life of runs that are not alive; nobody takes one up while the caller has it."""
        for run in self._names():
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                path = self.folder / run
                with path.open("rb") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield path

    def is_claimed(self, run_id: str) -> bool:
        """True while somebody holds the sign."""
        try:
            with (self.folder / run_id).open("rb") as handle:
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
        handle = path.open("wb")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_nlink:
                break
        except BlockingIOError:
            if not attempt:
                raise
            time.sleep(0.01)
        handle.close()
    return handle
