"""Packages for people: look at a version, read it, install it, verify it."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.core.config import Config
from reprokit.core.digest import Digest
from reprokit.core.logical_keys import check_logical_key, durable_write, explain_os_error, os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef
from reprokit.errors import (
    DataMismatchError,
    NotFoundError,
    PurgedError,
    RefusedError,
    RegistryError,
    UsageError,
)
from reprokit.registry import Registry, open_registry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import SMALL
from reprokit.store.reader import Reader

__all__ = ["Package", "PackageEntry", "PackageFolder", "Problem", "verify_registry", "write_entries"]

RESERVED = "runs"  # the namespace of run records
VERDICTS = "verdicts"  # and that of verdicts on them
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that verification found wrong; `package` is "" for what concerns the registry as a whole.

    Attributes:
        purged: The bytes were erased on purpose: nothing is wrong, but they are not there.
    """

    package: str
    top_hash: str
    logical_key: str | None
    message: str
    purged: bool = False


class PackageEntry:
    """One logical key of an open package."""

    __slots__ = ("_package", "_position")

    def __init__(self, package: Package, position: int) -> None:
        self._package = package
        self._position = position

    @property
    def entry(self) -> Entry:
        return self._package.manifest.entries[self._position]

    def read(self) -> bytes:
        """Return the verified bytes."""
        return self._package.reader.read(self._position)

    def open(self) -> BinaryIO:
        """Return the verified bytes as a file."""
        return BytesIO(self.read())

    def path(self) -> Path:
        """Return a read-only file with the verified bytes, for what must have a path. It lies in the cache."""
        entry = self.entry
        place = Config.cache_folder() / "files" / entry.digest.hex / Path(entry.logical_key).name
        data = self.read()
        with os_errors(f"Writing {place}"):
            if not place.is_file() or place.read_bytes() != data:
                durable_write(place, data, sync=False)
                place.chmod(0o444)
        return place

    def to_pandas(self, **options: Any) -> Any:
        """Return the table that the bytes are, as pandas reads .csv, .tsv, .json, .jsonl, .parquet and .feather files.

        Args:
            options: For the function of pandas, such as `usecols`.
        Raises:
            UsageError: The key ends in none of these.
        """
        key = self.entry.logical_key
        reader, fixed = _TABLES.get(key.rpartition(".")[2].lower(), ("", {}))
        if not reader:
            raise UsageError(f"{key!r} is not a table that pandas is asked for; known endings: {', '.join(_TABLES)}.")
        return getattr(importlib.import_module("pandas"), reader)(self.open(), **{**fixed, **options})

    def __repr__(self) -> str:
        return f"PackageEntry({self.entry.logical_key!r}, {self.entry.size} bytes)"


_TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "csv": ("read_csv", {}),
    "tsv": ("read_csv", {"sep": "\t"}),
    "json": ("read_json", {}),
    "jsonl": ("read_json", {"lines": True}),
    "parquet": ("read_parquet", {}),
    "feather": ("read_feather", {}),
}


class PackageFolder(Mapping[str, PackageEntry]):
    """The entries below a folder of an open package, by their keys relative to it."""

    def __init__(self, package: Package, prefix: str, keys: list[str]) -> None:
        self._package = package
        self._prefix = prefix
        self._keys = keys

    def __getitem__(self, key: str) -> PackageEntry:
        found = self._package[self._prefix + key]
        if not isinstance(found, PackageEntry):
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"PackageFolder({self._prefix!r}, {len(self)} entries)"


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

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return self.manifest.positions

    @cached_property
    def reader(self) -> Reader:
        """Reads entries by their position, each verified before its bytes are given out."""
        return self.registry.reader(self.manifest, what=str(self))

    def entry(self, key: str) -> PackageEntry:
        """Return one entry by its logical key, or raise NotFoundError."""
        return PackageEntry(self, self.manifest.position(key))

    def __getitem__(self, key: str) -> PackageEntry | PackageFolder:
        """Return an entry, or a folder of entries as a mapping.

        Raises:
            NotFoundError: There is neither.
        """
        position = self._positions.get(key)
        if position is not None:
            return PackageEntry(self, position)
        prefix = key.rstrip("/") + "/"
        below = [name[len(prefix) :] for name in self.manifest.keys if name.startswith(prefix)]
        if below:
            return PackageFolder(self, prefix, below)
        return PackageEntry(self, self.manifest.position(key))

    def __contains__(self, key: object) -> bool:
        return key in self.manifest

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.keys)

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

    def verify(self, *, progress: Progress = SILENT, sound: set[Digest] | None = None) -> list[Problem]:
        """Read every object and return what is missing, corrupt or purged.

        Args:
            sound: Objects that were verified already and are not read again; those found sound are added.
        """
        problems: list[Problem] = []
        sound = set() if sound is None else sound
        reader = self.registry.reader(self.manifest, what=str(self))  # a new one: it takes nothing as verified
        with progress.task(f"Verifying {self}", len(self), unit="files") as advance:
            for position, entry in enumerate(self.manifest.entries):
                if entry.digest not in sound:
                    try:
                        reader.view(position)
                        sound.add(entry.digest)
                    except (DataMismatchError, NotFoundError, RegistryError) as error:
                        problems.append(
                            Problem(
                                package=self.name,
                                top_hash=self.top_hash,
                                logical_key=entry.logical_key,
                                message=error.message,
                                purged=isinstance(error, PurgedError),
                            )
                        )
                advance()
        return problems


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
    keys = [check_logical_key(entry.logical_key.removeprefix(strip)) for entry in chosen]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    made: dict[str, str] = {"": str(folder)}
    small = []

    def write(key: str, entry: Entry) -> None:
        with os.fdopen(os.open(folder / key, flags, mode), "wb", buffering=0) as sink:
            registry.copy_object(entry, sink, what=f"{entry.logical_key} of {what}")
        advance()

    with progress.task(title, len(chosen), unit="files") as advance, ThreadPoolExecutor(_THREADS) as pool:
        futures = []
        for key, entry in zip(keys, chosen, strict=True):
            parent = key.rpartition("/")[0]
            if parent not in made:
                (folder / parent).mkdir(parents=True, exist_ok=True)
                made[parent] = f"{folder}/{parent}"
            if entry.size < SMALL:
                small.append((key, entry))
            else:
                futures.append(pool.submit(write, key, entry))
        reader = registry.reader(Manifest({}, tuple(entry for _, entry in small)), what=what)
        try:
            for position, (key, _) in enumerate(small):
                descriptor = os.open(f"{folder}/{key}", flags, mode)
                try:
                    data = reader.read(position)
                    if os.write(descriptor, data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{folder}/{key}")
                finally:
                    os.close(descriptor)
                advance()
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def verify_registry(registry: Registry, *, progress: Progress = SILENT) -> tuple[int, list[Problem]]:
    """Verify every version of every package: log chain, manifest, objects; and what objects are stored in.

    Returns:
        The number of versions seen, and the problems.
    """
    problems: list[Problem] = []
    sound: set[Digest] = set()
    seen = 0
    for name in registry.packages():
        try:
            registry.log(name)
            hashes = registry.top_hashes(name)
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
            problems += package.verify(progress=progress, sound=sound)
    damaged = registry.damage(progress=progress)
    problems += [Problem(package="", top_hash="", logical_key=None, message=message) for message in damaged]
    return seen, problems
