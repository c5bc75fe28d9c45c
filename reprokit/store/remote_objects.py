"""The objects of a registry in an object store, and what of them is near: a folder of the cache, verified.

    packs/<hex>.zip                            as in a folder, of some 64 MiB at most
    objects/<algorithm>/<2 hex>/<rest>         an object of 1 MiB or more
    objects/<algorithm>/<2 hex>/<rest>/<part>  one of more than 64 MiB, in parts of that size, 00000, 00001, …

What gc has condemned is never used again: it is stored anew, a pack with one member more, an object as `<rest>~1`.
Bytes that come are held against their digests before they are near; what is near is read as any folder of objects is.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from reprokit.core.digest import CHUNKED, Digest, copy_hashed, hash_bytes
from reprokit.core.progress import SILENT, Progress
from reprokit.core.safe_json import load_json
from reprokit.core.scratch import scratch
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.index import Index, PackPlace
from reprokit.store.manifests import GENERATIONS
from reprokit.store.mapping import map_file
from reprokit.store.objects import TEMPORARY, ObjectStore, corrupt, hint_of, is_digest_of, parse_hint, purged_sentence
from reprokit.store.packs import PACK_NAME, SMALL, Member, PackWriter, directory_size, parse_directory
from reprokit.store.staging import stage
from reprokit.store.storage import Storage

__all__ = ["PART", "RemoteObjects"]

PART = 64 * 1024 * 1024  # bytes; of a part, and of a pack but for its last member
_THREADS = 16
_UPLOADS = 4  # at once: each may have a part in memory
_BLOCK = 8 * 1024 * 1024  # bytes that one request brings of a large object, or of a pack
_GAP = 128 * 1024  # bytes between two members of a pack that are rather read than left out
_TAIL = 64 * 1024  # bytes; a pack's directory is often no longer
_RECENT = 64 * 1024 * 1024  # bytes of objects that were read one by one
_MAX_TOMBSTONE = 1024 * 1024
_MANY = 64  # large objects; of more, all that are there are listed
_T = TypeVar("_T")
_R = TypeVar("_R")


class _Piece(NamedTuple):
    """Part of a pack that holds objects that are wanted."""

    pack: str
    offset: int
    length: int
    members: list[tuple[Member, Entry]]


class RemoteObjects:
    """See the module. Safe for several threads."""

    def __init__(self, storage: Storage, near: ObjectStore, index: Index) -> None:
        """Use a storage.

        Args:
            near: A folder of the cache, of this registry alone.
            index: Of what lies where in the storage; not that of `near`.
        """
        self.storage = storage
        self.near = near
        self.index = index
        self._recent: OrderedDict[Digest, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._stored: dict[tuple[Digest, int], int] = {}  # large ones that are there → their generation
        self._listed: set[str] | None = None  # packs that were there when it was last looked
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

    def look_again(self, avoid: frozenset[str]) -> None:
        """Take note of what gc has condemned, and look anew for what is there when it is asked for next."""
        self.avoid = avoid
        self._listed = None
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
        found = self._known(wanted, self.pack_names() if self._listed is None else self._listed, but)
        if len(found) < len(wanted) and not (looked or hasty):
            found = self._known(wanted, self.pack_names(), but)
        return {wanted[raw]: place for raw, place in found.items() if raw in wanted}

    def _known(self, raws: Iterable[bytes], there: set[str], but: Container[str]) -> dict[bytes, PackPlace]:
        if there - self.index.packs():
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

    def _free(self, digest: Digest, size: int) -> int:
        """Return the first generation that nothing of was condemned."""
        return next(number for number in range(GENERATIONS) if not self._is_condemned(digest, size, number))

    def lacking(self, objects: Iterable[tuple[Digest, int]]) -> list[tuple[Digest, int]]:
        """Return those that are not there."""
        asked = list(dict.fromkeys(objects))
        packed = self.find((digest for digest, size in asked if _is_small(digest, size)), but=self.avoid, hasty=True)
        large = self.stored(one for one in asked if not _is_small(*one))
        return [
            (digest, size)
            for digest, size in asked
            if ((digest, size) not in large if not _is_small(digest, size) else not _fits(packed.get(digest), size))
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
        small = [entry.digest for entry in entries if _is_small(entry.digest, entry.size)]
        found = self.find(small, but=self.avoid)
        large = self.stored((one.digest, one.size) for one in entries if not _is_small(one.digest, one.size))
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
        if not _is_small(entry.digest, entry.size):
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

    def tombstone(self, digest: Digest) -> str | None:
        """Return when and why an object was erased, as a sentence; None if it was not."""
        key = f"tombstones/{digest.type}-{digest.hex}.json"
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
        if _is_small(entry.digest, entry.size):
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
        if _is_small(entry.digest, entry.size):
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
        raise self._lost(entry, None, what)

    def _stream(self, entry: Entry, what: str) -> BinaryIO:
        """Return a large object as a stream; a few blocks are on their way ahead of who reads."""

        def blocks() -> Iterator[bytes]:
            waiting: list[Future[bytes]] = []
            for number, (_, _, size) in enumerate(self.parts(entry.digest, entry.size)):
                for at in range(0, size, _BLOCK):
                    waiting.append(self._pool.submit(self._part, entry, number, at, min(_BLOCK, size - at), what))
                    if len(waiting) > _UPLOADS:
                        yield waiting.pop(0).result()
            for one in waiting:
                yield one.result()

        return cast("BinaryIO", io.BufferedReader(_Stream(blocks()), _BLOCK))

    def fetch(self, entries: Iterable[Entry], *, what: str, progress: Progress = SILENT) -> None:
        """Bring objects near: neighbours in one request, many requests side by side, every object verified.

        Raises:
            DataMismatchError, NotFoundError, RegistryError: As `read`, for the first that is not well.
        """
        wanted = {(entry.digest, entry.size): entry for entry in entries}
        small = [one for one in wanted.values() if _is_small(one.digest, one.size)]
        packed = self.near.find(one.digest for one in small)
        small = [one for one in small if not _fits(packed.get(one.digest), one.size)]
        large = [
            one
            for one in wanted.values()
            if not _is_small(one.digest, one.size) and not self.near.is_loose(one.digest, one.size)
        ]
        if not (small or large):
            return
        total = sum(one.size for one in [*small, *large])
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
        pieces = list(_pieces(known))
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

    def _piece(self, piece: _Piece) -> bytes:
        try:
            return self.storage.read_range(self.pack_key(piece.pack), piece.offset, piece.length)
        except FileNotFoundError:
            return b""

    # writing

    def upload(
        self, objects: Iterable[tuple[Digest, int]], *, progress: Progress = SILENT
    ) -> tuple[int, dict[str, str]]:
        """Store objects that are near, those that are not there yet.

        Returns:
            Their bytes, and of those in packs the value of the digest → the physical key.
        """
        lacking = self.lacking(objects)
        small = [digest for digest, size in lacking if _is_small(digest, size)]
        large = [one for one in lacking if not _is_small(*one)]
        total = sum(size for _, size in lacking)
        with progress.task(f"Sending to {self.storage.url}", total, unit="bytes") as advance:
            places = self._upload_small(small, advance) if small else {}
            generations = {one: self._free(*one) for one in large}
            jobs = [
                (digest, part) for digest, size in large for part in self.parts(digest, size, generations[digest, size])
            ]
            with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="reprokit-send") as pool:
                for sent in pool.map(lambda job: self._upload_part(*job), jobs):
                    advance(sent)
        self._stored |= generations
        return total, places

    def _upload_part(self, digest: Digest, part: tuple[str, int, int]) -> int:
        key, offset, length = part
        if key[-6] == "/":  # a part that an attempt before left is not sent again
            stored = self.storage.stat(key)
            if stored is not None and stored.size == length:
                return length
        self.storage.put(key, map_file(self.near.loose_path(digest))[offset : offset + length])
        return length

    def _upload_small(self, digests: Sequence[Digest], advance: Callable[[int], None]) -> dict[str, str]:
        """Send packs that are near as they are where all that they hold is lacking, and what is left in new ones."""
        wanted = {digest.raw for digest in digests}
        values = {digest.raw: digest.value for digest in digests}
        near = self.near.find(digests)
        if len(near) < len(values):
            raise NotFoundError(
                f"Objects that were to be sent are gone from {self.near.root}: {len(values) - len(near):,} of them.",
                hint="Somebody emptied the cache meanwhile; repeat the command.",
            )
        by_pack: dict[str, set[bytes]] = defaultdict(set)
        for digest, (name, _) in near.items():
            by_pack[name].add(digest.raw)
        places: dict[str, str] = {}
        sending: list[tuple[str, Path, Mapping[bytes, Member]]] = []
        with scratch(self.near.root / TEMPORARY) as folder:
            writers: list[PackWriter] = []
            for name, raws in by_pack.items():
                pack = self.near.pack(name)
                if raws == pack.members.keys() and pack.size <= 2 * PART and self.pack_key(name) not in self.avoid:
                    sending.append((name, pack.path, pack.members))
                    continue
                for raw in raws & wanted:
                    if not writers or writers[-1].is_full:
                        writers.append(PackWriter(folder / f"pack-{len(writers)}", max_bytes=PART, durable=False))
                        if self.avoid:  # one of the same members may have been condemned
                            nonce = secrets.token_bytes(16)
                            writers[-1].add(hash_bytes(nonce).raw, nonce)
                    writers[-1].add(raw, pack.read(*pack.members[raw]))
            sending += [(writer.finish(), writer.path, writer.members) for writer in writers]
            with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="reprokit-send") as pool:
                sent = pool.map(lambda job: self.storage.put(self.pack_key(job[0]), map_file(job[1])), sending)
                for (name, _, members), _ in zip(sending, sent, strict=True):
                    self.index.add_pack(name, members)
                    if self._listed is not None:
                        self._listed.add(name)
                    for raw, member in members.items():
                        if raw in values:
                            places[values[raw]] = hint_of(name, member)
                    advance(sum(member.size for member in members.values()))
        return places

    def _map(self, action: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
        """Yield the results in order; never more than some are waiting to be taken."""
        waiting: list[Future[_R]] = []
        for item in items:
            waiting.append(self._pool.submit(action, item))
            if len(waiting) >= _THREADS:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


class _Stream(io.RawIOBase):
    """Blocks as a stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(cast("bytearray", buffer)).cast("B")
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _generation(entry: Entry, key: str) -> int:
    """Return the generation that an entry's physical key names; it may lie."""
    return int(_later(entry.physical_keys[0] if entry.physical_keys else "", key) or 0)


def _later(name: str, first: str) -> str:
    """Return the digit of a later generation of a name, "" if it is none."""
    stem, sign, rest = name.rpartition("~")
    return rest if sign and stem == first and len(rest) == 1 and "1" <= rest < str(GENERATIONS) else ""


def _is_small(digest: Digest, size: int) -> bool:
    """True if the object lies in a pack."""
    return size < SMALL and digest.type == CHUNKED


def _fits(place: PackPlace | None, size: int) -> bool:
    return place is not None and place[1].size == size


def _pieces(placed: list[tuple[PackPlace, Entry]]) -> Iterator[_Piece]:
    """Join what lies near each other in a pack."""
    placed.sort(key=lambda one: (one[0][0], one[0][1].offset))
    piece: _Piece | None = None
    for (name, member), entry in placed:
        end = member.offset + member.size
        if piece is not None and piece.pack == name:
            last = piece.offset + piece.length
            if member.offset - last <= _GAP and end - piece.offset <= _BLOCK:
                piece = piece._replace(length=max(piece.length, end - piece.offset))
                piece.members.append((member, entry))
                continue
        if piece is not None:
            yield piece
        piece = _Piece(name, member.offset, member.size, [(member, entry)])
    if piece is not None:
        yield piece
