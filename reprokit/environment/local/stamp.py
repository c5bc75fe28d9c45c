"""What moves when a file of some folders is changed, added or removed, in one digest: by stat, nothing is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator

__all__ = ["Folders", "Mark", "Stamp"]

Folders = list[tuple[str, list[str]]]
"""Folders, and the names in each that count beside the folder itself."""

Mark = tuple[int, int, int]
"""Of a file: bytes, inode, and when it was changed (ctime) in ns since 1970."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GONE = (0, 0, 0)
_BITS = 2**64 - 1


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

    def add(self, folders: Iterable[tuple[str, list[str]]]) -> None:
        """Look at folders and files, in that order: as `walk` did if all is as it was."""
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
