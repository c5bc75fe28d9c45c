"""The archives that a run keeps beside its record, for environments that no index will rebuild."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import Distribution
from pathlib import Path
from typing import Literal, Self

import msgspec

from reprokit.core.atomic_files import explain_os_error, os_errors
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
from reprokit.errors import DataMismatchError, EnvironmentMismatchError, Error
from reprokit.registry import Registry
from reprokit.registry.base import Sink
from reprokit.schema.lock import Archive, EnvironmentLock, PipPackage
from reprokit.schema.manifest import Entry, Manifest

__all__ = ["Packing", "VaultOrder", "kept_entries", "open_vault", "store_archives", "unpacked"]

FOLDER = "vault"
ARCHIVES = "archives.json"
_GIVES_WAY = 10  # niceness: the training goes first
_MOMENT = 0.1  # seconds between two looks at how far it is


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


@dataclass(frozen=True, kw_only=True)
class VaultOrder:
    """What is to be kept of an environment.

    Attributes:
        lock: What the environment is.
        which: `unserved` takes those packages that were not installed from an index: local wheels, folders and
            repositories, those that were edited since, and conda packages of channels on this machine.
        changed: The files that were edited, by package.
        python: The environment's interpreter.
        cache: Folder in which this machine keeps what it packed.
    """

    lock: EnvironmentLock
    which: Literal["unserved", "all"]
    changed: Mapping[str, list[str]]
    python: Path
    cache: Path


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """One package: how it is called, where in the vault its archive goes, and what makes or finds that."""

    name: str
    folder: str
    make: Callable[[], Path]


class Packing:
    """Stores the archives of installed packages beside whatever else goes on, in a thread that gives way to it.

    `names` are those of all packages that it stores; `packed` is called with the name and the entry of each, once it is
    in the registry.
    """

    def __init__(
        self,
        order: VaultOrder | None,
        registry: Registry,
        *,
        progress: Progress = SILENT,
        packed: Callable[[str, Entry], None] = lambda _name, _entry: None,
    ) -> None:
        """Look at what is to be stored, and say what has to be packed first, how large it is, and why.

        Raises:
            EnvironmentMismatchError: All packages are wanted, and one cannot be packed; it is named.
        """
        self._registry = registry
        self._progress = progress
        self._packed = packed
        self._wanted = [] if order is None else sorted(_wanted(order, progress), key=lambda one: one.name)
        self.names = [one.name for one in self._wanted]
        self._stored: dict[str, Entry] = {}
        self._failed: dict[str, str] = {}
        self._left = False
        self._thread = threading.Thread(target=self._store, name="vault", daemon=True)

    def __enter__(self) -> Self:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True

    def finish(self) -> tuple[list[Entry], list[str]]:
        """Wait for what is still to be stored; return all entries, and a warning for each package that has none."""
        if self._thread.is_alive():
            shown = 0
            with self._progress.task("Storing packages", len(self._wanted)) as advance:
                while self._thread.is_alive():
                    self._thread.join(_MOMENT)
                    done = len(self._stored) + len(self._failed)
                    advance(done - shown)
                    shown = done
        told = {*self._stored, *self._failed}
        lost = {name: "it was not packed" for name in self.names if name not in told}
        warnings = [unpacked(f"{name}: {why}") for name, why in {**self._failed, **lost}.items()]
        return [*self._stored.values()], warnings

    def _store(self) -> None:
        if sys.platform == "linux":  # of one thread there, of the whole process elsewhere
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _GIVES_WAY)
        for one in self._wanted:
            if self._left:
                return
            try:
                file = one.make()
                with self._registry.staging() as sink, os_errors(f"Reading {file}"), file.open("rb") as source:
                    digest, size = sink.put_stream(source, file.stat().st_size)
                entry = Entry(f"{one.folder}/{file.name}", size, digest)
                self._packed(one.name, entry)
                self._stored[one.name] = entry
            except (Error, OSError) as error:
                told = error if isinstance(error, Error) else explain_os_error(error, "Packing")
                self._failed[one.name] = told.message.rstrip(".")


def unpacked(why: str) -> str:
    """Return what a record says of a package that is not in the vault."""
    return f"The run will not be rebuilt elsewhere: {why}."


def _wanted(order: VaultOrder, progress: Progress) -> Iterator[_Wanted]:
    interpreter = Interpreter.of(order.python)
    yield from _conda(order, interpreter)
    store = order.cache / "wheels"
    for package, distribution, why in _pip(order, interpreter):
        folder = getattr(distribution, "_path", None)
        name = f"{package.name} {package.version}"
        if order.which == "all" and (package.record is None or folder is None):
            raise _no_record(name)
        if held(store, package) is None:
            megabytes = sum(file.size or 0 for file in distribution.files or ()) / 1e6
            progress.note(f"Packing {name} ({megabytes:,.1f} MB) for the vault, once on this machine: {why}.")
        yield _Wanted(name=name, folder=FOLDER, make=partial(_wheel, package, folder, interpreter, store))


def _conda(order: VaultOrder, interpreter: Interpreter) -> Iterator[_Wanted]:
    if not order.lock.conda:
        return

    def find(one: CondaInstalled) -> Path:
        name = one.package.name
        return gather_conda(
            [one.package], archives=[one.archive] if one.archive else [], cache=order.cache,
            copies={name: one.copies},
        )[name]  # fmt: skip

    for one in conda_installed(interpreter.prefix, Memory(None)):
        if order.which == "all" or one.archive is None or one.archive.url.startswith("file:"):
            folder = f"{FOLDER}/conda/{one.package.subdir}"
            yield _Wanted(name=f"{one.package.name} {one.package.version}", folder=folder, make=partial(find, one))


def _pip(order: VaultOrder, interpreter: Interpreter) -> Iterator[tuple[PipPackage, Distribution, str]]:
    """Yield the packages of pip's that go into the vault, and why."""
    wanted, changed = {package.name: package for package in order.lock.pip}, order.changed
    for name, distribution in packages_of(interpreter):
        if name not in wanted:
            continue
        if name in changed:
            yield wanted[name], distribution, f"changed since it was installed, {changed[name][0]}"
        elif _is_unserved(distribution):
            yield wanted[name], distribution, "it did not come from an index"
        elif order.which == "all":
            yield wanted[name], distribution, "the recipe keeps all"


def _is_unserved(distribution: Distribution) -> bool:
    """True if an installer noted that a package came from an address, and not from an index by its name."""
    return distribution.read_text("direct_url.json") is not None


def _no_record(name: str) -> EnvironmentMismatchError:
    return EnvironmentMismatchError(
        f"{name} was installed without a RECORD of its files, and cannot be packed.",
        hint="Install it with `pip install`.",
    )


def _wheel(package: PipPackage, folder: Path | None, interpreter: Interpreter, store: Path) -> Path:
    if package.record is None or folder is None:
        raise _no_record(f"{package.name} {package.version}")
    with os_errors(f"Packing {package.name} into {store}"):
        known = held(store, package)
        if known is not None:
            return known
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
            return keep(store, package, repack(folder, prefix=interpreter.prefix, into=Path(name)))
