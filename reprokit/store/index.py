"""What can be known faster than by looking: where objects lie, which were verified, and the hashes of source files.

Kept in `<cache>/index/<registry uuid>.sqlite`, never in the registry, and never needed: any trouble with the file means
an index in memory, made anew from the packs' own directories. What it says of places is used only for packs that exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

from reprokit.store.packs import Member

__all__ = ["Index", "PackPlace"]

_VERSION = 3
_SCHEMA = """
create table packs (id integer primary key, name text unique not null);
create table places (digest blob not null, pack integer not null, offset integer not null, size integer not null,
    primary key (digest, pack)) without rowid;
create table sources (folder text primary key, digest blob not null, facts blob not null) without rowid;
create table verified (object text primary key, stamp text not null) without rowid;
"""
_BATCH = 500

PackPlace = tuple[str, Member]
_T = TypeVar("_T")


class Index:
    """See the module. Safe for several threads and processes; a forked child opens its own."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._owner = 0

    def places(self, digests: Iterable[bytes], packs: Set[str]) -> dict[bytes, PackPlace]:
        """Return where in these packs the objects of these digests (32 bytes each) lie, as far as it is known."""
        wanted = list(digests)

        def look(database: sqlite3.Connection) -> dict[bytes, PackPlace]:
            found: dict[bytes, PackPlace] = {}
            query = "select digest, name, offset, size from places join packs on packs.id = places.pack where digest in"
            for digest, name, offset, size in _among(database, query, wanted):
                if name in packs:
                    found[digest] = (name, Member(offset, size))
            return found

        return self._do(look)

    def clear(self) -> None:
        """Forget where objects lie."""

        def clear(database: sqlite3.Connection) -> None:
            with database:
                database.execute("delete from places")
                database.execute("delete from packs")

        self._do(clear)

    def packs(self) -> set[str]:
        """Return the names of the packs whose members are known."""
        return self._do(lambda database: {name for (name,) in database.execute("select name from packs")})

    def members(self) -> dict[str, dict[bytes, Member]]:
        """Return what lies where in every pack whose members are known."""

        def look(database: sqlite3.Connection) -> dict[str, dict[bytes, Member]]:
            found: dict[str, dict[bytes, Member]] = {name: {} for (name,) in database.execute("select name from packs")}
            query = "select name, digest, offset, size from places join packs on packs.id = places.pack"
            for name, digest, offset, size in database.execute(query):
                found[name][digest] = Member(offset, size)
            return found

        return self._do(look)

    def add_pack(self, name: str, members: Mapping[bytes, Member]) -> None:
        """Remember a pack's members; one that is known already stays as it is."""

        def add(database: sqlite3.Connection) -> None:
            with database:
                added = database.execute("insert or ignore into packs (name) values (?)", (name,))
                if added.rowcount:
                    rows = sorted((raw, added.lastrowid, offset, size) for raw, (offset, size) in members.items())
                    database.executemany("insert or replace into places values (?, ?, ?, ?)", rows)

        self._do(add)

    def drop_packs(self, names: Iterable[str]) -> None:
        """Forget packs that are gone."""
        gone = [(name,) for name in names]

        def drop(database: sqlite3.Connection) -> None:
            with database:
                database.executemany("delete from places where pack in (select id from packs where name = ?)", gone)
                database.executemany("delete from packs where name = ?", gone)

        if gone:
            self._do(drop)

    def source(self, folder: str) -> bytes | None:
        """Return what was kept of a source folder, or None if nothing whole was."""
        row = self._do(
            lambda database: database.execute(
                "select digest, facts from sources where folder = ?", (folder,)
            ).fetchone()
        )
        if row is None or hashlib.sha256(row[1]).digest() != row[0]:
            return None
        return bytes(row[1])

    def keep_source(self, folder: str, facts: bytes) -> None:
        """Keep what is known of a source folder."""

        def keep(database: sqlite3.Connection) -> None:
            with database:
                database.execute(
                    "insert or replace into sources values (?, ?, ?)", (folder, hashlib.sha256(facts).digest(), facts)
                )

        self._do(keep)

    def verified(self, objects: Iterable[str]) -> dict[str, str]:
        """Return what `keep_verified` kept of these objects."""
        wanted = list(objects)

        def look(database: sqlite3.Connection) -> dict[str, str]:
            return dict(_among(database, "select object, stamp from verified where object in", wanted))

        return self._do(look)

    def keep_verified(self, stamps: Mapping[str, str]) -> None:
        """Remember that objects were verified when their files had these stamps."""

        def keep(database: sqlite3.Connection) -> None:
            with database:
                database.executemany("insert or replace into verified values (?, ?)", sorted(stamps.items()))

        self._do(keep)

    def _do(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._lock:
            try:
                return action(self._open())
            except sqlite3.Error:
                self._give_up()
                return action(self._open())

    def _give_up(self) -> None:
        """Go on in memory; a file that is no database, or of another form, is removed for the next time."""
        if self._file is not None and not _is_busy(self._file):
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    self._file.with_name(self._file.name + suffix).unlink()
        self._file = None
        self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is not None and self._owner == os.getpid():
            return self._database
        self._owner = os.getpid()
        if self._file is None:
            self._database = sqlite3.connect(":memory:", check_same_thread=False)
            self._database.executescript(_SCHEMA)
            return self._database
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._file, timeout=5, check_same_thread=False)
        _prepare(database)
        self._database = database
        return database


def _among(database: sqlite3.Connection, query: str, wanted: Sequence[Any]) -> Iterator[Any]:
    """Yield the rows of a query that ends in `in`, for values of any number: SQLite takes some hundred at once."""
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        yield from database.execute(f"{query} ({','.join('?' * len(batch))})", batch)


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = off")  # what a crash of the machine leaves is compared with the packs
    if _version(database) != _VERSION:
        with contextlib.closing(database.cursor()) as cursor:
            cursor.execute("begin immediate")
            if _version(database) != _VERSION:  # else another process made it meanwhile
                for table in ("packs", "places", "sources", "verified"):
                    cursor.execute(f"drop table if exists {table}")
                for statement in _SCHEMA.split(";")[:-1]:
                    cursor.execute(statement)
                cursor.execute(f"pragma user_version = {_VERSION}")
            cursor.execute("commit")


def _version(database: sqlite3.Connection) -> Any:
    return database.execute("pragma user_version").fetchone()[0]


def _is_busy(file: Path) -> bool:
    """True if the file is a sound database that somebody else is writing: it must not be removed."""
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as database:
            database.execute("select count(*) from packs").fetchone()
    except sqlite3.OperationalError as error:
        return "locked" in str(error) or "busy" in str(error)
    except sqlite3.Error:
        return False
    return True
