"""A registry in a folder.

The log is the truth: an entry is created exclusively (link(2)) after its manifest and objects are durable.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, get_args

from reprokit.canonical import canonical
from reprokit.digest import Digest, hash_file
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, RegistryError, UsageError
from reprokit.manifest import Entry, Manifest
from reprokit.paths import durable_write, os_errors
from reprokit.progress import SILENT, Progress
from reprokit.refs import check_package_name, check_tag
from reprokit.registry.base import FORMAT, Action, LogEntry, Registry, Sink
from reprokit.store.index import Index
from reprokit.store.manifests import ManifestStore
from reprokit.store.objects import ObjectStore
from reprokit.store.packs import SMALL
from reprokit.store.reader import PackReader, Reader
from reprokit.store.staging import Staging, stage
from reprokit.untrusted import load_json

__all__ = ["LocalRegistry", "writer"]

_MARKER = "reprokit-registry.json"
_MAX_LOG_ENTRY = 16 * 1024 * 1024
_DIGITS = 10
_ATTEMPTS = 50
_FIELDS = ("seq", "prev", "action", "top_hash", "time", "writer", "tags", "permanent", "note")
_ACTIONS = frozenset(get_args(Action))
_ENTRY = re.compile(r"[0-9]{10}")
_HASH = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LocalRegistry(Registry):
    """See the module. Opening creates nothing; the first write does."""

    def __init__(self, root: Path, *, cache: Path | None = None) -> None:
        """Open a registry.

        Args:
            cache: Where its index is kept; None keeps it in memory.
        """
        self.root = root
        self.url = str(root)
        self._cache = cache
        self._checked = False
        self.manifests = ManifestStore(root)
        if not (root / _MARKER).exists() and root.exists():
            self._refuse_foreign()
        elif root.exists():
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
        if others:
            raise RegistryError(
                f"{self.root} is not a reprokit registry: it has no {_MARKER}, but it holds {others[0]!r}.",
                hint="Name an empty or new folder, or an existing registry, with --registry.",
            )

    def _marker(self) -> dict[str, Any]:
        marker = self.root / _MARKER
        with os_errors(f"Opening the registry {self.root}"):
            content = load_json(marker.read_bytes(), what=str(marker), max_bytes=64 * 1024)
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

    def _ensure(self) -> None:
        """Make the folder a registry before the first write."""
        if self._checked:
            return
        with os_errors(f"Creating the registry {self.root}"), contextlib.suppress(FileExistsError):
            marker = {"format": FORMAT, "uuid": str(uuid.uuid4())}
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
                with contextlib.suppress(FileNotFoundError):  # gc wrote it anew meanwhile
                    digest, _ = hash_file(path)
                    if digest.hex != name:
                        found.append(
                            f"Pack {name[:12]}… is damaged: its bytes have the hash {digest.hex[:12]}… ({path})."
                        )
                advance()
        return found

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
                _check_permanent(name, head, wanted, manifest.top_hash)
            try:
                manifest = self.objects.locate(manifest)
            except NotFoundError as error:
                raise NotFoundError(f"{name} cannot be published. {error.message}", hint=error.hint) from None
            self.manifests.write(manifest, near=head.top_hash if head else None)
            return self._commit(
                name,
                "publish",
                manifest.top_hash,
                lambda before: {**before, **dict.fromkeys(wanted, manifest.top_hash)},
                note=note,
            )

    def tag(self, name: str, top_hash: str, tags: tuple[str, ...], *, permanent: bool = False) -> LogEntry:
        for tag in tags:
            check_tag(tag)
        self._ensure()
        with os_errors(f"Tagging {name} in {self.root}"), self.objects.shared():
            self._require(name, top_hash)
            return self._commit(
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
            if tag == "latest":
                raise RefusedError(f"'latest' cannot be taken from {name}.", hint="`reprokit rollback` moves it.")
            return self._commit(name, "tag", head.tags[tag], lambda before: _without(before, {tag}))

    def rollback(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        self._ensure()
        with os_errors(f"Rolling back {name} in {self.root}"), self.objects.shared():
            self._require(name, top_hash)
            return self._commit(name, "rollback", top_hash, lambda before: {**before, "latest": top_hash}, note=note)

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

            return self._commit(name, "delete", top_hash, tags, note=note)

    def _require(self, name: str, top_hash: str) -> None:
        if top_hash not in self.top_hashes(name):
            raise NotFoundError(f"{name} has no version {top_hash[:12]} in {self.root}.")

    def _commit(
        self,
        name: str,
        action: Action,
        top_hash: str,
        tags: Callable[[Mapping[str, str]], dict[str, str]],
        *,
        permanent: tuple[str, ...] = (),
        note: str | None = None,
    ) -> LogEntry:
        """Append to the log, on top of whatever came before it; a writer that comes first is built upon."""
        folder = self.root / "log" / name
        while True:
            seq = self._last_seq(folder)
            last = self._read_raw(folder, seq) if seq else None
            before = _parse(last, seq, folder) if last is not None else None
            after = tags(before.tags if before else {})
            if before is not None:
                _check_permanent(name, before, [tag for tag in before.permanent if after.get(tag) != before.tags[tag]])
            entry = LogEntry(
                seq=seq + 1,
                prev=hashlib.sha256(last).hexdigest() if last is not None else None,
                action=action,
                top_hash=top_hash,
                time=time.time_ns(),
                writer=writer(),
                tags=after,
                permanent=tuple(sorted({*(before.permanent if before else ()), *permanent})),
                note=note,
            )
            body = {"package": name, **{key: getattr(entry, key) for key in _FIELDS}}
            try:
                durable_write(folder / f"{entry.seq:0{_DIGITS}d}", _sealed(canonical(body)), exclusive=True)
            except FileExistsError:
                continue
            return entry

    def _last_seq(self, folder: Path) -> int:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return 0
        return max((int(name) for name in names if _ENTRY.fullmatch(name)), default=0)

    def _read_raw(self, folder: Path, seq: int) -> bytes:
        path = folder / f"{seq:0{_DIGITS}d}"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise DataMismatchError(
                f"The log of {folder.parent.name}/{folder.name} has a gap: entry {seq} is missing from {folder}.",
                hint="Restore the file from another copy of the registry.",
            ) from None

    def head(self, name: str) -> LogEntry | None:
        check_package_name(name)
        folder = self.root / "log" / name
        with os_errors(f"Reading the log of {name} in {self.root}"):
            seq = self._last_seq(folder)
            return _parse(self._read_raw(folder, seq), seq, folder) if seq else None

    def log(self, name: str) -> list[LogEntry]:
        check_package_name(name)
        folder = self.root / "log" / name
        entries: list[LogEntry] = []
        previous: str | None = None
        with os_errors(f"Reading the log of {name} in {self.root}"):
            for seq in range(1, self._last_seq(folder) + 1):
                raw = self._read_raw(folder, seq)
                entry = _parse(raw, seq, folder)
                if entry.prev != previous:
                    raise DataMismatchError(
                        f"The history of {name} was rewritten: log entry {seq} follows {str(entry.prev)[:12]}…, "
                        f"but the entry before it is {str(previous)[:12]}….",
                        hint="Compare with another copy of the registry before you trust either.",
                    )
                previous = hashlib.sha256(raw).hexdigest()
                entries.append(entry)
        return entries

    def top_hashes(self, name: str) -> list[str]:
        check_package_name(name)
        folder = self.root / "log" / name
        versions: dict[str, None] = {}
        with os_errors(f"Reading the log of {name} in {self.root}"):
            for seq in range(1, self._last_seq(folder) + 1):
                entry = _parse(self._read_raw(folder, seq), seq, folder)
                if entry.action == "publish":
                    versions.setdefault(entry.top_hash)
                elif entry.action == "delete":
                    versions.pop(entry.top_hash, None)
        return list(versions)

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        base = self.root / "log"
        with os_errors(f"Listing {self.root}"):
            spaces = [namespace] if namespace else sorted(_listdir(base))
            for space in spaces:
                for name in sorted(_listdir(base / space)):
                    with contextlib.suppress(UsageError):  # not a name, so not ours
                        yield check_package_name(f"{space}/{name}")

    # signs of life

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[None]:
        self._ensure()
        path = self.root / "running" / run_id
        with os_errors(f"Marking run {run_id} as running in {self.root}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = _claimed(path)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            handle.close()

    def alive_since(self) -> list[float]:
        """Return when the runs began that are alive now, in seconds since 1970."""
        folder = self.root / "running"
        return [(folder / run).stat().st_mtime for run in _listdir(folder) if self.is_claimed(run)]

    def dead_runs(self) -> Iterator[Path]:
        """Yield the signs of life of runs that are not alive; nobody takes one up while the caller has it."""
        for run in _listdir(self.root / "running"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                path = self.root / "running" / run
                with path.open("rb") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield path

    def is_claimed(self, run_id: str) -> bool:
        try:
            with (self.root / "running" / run_id).open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def _claimed(path: Path) -> BinaryIO:
    """Open and lock a sign of life; who only looks whether it is locked is waited for, and gc may have removed it."""
    for attempt in range(_ATTEMPTS, -1, -1):
        handle = path.open("wb")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_nlink:
                break
        except BlockingIOError:
            if not attempt:
                raise
            time.sleep(0.01)
        handle.close()
    return handle


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

    def put_stream(self, source: BinaryIO, size: int, *, threads: int = 2) -> tuple[Digest, int]:
        return self._staging.put_stream(source, size, threads=threads)

    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        self._staging.put_known(source, digest, size, what=what)


def _sealed(body: bytes) -> bytes:
    """Return a log entry's bytes: its JSON, and the SHA-256 of that, a line each."""
    return b"%s\n%s\n" % (body, hashlib.sha256(body).hexdigest().encode("ascii"))


def _parse(raw: bytes, seq: int, folder: Path) -> LogEntry:
    what = f"Log entry {seq} of {folder.parent.name}/{folder.name}"
    body = raw.partition(b"\n")[0]
    if raw != _sealed(body):
        raise DataMismatchError(
            f"{what} is corrupt: its bytes are not those that were written ({folder}).",
            hint="Restore the file from another copy of the registry.",
        )
    value = load_json(body, what=what, max_bytes=_MAX_LOG_ENTRY)
    if not _is_entry(value):
        raise DataMismatchError(
            f"{what} is malformed ({folder}).", hint="Restore it from another copy of the registry."
        )
    name = f"{folder.parent.name}/{folder.name}"
    if (value["package"], value["seq"]) != (name, seq):
        raise DataMismatchError(
            f"{what} is in the wrong place: it is entry {value['seq']} of {value['package']} ({folder}).",
            hint="Restore the log from another copy of the registry.",
        )
    return LogEntry(**{**{key: value[key] for key in _FIELDS}, "permanent": tuple(value["permanent"])})


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("package"), str)
        and type(value.get("seq")) is int
        and (value.get("prev") is None or _is_hash(value["prev"]))
        and value.get("action") in _ACTIONS
        and _is_hash(value.get("top_hash"))
        and type(value.get("time")) is int
        and isinstance(value.get("writer"), str)
        and isinstance(value.get("tags"), dict)
        and all(_is_hash(hash_) for hash_ in value["tags"].values())
        and isinstance(value.get("permanent"), list)
        and all(tag in value["tags"] for tag in value["permanent"])
        and (value.get("note") is None or isinstance(value["note"], str))
        and set(value) == {"package", *_FIELDS}
    )


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _check_permanent(name: str, head: LogEntry, tags: Iterable[str], top_hash: str | None = None) -> None:
    for tag in tags:
        if tag in head.permanent and head.tags[tag] != top_hash:
            raise RefusedError(
                f"The tag {tag!r} of {name} is permanent: it stays at {head.tags[tag][:12]}, and that version stays.",
                hint="Choose another tag.",
            )


def _without(tags: Mapping[str, str], gone: set[str]) -> dict[str, str]:
    return {tag: hash_ for tag, hash_ in tags.items() if tag not in gone}


def _listdir(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def writer() -> str:
    """Return who writes: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
