"""A registry in a folder.

The log is the truth: an entry is created exclusively (link(2)) after its manifest and objects are durable.
Everything under `.quilt/named_packages` is derived from it, for the quilt3 client.
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
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from reprokit.canonical import canonical
from reprokit.digest import Digest
from reprokit.errors import DataMismatchError, NotFoundError, RegistryError
from reprokit.manifest import Manifest
from reprokit.paths import durable_write, os_errors
from reprokit.refs import check_package_name, check_tag
from reprokit.registry.base import FORMAT, LogEntry, Registry, Sink
from reprokit.store.objects import ObjectStore, Staging
from reprokit.untrusted import load_json

__all__ = ["LocalRegistry"]

_MARKER = "reprokit-registry.json"
_MAX_LOG_ENTRY = 16 * 1024 * 1024
_DIGITS = 10
_HASH = re.compile(r"[0-9a-f]{64}")


class LocalRegistry(Registry):
    """See the module. Opening creates nothing; the first write does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._objects = ObjectStore(root / "objects")
        self._checked = False
        if not (root / _MARKER).exists() and root.exists():
            self._refuse_foreign()
        elif root.exists():
            self._check_format()

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

    def _check_format(self) -> None:
        marker = self.root / _MARKER
        with os_errors(f"Opening the registry {self.root}"):
            content = load_json(marker.read_bytes(), what=str(marker), max_bytes=64 * 1024)
        version = content.get("format") if isinstance(content, dict) else None
        if version != FORMAT:
            raise RegistryError(
                f"{self.root} is a registry of format {version!r}; this reprokit reads format {FORMAT}.",
                hint="Use the release of reprokit that wrote it, or a newer one.",
            )
        self._checked = True

    def _ensure(self) -> None:
        """Make the folder a registry before the first write."""
        if self._checked:
            return
        with os_errors(f"Creating the registry {self.root}"), contextlib.suppress(FileExistsError):
            marker = {"format": FORMAT, "uuid": str(uuid.uuid4())}
            durable_write(self.root / _MARKER, canonical(marker) + b"\n", exclusive=True)
        self._check_format()

    # objects

    def staging(self) -> AbstractContextManager[Sink]:
        self._ensure()
        return self._staging()

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Sink]:
        with os_errors(f"Storing objects in {self.root}"), self._objects.staging() as staging:
            yield _LocalSink(staging, self.root)

    def has_object(self, digest: Digest, size: int) -> bool:
        return self._objects.has(digest, size)

    def open_object(self, digest: Digest) -> BinaryIO:
        with os_errors(f"Reading from {self.root}"):
            return self._objects.open(digest)

    def read_object(self, digest: Digest, size: int, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self._objects.read(digest, size, what=what)

    def copy_object(self, digest: Digest, size: int, sink: BinaryIO | None, *, what: str) -> None:
        with os_errors(f"Reading {what}"):
            self._objects.copy_to(digest, size, sink, what=what)

    def read_range(self, digest: Digest, offset: int, length: int) -> bytes:
        with os_errors(f"Reading from {self.root}"):
            return self._objects.read_range(digest, offset, length)

    def object_url(self, digest: Digest) -> str:
        return "file://" + quote(str(self._objects.path(digest)))

    # manifests

    def _manifest_path(self, top_hash: str) -> Path:
        return self.root / ".quilt" / "packages" / top_hash

    def read_manifest(self, top_hash: str) -> Manifest:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.root}"):
            try:
                data = self._manifest_path(top_hash).read_bytes()
            except FileNotFoundError:
                raise _missing_manifest(top_hash, self.root) from None
        return Manifest.decode(data, top_hash=top_hash, what=f"Manifest {top_hash[:12]} of {self.root}")

    def read_header(self, top_hash: str) -> dict[str, object]:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.root}"):
            try:
                with self._manifest_path(top_hash).open("rb") as handle:
                    line = handle.readline()
            except FileNotFoundError:
                raise _missing_manifest(top_hash, self.root) from None
        return Manifest.decode_header(line, what=f"Manifest {top_hash[:12]} of {self.root}")

    # the log

    def publish(self, name: str, manifest: Manifest, *, tags: tuple[str, ...] = (), latest: bool = True) -> LogEntry:
        check_package_name(name)
        self._ensure()
        for entry in manifest.entries:
            if not self._objects.has(entry.digest, entry.size):
                raise NotFoundError(
                    f"{name} cannot be published: the object of {entry.logical_key!r} ({entry.digest.hex[:12]}…, "
                    f"{entry.size:,} bytes) is not in {self.root}.",
                    hint="Build the version again.",
                )
        with os_errors(f"Publishing {name} to {self.root}"):
            durable_write(self._manifest_path(manifest.top_hash), manifest.encode())
            return self._commit(name, manifest.top_hash, ("latest", *tags) if latest else tags)

    def tag(self, name: str, top_hash: str, tags: tuple[str, ...]) -> LogEntry:
        if top_hash not in self.top_hashes(name):
            raise NotFoundError(f"{name} has no version {top_hash[:12]} in {self.root}.")
        with os_errors(f"Tagging {name} in {self.root}"):
            return self._commit(name, top_hash, tags)

    def _commit(self, name: str, top_hash: str, tags: tuple[str, ...]) -> LogEntry:
        for tag in tags:
            check_tag(tag)
        folder = self.root / "log" / name
        while True:
            seq = self._last_seq(folder)
            last = self._read_raw(folder, seq) if seq else None
            before = _parse(last, seq, folder).tags if last is not None else {}
            entry = LogEntry(
                seq=seq + 1,
                prev=hashlib.sha256(last).hexdigest() if last is not None else None,
                top_hash=top_hash,
                time=time.time_ns(),
                writer=_writer(),
                tags={**before, **dict.fromkeys(tags, top_hash)},
            )
            body = {key: getattr(entry, key) for key in ("prev", "top_hash", "time", "writer", "tags")}
            try:
                durable_write(folder / f"{entry.seq:0{_DIGITS}d}", canonical(body) + b"\n", exclusive=True)
            except FileExistsError:
                continue  # another writer came first: build on top of theirs
            self._derive_pointers(name, entry)
            return entry

    def _derive_pointers(self, name: str, entry: LogEntry) -> None:
        folder = self.root / ".quilt" / "named_packages" / name
        data = entry.top_hash.encode("ascii")
        durable_write(folder / str(entry.time // 1_000_000_000), data, sync=False)
        durable_write(folder / "latest", entry.tags.get("latest", entry.top_hash).encode("ascii"), sync=False)

    def _last_seq(self, folder: Path) -> int:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return 0
        return max((int(name) for name in names if len(name) == _DIGITS and name.isdigit()), default=0)

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
        with os_errors(f"Reading the log of {name} in {self.root}"):
            return [
                _parse(self._read_raw(folder, seq), seq, folder).top_hash
                for seq in range(1, self._last_seq(folder) + 1)
            ]

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        base = self.root / "log"
        with os_errors(f"Listing {self.root}"):
            spaces = [namespace] if namespace else sorted(_listdir(base))
            for space in spaces:
                for name in sorted(_listdir(base / space)):
                    yield f"{space}/{name}"

    # signs of life

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[None]:
        self._ensure()
        path = self.root / "running" / run_id
        with os_errors(f"Marking run {run_id} as running in {self.root}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("wb")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            handle.close()

    def is_claimed(self, run_id: str) -> bool:
        try:
            with (self.root / "running" / run_id).open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


class _LocalSink(Sink):
    def __init__(self, staging: Staging, root: Path) -> None:
        self._staging = staging
        self._root = root

    @property
    def new_bytes(self) -> int:
        return self._staging.new_bytes

    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        return self._staging.put_bytes(data)

    def put_stream(self, source: BinaryIO, size: int) -> tuple[Digest, int]:
        return self._staging.put_stream(source, size)

    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        self._staging.put_known(source, digest, size, what=what)


def _parse(raw: bytes, seq: int, folder: Path) -> LogEntry:
    what = f"Log entry {seq} of {folder.parent.name}/{folder.name}"
    value = load_json(raw, what=what, max_bytes=_MAX_LOG_ENTRY)
    if not _is_entry(value):
        raise DataMismatchError(
            f"{what} is malformed ({folder}).", hint="Restore it from another copy of the registry."
        )
    return LogEntry(seq=seq, **{key: value[key] for key in ("prev", "top_hash", "time", "writer", "tags")})


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and (value.get("prev") is None or _is_hash(value["prev"]))
        and _is_hash(value.get("top_hash"))
        and type(value.get("time")) is int
        and isinstance(value.get("writer"), str)
        and isinstance(value.get("tags"), dict)
        and all(_is_hash(hash_) for hash_ in value["tags"].values())
        and "prev" in value
    )


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _missing_manifest(top_hash: str, root: Path) -> NotFoundError:
    return NotFoundError(
        f"No version {top_hash[:12]}… in {root}.", hint="Restore its manifest from another copy of the registry."
    )


def _listdir(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _writer() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
