"""Read many entries of one version: each verified the first time, and after that as long as its file's stat stays."""

from __future__ import annotations

from binascii import a2b_base64
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from reprokit.errors import DataMismatchError
from reprokit.manifest import Entry, Manifest
from reprokit.paths import os_errors
from reprokit.store.objects import ObjectStore
from reprokit.store.packs import PACK_NAME, SMALL, Pack

__all__ = ["PackReader", "Reader"]


class _ReadOne(Protocol):
    def __call__(self, entry: Entry, *, what: str) -> bytes: ...


class Reader:
    """Reads through a function that reads one entry, verified."""

    def __init__(self, read_one: _ReadOne, manifest: Manifest, *, what: str) -> None:
        self._read_one = read_one
        self._manifest = manifest
        self._what = what

    def read(self, position: int) -> bytes:
        """Return the verified bytes of the entry at a position of the manifest.

        Raises:
            DataMismatchError, NotFoundError, RegistryError: They are corrupt, missing, or cannot be read.
        """
        entry = self._manifest.entries[position]
        return self._read_one(entry, what=f"{entry.logical_key} of {self._what}")


class PackReader(Reader):
    """Reads straight from mapped packs. Safe for several threads, and in a forked child."""

    def __init__(self, store: ObjectStore, manifest: Manifest, *, what: str) -> None:
        super().__init__(store.read, manifest, what=what)
        self._store = store
        self._packs: dict[str, Pack] = {}
        self._verified: dict[int, tuple[Pack, int, int]] = {}
        self._loose: dict[int, tuple[int, int, int, int]] = {}
        self._places, self._values, self._sizes = manifest.columns()

    def read(self, position: int) -> bytes:
        known = self._verified.get(position)
        if known is not None and known[0].unchanged():
            pack, start, end = known
            return pack.map[start:end]
        pack_name, _, place = self._places[position].partition(".zip#")
        value = self._values[position]
        found = self._packs.get(pack_name) or self._pack(pack_name)
        if found is not None and value:
            offset = place.partition(",")[0]
            start = int(offset) if offset.isdecimal() else 0
            end = start + self._sizes[position]
            data = found.map[start:end]
            if data and sha256(sha256(data).digest()).digest() == a2b_base64(value):
                self._verified[position] = found, start, end
                return data
        return self._slowly(position)

    def _pack(self, name: str) -> Pack | None:
        if name[:6] != "packs/" or not PACK_NAME.fullmatch(name, 6):
            return None
        try:
            pack = self._store.pack(name[6:])
        except (OSError, DataMismatchError):
            return None  # the slow way finds the object elsewhere, or says what is wrong
        self._packs[name] = pack
        return pack

    def _slowly(self, position: int) -> bytes:
        entry = self._manifest.entries[position]
        what = f"{entry.logical_key} of {self._what}"
        with os_errors(f"Reading {what}"):
            if entry.size < SMALL:
                return self._store.read(entry, what=what)
            path = self._store.loose_path(entry.digest)
            before = _stamp(path)
            if before is not None and self._loose.get(position) == before:
                data = path.read_bytes()
                if _stamp(path) == before:
                    return data
            data = self._store.read(entry, what=what)
            if before is not None and _stamp(path) == before:
                self._loose[position] = before
            return data


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino
