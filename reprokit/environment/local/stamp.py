"""What moves when a file of some folders is changed, added or removed, in one digest: by stat, nothing is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

__all__ = ["Folders", "Mark", "Stamp"]

Folders = list[tuple[str, list[str]]]
"""Folders, and the names in each that count beside the folder itself."""

Mark = tuple[int, int, int]
"""Of a file: bytes, inode, and when it was changed (ctime) in ns since 1970."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GONE = (0, 0, 0)
_BITS = 2**64 - 1
_SHARE = 10_000  # files that are worth a process
_MOST = 4  # processes


class Stamp:
    """See the module. The time of a change (ctime) is one that nobody sets by hand."""

    def __init__(self) -> None:
        self._marks = array("Q")

    def walk(self, folder: str, seen: dict[str, Mark] | None = None) -> Folders:
        """Look at a folder and all below it, no link followed, and return them, each with what is no folder in it.

        Args:
            seen: Filled with the marks of the files that are there, by path.
        """
        found: Folders = []
        pending = [folder]
        while pending:
            place = pending.pop()
            names: list[str] = []
            found.append((place, names))
            with self._open(place) as descriptor:
                if descriptor is None:
                    continue
                with os.scandir(descriptor) as children:
                    for child in children:
                        if child.is_dir(follow_symlinks=False):
                            pending.append(f"{place}/{child.name}")
                            continue
                        names.append(child.name)
                        one = self._mark(child.name, descriptor)
                        if one is not None and seen is not None:
                            seen[f"{place}/{child.name}"] = one
        return found

    def add(self, folders: Sequence[tuple[str, list[str]]]) -> None:
        """Look at folders and files, in that order: as `walk` did if all is as it was.

        Many are shared out to processes, since most of the time goes into the kernel's answers, and threads of Python
        would wait for each other between them. Where there are other threads, which a fork would not bring along, this
        one looks at all.
        """
        count = sum(len(names) for _, names in folders)
        shares = min(os.cpu_count() or 1, count // _SHARE, _MOST)
        if shares < 2 or threading.active_count() > 1:
            self._look(folders)
            return
        size = -(-len(folders) // shares)
        parts = [folders[start : start + size] for start in range(0, len(folders), size)]
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(_looking(part)) for part in parts[1:]]
            self._look(parts[0])
            for part, told in zip(parts[1:], others, strict=True):
                marks = told.read()
                if len(marks) == self._marks.itemsize * 3 * sum(1 + len(names) for _, names in part):
                    self._marks.frombytes(marks)
                else:  # it was killed
                    self._look(part)

    def _look(self, folders: Iterable[tuple[str, list[str]]]) -> None:
        for folder, names in folders:
            with self._open(folder) as descriptor:
                if descriptor is not None:
                    for name in names:
                        self._mark(name, descriptor)

    @contextlib.contextmanager
    def _open(self, folder: str) -> Iterator[int | None]:
        try:
            descriptor = os.open(folder, _DIRECTORY)
        except OSError:
            self._marks.extend(_GONE)
            yield None
            return
        try:
            there = os.fstat(descriptor)
            self._marks.extend((there.st_dev & _BITS, there.st_ino & _BITS, there.st_ctime_ns & _BITS))
            yield descriptor
        finally:
            os.close(descriptor)

    def _mark(self, name: str, folder: int) -> Mark | None:
        try:
            one = os.stat(name, dir_fd=folder)
        except OSError:
            self._marks.extend(_GONE)
            return None
        mark = (one.st_size, one.st_ino & _BITS, one.st_ctime_ns & _BITS)
        self._marks.extend(mark)
        return mark

    @property
    def digest(self) -> str:
        """SHA-256 in hex."""
        return hashlib.sha256(self._marks).hexdigest()

    @property
    def newest(self) -> int:
        """When the youngest of them was changed, in ns since 1970."""
        return max(self._marks[2::3], default=0)


@contextlib.contextmanager
def _looking(folders: Iterable[tuple[str, list[str]]]) -> Iterator[BinaryIO]:
    """Look at folders in a process of its own, and give what its marks are read from."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(source)
            stamp = Stamp()
            stamp._look(folders)
            with os.fdopen(sink, "wb") as pipe:
                pipe.write(stamp._marks)
        os._exit(0)
    os.close(sink)
    try:
        with os.fdopen(source, "rb") as pipe:
            yield pipe
    finally:
        os.waitpid(child, 0)
