"""What this machine saw of a registry's logs last: a history that got shorter since, or is another, shows against it.

A log proves its own order and nothing of its end: whoever takes its newest entries away leaves a sound chain. So the
last entry of each package that was read or written here is kept in `<home>/seen/<registry uuid>.sqlite`: not in the
registry, which others write to, and not in the cache, which may be emptied at any time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reprokit.errors import DataMismatchError

__all__ = ["Seen", "SeenLogs"]

_SCHEMA = """
create table if not exists seen (package text, place text, seq integer not null, digest text not null,
    time real not null, primary key (package, place)) without rowid
"""
_ALL = "select package, place, seq, digest, time from seen"
_ONE = f"{_ALL} where package = ?"
_PUT = (
    "insert into seen values (?, ?, ?, ?, ?) on conflict (package, place) do update set seq = excluded.seq, "
    "digest = excluded.digest, time = excluded.time where excluded.seq > seq"  # another process may have been faster
)


class Seen(NamedTuple):
    """The last entry of a package's log that this machine saw in one place.

    Attributes:
        place: The folder or URL that the registry was at.
        digest: SHA-256 of the entry's bytes.
        time: Seconds since 1970.
    """

    package: str
    place: str
    seq: int
    digest: str
    time: float


class SeenLogs:
    """See the module. Where the file cannot be written or read nothing is remembered, and nothing is said.

    What was seen in the place where the registry is decides. In a place that it was never seen in, as a copy of it is,
    its logs have to go on from what was seen in one of the others.
    """

    def __init__(self, file: Path, place: Path | str) -> None:
        """Remember in a file what was seen in a place: a folder, or a URL."""
        self.file = file
        self._place = place if isinstance(place, str) else os.path.realpath(place)
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._owner = 0
        self._known: dict[str, tuple[int, str]] = {}  # the newest entries that this process remembered

    def of(self, package: str) -> list[Seen]:
        """Return what decides on the log of a package; nothing if it was never seen."""
        return self._deciding(self._rows(_ONE, package))

    def check(self, package: str, digests: Sequence[str], seen: Sequence[Seen]) -> None:
        """Hold the whole log of a package, by the digests of its entries, against what was seen; then remember its end.

        Args:
            seen: What `of` said before the log was read: others may write to it meanwhile.
        Raises:
            DataMismatchError: It is shorter, or what was seen is not in it.
        """
        if seen and not any(one.seq <= len(digests) and digests[one.seq - 1] == one.digest for one in seen):
            last = max(seen, key=lambda one: one.seq)
            if len(digests) < last.seq:
                raise self._changed(f"got shorter: it ends with entry {len(digests)}", last)
            raise self._changed(f"was rewritten: entry {last.seq} is another", last)
        if digests and not any(one.place == self._place and one.seq >= len(digests) for one in seen):
            self._put(package, len(digests), digests[-1])

    def extend(self, package: str, seq: int, digest: str, digest_at: Callable[[int], str | None]) -> None:
        """Remember the newest entry of a log, unless it goes on from another history than the one that was seen.

        Args:
            digest_at: Returns the digest of an entry that is in the log now, None if it is not there.
        """
        if self._known.get(package) == (seq, digest):
            return
        seen = self.of(package)
        if not seen or any(digest_at(one.seq) == one.digest for one in seen):
            if not any((one.place, one.seq, one.digest) == (self._place, seq, digest) for one in seen):
                self._put(package, seq, digest)
            self._known[package] = seq, digest

    def gone(self, packages: Callable[[], Iterable[str]]) -> list[str]:
        """Say which packages were seen and are not there.

        Args:
            packages: Returns those that are there now.
        """
        known = {one.package: one for one in self._deciding(self._rows(_ALL))}
        return [self._changed("is gone", known[name]).message for name in sorted(known.keys() - set(packages()))]

    def _deciding(self, seen: list[Seen]) -> list[Seen]:
        return [one for one in seen if one.place == self._place] or seen

    def _changed(self, how: str, seen: Seen) -> DataMismatchError:
        day = time.strftime("%Y-%m-%d", time.gmtime(seen.time))
        return DataMismatchError(
            f"The history of {seen.package} {how}; this machine saw entry {seen.seq}, on {day} in {seen.place}.",
            hint="Compare with another copy of the registry. If an older one is in its place on purpose, remove "
            f"{self.file}: this machine forgets what it saw.",
        )

    def _rows(self, query: str, *values: str) -> list[Seen]:
        if not self.file.exists():
            return []
        rows = self._do(lambda database: database.execute(query, values).fetchall())
        return [Seen(*row) for row in rows or ()]

    def _put(self, package: str, seq: int, digest: str) -> None:
        def put(database: sqlite3.Connection) -> list[Any]:
            with database:
                database.execute(_PUT, (package, self._place, seq, digest, time.time()))
            return []

        self._do(put)

    def _do(self, action: Callable[[sqlite3.Connection], list[Any]]) -> list[Any] | None:
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            if self._database is None or self._owner != os.getpid():
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._owner = os.getpid()
                self._database = sqlite3.connect(self.file, timeout=5, check_same_thread=False)
                self._database.execute("pragma synchronous = off")
                self._database.execute(_SCHEMA)
            return action(self._database)
        return None
