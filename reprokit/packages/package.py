"""Packages for people: look at a version, read it, install it, verify it."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.core.atomic_files import explain_os_error
from reprokit.core.config import Config
from reprokit.core.digest import Digest, spans
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef
from reprokit.errors import (
    DataMismatchError,
    Error,
    NotFoundError,
    PurgedError,
    RefusedError,
    RegistryError,
    UsageError,
)
from reprokit.packages.install import write_entries
from reprokit.packages.tree_cache import lay_out_file
from reprokit.registry import Registry, open_registry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.reader import Reader

__all__ = ["Claims", "Package", "PackageEntry", "PackageFolder", "Problem", "verify_registry"]

_THREADS = 2
_TASK = 4 * 1024 * 1024  # bytes that are worth handing to a thread


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
        """What the version says of it: key, size, digest, metadata."""
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
        name = Path(entry.logical_key).name
        return lay_out_file(entry.digest, name, self.read, cache=Config.cache_folder())

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
        """Open a version.

        Args:
            ref: `ns/name`, `ns/name:tag` or `ns/name@hash`.
            registry: A registry or its address; the one configured if None.
        Raises:
            NotFoundError: No such package, tag or version.
        """
        parsed = PackageRef.parse(ref) if isinstance(ref, str) else ref
        if registry is None or isinstance(registry, str):
            registry = open_registry(Config.load(registry=registry).registry)
        return cls(parsed.name, registry.read_manifest(registry.resolve(parsed)), registry)

    @property
    def top_hash(self) -> str:
        """The hash of the version, of all its content, message and metadata."""
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

        Args:
            progress: Where it is shown how far that is.
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

    def verify(
        self, *, progress: Progress = SILENT, sound: set[Digest] | None = None, claims: Claims | None = None
    ) -> list[Problem]:
        """Read every object and return what is missing, corrupt or purged, or not what the version says of it.

        Args:
            progress: Where it is shown how far that is.
            sound: Objects that were verified already and are not read again; those found sound are added.
            claims: What else is to be true of the bytes, see `Claims`.
        """
        from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

        problems: list[Problem] = []
        sound = set() if sound is None else sound
        reader = self.registry.reader(self.manifest, what=str(self), anew=True)  # it takes nothing as verified
        checks: Mapping[str, Callable[[memoryview], None]] = {}
        try:
            checks = claims(self) if claims is not None else {}
        except _WRONG as error:
            problems.append(self._wrong(error, None))
        with progress.task(f"Verifying {self}", len(self), unit="files") as advance:

            def look(positions: Sequence[int]) -> list[Problem]:
                found = [self._look(position, reader, checks, sound) for position in positions]
                advance(len(positions))
                return [problem for problem in found if problem is not None]

            sizes = [entry.size for entry in self.manifest.entries]
            tasks = list(spans(sizes, _TASK))
            if len(tasks) < 2:
                return problems + [problem for task in tasks for problem in look(task)]
            with ThreadPoolExecutor(_THREADS) as pool:
                return problems + [problem for found in pool.map(look, tasks) for problem in found]

    def _look(
        self, position: int, reader: Reader, checks: Mapping[str, Callable[[memoryview], None]], sound: set[Digest]
    ) -> Problem | None:
        """Return what is wrong with an entry; two threads may read an object that two entries share."""
        entry = self.manifest.entries[position]
        check = checks.get(entry.logical_key)
        if check is None and entry.digest in sound:
            return None
        try:
            data = reader.view(position)
            sound.add(entry.digest)
            if check is not None:
                check(memoryview(data))
        except _WRONG as error:
            return self._wrong(error, entry.logical_key)
        return None

    def _wrong(self, error: Error, key: str | None) -> Problem:
        purged = isinstance(error, PurgedError)
        return Problem(package=self.name, top_hash=self.top_hash, logical_key=key, message=error.message, purged=purged)


Claims = Callable[[Package], Mapping[str, Callable[[memoryview], None]]]
"""Of a version, by key what looks at an entry's verified bytes and raises DataMismatchError if they are not what the
version says of them. It may raise that itself."""

_WRONG = (DataMismatchError, NotFoundError, RegistryError)


def verify_registry(
    registry: Registry, *, progress: Progress = SILENT, claims: Claims | None = None
) -> tuple[int, list[Problem]]:
    """Verify every version of every package: log chain, what was seen of it, manifest, objects; and what they are in.

    Args:
        claims: What else is to be true of the bytes of a version.

    Returns:
        The number of versions seen, and the problems.
    """
    problems = [_of_all(message) for message in registry.lost()]
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
            problems += package.verify(progress=progress, sound=sound, claims=claims)
    problems += [_of_all(message) for message in registry.damage(progress=progress)]
    return seen, problems


def _of_all(message: str) -> Problem:
    return Problem(package="", top_hash="", logical_key=None, message=message)
