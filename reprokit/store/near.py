"""How much of a far registry stays near: what was not used for longest goes when it becomes more than the limit."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from reprokit.store.objects import ObjectStore

__all__ = ["NearLimit", "trim"]

_YOUNG = 3600.0  # seconds; what came lately may be about to be sent, or read
_LEAVES = 0.8  # of the limit, so that it is not done again at once
_AT_ONCE = 1024 * 1024 * 1024  # bytes that come before it is looked
_DAY = 24 * 3600.0  # seconds after which it is looked in any case
_MARK = "trimmed"


class NearLimit:
    """Looks from time to time whether what is near is too much."""

    def __init__(self, near: ObjectStore, limit: int) -> None:
        """Watch a store.

        Args:
            limit: Bytes; 0 keeps everything.
        """
        self._near = near
        self._limit = limit
        self._came = 0
        self._looked = False

    def grown(self, size: int) -> None:
        """Take note of bytes that came, and make room if it is time to look."""
        self._came += size
        if not self._limit or not self._came:
            return
        if self._came < min(self._limit // 10, _AT_ONCE) and (self._looked or not self._is_due()):
            return
        self._came, self._looked = 0, True
        with contextlib.suppress(OSError):  # the next time
            trim(self._near, self._limit)
            mark = self._near.root / _MARK
            mark.touch()
            os.utime(mark)

    def _is_due(self) -> bool:
        self._looked = True
        try:
            return time.time() - (self._near.root / _MARK).stat().st_mtime > _DAY
        except OSError:
            return True


def trim(near: ObjectStore, limit: int) -> int:
    """Remove packs and objects that were not used for longest, until what is left is well below the limit.

    Returns:
        The bytes that were removed.
    """
    files = [(path, seen) for path in _files(near.root) if (seen := _stat(path)) is not None]
    total = sum(seen.st_size for _, seen in files)
    if total <= limit:
        return 0
    before, removed = time.time() - _YOUNG, 0
    with near.alone():
        for path, seen in sorted(files, key=lambda one: max(one[1].st_atime, one[1].st_mtime)):
            if total - removed <= limit * _LEAVES or max(seen.st_atime, seen.st_mtime) > before:
                break
            path.unlink(missing_ok=True)
            removed += seen.st_size
        near.catalogue()
    return removed


def _files(root: Path) -> Iterator[Path]:
    for folder in ("packs", "objects"):
        for base, _, names in os.walk(root / folder):
            yield from (Path(base) / name for name in names)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
