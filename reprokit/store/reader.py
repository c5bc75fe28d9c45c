"""Read many entries of one version: each verified the first time, and after that as long as its file's stat stays."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Sequence
from hashlib import sha256
from os import pread
from typing import Protocol

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import hash_view
from reprokit.errors import DataMismatchError
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.mapping import MappedFile, map_loose
from reprokit.store.objects import ObjectStore, corrupt
from reprokit.store.packs import PACK_NAME, SMALL, Pack

__all__ = ["PackReader", "Reader"]

_ATTEMPTS = 3


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

    def view(self, position: int) -> bytes | memoryview:
        """Return the verified bytes, without a copy where they lie in a mapped file: see `unchanged` of `mapping`."""
        return self.read(position)

    def views(self, positions: Sequence[int], *, own: bool = False) -> list[memoryview]:
        """Return the verified bytes of several entries at once; what the machine remembers as verified is not reread.

        Args:
            own: Give memory that the caller may write to, which changes nothing but that memory.
        Raises:
            DataMismatchError, NotFoundError, RegistryError: As `read`, for the first entry that is not well.
        """
        found = (self.view(position) for position in positions)
        return [memoryview(bytearray(data) if own else data) for data in found]


class PackReader(Reader):
    """Reads straight from mapped packs. Safe for several threads, and in a forked child."""

    def __init__(self, store: ObjectStore, manifest: Manifest, *, what: str) -> None:
        super().__init__(store.read, manifest, what=what)
        self._store = store
        self._packs: dict[str, Pack] = {}
        self._loose: dict[int, MappedFile] = {}
        places, self._values, self._sizes = manifest.columns()
        self._places = list(places)
        self._verified: list[tuple[Pack, int, int] | None] = [None] * len(self._sizes)

    def read(self, position: int) -> bytes:
        known = self._verified[position]
        if known is not None and known[0].unchanged():
            return known[0].map[known[1] : known[2]]
        place = self._places[position]  # packs/<64 hex>.zip#<offset>,<length>
        size = self._sizes[position]
        pack = (self._packs.get(place[:74]) or self._pack(place[:74])) if size < SMALL else None
        if pack is not None:
            offset = place[75:].partition(",")[0]
            start = int(offset) if offset.isdecimal() and len(offset) < 12 else 0
            data = pread(pack.fd, size, start)  # not from the map: a page that was cut off would end the process
            if data and sha256(sha256(data).digest()).digest() == a2b_base64(self._values[position]):
                self._verified[position] = pack, start, start + size
                return data
        if size >= SMALL:
            return bytes(self.view(position))
        return self._slowly(position)

    def _pack(self, name: str) -> Pack | None:
        if name[:6] != "packs/" or name[70:] != ".zip" or not PACK_NAME.fullmatch(name, 6, 70):
            return None
        try:
            pack = self._store.pack(name[6:70])
        except (OSError, DataMismatchError):
            return None  # the slow way finds the object elsewhere, or says what is wrong
        self._packs[name] = pack
        return pack

    def _slowly(self, position: int) -> bytes:
        entry = self._manifest.entries[position]
        what = f"{entry.logical_key} of {self._what}"
        with os_errors(f"Reading {what}"):
            return self._store.read(entry, what=what)

    def view(self, position: int) -> bytes | memoryview:
        if self._sizes[position] < SMALL:
            return self.read(position)
        known = self._loose.get(position)
        if known is None or not known.unchanged():
            entry = self._manifest.entries[position]
            what = f"{entry.logical_key} of {self._what}"
            with os_errors(f"Reading {what}"), self._store.loose_file(entry, what) as handle:
                known = MappedFile.of(handle)
            for _ in range(_ATTEMPTS):
                found = hash_view(memoryview(known), entry.digest.type)
                if found != entry.digest or len(known) != entry.size:
                    raise corrupt(what, entry.digest, found)
                if known.unchanged():
                    break
                known.seen = known.stamp()  # as when somebody who uses it again makes it look new for gc
            else:
                raise corrupt(what, entry.digest, "what changes all the time")
            self._loose[position] = known
        return memoryview(known)

    def views(self, positions: Sequence[int], *, own: bool = False) -> list[memoryview]:
        large = [position for position in positions if self._sizes[position] >= SMALL]
        entries = [self._manifest.entries[position] for position in large]
        found = dict(zip(large, map_loose(self._store, entries, what=self._what, own=own), strict=True))
        for position in positions:
            if position not in found:
                data = self.read(position)
                found[position] = memoryview(bytearray(data) if own else data)
        return [found[position] for position in positions]
