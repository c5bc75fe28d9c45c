"""New objects on their way into a store: nothing has a name before all of it is durable."""

from __future__ import annotations

import os
import threading
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reprokit.core.atomic_files import fsync_folder, make_folder, new_file
from reprokit.core.digest import CHUNKED, Digest, copy_hashed, hash_bytes, hash_view, write_all
from reprokit.core.scratch import scratch
from reprokit.errors import RefusedError
from reprokit.store.index import PackPlace
from reprokit.store.objects import TEMPORARY, ObjectStore, corrupt, hint_of, is_digest_of
from reprokit.store.packs import SMALL, PackWriter

__all__ = ["Staging", "stage"]


@contextmanager
def stage(store: ObjectStore) -> Iterator[Staging]:
    """Collect new objects; on leaving without an error all are durable, then all get their names.

    Raises:
        RefusedError: One of them was purged, be it while they were collected: none gets a name.
    """
    with scratch(store.root / TEMPORARY) as folder:
        staging = Staging(store, folder)
        try:
            yield staging
            staging.settle()
        finally:
            staging.discard()


class Staging:
    """New objects on their way into a store. Safe to use from several threads."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._loose: dict[Digest, Path] = {}
        self._writers: list[PackWriter] = []
        self._reused: set[str] = set()
        self._is_new = False  # else these are objects of the store, and whoever writes them anew has it alone
        self._purged = store.purged()
        self._lock = threading.Lock()
        self.written: list[str] = []
        self.loose: set[Digest] = set()  # large objects that were new, and are named now
        self.places: dict[str, str] = {}  # value of a digest → physical key
        self.new_bytes = 0

    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        return self.put_all([data])[0], len(data)

    def put_all(self, pieces: Sequence[bytes | memoryview]) -> list[Digest]:
        """Store many objects at once, which costs one look at the index."""
        digests = [
            hash_bytes(piece) if len(piece) < SMALL else hash_view(memoryview(piece).cast("B")) for piece in pieces
        ]
        with self._lock:
            places = self.places
            small = [
                (digest, piece)
                for digest, piece in zip(digests, pieces, strict=True)
                if len(piece) < SMALL and digest.value not in places
            ]
            known = self._store.find([digest for digest, _ in small])
            writer = self._writers[-1] if self._writers else None
            for digest, piece in small:
                value = digest.value
                if value in places:
                    continue  # twice in this batch
                if self._purged:
                    self._refuse_purged(digest)
                if known and (place := known.get(digest)) is not None and self._reuse(place):
                    places[value] = hint_of(*place)
                    continue
                places[value] = ""  # until the pack has its name
                self._is_new = True
                if writer is None or writer.is_full:
                    writer = self._writer()
                writer.add(a2b_base64(value), piece)
                self.new_bytes += len(piece)
        for digest, piece in zip(digests, pieces, strict=True):
            if len(piece) >= SMALL:
                self.put_hashed(digest, [memoryview(piece).cast("B")], len(piece))
        return digests

    def put_hashed(self, digest: Digest, parts: Sequence[memoryview], size: int) -> None:
        """Store an object in memory, given in parts, whose digest the caller has computed from these very bytes."""
        if size < SMALL:
            self.put_all([b"".join(parts)])
        elif digest not in self._loose and not self._reuse_loose(digest, size):
            self._refuse_purged(digest)
            descriptor, name = new_file(self._folder, mode=0o444)
            with os.fdopen(descriptor, "wb", buffering=0) as sink:
                for part in parts:
                    write_all(sink, part)
                if self._store.durable:
                    os.fsync(descriptor)
            self._keep_loose(digest, size, Path(name))

    def put_stream(self, source: BinaryIO, size: int, type_: str = CHUNKED, *, threads: int = 2) -> tuple[Digest, int]:
        """Store a stream of `size` bytes; returns the digest and the number of bytes that came: one more if it grew."""
        if size < SMALL - 1 and type_ == CHUNKED:
            return self.put_bytes(source.read(size + 1))
        return self._put_loose(source, size, type_, threads=threads)

    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        """Store a stream that must have this digest, as when an object comes from another registry."""
        if digest in self._loose or self._store.has(digest, size):
            return
        if size < SMALL and digest.type == CHUNKED:
            data = source.read(size + 1)
            if not is_digest_of(data, digest):
                raise corrupt(what, digest, hash_bytes(data, digest.type))
            self.put_bytes(data)
            return
        found, _ = self._put_loose(source, size, digest.type, expected=digest)
        if found != digest:
            raise corrupt(what, digest, found)

    def _writer(self) -> PackWriter:
        if not self._writers or self._writers[-1].is_full:
            self._writers.append(
                PackWriter(
                    self._folder / f"pack-{len(self._writers)}",
                    max_bytes=self._store.pack_bytes,
                    durable=self._store.durable,
                )
            )
        return self._writers[-1]

    def _reuse(self, place: PackPlace) -> bool:
        """True if the pack that is known to have an object is there; it is freshened once."""
        name = place[0]
        if name not in self._reused:
            with self._store.shared():
                if not self._store.freshen(self._store.pack_path(name)):
                    return False
            self._reused.add(name)
        return True

    def _reuse_loose(self, digest: Digest, size: int) -> bool:
        path = self._store.loose_path(digest)
        try:
            there = path.stat().st_size == size
        except FileNotFoundError:
            return False
        if not there:
            return False
        with self._store.shared():
            return self._store.freshen(path)

    def _put_loose(
        self, source: BinaryIO, size: int, type_: str = CHUNKED, *, expected: Digest | None = None, threads: int = 2
    ) -> tuple[Digest, int]:
        descriptor, name = new_file(self._folder, mode=0o444)
        with os.fdopen(descriptor, "wb", buffering=0) as sink:
            digest, length = copy_hashed(source, sink, size, type_, threads=threads)
            if expected not in (None, digest):
                return digest, length
            self._refuse_purged(digest)
            new = digest not in self._loose and not self._reuse_loose(digest, length)
            if new and self._store.durable:
                os.fsync(descriptor)
        temporary = Path(name)
        if length < SMALL and type_ == CHUNKED:  # shorter than was said: it belongs into a pack
            data = temporary.read_bytes()
            temporary.unlink()
            return self.put_bytes(data)
        if new:
            self._keep_loose(digest, length, temporary)
        else:
            temporary.unlink()
        return digest, length

    def _keep_loose(self, digest: Digest, size: int, temporary: Path) -> None:
        with self._lock:
            if digest in self._loose:
                temporary.unlink()
            else:
                self._loose[digest] = temporary
                self._is_new = True
                self.new_bytes += size

    def put_again(self, raw: bytes, data: bytes) -> None:
        """Store a small object whose digest is known, though it may be there already: packs are being written anew."""
        with self._lock:
            self._writer().add(raw, data)

    def _refuse_purged(self, digest: Digest) -> None:
        if self._purged and (digest.type, digest.hex) in self._purged:
            raise RefusedError(
                f"Object {digest.hex[:12]}… is not stored again. {self._store.tombstone(digest)}",
                hint="Leave the file out, or remove the tombstone from the registry if it may be kept after all.",
            )

    def settle(self) -> None:
        """Make every new object durable, then name it: a name never stands for bytes that a crash could lose."""
        packs = [(writer, writer.finish()) for writer in self._writers]
        if not self._is_new:
            self._name(packs)
            return
        with self._store.shared():  # a purge that came meanwhile has left its tombstones; another one waits
            self._refuse_purged_since()
            self._name(packs)

    def _refuse_purged_since(self) -> None:
        before, self._purged = self._purged, self._store.purged()
        if self._purged != before:
            for digest in [*self._loose, *(Digest.chunked(raw) for writer in self._writers for raw in writer.members)]:
                self._refuse_purged(digest)

    def _name(self, packs: list[tuple[PackWriter, str]]) -> None:
        folders: set[Path] = set()
        for writer, name in packs:
            final = self._store.pack_path(name)
            folders |= make_folder(final.parent)
            writer.path.replace(final)
            folders.add(final.parent)
            self._store.index.add_pack(name, writer.members)
            self.written.append(name)
            for raw, (offset, size) in writer.members.items():
                self.places[b2a_base64(raw, newline=False).decode("ascii")] = f"packs/{name}.zip#{offset},{size}"
        self._writers.clear()
        for loose, temporary in self._loose.items():
            final = self._store.loose_path(loose)
            folders |= make_folder(final.parent)
            temporary.replace(final)
            folders.add(final.parent)
            self.loose.add(loose)
        self._loose.clear()
        for folder in folders if self._store.durable else ():
            fsync_folder(folder)

    def discard(self) -> None:
        for writer in self._writers:
            writer.close()
