"""What is known of installed files, by stat, so that it need not be read again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reprokit.core.atomic_files import durable_write
from reprokit.core.canonical_json import canonical, sha256_of

__all__ = ["Memory", "marks"]


class Memory:
    """Facts about files, by stat. Any trouble with it means doing without."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._dirty = False
        self._rows: dict[str, Any] = {}
        if file is not None:
            try:
                stored = json.loads(file.read_bytes())
                if stored["check"] == sha256_of(stored["rows"]):
                    self._rows = stored["rows"]
            except (OSError, ValueError, KeyError, TypeError):
                pass

    def get(self, path: str, seen: os.stat_result) -> Any:
        """Return what was noted of a file, None if nothing was or if it has changed since."""
        row = self._rows.get(path)
        return row["facts"] if row is not None and row["stat"] == marks(seen) else None

    def last(self, path: str) -> Any:
        """Return what was noted of a file last, whatever became of it since; None if nothing was."""
        row = self._rows.get(path)
        return row["facts"] if row is not None else None

    def put(self, path: str, seen: os.stat_result, facts: Any) -> None:
        """Note facts of a file as it was when `seen` was taken, before it was read."""
        self._rows[path] = {"stat": marks(seen), "facts": facts}
        self._dirty = True

    def save(self) -> None:
        if self._file is None or not self._dirty:
            return
        try:
            durable_write(self._file, canonical({"check": sha256_of(self._rows), "rows": self._rows}), sync=False)
        except OSError:
            pass


def marks(seen: os.stat_result) -> list[int]:
    """Return what moves when a file is changed; the time of its change (ctime) is one that nobody sets by hand."""
    return [seen.st_size, seen.st_mtime_ns, seen.st_ino, seen.st_ctime_ns, seen.st_dev]
