"""The archives that a run keeps beside its record, for environments that no index will rebuild."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import Distribution
from pathlib import Path
from typing import Literal

import msgspec

from reprokit.core.atomic_files import os_errors
from reprokit.core.canonical_json import canonical
from reprokit.core.progress import SILENT, Progress
from reprokit.core.safe_json import load_json
from reprokit.environment.capture import packages_of
from reprokit.environment.conda.archives import gather_conda
from reprokit.environment.conda.meta import CondaInstalled, conda_installed
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.stat_cache import Memory
from reprokit.environment.pip.wheelhouse import Vault, held, keep, read_name
from reprokit.environment.pip.wheels import repack
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.registry import Registry
from reprokit.registry.base import Sink
from reprokit.schema.lock import Archive, EnvironmentLock, PipPackage
from reprokit.schema.manifest import Entry, Manifest

__all__ = ["kept_entries", "open_vault", "store_archives", "store_vault"]

FOLDER = "vault"
ARCHIVES = "archives.json"


def open_vault(manifest: Manifest, registry: Registry) -> Vault:
    """Return the archives that a run keeps, and where it found others.

    Raises:
        DataMismatchError: What it says of that is malformed.
    """

    def writer(entry: Entry) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            target = folder / entry.logical_key.rpartition("/")[2]
            with target.open("xb") as sink:
                registry.copy_object(entry, sink, what=entry.logical_key)
            return target

        return write

    wheels, conda = {}, {}
    for entry in manifest.below(FOLDER):
        parts = entry.logical_key.split("/")
        if len(parts) == 4 and parts[1] == "conda":
            conda[f"{parts[2]}/{parts[3].removesuffix('.conda').removesuffix('.tar.bz2')}"] = writer(entry)
        elif len(parts) == 2:
            wheels[read_name(Path(parts[1]))] = writer(entry)
    archives = []
    if ARCHIVES in manifest:
        data = load_json(registry.read_object(manifest[ARCHIVES], what=ARCHIVES), what=ARCHIVES)
        try:
            archives = msgspec.convert(data, list[Archive], strict=True)
        except msgspec.ValidationError as error:
            raise DataMismatchError(f"{ARCHIVES} is malformed: {error}.") from None
    return Vault(wheels, conda, archives)


def kept_entries(manifest: Manifest) -> list[Entry]:
    """Return what a repetition of a run keeps of its environment: the archives, and where others were found."""
    return [*manifest.below(FOLDER), *([manifest[ARCHIVES]] if ARCHIVES in manifest else [])]


def store_archives(archives: Sequence[Archive], sink: Sink) -> list[Entry]:
    """Store where an environment's packages were found."""
    if not archives:
        return []
    digest, size = sink.put_bytes(canonical([msgspec.to_builtins(one) for one in archives]) + b"\n")
    return [Entry(ARCHIVES, size, digest)]


def store_vault(
    lock: EnvironmentLock,
    which: Literal["unserved", "all"],
    changed: Mapping[str, list[str]],
    sink: Sink,
    *,
    interpreter: Interpreter,
    cache: Path,
    progress: Progress = SILENT,
) -> tuple[list[Entry], list[str]]:
    """Store the archives of installed packages; return the entries, and warnings of what is not as it should be.

    Args:
        which: `unserved` takes those that were not installed from an index: local wheels, folders and repositories,
            those that were edited since, and conda packages of channels on this machine.
        changed: The files that were edited, by package.
        interpreter: Whose environment `lock` is.
    Raises:
        EnvironmentMismatchError: Of `all`, one cannot be packed; it is named.
    """
    entries = []
    warnings = []
    store, todo = cache / "wheels", [*_conda(lock, which, interpreter, cache)]
    for package, distribution, why in _pip(lock, which, changed, interpreter):
        todo.append((FOLDER, partial(_wheel, package, distribution, interpreter, store)))
        if held(store, package) is None:
            megabytes = sum(file.size or 0 for file in distribution.files or ()) / 1e6
            what = f"{package.name} {package.version} ({megabytes:,.1f} MB)"
            progress.note(f"Packing {what} for the vault, once on this machine: {why}.")
    if not todo:
        return [], []
    with progress.task("Storing packages", len(todo)) as advance:
        for folder, archive in todo:
            try:
                file = archive()
            except EnvironmentMismatchError as error:
                if which == "all":
                    raise
                warnings.append(f"The run will not be rebuilt elsewhere: {error.message}")
                continue
            with os_errors(f"Reading {file}"), file.open("rb") as source:
                digest, size = sink.put_stream(source, file.stat().st_size)
            entries.append(Entry(f"{folder}/{file.name}", size, digest))
            advance(1)
    return entries, warnings


def _conda(
    lock: EnvironmentLock, which: str, interpreter: Interpreter, cache: Path
) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Yield where in the vault the archives of conda packages go, and what finds them."""
    if not lock.conda:
        return

    def find(one: CondaInstalled) -> Path:
        name = one.package.name
        return gather_conda(
            [one.package], archives=[one.archive] if one.archive else [], cache=cache,
            copies={name: one.copies},
        )[name]  # fmt: skip

    for one in conda_installed(interpreter.prefix, Memory(None)):
        if which == "all" or one.archive is None or one.archive.url.startswith("file:"):
            yield f"{FOLDER}/conda/{one.package.subdir}", partial(find, one)


def _pip(
    lock: EnvironmentLock, which: str, changed: Mapping[str, list[str]], interpreter: Interpreter
) -> Iterator[tuple[PipPackage, Distribution, str]]:
    """Yield the packages of pip's that go into the vault, and why."""
    wanted = {package.name: package for package in lock.pip}
    for name, distribution in packages_of(interpreter):
        if name not in wanted:
            continue
        if name in changed:
            yield wanted[name], distribution, f"changed since it was installed, {changed[name][0]}"
        elif _is_unserved(distribution):
            yield wanted[name], distribution, "it did not come from an index"
        elif which == "all":
            yield wanted[name], distribution, "the recipe keeps all"


def _is_unserved(distribution: Distribution) -> bool:
    """True if an installer noted that a package came from an address, and not from an index by its name."""
    return distribution.read_text("direct_url.json") is not None


def _wheel(package: PipPackage, distribution: Distribution, interpreter: Interpreter, store: Path) -> Path:
    folder = getattr(distribution, "_path", None)
    if package.record is None or folder is None:
        raise EnvironmentMismatchError(
            f"{package.name} {package.version} was installed without a RECORD of its files, and cannot be packed.",
            hint="Install it with `pip install`.",
        )
    with os_errors(f"Packing {package.name} into {store}"):
        known = held(store, package)
        if known is not None:
            return known
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
            return keep(store, package, repack(Path(folder), prefix=interpreter.prefix, into=Path(name)))
