"""The archives that a run keeps beside its record, for environments that no index will rebuild."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Literal

from reprokit.environment.capture import packages_of
from reprokit.environment.interpreter import Interpreter
from reprokit.environment.wheelhouse import Vault, held, keep, read_name
from reprokit.environment.wheels import repack
from reprokit.errors import EnvironmentMismatchError
from reprokit.lock import EnvironmentLock, PipPackage
from reprokit.manifest import Entry, Manifest
from reprokit.paths import os_errors
from reprokit.progress import SILENT, Progress
from reprokit.registry import Registry
from reprokit.registry.base import Sink

__all__ = ["FOLDER", "open_vault", "store_vault"]

FOLDER = "vault"


def open_vault(manifest: Manifest, registry: Registry) -> Vault:
    """Return what writes the archives of a run, by the names of their packages."""

    def writer(entry: Entry) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            target = folder / entry.logical_key.rpartition("/")[2]
            with target.open("xb") as sink:
                registry.copy_object(entry, sink, what=entry.logical_key)
            return target

        return write

    return {read_name(Path(entry.logical_key)): writer(entry) for entry in manifest.below(FOLDER)}


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
    """Store wheels of installed packages; return the entries, and warnings of what is not as it should be.

    Args:
        which: `unserved` takes those that were not installed from an index: local wheels, folders and repositories, and
            those that were edited since.
        changed: The files that were edited, by package.
        interpreter: Whose environment `lock` is.
    Raises:
        EnvironmentMismatchError: Of `all`, one cannot be packed; it is named.
    """
    wanted = {package.name: package for package in lock.pip}
    entries = []
    warnings = []
    todo = [(wanted[name], one) for name, one in packages_of(interpreter) if name in wanted]
    if which == "unserved":
        todo = [(package, one) for package, one in todo if package.name in changed or _is_unserved(one)]
    if not todo:
        return [], []
    with progress.task("Storing packages", len(todo)) as advance:
        for package, distribution in todo:
            try:
                wheel = _wheel(package, distribution, interpreter, cache / "wheels")
            except EnvironmentMismatchError as error:
                if which == "all":
                    raise
                warnings.append(f"The run will not be rebuilt elsewhere: {error.message}")
                continue
            with wheel.open("rb") as source:
                digest, size = sink.put_stream(source, wheel.stat().st_size)
            entries.append(Entry(f"{FOLDER}/{wheel.name}", size, digest))
            advance(1)
    return entries, warnings


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
