"""What conda-meta says of a conda environment, and what is really there. No conda and no other library is needed.

One JSON file for each package; https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reprokit.core.canonical_json import sha256_of
from reprokit.environment.local.clean_url import clean_url
from reprokit.environment.local.stat_cache import Memory
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import Archive, CondaPackage

__all__ = ["CondaInstalled", "conda_installed", "conda_key"]

FOLDER = "conda-meta"


@dataclass(frozen=True)
class CondaInstalled:
    """One package of conda-meta, as it is now.

    Attributes:
        archive: Where it came from; None where conda-meta does not say, or gives no hash.
        changed: Its files that were edited, or are missing, relative to the prefix.
        metadata: The folders of Python distributions that it brought, relative to the prefix.
        copies: Where the archive may still lie on this machine.
        modules: What it brought for Python, relative to the prefix.
        written: When it was installed, in ns.
    """

    package: CondaPackage
    archive: Archive | None
    changed: list[str]
    metadata: list[str]
    copies: list[Path]
    modules: list[str]
    written: int


class _File(msgspec.Struct):
    path: str = msgspec.field(name="_path")
    path_type: str = "hardlink"
    sha256: str | None = None
    sha256_in_prefix: str | None = None
    size_in_bytes: int | None = None
    prefix_placeholder: str | None = None


class _Files(msgspec.Struct):
    paths: list[_File] = []


class _Record(msgspec.Struct):
    name: str
    version: str
    build: str
    subdir: str
    sha256: str | None = None
    url: str | None = None
    fn: str | None = None
    paths_data: _Files | None = None
    package_tarball_full_path: str | None = None
    extracted_package_dir: str | None = None


_DECODER = msgspec.json.Decoder(_Record)


def conda_installed(prefix: Path, memory: Memory) -> list[CondaInstalled]:
    """Return the packages of a conda environment by name; none if `prefix` is no conda environment.

    Raises:
        EnvironmentMismatchError: A file of conda-meta cannot be read.
    """
    found = []
    folder = prefix / FOLDER
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            data = file.read_bytes()
            found.append(_installed(_DECODER.decode(data), prefix, memory, written=_written(file, data, memory)))
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, OSError) as error:
            raise EnvironmentMismatchError(
                f"{file} cannot be read as a conda record: {error}.", hint="Repair the environment, or make a new one."
            ) from None
    return sorted(found, key=lambda one: one.package.name)


def conda_key(package: CondaPackage) -> str:
    """Return what conda calls a package's archive, without its suffix, below its platform."""
    return f"{package.subdir}/{package.name}-{package.version}-{package.build}"


def _written(file: Path, data: bytes, memory: Memory) -> int:
    """Return when a record was written; one that was touched later and says the same is as old as it was."""
    key, seen = f"record:{file}", file.stat()
    known = memory.get(key, seen)
    if known is None:
        known = {"digest": hashlib.sha256(data).hexdigest(), "written": seen.st_ctime_ns}
        before = memory.last(key)
        if before is not None and before["digest"] == known["digest"]:
            known["written"] = min(known["written"], before["written"])
        memory.put(key, seen, known)
    return int(known["written"])


def _installed(record: _Record, prefix: Path, memory: Memory, *, written: int) -> CondaInstalled:
    files = record.paths_data.paths if record.paths_data else []
    changed = dict(_changed(files, prefix, memory, written))
    package = CondaPackage(
        name=record.name,
        version=record.version,
        build=record.build,
        subdir=record.subdir,
        sha256=record.sha256,
        edited=sha256_of(changed) if changed else None,
    )
    msgspec.convert(msgspec.to_builtins(package), CondaPackage)  # its words go into commands and paths one day
    archive = None
    if record.url and record.sha256 and (url := clean_url(record.url)) is not None:
        archive = Archive(
            kind="conda",
            name=record.name,
            version=record.version,
            file=url.rpartition("/")[2],
            url=url,
            sha256=record.sha256,
        )
    modules = [file.path for file in files if "-packages/" in file.path]
    copies = list(_copies(record))
    return CondaInstalled(package, archive, sorted(changed), list(_metadata(files)), copies, modules, written)


def _changed(files: Iterable[_File], prefix: Path, memory: Memory, written: int) -> Iterator[tuple[str, str]]:
    """Yield the files that are not those that were installed, and their hashes.

    conda-meta is written after a package's files: one of the size that it says, untouched since, is what it was.
    """
    root = str(prefix)
    for file in files:
        if file.path.endswith(".pyc") or file.path_type == "directory":
            continue
        path = f"{root}/{file.path}"
        try:
            seen = os.lstat(path)
        except OSError:
            yield file.path, "missing"
            continue
        if file.path_type == "hardlink" and not stat.S_ISREG(seen.st_mode):
            yield file.path, "no file"
            continue
        wanted = file.sha256_in_prefix or file.sha256
        if file.path_type == "softlink" or wanted is None:
            continue
        touched = max(seen.st_mtime_ns, seen.st_ctime_ns) >= written
        resized = not file.prefix_placeholder and file.size_in_bytes not in (None, seen.st_size)
        if (touched or resized) and (actual := _hash(path, seen, memory)) != wanted:
            yield file.path, actual


def _hash(path: str, seen: os.stat_result, memory: Memory) -> str:
    known = memory.get(path, seen)
    if known is None:
        try:
            with open(path, "rb") as handle:  # noqa: PTH123 - its path is text already
                known = hashlib.file_digest(handle, "sha256").hexdigest()
        except OSError:
            return "unreadable"
        memory.put(path, seen, known)
    return str(known)


def _metadata(files: Iterable[_File]) -> Iterator[str]:
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if (name == "METADATA" and folder.endswith(".dist-info")) or (
            name == "PKG-INFO" and folder.endswith(".egg-info")
        ):
            yield folder
        elif file.path.endswith(".egg-info"):
            yield file.path


def _copies(record: _Record) -> Iterator[Path]:
    if record.package_tarball_full_path:
        yield Path(record.package_tarball_full_path)
    if record.extracted_package_dir and record.fn and "/" not in record.fn:
        yield Path(record.extracted_package_dir).parent / record.fn
