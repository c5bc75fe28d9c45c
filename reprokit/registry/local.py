"""A registry in a folder: objects, manifests, the logs of packages, signs of life, in the order that publishing needs.

What is published is durable from the bottom up: objects, then the manifest, then the log entry, which is the commit.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.core.canonical_json import canonical
from reprokit.core.digest import Digest, hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import check_package_name, check_tag
from reprokit.core.regular_files import read_regular
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, RegistryError
from reprokit.registry.base import FORMAT, LogEntry, Registry, Sink
from reprokit.registry.liveness import SignsOfLife
from reprokit.registry.package_log import LATEST, PackageLogs, Stamp, check_permanent
from reprokit.registry.seen import SeenLogs
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.index import Index
from reprokit.store.manifests import ManifestStore
from reprokit.store.objects import ObjectStore
from reprokit.store.packs import SMALL
from reprokit.store.reader import PackReader, Reader
from reprokit.store.staging import Staging, stage

__all__ = ["LocalRegistry"]

_MARKER = "reprokit-registry.json"
_MAX_MARKER = 64 * 1024
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LocalRegistry(Registry):
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
        self.root = root
        self.url = str(root)
        self._cache = cache
        self._home = home
        self._stamp = stamp
        self._checked = False
        self.manifests = ManifestStore(root)
        self.history = PackageLogs(root, stamp=stamp)
        self.signs = SignsOfLife(root)
        if not self.exists() and root.exists():
            self._refuse_foreign()
        if self.exists():  # by now: another process may be making it
            self._check_format()

    @cached_property
    def objects(self) -> ObjectStore:
        """The objects; before the registry exists, with an index of its own."""
        named = self._cache is not None and self._checked
        return ObjectStore(
            self.root, Index(self._cache / "index" / f"{self.uuid}.sqlite" if named and self._cache else None)
        )

    @cached_property
    def uuid(self) -> str:
        """What the registry is called wherever it lies."""
        return str(self._marker()["uuid"])

    def exists(self) -> bool:
        """True if the folder is a registry by now."""
        return (self.root / _MARKER).exists()

    def _refuse_foreign(self) -> None:
        with os_errors(f"Opening the registry {self.root}"):
            if not self.root.is_dir():
                raise RegistryError(f"{self.root} is not a folder, so it cannot be a registry.")
            others = [path.name for path in self.root.iterdir() if not path.name.startswith(".")]
        if others and not self.exists():
            raise RegistryError(
                f"{self.root} is not a reprokit registry: it has no {_MARKER}, but it holds {others[0]!r}.",
                hint="Name an empty or new folder, or an existing registry, with --registry.",
            )

    def _marker(self) -> dict[str, Any]:
        marker = self.root / _MARKER
        with os_errors(f"Opening the registry {self.root}"):
            content = load_json(read_regular(marker, max_bytes=_MAX_MARKER), what=str(marker), max_bytes=_MAX_MARKER)
        return content if isinstance(content, dict) else {}

    def _check_format(self) -> None:
        marker = self._marker()
        version = marker.get("format")
        if version != FORMAT:
            raise RegistryError(
                f"{self.root} is a registry of format {version!r}; this reprokit reads format {FORMAT}.",
                hint="Use the release of reprokit that wrote it, or a newer one.",
            )
        if not (isinstance(marker.get("uuid"), str) and _UUID.fullmatch(marker["uuid"])):
            raise RegistryError(f"{self.root / _MARKER} names no UUID.", hint="Restore it from a copy of the registry.")
        self._checked = True
        if self._home is not None:
            self.history.seen = SeenLogs(self._home / "seen" / f"{self.uuid}.sqlite", self.root)

    def _ensure(self) -> None:
        """Make the folder a registry before the first write."""
        if self._checked:
            if not self.exists():
                raise RegistryError(
                    f"The registry {self.root} is gone: it has no {_MARKER} any more.",
                    hint="Put it back where it was. Nothing was written in its place.",
                )
            return
        with os_errors(f"Creating the registry {self.root}"), contextlib.suppress(FileExistsError):
            marker = {"format": FORMAT, "uuid": self._stamp.uuid if self._stamp else str(uuid.uuid4())}
            durable_write(self.root / _MARKER, canonical(marker) + b"\n", exclusive=True)
        self._check_format()
        self.__dict__.pop("objects", None)

    # objects

    def staging(self) -> AbstractContextManager[Sink]:
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

    def reader(self, manifest: Manifest, *, what: str) -> Reader:
        return PackReader(self.objects, manifest, what=what)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self.objects.read_range(entry, offset, length, what=what)

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

    def lost(self) -> list[str]:
        with os_errors(f"Listing {self.root}"):
            return [] if self.history.seen is None else self.history.seen.gone(self.history.packages)

    # manifests

    def read_manifest(self, top_hash: str) -> Manifest:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.root}"):
            return self.manifests.read(top_hash)

    def holds(self, manifest: Manifest) -> bool:
        with os_errors(f"Reading from {self.root}"):
            try:
                self.objects.locate(manifest)
            except NotFoundError:
                return False
            return self.manifests.path(manifest.top_hash).exists()

    def read_header(self, top_hash: str) -> dict[str, object]:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.root}"):
            return self.manifests.header(top_hash)

    def listing(self, top_hash: str) -> object:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.root}"):
            return self.manifests.listing(top_hash)

    # the log

    def publish(
        self,
        name: str,
        manifest: Manifest,
        *,
        tags: tuple[str, ...] = (),
        latest: bool = True,
        note: str | None = None,
    ) -> LogEntry:
        check_package_name(name)
        wanted = ("latest", *tags) if latest else tags
        for tag in wanted:
            check_tag(tag)
        self._ensure()
        with os_errors(f"Publishing {name} to {self.root}"), self.objects.shared():
            head = self.head(name)
            if head is not None:
                check_permanent(name, head, wanted, manifest.top_hash)
            try:
                manifest = self.objects.locate(manifest)
            except NotFoundError as error:
                raise NotFoundError(f"{name} cannot be published. {error.message}", hint=error.hint) from None
            self.manifests.write(manifest, near=head.top_hash if head else None)
            return self.history.append(
                name,
                "publish",
                manifest.top_hash,
                lambda before: {**before, **dict.fromkeys(wanted, manifest.top_hash)},
                note=note,
            )

    def tag(self, name: str, top_hash: str, tags: tuple[str, ...], *, permanent: bool = False) -> LogEntry:
        for tag in tags:
            check_tag(tag)
        if permanent and LATEST in tags:
            raise RefusedError(
                f"'{LATEST}' of {name} cannot be permanent: every build and every run into {name} moves it.",
                hint=f"Give the version a name of its own: `reprokit tag {name}@{top_hash[:12]} NAME --permanent`.",
            )
        self._ensure()
        with os_errors(f"Tagging {name} in {self.root}"), self.objects.shared():
            self._require(name, top_hash)
            return self.history.append(
                name,
                "tag",
                top_hash,
                lambda before: {**before, **dict.fromkeys(tags, top_hash)},
                permanent=tags if permanent else (),
            )

    def untag(self, name: str, tag: str) -> LogEntry:
        self._ensure()
        with os_errors(f"Tagging {name} in {self.root}"), self.objects.shared():
            head = self.head(name)
            if head is None or tag not in head.tags:
                raise NotFoundError(f"No tag {tag!r} on {name} in {self.root}.")
            if tag == LATEST:
                raise RefusedError(f"'latest' cannot be taken from {name}.", hint="`reprokit rollback` moves it.")
            return self.history.append(name, "tag", head.tags[tag], lambda before: _without(before, {tag}))

    def rollback(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        self._ensure()
        with os_errors(f"Rolling back {name} in {self.root}"), self.objects.shared():
            self._require(name, top_hash)
            return self.history.append(
                name, "rollback", top_hash, lambda before: {**before, "latest": top_hash}, note=note
            )

    def delete(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        self._ensure()
        with os_errors(f"Deleting {name}@{top_hash[:12]} in {self.root}"), self.objects.shared():
            self._require(name, top_hash)

            def tags(before: Mapping[str, str]) -> dict[str, str]:
                left = [hash_ for hash_ in self.top_hashes(name) if hash_ != top_hash]
                kept = _without(before, {tag for tag, hash_ in before.items() if hash_ == top_hash})
                if left:
                    kept.setdefault("latest", left[-1])
                return kept

            return self.history.append(name, "delete", top_hash, tags, note=note)

    def _require(self, name: str, top_hash: str) -> None:
        if top_hash not in self.top_hashes(name):
            raise NotFoundError(f"{name} has no version {top_hash[:12]} in {self.root}.")

    def head(self, name: str) -> LogEntry | None:
        with os_errors(f"Reading the log of {name} in {self.root}"):
            return self.history.head(name)

    def log(self, name: str) -> list[LogEntry]:
        with os_errors(f"Reading the log of {name} in {self.root}"):
            return self.history.entries(name)

    def top_hashes(self, name: str) -> list[str]:
        with os_errors(f"Reading the log of {name} in {self.root}"):
            return self.history.top_hashes(name)

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        with os_errors(f"Listing {self.root}"):
            yield from self.history.packages(namespace)

    # signs of life

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[None]:
        self._ensure()
        with os_errors(f"Marking run {run_id} as running in {self.root}"):
            held = self.signs.claim(run_id)
        with held:
            yield

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


def _without(tags: Mapping[str, str], gone: set[str]) -> dict[str, str]:
    return {tag: hash_ for tag, hash_ in tags.items() if tag not in gone}
