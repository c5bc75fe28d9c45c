"""A registry in an object store: nothing of ours runs there, and the only conditional write is the log entry.

What is read comes near, verified, into a folder of the cache; what is written is complete there before it is sent.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.core.config import Config
from reprokit.core.digest import Digest
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError, Error, NotFoundError, RegistryError
from reprokit.registry.base import Head, Sink, side_by_side
from reprokit.registry.heads import heads_by_log
from reprokit.registry.live import LiveRun
from reprokit.registry.remote.addresses import keep_uuid, kept_uuid
from reprokit.registry.remote.condemned import COMMIT_WITHIN, condemned_keys
from reprokit.registry.remote.heads import ANNOUNCED, RemoteHeads
from reprokit.registry.remote.opening import CheckedStorage
from reprokit.registry.remote.signs import RemoteSigns
from reprokit.registry.seen import SeenLogs
from reprokit.registry.stored import StoredRegistry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.cached_storage import CachedStorage
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore
from reprokit.store.reader import PackReader, Reader
from reprokit.store.remote_objects import RemoteObjects
from reprokit.store.remote_places import PART
from reprokit.store.staging import Staging, stage
from reprokit.store.static_storage import StaticStorage
from reprokit.store.storage import Storage
from reprokit.store.upload import upload

__all__ = ["RemoteRegistry"]

_MOMENT = 60.0  # seconds
_WINDOW = 4 * 1024 * 1024  # bytes that come near at once where many entries are read one by one


class RemoteRegistry(StoredRegistry):
    """See the module. Opening reads the marker alone; the first write creates it."""

    is_far = True

    def __init__(self, storage: Storage, *, cache: Path, home: Path | None = None) -> None:
        """Open a registry.

        Args:
            cache: Where what was read is kept, and its index.
            home: Where it is kept what this machine saw of its logs last, and how its store behaves.
        """
        lasting = not (isinstance(storage, StaticStorage) or storage.url.startswith("memory:"))
        known = kept_uuid(home, storage.url) if home is not None and lasting else None
        super().__init__(storage)
        self._cache = cache
        self._home = home
        self.bare = storage
        self._was_known = known is not None
        if known is not None:
            inner = storage
            self.bare = storage = CheckedStorage(inner, partial(self._check_known, inner, known, home))
        self.signs = RemoteSigns(storage)
        self.ends = RemoteHeads(self, storage)
        self.history.announce = self.ends.announce
        self._looked: float | None = None
        self._ensured = False
        self._preparing = threading.RLock()
        self._condemned: dict[str, frozenset[str]] = {}  # what gc condemned, by the names of its lists
        if known is None:
            self._open()
            return
        self._uuid, self.opened = known, True
        self._opened()

    def _check_known(self, storage: Storage, known: str, home: Path | None) -> None:
        """Raise RegistryError if the address leads elsewhere than it did, and believe that the next time."""
        with os_errors(f"Opening the registry {self.url}"):
            try:
                found = self._named(storage)
            except (FileNotFoundError, NotADirectoryError):
                found = None
        if found == known:
            return
        if home is not None:
            keep_uuid(home, self.url, found)
        if found is None:
            raise RegistryError(
                f"There is no registry at {self.url} any more: this machine knows it as {known}.",
                hint="Look whether it was moved or emptied. Repeat the command if the place is to begin anew.",
            )
        raise RegistryError(
            f"{self.url} is another registry than this machine saw there last: {found}, and not {known}.",
            hint="Ask who put it there. Repeat the command if that is what you expect.",
        )

    def _opened(self) -> None:
        near = self._cache / "near" / self.uuid
        self.storage = CachedStorage(self.bare, near)
        self.manifests.storage = self.storage
        self.manifests.many = True
        self.history.storage = self.storage
        if self._home is not None:
            if not self._was_known:  # else the check that runs meanwhile has the word
                with contextlib.suppress(OSError):
                    keep_uuid(self._home, self.url, self.uuid)
            self.history.seen = SeenLogs(self._home / "seen" / f"{self.uuid}.sqlite", self.url)

    @cached_property
    def objects(self) -> RemoteObjects:
        """The objects; only of a registry that is one."""
        index = self._cache / "index"
        near = ObjectStore(
            self._cache / "near" / self.uuid, Index(index / f"{self.uuid}-near.sqlite"), pack_bytes=PART, durable=False
        )
        return RemoteObjects(self.bare, near, Index(index / f"{self.uuid}.sqlite"), limit=Config.near_limit())

    def expect_writes(self) -> None:
        if isinstance(self.bare, StaticStorage):
            return

        def prepare() -> None:
            with contextlib.suppress(Error, OSError), self._preparing:
                self._ensure()
                self._look_again()
                self.objects.catalogue()
                self.objects.purged_now()

        if self.opened and not self._ensured:
            threading.Thread(target=prepare, name="reprokit-prepare", daemon=True).start()

    def _ensure(self) -> None:
        with self._preparing:
            if self._ensured:
                return
            if not self.opened:
                self._probe()
            super()._ensure()
            known = None if self._home is None else self._home / "stores" / self.uuid
            if known is not None and not known.exists():
                self._probe()
                durable_write(known, b"conditional\n")
            self._ensured = True

    def _probe(self) -> None:
        """Create a random key twice: a store that lets both be has no registry written into it."""
        key = f"probe/{secrets.token_hex(16)}"
        self.bare.create(key, b"first")
        heeded = False
        try:
            self.bare.create(key, b"second")
        except FileExistsError:  # which was read back: other bytes than those are there
            heeded = True
        self.bare.delete(key)
        if not heeded:
            raise RegistryError(
                f"{self.url} is not written to: its store overwrites what was to be created only if it is not there "
                "(`If-None-Match: *`), so of two who publish at once one would be lost.",
                hint="Use a store with conditional writes (Amazon S3, Google Cloud, Azure, MinIO, SeaweedFS), "
                "or a folder. Reading from this one works.",
            )

    # objects

    def staging(self, *, progress: Progress = SILENT) -> AbstractContextManager[Sink]:
        self._ensure()
        return self._staging(progress)

    @contextlib.contextmanager
    def _staging(self, progress: Progress) -> Iterator[Sink]:
        with os_errors(f"Storing objects in {self.url}"):
            self._look_again()
            with stage(self.objects.near) as staging:
                sink = _RemoteSink(staging, self.objects)
                yield sink
            sink.send(progress)

    def has_object(self, digest: Digest, size: int) -> bool:
        return not self.lacking([Entry("", size, digest)])

    def lacking(self, entries: Iterable[Entry]) -> list[Entry]:
        every: dict[tuple[Digest, int], Entry] = {}
        for entry in entries:
            every.setdefault((entry.digest, entry.size), entry)
        if not self.opened:
            return list(every.values())
        with os_errors(f"Reading from {self.url}"):
            self.objects.look_again(self.objects.avoid)
            return [every[one] for one in self.objects.lacking(every)]

    def read_object(self, entry: Entry, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self._there(entry, what).read(entry, what=what)

    def copy_object(self, entry: Entry, sink: BinaryIO | None, *, what: str) -> None:
        with os_errors(f"{'Reading' if sink is None else 'Copying'} {what}"):
            self._there(entry, what).copy_to(entry, sink, what=what)

    def reader(self, manifest: Manifest, *, what: str, anew: bool = False) -> Reader:
        if not self.opened:
            return super().reader(manifest, what=what)
        if not anew:
            return _RemoteReader(self.objects, manifest, what=what)
        place = self._cache / "anew"
        place.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(dir=place, prefix=f"{self.uuid}-")
        empty = ObjectStore(Path(folder.name), Index(None), pack_bytes=PART, durable=False)
        return _RemoteReader(RemoteObjects(self.bare, empty, self.objects.index), manifest, what=what, kept=folder)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self._there(entry, what).read_range(entry, offset, length, what=what)

    def fetch(self, entries: Iterable[Entry], *, what: str, progress: Progress = SILENT) -> None:
        if not self.opened:
            return  # who reads is told what is missing
        with os_errors(f"Reading {what}"):
            self.objects.fetch(entries, what=what, progress=progress)

    def fetch_versions(self, top_hashes: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(top_hashes))
        if not self.opened or len(wanted) < 2:
            return

        def read(top_hash: str) -> None:
            with contextlib.suppress(Error, OSError):
                self.manifests.read(top_hash)

        side_by_side(read, wanted, self)

    def _there(self, entry: Entry, what: str) -> RemoteObjects:
        if not self.opened:
            raise NotFoundError(f"{what}: its object {entry.digest.hex[:12]}… is missing from {self.url}.")
        return self.objects

    def heads(self, namespace: str) -> list[Head]:
        if not self.opened or namespace not in ANNOUNCED:
            return heads_by_log(self, namespace)
        return self.ends.of(namespace)

    def tidy(self) -> None:
        if self.opened:
            with contextlib.suppress(Error, OSError):  # somebody else will
                for namespace in ANNOUNCED:
                    self.ends.fold(namespace)

    def damage(self, *, progress: Progress = SILENT) -> list[str]:
        found = super().damage(progress=progress)
        return [*found, *(told for namespace in ANNOUNCED for told in self.ends.problems(namespace))]

    def recall(self, source: str) -> bytes | None:
        return self.objects.index.source(source) if self.opened else None

    def remember(self, source: str, facts: bytes) -> None:
        if self.opened:
            self.objects.index.keep_source(source, facts)

    # versions

    def holds(self, manifest: Manifest) -> bool:
        with os_errors(f"Reading from {self.url}"):
            if not self.opened:
                return False
            self.objects.look_again(self.objects.avoid)
            try:
                self.objects.locate(manifest)
            except NotFoundError:
                return False
            return self.manifests.has(manifest.top_hash)

    @contextlib.contextmanager
    def _publishing(self) -> Iterator[Callable[[Manifest], Manifest]]:
        self._look_again()
        yield self._locate

    def _locate(self, manifest: Manifest) -> Manifest:
        try:
            return self.objects.locate(manifest)
        except NotFoundError:
            if not self.objects.avoid:
                raise
        near = [
            (entry.digest, entry.size) for entry in manifest.entries if self.objects.near.has(entry.digest, entry.size)
        ]
        upload(self.objects, near)  # what gc condemned since it was found there is stored anew
        return self.objects.locate(manifest)

    def _look_again(self) -> None:
        """Read what gc has condemned, unless that was a moment ago: from then on there is so much time to commit."""
        with self._preparing:
            now = time.monotonic()
            if self._looked is None or now - self._looked > _MOMENT:
                self.objects.look_again(condemned_keys(self.bare, self._condemned))
                self._looked = now

    def _avoided(self) -> Container[str]:
        return self.objects.avoid

    def _commits(self) -> None:
        if self._looked is None or time.monotonic() - self._looked > COMMIT_WITHIN:
            raise RegistryError(
                f"Publishing to {self.url} took longer than {COMMIT_WITHIN:,.0f} seconds, and gc may have removed what "
                "was found there meanwhile, so nothing was published.",
                hint="Repeat the command: what was sent is not sent again.",
            )

    def look_again(self) -> None:
        """Forget what was listed a moment ago: what is decided next depends on it."""
        if isinstance(self.storage, CachedStorage):
            self.storage.look_again()

    def forget_objects(self, digests: Iterable[Digest]) -> None:
        """Keep nothing near of objects that are erased; what else is near comes again when it is asked for."""
        wanted = list(digests)
        near = self.objects.near
        sizes = near.find(wanted)
        if sizes or any(near.loose_path(digest).exists() for digest in wanted):
            with near.alone():
                for folder in ("packs", "objects"):
                    shutil.rmtree(near.root / folder, ignore_errors=True)
                near.catalogue()
        self.objects.forget(wanted)

    def forget(self, key: str) -> None:
        """Keep nothing near of a key that was removed."""
        if isinstance(self.storage, CachedStorage):
            self.storage.forget(key)

    # signs of life

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[str]:
        self._ensure()
        with self.signs.claim(run_id) as sign:
            yield sign

    def release(self, run_id: str, sign: str) -> None:
        with os_errors(f"Taking back the sign of life of run {run_id} in {self.url}"):
            self.signs.release(run_id, sign)

    def live(self, run_id: str) -> LiveRun:
        return LiveRun(self.bare, run_id)

    def running(self) -> dict[str, str]:
        with os_errors(f"Looking for signs of life in {self.url}"):
            return self.signs.holders()

    def is_claimed(self, run_id: str) -> bool:
        with os_errors(f"Looking for the sign of life of run {run_id} in {self.url}"):
            return self.signs.is_claimed(run_id)


class _RemoteSink(Sink):
    """Objects that become complete near, and are sent then."""

    def __init__(self, staging: Staging, objects: RemoteObjects) -> None:
        self._staging = staging
        self._objects = objects
        self._put: dict[tuple[Digest, int], None] = {}
        self._places: dict[str, str] = {}
        self._sent: int | None = None

    @property
    def new_bytes(self) -> int:
        return self._staging.new_bytes if self._sent is None else self._sent

    def place(self, value: str) -> str:
        return self._places.get(value, "")

    def send(self, progress: Progress) -> None:
        """Send what was put and is not there."""
        fresh = self._staging.loose
        self._sent, self._places = upload(self._objects, self._put, fresh=fresh, progress=progress)

    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        return self._kept(*self._staging.put_bytes(data))

    def put_all(self, pieces: Sequence[bytes | memoryview]) -> list[Digest]:
        digests = self._staging.put_all(pieces)
        for digest, piece in zip(digests, pieces, strict=True):
            self._kept(digest, len(piece))
        return digests

    def put_hashed(self, digest: Digest, parts: Sequence[memoryview], size: int) -> None:
        self._staging.put_hashed(digest, parts, size)
        self._kept(digest, size)

    def put_stream(self, source: BinaryIO, size: int, *, threads: int = 2) -> tuple[Digest, int]:
        return self._kept(*self._staging.put_stream(source, size, threads=threads))

    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        self._staging.put_known(source, digest, size, what=what)
        self._kept(digest, size)

    def _kept(self, digest: Digest, size: int) -> tuple[Digest, int]:
        self._put[digest, size] = None
        return digest, size


class _RemoteReader(PackReader):
    """Reads from what is near, and brings the neighbours of what is not with it."""

    def __init__(self, objects: RemoteObjects, manifest: Manifest, *, what: str, kept: object = None) -> None:
        """Read a version.

        Args:
            kept: What is to live as long as this reader: a folder that goes with it.
        """
        super().__init__(objects.near, manifest, what=what)
        self._kept = kept
        self._objects = objects
        self._near = bytearray(len(self._sizes))

    def read(self, position: int) -> bytes:
        self._come(position)
        try:
            return super().read(position)
        except (DataMismatchError, NotFoundError):  # what is near may be damaged, or thrown away meanwhile
            return self._anew(position)

    def view(self, position: int) -> bytes | memoryview:
        self._come(position)
        try:
            return super().view(position)
        except (DataMismatchError, NotFoundError):
            return self._anew(position)

    def views(self, positions: Sequence[int], *, own: bool = False) -> list[memoryview]:
        self._bring([position for position in positions if not self._near[position]])
        try:
            return super().views(positions, own=own)
        except (DataMismatchError, NotFoundError):
            return [
                memoryview(bytearray(self.view(position)) if own else self.view(position)) for position in positions
            ]

    def _anew(self, position: int) -> bytes:
        entry = self._manifest.entries[position]
        with os_errors(f"Reading {self._what}"):
            return self._objects.read_anew(entry, what=f"{entry.logical_key} of {self._what}")

    def _come(self, position: int) -> None:
        if self._near[position]:
            return
        window = self._window(position)
        try:
            self._bring(window)
        except (DataMismatchError, NotFoundError):
            if len(window) == 1:
                raise
            self._bring([position])  # what is wrong with a neighbour is the neighbour's

    def _window(self, position: int) -> list[int]:
        found, size = [position], self._sizes[position]
        for later in range(position + 1, len(self._sizes)):
            size += self._sizes[later]
            if size > _WINDOW or self._near[later]:
                break
            found.append(later)
        return found

    def _bring(self, positions: Sequence[int]) -> None:
        entries = [self._manifest.entries[position] for position in positions]
        with os_errors(f"Reading {self._what}"):
            self._objects.fetch(entries, what=self._what)
            places = self._objects.near.find(entry.digest for entry in entries)
        for position, entry in zip(positions, entries, strict=True):
            self._near[position] = True
            place = places.get(entry.digest)
            if place is not None:
                self._places[position] = f"packs/{place[0]}.zip#{place[1].offset},{place[1].size}"
