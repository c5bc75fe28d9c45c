"""Packages for people: build a folder into a version, look at one, install it, verify it."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.canonical import canonical
from reprokit.config import Config
from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError, RegistryError, UsageError
from reprokit.manifest import Entry, Manifest
from reprokit.paths import check_logical_key, check_logical_keys, explain_os_error, safe_join
from reprokit.progress import SILENT, Advance, Progress
from reprokit.refs import PackageRef, check_package_name, check_tag
from reprokit.registry import Registry, open_registry
from reprokit.registry.base import Sink

__all__ = ["BuildResult", "Package", "PackageEntry", "Problem", "build", "verify_registry", "write_entries"]

RESERVED = "runs"  # the namespace of run records
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made: `size` is of all entries, `new_bytes` what the registry did not have."""

    name: str
    top_hash: str
    entries: int
    size: int
    new_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that verification found wrong."""

    package: str
    top_hash: str
    logical_key: str | None
    message: str


def build(
    folder: Path,
    name: str,
    *,
    registry: Registry,
    message: str | None = None,
    meta: Mapping[str, Any] | None = None,
    tags: tuple[str, ...] = (),
    progress: Progress = SILENT,
) -> BuildResult:
    """Store every file under `folder` as a new version of package `name`.

    A link to a file inside the folder is stored as that file. Links that leave it, links to folders, sockets, pipes
    and devices are refused by name, and so is a file that changes while it is read.

    Raises:
        UsageError: The name or a file's name is not legal, or the folder is not one.
        RefusedError: A file that cannot be stored faithfully, or a reserved namespace.
        RegistryError: Reading the folder or writing the registry failed.
    """
    check_package_name(name)
    for tag in tags:
        check_tag(tag)
    if name.partition("/")[0] == RESERVED:
        raise RefusedError(f"The namespace {RESERVED!r} is reprokit's own: {name} cannot be built by hand.")
    _check_header(message, meta)
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder.", hint="`reprokit package build DIR NAME` takes a folder of files."
        )
    with progress.task(f"Looking through {folder}", None, unit="files") as advance:
        files = list(_walk(folder, advance))
    check_logical_keys(key for key, _ in files)
    with registry.staging() as sink, progress.task(f"Storing {name}", len(files), unit="files") as advance:
        entries = _store_files(files, sink, registry, advance)
        new_bytes = sink.new_bytes
    manifest = Manifest.make(entries, message=message, user_meta=meta)
    registry.publish(name, manifest, tags=tags)
    return BuildResult(
        name=name,
        top_hash=manifest.top_hash,
        entries=len(entries),
        size=manifest.size,
        new_bytes=new_bytes,
    )


def _check_header(message: str | None, meta: Mapping[str, Any] | None) -> None:
    """Raise UsageError for what cannot stand in a manifest, before anything is stored."""
    try:
        Manifest.make([], message=message, user_meta=meta).encode()
        canonical(dict(meta or {}))
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"The message or metadata cannot be stored: {error}.", hint="Metadata is JSON in UTF-8."
        ) from None


def _walk(root: Path, advance: Advance) -> Iterator[tuple[str, Path]]:
    """Yield (logical key, file) of everything below `root`, or refuse what cannot be stored."""
    real_root = root.resolve()
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError as error:
            raise explain_os_error(error, f"Reading the folder {folder}") from error
        for child in children:
            key = prefix + child.name
            if child.is_dir(follow_symlinks=False):
                pending.append((Path(child.path), key + "/"))
                continue
            path = Path(child.path)
            if child.is_symlink():
                path = _inside(path, real_root)
            elif not child.is_file(follow_symlinks=False):
                raise RefusedError(
                    f"{child.path} is a socket, pipe or device; a package holds files only.",
                    hint="Remove it, or build from a folder without it.",
                )
            check_logical_key(key)
            yield key, path
            advance()


def _inside(link: Path, real_root: Path) -> Path:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):  # a link to itself
        target = link
    if target == link or not target.is_file() or not target.is_relative_to(real_root):
        raise RefusedError(
            f"{link} is a symbolic link to {str(link.readlink())!r}, which is not a file inside {real_root}.",
            hint="Replace the link by the file it means, or remove it.",
        )
    return target


def _store_files(files: list[tuple[str, Path]], sink: Sink, registry: Registry, advance: Advance) -> list[Entry]:
    def store(item: tuple[str, Path]) -> Entry:
        key, path = item
        try:
            with path.open("rb") as handle:
                before = os.fstat(handle.fileno())
                digest, size = sink.put_stream(handle, before.st_size)
                after = os.fstat(handle.fileno())
        except OSError as error:
            if error.filename is None or str(error.filename) != str(path):
                raise  # the registry's side: its own message follows
            raise explain_os_error(error, f"Reading {path}") from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
            raise RefusedError(
                f"{path} changed while it was read ({before.st_size:,} → {after.st_size:,} bytes).",
                hint="Build again when nothing writes to the folder.",
            )
        advance()
        return Entry(key, size, digest, {}, (registry.object_url(digest),))

    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(store, item) for item in files]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class PackageEntry:
    """One logical key of an open package."""

    def __init__(self, package: Package, entry: Entry) -> None:
        self._package = package
        self.entry = entry

    def read(self) -> bytes:
        """Return the verified bytes."""
        what = f"{self.entry.logical_key} of {self._package}"
        return self._package.registry.read_object(self.entry.digest, self.entry.size, what=what)

    def open(self) -> BinaryIO:
        """Return the verified bytes as a file."""
        return BytesIO(self.read())

    def __repr__(self) -> str:
        return f"PackageEntry({self.entry.logical_key!r}, {self.entry.size} bytes)"


class Package:
    """A version of a package in a registry, read-only."""

    def __init__(self, name: str, manifest: Manifest, registry: Registry) -> None:
        self.name = name
        self.manifest = manifest
        self.registry = registry

    @classmethod
    def open(cls, ref: str | PackageRef, *, registry: Registry | str | None = None) -> Package:
        """Open `ns/name`, `ns/name:tag` or `ns/name@hash`; without `registry`, in the one configured.

        Raises:
            NotFoundError: No such package, tag or version.
        """
        parsed = PackageRef.parse(ref) if isinstance(ref, str) else ref
        if registry is None or isinstance(registry, str):
            registry = open_registry(Config.load(registry=registry).registry)
        return cls(parsed.name, registry.read_manifest(registry.resolve(parsed)), registry)

    @property
    def top_hash(self) -> str:
        return self.manifest.top_hash

    def __str__(self) -> str:
        return f"{self.name}@{self.top_hash[:8]}"

    def __getitem__(self, key: str) -> PackageEntry:
        return PackageEntry(self, self.manifest[key])

    def __contains__(self, key: object) -> bool:
        return key in self.manifest.by_key

    def __iter__(self) -> Iterator[str]:
        return (entry.logical_key for entry in self.manifest.entries)

    def __len__(self) -> int:
        return len(self.manifest.entries)

    def install(self, folder: Path, *, progress: Progress = SILENT) -> None:
        """Write every entry below `folder`, verified; the folder appears whole or not at all.

        Raises:
            RefusedError: `folder` exists and is not empty.
            DataMismatchError: An object is corrupt.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RefusedError(
                f"{folder} exists and is not empty; nothing was written.",
                hint="Name a new folder, or move that one away.",
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            temporary.chmod(0o755)
        except OSError as error:
            raise explain_os_error(error, f"Creating {folder}") from error
        try:
            write_entries(
                self.registry,
                self.manifest.entries,
                temporary,
                what=str(self),
                title=f"Installing {self}",
                progress=progress,
            )
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
        except OSError as error:
            raise explain_os_error(error, f"Installing {self} to {folder}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def verify(self, *, progress: Progress = SILENT) -> list[Problem]:
        """Read every object and return what is missing or corrupt."""
        problems: list[Problem] = []
        with progress.task(f"Verifying {self}", len(self), unit="files") as advance:
            for entry in self.manifest.entries:
                try:
                    what = f"{entry.logical_key} of {self}"
                    self.registry.copy_object(entry.digest, entry.size, None, what=what)
                except (DataMismatchError, NotFoundError, RegistryError) as error:
                    problems.append(self._problem(entry.logical_key, error))
                advance()
        return problems

    def _problem(self, key: str | None, error: Error) -> Problem:
        return Problem(package=self.name, top_hash=self.top_hash, logical_key=key, message=error.message)


def write_entries(
    registry: Registry,
    entries: Iterable[Entry],
    folder: Path,
    *,
    what: str,
    title: str,
    strip: str = "",
    mode: int = 0o644,
    progress: Progress = SILENT,
) -> None:
    """Write entries as files below an existing folder, each verified while it is copied.

    Args:
        what: Names the version in errors.
        strip: A prefix (`code/`) that logical keys lose on the way.
        mode: Permission bits of the files.
    """
    chosen = list(entries)

    def write(entry: Entry) -> None:
        path = safe_join(folder, entry.logical_key.removeprefix(strip))
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as sink:
            registry.copy_object(entry.digest, entry.size, sink, what=f"{entry.logical_key} of {what}")
        if stat.S_IMODE(mode) & 0o111:
            path.chmod(mode)
        advance()

    with progress.task(title, len(chosen), unit="files") as advance, ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(write, entry) for entry in chosen]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def verify_registry(registry: Registry, *, progress: Progress = SILENT) -> tuple[int, list[Problem]]:
    """Verify every version of every package: log chain, manifest, objects. Returns (versions seen, problems)."""
    problems: list[Problem] = []
    seen = 0
    for name in registry.packages():
        try:
            hashes = dict.fromkeys(entry.top_hash for entry in registry.log(name))
        except (DataMismatchError, RegistryError) as error:
            problems.append(Problem(package=name, top_hash="", logical_key=None, message=error.message))
            continue
        for top_hash in hashes:
            seen += 1
            try:
                package = Package(name, registry.read_manifest(top_hash), registry)
            except (DataMismatchError, NotFoundError, RegistryError) as error:
                problems.append(Problem(package=name, top_hash=top_hash, logical_key=None, message=error.message))
                continue
            problems += package.verify(progress=progress)
    return seen, problems
