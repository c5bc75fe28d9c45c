"""A registry in a folder: its objects are files that can be mapped, and gc waits for who publishes by a lock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from reprokit.core.atomic_files import os_errors
from reprokit.core.config import CONFIG_FILE
from reprokit.core.digest import Digest, hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError, NotFoundError, RegistryError
from reprokit.registry.base import Head, Sink
from reprokit.registry.heads import FolderHeads
from reprokit.registry.live import LiveRun
from reprokit.registry.liveness import SignsOfLife
from reprokit.registry.package_log import Stamp
from reprokit.registry.seen import SeenLogs
from reprokit.registry.stored import MARKER, StoredRegistry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore
from reprokit.store.packs import SMALL
from reprokit.store.reader import PackReader, Reader
from reprokit.store.staging import Staging, stage
from reprokit.store.storage import FolderStorage

__all__ = ["LocalRegistry"]


class LocalRegistry(StoredRegistry):
    """See the module. Opening creates nothing; the first write does."""

    def __init__(
        self, root: Path, *, cache: Path | None = None, home: Path | None = None, stamp: Stamp | None = None
    ) -> None:
        """Open a registry.

        Args:
            cache: Where its index is kept; None keeps it in memory.
            home: Where it is kept what this machine saw of its logs last; None keeps nothing of that.
            stamp: Written instead of a new UUID, the time, and who writes.
        """
        super().__init__(FolderStorage(root), stamp=stamp)
        self.root = root
        self._cache = cache
        self._home = home
        self.signs = SignsOfLife(root)
        self._ends = FolderHeads(self, root)
        if not self.exists() and root.exists():
            self._refuse_foreign()
        self._open()

    @cached_property
    def objects(self) -> ObjectStore:
        """The objects; before the registry exists, with an index of its own."""
        named = self._cache is not None and self.opened
        return ObjectStore(
            self.root, Index(self._cache / "index" / f"{self.uuid}.sqlite" if named and self._cache else None)
        )

    def _refuse_foreign(self) -> None:
        with os_errors(f"Opening the registry {self.root}"):
            if not self.root.is_dir():
                raise RegistryError(f"{self.root} is not a folder, so it cannot be a registry.")
            others = [path.name for path in self.root.iterdir() if not path.name.startswith(".")]
        if others and not self.exists():
            raise RegistryError(
                f"{self.root} is not a reprokit registry: it has no {MARKER}, but it holds {others[0]!r}.",
                hint="Name an empty or new folder, or an existing registry, with --registry.",
            )

    def _opened(self) -> None:
        if self._home is not None:
            self.history.seen = SeenLogs(self._home / "seen" / f"{self.uuid}.sqlite", self.root)

    def _created(self) -> None:
        self.__dict__.pop("objects", None)
        if self.root.parent.name == Path(CONFIG_FILE).parent.name:  # a project's own: nothing that git should see
            with os_errors(f"Creating the registry {self.root}"):
                (self.root / ".gitignore").write_text("*\n")

    # objects

    def staging(self, *, progress: Progress = SILENT) -> AbstractContextManager[Sink]:  # noqa: ARG002
        self._ensure()
        return self._staging()

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Sink]:
        with os_errors(f"Storing objects in {self.root}"), stage(self.objects) as staging:
            yield _LocalSink(staging)

    def has_object(self, digest: Digest, size: int) -> bool:
        with os_errors(f"Reading from {self.root}"):
            return self.objects.has(digest, size)

    def lacking(self, entries: Iterable[Entry]) -> list[Entry]:
        every: dict[tuple[Digest, int], Entry] = {}
        for entry in entries:
            every.setdefault((entry.digest, entry.size), entry)
        with os_errors(f"Reading from {self.root}"):
            packed = self.objects.find(digest for digest, size in every if size < SMALL)
            there = {(digest, member.size) for digest, (_, member) in packed.items()}
            return [every[key] for key in every if key not in there and not self.objects.is_loose(*key)]

    def read_object(self, entry: Entry, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self.objects.read(entry, what=what)

    def copy_object(self, entry: Entry, sink: BinaryIO | None, *, what: str) -> None:
        with os_errors(f"{'Reading' if sink is None else 'Copying'} {what}"):
            self.objects.copy_to(entry, sink, what=what)

    def reader(self, manifest: Manifest, *, what: str, anew: bool = False) -> Reader:  # noqa: ARG002
        return PackReader(self.objects, manifest, what=what)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self.objects.read_range(entry, offset, length, what=what)

    def heads(self, namespace: str) -> list[Head]:
        return self._ends.of(namespace)

    def recall(self, source: str) -> bytes | None:
        return self.objects.index.source(source)

    def remember(self, source: str, facts: bytes) -> None:
        self.objects.index.keep_source(source, facts)

    def damage(self, *, progress: Progress = SILENT) -> list[str]:
        found = []
        names = sorted(self.objects.pack_names())
        with os_errors(f"Verifying {self.root}"), progress.task("Verifying packs", len(names), unit="packs") as advance:
            for name in names:
                path = self.objects.pack_path(name)
                try:
                    digest, _ = hash_file(path)
                except FileNotFoundError:  # gc wrote it anew meanwhile
                    pass
                except DataMismatchError as error:  # no file
                    found.append(error.message)
                else:
                    if digest.hex != name:
                        found.append(
                            f"Pack {name[:12]}… is damaged: its bytes have the hash {digest.hex[:12]}… ({path})."
                        )
                advance()
        return found

    # versions

    def manifest_path(self, top_hash: str) -> Path:
        """Return the file of a version, there or not."""
        return self.root / self.manifests.key(top_hash)

    def holds(self, manifest: Manifest) -> bool:
        with os_errors(f"Reading from {self.root}"):
            try:
                self.objects.locate(manifest)
            except NotFoundError:
                return False
            return self.manifests.has(manifest.top_hash)

    @contextlib.contextmanager
    def _publishing(self) -> Iterator[Callable[[Manifest], Manifest]]:
        with self.objects.shared():
            yield self.objects.locate

    # signs of life

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[str]:
        self._ensure()
        with os_errors(f"Marking run {run_id} as running in {self.root}"):
            held = self.signs.claim(run_id)
        with held:
            yield ""

    def live(self, run_id: str) -> LiveRun:
        return LiveRun(self.storage, run_id)

    def running(self) -> dict[str, str]:
        with os_errors(f"Looking for signs of life in {self.root}"):
            return self.signs.holders()

    def is_claimed(self, run_id: str) -> bool:
        return self.signs.is_claimed(run_id)


class _LocalSink(Sink):
    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    @property
    def new_bytes(self) -> int:
        return self._staging.new_bytes

    def place(self, value: str) -> str:
        return self._staging.places.get(value, "")

    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        return self._staging.put_bytes(data)

    def put_all(self, pieces: Sequence[bytes | memoryview]) -> list[Digest]:
        return self._staging.put_all(pieces)

    def put_hashed(self, digest: Digest, parts: Sequence[memoryview], size: int) -> None:
        self._staging.put_hashed(digest, parts, size)

    def put_stream(self, source: BinaryIO, size: int, *, threads: int = 2) -> tuple[Digest, int]:
        return self._staging.put_stream(source, size, threads=threads)

    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        self._staging.put_known(source, digest, size, what=what)
