"""The objects of a registry in an object store, and what of them is near: a folder of the cache, verified.

Bytes that come are held against their digests before they are near; what is near is read as any folder of objects is.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import BinaryIO

from reprokit.core.digest import Digest, copy_hashed, hash_bytes
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError
from reprokit.schema.manifest import Entry
from reprokit.store.index import Index, PackPlace
from reprokit.store.manifests import GENERATIONS
from reprokit.store.near import NearLimit
from reprokit.store.objects import ObjectStore, corrupt, is_digest_of, parse_hint
from reprokit.store.packs import SMALL
from reprokit.store.ranges import BLOCK, Piece, pieces_of, stream_of
from reprokit.store.remote_places import PART, RemotePlaces, fits, is_small, later_of
from reprokit.store.staging import stage
from reprokit.store.storage import Storage

__all__ = ["RemoteObjects"]

_AHEAD = 4  # blocks of an object that are on their way before they are asked for
_RECENT = 64 * 1024 * 1024  # bytes of objects that were read one by one


class RemoteObjects(RemotePlaces):
    """See the module. Safe for several threads."""

    def __init__(self, storage: Storage, near: ObjectStore, index: Index, *, limit: int = 0) -> None:
        """Use a storage.

        Args:
            near: A folder of the cache, of this registry alone.
            index: Of what lies where in the storage; not that of `near`.
            limit: Bytes of it that stay near; 0 for all.
        """
        super().__init__(storage, index)
        self.limit = NearLimit(near, limit)
        self.near = near
        self._recent: OrderedDict[Digest, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._lock = threading.Lock()

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
            if place is not None and place != hinted and fits(place, entry.size):
                yield place

    def _lost(self, entry: Entry, found: bytes | None, what: str) -> Exception:
        stone = self.tombstone(entry.digest)
        if stone is not None:
            return PurgedError(f"{what}: its object {entry.digest.hex[:12]}… is gone. {stone}")
        if found is not None:
            return corrupt(what, entry.digest, hash_bytes(found, entry.digest.type))
        return NotFoundError(
            f"{what}: its object {entry.digest.hex[:12]}… is missing from {self.storage.url}.",
            hint=self.storage.absence
            or "Restore it from another copy of the registry; `reprokit verify REF` lists all that is missing.",
        )

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
        small = [one for one in small if not fits(packed.get(one.digest), one.size)]
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
        left: list[Entry] = [entry for entry in entries if not fits(places.get(entry.digest), entry.size)]
        known = [(place, entry) for entry in entries if (place := places.get(entry.digest)) and fits(place, entry.size)]
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


def _generation(entry: Entry, key: str) -> int:
    """Return the generation that an entry's physical key names; it may lie."""
    return int(later_of(entry.physical_keys[0] if entry.physical_keys else "", key) or 0)
