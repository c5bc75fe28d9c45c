"""The objects of a registry in an object store, and what of them is near: a folder of the cache, verified.

    packs/<hex>.zip                            as in a folder, of some 64 MiB at most
    objects/<algorithm>/<2 hex>/<rest>         an object of 1 MiB or more
    objects/<algorithm>/<2 hex>/<rest>/<part>  one of more than 64 MiB, in parts of that size, 00000, 00001, …

What gc has condemned is never used again: it is stored anew, a pack with one member more, an object as `<rest>~1`.
Bytes that come are held against their digests before they are near; what is near is read as any folder of objects is.
"""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import BinaryIO, TypeVar

from reprokit.core.digest import CHUNKED, Digest, copy_hashed, hash_bytes
from reprokit.core.progress import SILENT, Progress
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError, RefusedError
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.index import Index, PackPlace
from reprokit.store.manifests import GENERATIONS
from reprokit.store.near import NearLimit
from reprokit.store.objects import ObjectStore, corrupt, hint_of, is_digest_of, parse_hint, purged_sentence
from reprokit.store.packs import PACK_NAME, SMALL, Member, directory_size, parse_directory
from reprokit.store.ranges import BLOCK, Piece, pieces_of, stream_of
from reprokit.store.staging import stage
from reprokit.store.storage import Storage

__all__ = ["PART", "RemoteObjects", "is_small", "object_of"]

PART = 64 * 1024 * 1024  # bytes; of a part, and of a pack but for its last member
_THREADS = 16
_AHEAD = 4  # blocks of an object that are on their way before they are asked for
_TAIL = 64 * 1024  # bytes; a pack's directory is often no longer
_RECENT = 64 * 1024 * 1024  # bytes of objects that were read one by one
_MAX_TOMBSTONE = 1024 * 1024
_OBJECT = re.compile(r"objects/([A-Za-z0-9-]+)/([0-9a-f]{2})/([0-9a-f]+)(?:~([1-7]))?(?:/[0-9]{5})?")
_TOMBSTONE = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{16,128}\.json")
_MANY = 64  # large objects; of more, all that are there are listed
_T = TypeVar("_T")
_R = TypeVar("_R")


class RemoteObjects:
    """See the module. Safe for several threads."""

    def __init__(self, storage: Storage, near: ObjectStore, index: Index, *, limit: int = 0) -> None:
        """Use a storage.

        Args:
            near: A folder of the cache, of this registry alone.
            index: Of what lies where in the storage; not that of `near`.
            limit: Bytes of it that stay near; 0 for all.
        """
        self.limit = NearLimit(near, limit)
        self.storage = storage
        self.near = near
        self.index = index
        self._recent: OrderedDict[Digest, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._stored: dict[tuple[Digest, int], int] = {}  # large ones that are there → their generation
        self._listed: set[str] | None = None  # packs that were there when it was last looked
        self._purged: set[tuple[str, str]] | None = None
        self.avoid: frozenset[str] = frozenset()  # keys that gc has condemned: no new version may name them
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="reprokit-fetch")

    # places

    def pack_key(self, name: str) -> str:
        return f"packs/{name}.zip"

    def object_key(self, digest: Digest, generation: int = 0) -> str:
        hexadecimal = digest.hex
        later = f"~{generation}" if generation else ""
        return f"objects/{digest.type}/{hexadecimal[:2]}/{hexadecimal[2:]}{later}"

    def parts(self, digest: Digest, size: int, generation: int = 0) -> list[tuple[str, int, int]]:
        """Return key, offset and length of each part of a large object; one that is not in parts is one."""
        key = self.object_key(digest, generation)
        if size <= PART:
            return [(key, 0, size)]
        return [(f"{key}/{at // PART:05d}", at, min(PART, size - at)) for at in range(0, size, PART)]

    def pack_names(self) -> set[str]:
        """Return the packs that are there now."""
        names = self.storage.names("packs")
        found = {name[:-4] for name in names if name.endswith(".zip") and PACK_NAME.fullmatch(name[:-4])}
        self._listed = set(found)
        return found

    @property
    def listed(self) -> set[str]:
        """The packs that were there when it was last looked."""
        return set(self._listed or ())

    def look_again(self, avoid: frozenset[str]) -> None:
        """Take note of what gc has condemned, and look anew for what is there when it is asked for next."""
        self.avoid = avoid
        self._listed = None
        self._purged = None
        self._stored.clear()

    def catalogue(self) -> set[str]:
        """Bring the index up to date with the packs that are there, and return those that are in it.

        A damaged pack is left out: nothing is in it.
        """
        there: dict[str, int] = {}
        for stored in self.storage.walk("packs"):
            name = stored.key[6:-4]
            if stored.key.endswith(".zip") and PACK_NAME.fullmatch(name):
                there[name] = stored.size
        self._listed = set(there)
        known = self.index.packs()
        self.index.drop_packs(known - there.keys())
        new = sorted(there.keys() - known)
        listed = known & there.keys()
        for name, members in zip(new, self._map(lambda name: self._directory(name, there[name]), new), strict=True):
            if members is not None:
                self.index.add_pack(name, members)
                listed.add(name)
        return listed

    def _directory(self, name: str, size: int) -> Mapping[bytes, Member] | None:
        key = self.pack_key(name)
        with suppress(FileNotFoundError, ValueError):
            tail = self.storage.read_range(key, max(0, size - _TAIL), min(_TAIL, size))
            length = directory_size(tail, size)
            if length > len(tail):
                tail = self.storage.read_range(key, size - length, length)
            if len(tail) >= length:
                return parse_directory(tail[-length:], size)
        return None

    def find(
        self, digests: Iterable[Digest], *, but: Container[str] = (), hasty: bool = False
    ) -> dict[Digest, PackPlace]:
        """Return where objects lie in packs, for those that do; only packs that exist are named.

        Args:
            but: Keys of packs that do not count.
            hasty: What came since it was last looked need not be found.
        """
        wanted = {digest.raw: digest for digest in digests if digest.type == CHUNKED}
        if not wanted:
            return {}
        looked = self._listed is None
        found = self._known(wanted, self._listed, but)
        if len(found) < len(wanted) and not (looked or hasty):
            found = self._known(wanted, self.pack_names(), but)
        return {wanted[raw]: place for raw, place in found.items() if raw in wanted}

    def _known(self, raws: Iterable[bytes], there: set[str] | None, but: Container[str]) -> dict[bytes, PackPlace]:
        if there is None or there - self.index.packs():
            there = self.catalogue()
        return self.index.places(raws, {name for name in there if self.pack_key(name) not in but} if but else there)

    def stored(self, objects: Iterable[tuple[Digest, int]]) -> dict[tuple[Digest, int], int]:
        """Return which objects of 1 MiB or more are there, whole by their lengths and not condemned.

        Returns:
            The generation of each.
        """
        asked = set(objects)
        known = {
            one: generation
            for one, generation in self._stored.items()
            if one in asked and not self._is_condemned(*one, generation)
        }
        unknown = sorted(asked - known.keys(), key=lambda one: (one[0].type, one[0].hex))
        if len(unknown) > _MANY:
            lengths = {one.key: one.size for one in self.storage.walk("objects")}
            found = [self._whole(*one, range(GENERATIONS), lambda _: lengths) for one in unknown]
        else:
            found = list(self._map(self._looked_for, unknown))
        known |= {one: generation for one, generation in zip(unknown, found, strict=True) if generation is not None}
        self._stored |= known
        return known

    def _is_condemned(self, digest: Digest, size: int, generation: int) -> bool:
        return bool(self.avoid) and any(key in self.avoid for key, _, _ in self.parts(digest, size, generation))

    def _looked_for(self, one: tuple[Digest, int]) -> int | None:
        found = self._whole(*one, (0,), self._lengths)
        if found is None:  # few have a later generation
            folder, _, name = self.object_key(one[0]).rpartition("/")
            listed = self.storage.names(folder, after=name)
            later = (int(rest) for rest in (_later(there, name) for there in listed) if rest)
            found = self._whole(*one, sorted(later), self._lengths)
        return found

    def _whole(
        self,
        digest: Digest,
        size: int,
        generations: Iterable[int],
        lengths_of: Callable[[list[str]], Mapping[str, int]],
    ) -> int | None:
        """Return the first of these generations of an object that is there whole, None if none is."""
        for generation in generations:
            if not self._is_condemned(digest, size, generation):
                parts = self.parts(digest, size, generation)
                lengths = lengths_of([key for key, _, _ in parts])
                if all(lengths.get(key) == length for key, _, length in parts):
                    return generation
        return None

    def _lengths(self, keys: list[str]) -> Mapping[str, int]:
        if len(keys) == 1:
            stored = self.storage.stat(keys[0])
            return {} if stored is None else {stored.key: stored.size}
        return {one.key: one.size for one in self.storage.walk(keys[0].rpartition("/")[0])}

    def free(self, digest: Digest, size: int) -> int:
        """Return the first generation that nothing of was condemned."""
        return next(number for number in range(GENERATIONS) if not self._is_condemned(digest, size, number))

    def sent(self, generations: Mapping[tuple[Digest, int], int]) -> None:
        """Take note of large objects that are there now."""
        self._stored |= generations

    def sent_pack(self, name: str, members: Mapping[bytes, Member]) -> None:
        """Take note of a pack that is there now."""
        self.index.add_pack(name, members)
        if self._listed is not None:
            self._listed.add(name)

    def lacking(self, objects: Iterable[tuple[Digest, int]]) -> list[tuple[Digest, int]]:
        """Return those that are not there."""
        asked = list(dict.fromkeys(objects))
        packed = self.find((digest for digest, size in asked if is_small(digest, size)), but=self.avoid, hasty=True)
        large = self.stored(one for one in asked if not is_small(*one))
        return [
            (digest, size)
            for digest, size in asked
            if ((digest, size) not in large if not is_small(digest, size) else not _fits(packed.get(digest), size))
        ]

    def locate(self, manifest: Manifest) -> Manifest:
        """Return the version with the physical key of each entry's object, which exists.

        Raises:
            NotFoundError: One is not there; the first such entry is named.
        """
        listed = self.pack_names() if self._listed is None else self._listed
        packs = {name for name in listed if self.pack_key(name) not in self.avoid}
        places = list(manifest.places)
        missing: list[int] = []
        for position, place in enumerate(places):
            if not (place[:6] == "packs/" and place[6:70] in packs):
                missing.append(position)
        entries = [manifest.entries[position] for position in missing]
        small = [entry.digest for entry in entries if is_small(entry.digest, entry.size)]
        found = self.find(small, but=self.avoid)
        large = self.stored((one.digest, one.size) for one in entries if not is_small(one.digest, one.size))
        for position, entry in zip(missing, entries, strict=True):
            there = found.get(entry.digest)
            if (entry.digest, entry.size) in large:
                places[position] = self.object_key(entry.digest, large[entry.digest, entry.size])
            elif there is not None and _fits(there, entry.size):
                places[position] = hint_of(*there)
            else:
                raise NotFoundError(
                    f"The object of {entry.logical_key!r} ({entry.digest.hex[:12]}…, {entry.size:,} bytes) "
                    f"is not in {self.storage.url}.",
                    hint="Build the version again.",
                )
        return manifest.placed(places)

    # reading

    def forget(self, digests: Iterable[Digest]) -> None:
        """Keep nothing of these objects in memory."""
        with self._lock:
            for digest in digests:
                data = self._recent.pop(digest, None)
                self._recent_bytes -= 0 if data is None else len(data)

    def read(self, entry: Entry, *, what: str) -> bytes:
        """Return an entry's bytes, verified; one request if they are not near."""
        with self._lock:
            data = self._recent.get(entry.digest)
            if data is not None and len(data) == entry.size:
                self._recent.move_to_end(entry.digest)
                return data
        if self.near.has(entry.digest, entry.size):
            with suppress(DataMismatchError, NotFoundError):  # what is near may be thrown away at any time
                return self.near.read(entry, what=what)
        data = self.read_anew(entry, what=what)
        with self._lock:
            if entry.digest not in self._recent and len(data) < SMALL:
                self._recent[entry.digest] = data
                self._recent_bytes += len(data)
                while self._recent_bytes > _RECENT:
                    self._recent_bytes -= len(self._recent.popitem(last=False)[1])
        return data

    def read_anew(self, entry: Entry, *, what: str) -> bytes:
        """Return an entry's bytes from the storage, verified."""
        if not is_small(entry.digest, entry.size):
            sink = io.BytesIO()
            self.copy_to(entry, sink, what=what, anew=True)
            return sink.getvalue()
        found: bytes | None = None
        for place in self._places(entry):
            with suppress(FileNotFoundError):
                data = self.storage.read_range(self.pack_key(place[0]), *place[1])
                if is_digest_of(data, entry.digest):
                    return data
                found = data
        raise self._lost(entry, found, what)

    def _places(self, entry: Entry) -> Iterator[PackPlace]:
        """Yield where the entry's bytes may lie: where its key says, then where the packs' directories say."""
        hinted = parse_hint(entry.physical_keys[0]) if entry.physical_keys else None
        if hinted is not None and hinted[1].size == entry.size:
            yield hinted
        for refresh in (False, True):
            if refresh:
                self.catalogue()
            place = self.find([entry.digest]).get(entry.digest)
            if place is not None and place != hinted and _fits(place, entry.size):
                yield place

    def _lost(self, entry: Entry, found: bytes | None, what: str) -> Exception:
        stone = self.tombstone(entry.digest)
        if stone is not None:
            return PurgedError(f"{what}: its object {entry.digest.hex[:12]}… is gone. {stone}")
        if found is not None:
            return corrupt(what, entry.digest, hash_bytes(found, entry.digest.type))
        return NotFoundError(
            f"{what}: its object {entry.digest.hex[:12]}… is missing from {self.storage.url}.",
            hint="Restore it from another copy of the registry; `reprokit verify REF` lists all that is missing.",
        )

    def tombstone_key(self, digest: Digest) -> str:
        return f"tombstones/{digest.type}-{digest.hex}.json"

    def purged_now(self) -> set[tuple[str, str]]:
        """Return kind and hex of every digest that a tombstone names."""
        found = {
            tuple(name.removesuffix(".json").rpartition("-")[::2])
            for name in self.storage.names("tombstones")
            if _TOMBSTONE.fullmatch(name)
        }
        self._purged = {(kind, hexadecimal) for kind, hexadecimal in found}
        return set(self._purged)

    def refuse_purged(self, digests: Iterable[Digest]) -> None:
        """Raise RefusedError for the first of these that was erased for good."""
        if self._purged is None:
            self.purged_now()
        for digest in digests:
            if (digest.type, digest.hex) in (self._purged or ()):
                raise RefusedError(
                    f"Object {digest.hex[:12]}… is not stored again. {self.tombstone(digest)}",
                    hint="Leave the file out, or remove the tombstone from the registry if it may be kept after all.",
                )

    def tombstone(self, digest: Digest) -> str | None:
        """Return when and why an object was erased, as a sentence; None if it was not."""
        key = self.tombstone_key(digest)
        try:
            raw = self.storage.read(key, max_bytes=_MAX_TOMBSTONE)
        except FileNotFoundError:
            return None
        return purged_sentence(load_json(raw, what=self.storage.name(key), max_bytes=_MAX_TOMBSTONE))

    def copy_to(self, entry: Entry, sink: BinaryIO | None, *, what: str, anew: bool = False) -> None:
        """Copy an entry's bytes to `sink` (None: nowhere), verified on the way.

        Args:
            anew: From the storage, though they may be near.
        """
        if not anew and sink is not None and self.near.has(entry.digest, entry.size):
            self.near.copy_to(entry, sink, what=what)
            return
        if is_small(entry.digest, entry.size):
            data = self.read_anew(entry, what=what) if anew or sink is None else self.read(entry, what=what)
            if sink is not None:
                sink.write(data)
            return
        found, length = copy_hashed(self._stream(entry, what), sink, entry.size, entry.digest.type)
        if found != entry.digest or length != entry.size:
            raise corrupt(what, entry.digest, found)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        """Return part of an object, unverified: the caller checks it against a digest of that part."""
        if self.near.has(entry.digest, entry.size):
            return self.near.read_range(entry, offset, length, what=what)
        if is_small(entry.digest, entry.size):
            return self.read(entry, what=what)[offset : offset + length]
        end = min(offset + length, entry.size)
        blocks = []
        for number, (_, start, size) in enumerate(self.parts(entry.digest, entry.size)):
            first, last = max(offset, start), min(end, start + size)
            if first < last:
                blocks.append(self._part(entry, number, first - start, last - first, what))
        return b"".join(blocks)

    def _part(self, entry: Entry, number: int, offset: int, length: int, what: str) -> bytes:
        """Return bytes of a part of a large object, of the generation that is there."""
        hinted = _generation(entry, self.object_key(entry.digest))
        for generation in sorted(range(GENERATIONS), key=lambda one: one != hinted):
            with suppress(FileNotFoundError):
                key = self.parts(entry.digest, entry.size, generation)[number][0]
                return self.storage.read_range(key, offset, length)
        with suppress(FileNotFoundError):  # whole, as in a folder that is served
            return self.storage.read_range(self.object_key(entry.digest), number * PART + offset, length)
        raise self._lost(entry, None, what)

    def _stream(self, entry: Entry, what: str) -> BinaryIO:
        """Return a large object as a stream; a few blocks are on their way ahead of who reads."""

        def blocks() -> Iterator[bytes]:
            waiting: list[Future[bytes]] = []
            for number, (_, _, size) in enumerate(self.parts(entry.digest, entry.size)):
                for at in range(0, size, BLOCK):
                    waiting.append(self._pool.submit(self._part, entry, number, at, min(BLOCK, size - at), what))
                    if len(waiting) > _AHEAD:
                        yield waiting.pop(0).result()
            for one in waiting:
                yield one.result()

        return stream_of(blocks())

    def fetch(self, entries: Iterable[Entry], *, what: str, progress: Progress = SILENT) -> None:
        """Bring objects near: neighbours in one request, many requests side by side, every object verified.

        Raises:
            DataMismatchError, NotFoundError, RegistryError: As `read`, for the first that is not well.
        """
        wanted = {(entry.digest, entry.size): entry for entry in entries}
        small = [one for one in wanted.values() if is_small(one.digest, one.size)]
        packed = self.near.find(one.digest for one in small)
        small = [one for one in small if not _fits(packed.get(one.digest), one.size)]
        large = [
            one
            for one in wanted.values()
            if not is_small(one.digest, one.size) and not self.near.is_loose(one.digest, one.size)
        ]
        if not (small or large):
            return
        total = sum(one.size for one in [*small, *large])
        self.limit.grown(total)
        with progress.task(f"Fetching from {self.storage.url}", total, unit="bytes") as advance:
            if small:
                self._fetch_small(small, what, advance)
            for one in large:
                whole = f"{one.logical_key} of {what}"
                with stage(self.near) as staging:
                    staging.put_known(self._stream(one, whole), one.digest, one.size, what=whole)
                advance(one.size)

    def _fetch_small(self, entries: Sequence[Entry], what: str, advance: Callable[[int], None]) -> None:
        hinted = {
            entry.digest: parse_hint(entry.physical_keys[0]) if entry.physical_keys else None for entry in entries
        }
        unplaced = [digest for digest, place in hinted.items() if place is None]
        places = {**{digest: place for digest, place in hinted.items() if place is not None}, **self.find(unplaced)}
        left: list[Entry] = [entry for entry in entries if not _fits(places.get(entry.digest), entry.size)]
        known = [
            (place, entry) for entry in entries if (place := places.get(entry.digest)) and _fits(place, entry.size)
        ]
        pieces = list(pieces_of(known))
        with stage(self.near) as staging:
            for piece, data in zip(pieces, self._map(self._piece, pieces), strict=True):
                good: list[bytes | memoryview] = []
                view = memoryview(data)
                for member, entry in piece.members:
                    at = member.offset - piece.offset
                    held = view[at : at + member.size]
                    if is_digest_of(held, entry.digest):
                        good.append(held)
                    else:
                        left.append(entry)
                staging.put_all(good)
                advance(sum(map(len, good)))
            for entry in left:
                data = self.read_anew(entry, what=f"{entry.logical_key} of {what}")
                staging.put_bytes(data)
                advance(len(data))

    def _piece(self, piece: Piece) -> bytes:
        try:
            return self.storage.read_range(self.pack_key(piece.pack), piece.offset, piece.length)
        except FileNotFoundError:
            return b""

    def _map(self, action: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
        """Yield the results in order; never more than some are waiting to be taken."""
        waiting: list[Future[_R]] = []
        for item in items:
            waiting.append(self._pool.submit(action, item))
            if len(waiting) >= _THREADS:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def _generation(entry: Entry, key: str) -> int:
    """Return the generation that an entry's physical key names; it may lie."""
    return int(_later(entry.physical_keys[0] if entry.physical_keys else "", key) or 0)


def _later(name: str, first: str) -> str:
    """Return the digit of a later generation of a name, "" if it is none."""
    stem, sign, rest = name.rpartition("~")
    return rest if sign and stem == first and len(rest) == 1 and "1" <= rest < str(GENERATIONS) else ""


def object_of(key: str) -> tuple[str, str, int] | None:
    """Return kind, hex and generation of the large object that a key is of; None if it is of none."""
    found = _OBJECT.fullmatch(key)
    if found is None or len(found[3]) % 2:
        return None
    return found[1], found[2] + found[3], int(found[4] or 0)


def is_small(digest: Digest, size: int) -> bool:
    """True if the object lies in a pack."""
    return size < SMALL and digest.type == CHUNKED


def _fits(place: PackPlace | None, size: int) -> bool:
    return place is not None and place[1].size == size
