"""The objects of a registry in a folder: large ones loose, small ones in packs; verified whenever they are read."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from reprokit.core.digest import CHUNKED, Digest, copy_hashed, hash_bytes
from reprokit.core.regular_files import open_lock, open_regular, read_regular
from reprokit.core.safe_json import load_json
from reprokit.core.scratch import ALL, LONG, abandoned
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.index import Index, PackPlace
from reprokit.store.packs import MAX_BYTES, PACK_NAME, SMALL, Member, Pack

__all__ = ["TEMPORARY", "ObjectStore", "corrupt", "hint_of", "is_digest_of", "parse_hint", "purged_sentence"]

_OPEN_PACKS = 256
_ATTEMPTS = 5
_MAX_TOMBSTONE = 1024 * 1024
_FRESH = 3600  # seconds; what was touched longer ago is touched again when it is reused
TEMPORARY = "tmp"
LOCK = "lock"


def hint_of(pack: str, member: Member) -> str:
    """Return the physical key of an object in a pack."""
    return f"packs/{pack}.zip#{member.offset},{member.size}"


def parse_hint(hint: str) -> PackPlace | None:
    """Return the place that a physical key names, None if it names no pack. It may lie: verify what is there."""
    path, sign, place = hint.partition("#")
    offset, comma, size = place.partition(",")
    name = path[6:-4]
    if (
        path[:6] != "packs/"
        or path[-4:] != ".zip"
        or not (sign and comma and offset.isdecimal() and size.isdecimal() and offset.isascii() and size.isascii())
        or not PACK_NAME.fullmatch(name)
    ):
        return None
    return name, Member(int(offset), int(size))


class ObjectStore:
    """`objects/<algorithm>/<2 hex>/<rest>`, `packs/<hex>.zip`, and `tmp/` for what is neither yet."""

    def __init__(self, root: Path, index: Index, *, pack_bytes: int = MAX_BYTES, durable: bool = True) -> None:
        """Use a folder.

        Args:
            pack_bytes: What a pack holds, but for its last member.
            durable: What was stored outlives a crash of the machine; a cache need not.
        """
        self.root = root
        self.durable = durable
        self.pack_bytes = pack_bytes
        self.index = index
        self._open: OrderedDict[str, Pack] = OrderedDict()
        self._lock = threading.Lock()

    # places

    def loose_path(self, digest: Digest) -> Path:
        hexadecimal = digest.hex
        return self.root / "objects" / digest.type / hexadecimal[:2] / hexadecimal[2:]

    def pack_path(self, name: str) -> Path:
        return self.root / "packs" / f"{name}.zip"

    def pack_names(self) -> set[str]:
        """Return the packs that are there now."""
        try:
            names = os.listdir(self.root / "packs")
        except FileNotFoundError:
            return set()
        return {name[:-4] for name in names if name.endswith(".zip") and PACK_NAME.fullmatch(name[:-4])}

    def loose(self) -> Iterator[tuple[Digest, Path]]:
        """Yield every loose object."""
        base = self.root / "objects"
        for kind in _listdir(base):
            for start in _listdir(base / kind):
                for rest in _listdir(base / kind / start):
                    if PACK_NAME.fullmatch(start + rest):
                        yield Digest.named(kind, start + rest), base / kind / start / rest

    def catalogue(self) -> set[str]:
        """Bring the index up to date with the packs that are there, and return those that are in it.

        A damaged pack is left out: nothing is in it.
        """
        there = self.pack_names()
        known = self.index.packs()
        self.index.drop_packs(known - there)
        listed = known & there
        for name in sorted(there - known):
            with suppress(FileNotFoundError, DataMismatchError):
                self.index.add_pack(name, self.pack(name).members)
                listed.add(name)
        return listed

    def find(self, digests: Iterable[Digest]) -> dict[Digest, PackPlace]:
        """Return where objects lie in packs, for those that do; only packs that exist are named."""
        wanted = {digest.raw: digest for digest in digests if digest.type == CHUNKED}
        if not wanted:
            return {}
        for _ in range(_ATTEMPTS):
            there = self.pack_names()
            if not there:
                return {}
            listed = self.index.packs()
            if there != listed:
                listed = self.catalogue()
            found = self.index.places(wanted, there)
            if len(found) == len(wanted) or self.index.packs() == listed:
                break  # else the index was lost meanwhile, or somebody who saw other packs changed it
        else:
            found |= {raw: place for raw in wanted.keys() - found.keys() for place in self._copies(raw)}
        return {wanted[raw]: place for raw, place in found.items() if raw in wanted}  # a damaged index adds some

    def locate(self, manifest: Manifest) -> Manifest:
        """Return the version with the physical key of each entry's object, which exists.

        A key that an entry carries is kept if the pack it names exists: packs do not change.

        Raises:
            NotFoundError: One is in no pack and not loose; the first such entry is named.
        """
        packs = self.pack_names()
        places = list(manifest.places)
        named = {place[6:70] for place in places if place[:6] == "packs/"}
        for name in named & packs:
            self.freshen(self.pack_path(name))
        if named <= packs and all(place[:6] == "packs/" for place in places):
            return manifest
        missing: dict[int, Digest] = {}
        for position, place in enumerate(places):
            if place[:6] == "packs/" and place[6:70] in packs:
                continue
            entry = manifest.entries[position]
            if self.is_loose(entry.digest, entry.size):
                path = self.loose_path(entry.digest)
                self.freshen(path)
                places[position] = path.relative_to(self.root).as_posix()
            else:
                missing[position] = entry.digest
        found = self.find(missing.values())
        for position, digest in missing.items():
            entry = manifest.entries[position]
            there = found.get(digest)
            if there is None or there[1].size != entry.size:
                raise NotFoundError(
                    f"The object of {entry.logical_key!r} ({digest.hex[:12]}…, {entry.size:,} bytes) "
                    f"is not in {self.root}.",
                    hint="Build the version again.",
                )
            places[position] = hint_of(*there)
        return manifest.placed(places)

    def has(self, digest: Digest, size: int) -> bool:
        """True if an object of that digest and length is there; its bytes are not read."""
        if self.is_loose(digest, size):
            return True
        place = self.find([digest]).get(digest)
        return place is not None and place[1].size == size

    def is_loose(self, digest: Digest, size: int) -> bool:
        """True if an object of that digest and length is there as a file of its own."""
        if size < SMALL and digest.type == CHUNKED:
            return False
        try:
            return self.loose_path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    # reading

    def pack(self, name: str) -> Pack:
        """Return an open pack.

        Raises:
            FileNotFoundError: It is gone.
            DataMismatchError: It is too short to be one.
        """
        with self._lock:
            pack = self._open.get(name)
            if pack is not None:
                self._open.move_to_end(name)
                return pack
        pack = Pack(self.pack_path(name))
        with self._lock:
            self._open[name] = pack
            while len(self._open) > _OPEN_PACKS:
                self._open.popitem(last=False)
        return pack

    def read(self, entry: Entry, *, what: str) -> bytes:
        """Return an entry's bytes, verified; for objects that fit in memory."""
        for place in self._places(entry):
            for _ in range(2):
                data = self._from_pack(place)
                if data is not None and is_digest_of(data, entry.digest):
                    return data
                self.close_pack(place[0])  # it may have been restored since it was opened
        with self.loose_file(entry, what) as handle:
            data = handle.read(entry.size + 1)
        found = hash_bytes(data, entry.digest.type)
        if found != entry.digest:
            raise corrupt(what, entry.digest, found)
        return data

    def copy_to(self, entry: Entry, sink: BinaryIO | None, *, what: str) -> None:
        """Copy an entry's bytes to `sink` (None: nowhere), verified on the way; the caller discards `sink` on error."""
        if entry.size < SMALL:
            data = self.read(entry, what=what)
            if sink is not None:
                sink.write(data)
            return
        with self.loose_file(entry, what) as handle:
            found, length = copy_hashed(handle, sink, entry.size, entry.digest.type)
        if found != entry.digest or length != entry.size:
            raise corrupt(what, entry.digest, found)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        """Return part of an object, unverified: the caller checks it against a digest of that part."""
        if entry.size < SMALL:
            return self.read(entry, what=what)[offset : offset + length]
        with self.loose_file(entry, what) as handle:
            handle.seek(offset)
            return handle.read(length)

    def _places(self, entry: Entry) -> Iterator[PackPlace]:
        """Yield where the entry's bytes may lie: where its key says, the index says, and every pack's directory says.

        The next is asked for only where the one before did not have them.
        """
        if entry.size >= SMALL or entry.digest.type != CHUNKED:
            return
        tried: set[PackPlace] = set()
        hinted = parse_hint(entry.physical_keys[0]) if entry.physical_keys else None
        if hinted is not None and hinted[1].size == entry.size:
            tried.add(hinted)
            yield hinted
        found = self.find([entry.digest]).get(entry.digest)
        if found is None:
            return
        while found is not None and found not in tried:  # anew each time: gc may have moved it
            tried.add(found)
            if found[1].size == entry.size:
                yield found
            found = self.find([entry.digest]).get(entry.digest)
        for place in self._copies(entry.digest.raw):
            if place not in tried and place[1].size == entry.size:
                yield place

    def _copies(self, raw: bytes) -> Iterator[PackPlace]:
        """Yield every place of an object, by the directories of the packs that are there now."""
        for name in sorted(self.pack_names()):
            with suppress(FileNotFoundError, DataMismatchError):
                member = self.pack(name).members.get(raw)
                if member is not None:
                    yield name, member

    def _from_pack(self, place: PackPlace) -> bytes | None:
        name, member = place
        try:
            return self.pack(name).read(*member)
        except (FileNotFoundError, DataMismatchError):
            return None

    def loose_file(self, entry: Entry, what: str) -> BinaryIO:
        """Open a loose object of the entry's size, or say why there is nothing to open."""
        try:
            handle = open_regular(self.loose_path(entry.digest))
        except FileNotFoundError:
            pass
        else:
            if (size := os.fstat(handle.fileno()).st_size) == entry.size:
                return handle
            handle.close()
            raise corrupt(what, entry.digest, f"{size:,} bytes instead of {entry.size:,}")
        purged = self.tombstone(entry.digest)
        if purged is not None:
            raise PurgedError(f"{what}: its object {entry.digest.hex[:12]}… is gone. {purged}")
        for name, member in self._places(entry):
            data = self._from_pack((name, member))
            if data is not None:
                raise corrupt(what, entry.digest, hash_bytes(data, entry.digest.type))
        raise NotFoundError(
            f"{what}: its object {entry.digest.hex[:12]}… is missing from {self.root}.",
            hint="Restore it from another copy of the registry; `reprokit verify REF` lists all that is missing.",
        )

    # upkeep

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold off gc and purge while something is reused or published: what was found there stays there."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off everybody who publishes."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with open_lock(self.root / LOCK) as handle:
            fcntl.flock(handle, how)
            yield

    def tombstone_path(self, digest: Digest) -> Path:
        return self.root / "tombstones" / f"{digest.type}-{digest.hex}.json"

    def purged(self) -> set[tuple[str, str]]:
        """Return type and hex digest of every object that was erased for good."""
        found = set()
        for name in _listdir(self.root / "tombstones"):
            kind, _, digest = name.removesuffix(".json").rpartition("-")
            found.add((kind, digest))
        return found

    def tombstone(self, digest: Digest) -> str | None:
        """Return when and why an object was erased, as a sentence; None if it was not."""
        path = self.tombstone_path(digest)
        try:
            stone = load_json(read_regular(path, max_bytes=_MAX_TOMBSTONE), what=str(path), max_bytes=_MAX_TOMBSTONE)
        except FileNotFoundError:
            return None
        return purged_sentence(stone)

    def close_pack(self, name: str) -> None:
        """Forget an open pack; who still reads it keeps it."""
        with self._lock:
            self._open.pop(name, None)

    def abandoned(self, *, thorough: bool = False) -> Iterator[Path]:
        """Yield the temporary folders whose owner has died; nobody becomes the owner while the caller has one.

        Args:
            thorough: Also those that another machine made lately, if nobody is seen to hold them.
        """
        return abandoned(self.root / TEMPORARY, elsewhere=ALL if thorough else LONG)

    def freshen(self, path: Path) -> bool:
        """Make an object or pack that is used again look new, so that gc leaves it; False if it is not there.

        Holds only while the `shared` lock is held: gc looks at the time and removes with the lock to itself.
        """
        try:
            if path.stat().st_mtime < time.time() - _FRESH:
                os.utime(path)
        except FileNotFoundError:
            return False
        except PermissionError:  # somebody else's, readable to us
            pass
        return True


def is_digest_of(data: bytes | memoryview, digest: Digest) -> bool:
    """True if `data` has that digest; fast for small objects."""
    if digest.type == CHUNKED and 0 < len(data) < SMALL:
        return sha256(sha256(data).digest()).digest() == digest.raw
    return hash_bytes(data, digest.type) == digest


def corrupt(what: str, expected: Digest, found: Digest | str) -> DataMismatchError:
    read = found if isinstance(found, str) else f"{found.hex[:12]}…"
    return DataMismatchError(
        f"{what} is corrupt: expected {expected.hex[:12]}…, read {read}.",
        hint="Nothing of it was used. Restore the object from another copy of the registry, or list what it affects: "
        f"`reprokit verify --uses {expected.hex[:12]}`.",
    )


def purged_sentence(stone: object) -> str:
    """Return what a tombstone says."""
    said = stone if isinstance(stone, dict) else {}
    return f"It was purged on {said.get('time')} by {said.get('writer')}: {said.get('reason')}."


def _listdir(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
