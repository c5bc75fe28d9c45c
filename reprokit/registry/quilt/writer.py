"""Write versions into a folder so that the quilt3 client and catalog read them: `push --layout quilt`.

    .quilt/packages/<top hash>                             JSON lines as quilt3 writes them, physical keys absolute
    .quilt/named_packages/<ns>/<name>/{<unix seconds>,latest}      64 hex digits, no line feed
    objects/<algorithm>/<2 hex>/<rest><ending>             every object once; other endings are hard links
    .quilt/reprokit/{lock,tmp/}                            ours: held while pointers are written; what has no name yet

Objects, then the manifest, then `latest`, then the pointer that is called by the time. Whatever a kill leaves is in
`tmp`, which the next push clears, or is found and used by it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from reprokit.core.atomic_files import fsync_folder, new_file, os_errors
from reprokit.core.progress import Advance
from reprokit.core.refs import check_package_name
from reprokit.core.regular_files import open_lock, open_regular, read_regular
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, RegistryError
from reprokit.registry.base import Registry
from reprokit.registry.quilt.registry import LATEST, MANIFESTS, POINTERS, QuiltRegistry, object_place
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import SMALL

__all__ = ["QuiltTarget", "QuiltWriter"]

_OURS = ".quilt/reprokit"
_OWNER = "owner"
_MAX_POINTER = 1024
_SECONDS = re.compile(r"[0-9]{1,11}")
_SYNCING = 8  # files made durable at once: the journal of a file system takes them together
_PENDING = 64
_REST = 62  # hex digits of an object's file name
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EXDEV)


class QuiltTarget(ABC):
    """Where versions are written so that quilt3 reads them.

    Attributes:
        reader: Reads what is there.
    """

    url: str
    reader: QuiltRegistry

    @abstractmethod
    def copy(self, manifest: Manifest, *, source: Registry, what: str, advance: Advance) -> tuple[int, int]:
        """Store what is missing of a version's objects, verified on the way; return their number and bytes.

        Raises:
            DataMismatchError, NotFoundError: An object of the source is corrupt or missing; nothing was published.
        """

    @abstractmethod
    def holds(self, manifest: Manifest) -> bool:
        """True if a version and all its objects are there, with the physical keys that they have now."""

    @abstractmethod
    def publish(self, name: str, manifest: Manifest, *, moves_latest: Callable[[], bool]) -> None:
        """Store the manifest of a version whose objects are there, and point at it.

        Args:
            moves_latest: Asked before `latest` is moved.
        """

    @abstractmethod
    def points(self, name: str, top_hash: str, *, latest: bool) -> bool:
        """True if a package has a version; and, if `latest`, as the latest."""


class QuiltWriter(QuiltTarget):
    """See the module."""

    def __init__(self, root: Path) -> None:
        """Open a folder that Quilt reads, or that is new or empty.

        Raises:
            RefusedError: It is a registry of reprokit's.
            RegistryError: It is something else.
        """
        self.root = Path(os.path.realpath(root))
        self.url = str(root)
        self.reader = QuiltRegistry(self.root)
        with os_errors(f"Opening the Quilt registry {root}"):
            if (self.root / "reprokit-registry.json").exists():
                raise RefusedError(
                    f"{root} is a registry of reprokit's; one that Quilt reads needs a folder of its own.",
                    hint="Name another folder, or push without --layout quilt.",
                )
            if self.root.exists() and not self.root.is_dir():
                raise RegistryError(f"{root} is not a folder, so it cannot be a registry.")
            if self.root.exists() and not (self.root / ".quilt").is_dir() and (others := os.listdir(self.root)):
                raise RegistryError(
                    f"{root} is not a Quilt registry: it has no .quilt folder, but it holds {others[0]!r}.",
                    hint="Name an empty or new folder, or an existing registry.",
                )
        try:
            str(self.root).encode()
        except UnicodeEncodeError:
            raise RefusedError(
                f"{str(self.root)!r} is not UTF-8: no file:// URL that quilt3 reads leads there."
            ) from None

    def copy(self, manifest: Manifest, *, source: Registry, what: str, advance: Advance) -> tuple[int, int]:
        with os_errors(f"Storing objects in {self.url}"), self._staging() as folder:
            return _Copying(self.root, folder, manifest, source, what).run(advance)

    def holds(self, manifest: Manifest) -> bool:
        path = self.root / MANIFESTS / manifest.top_hash
        with os_errors(f"Reading from {self.url}"):
            if not path.is_file() or path.read_bytes() != self._text(manifest):
                return False
            return all(_is_there(self.root / place, entry.size) for place, entry in _places(manifest))

    def publish(self, name: str, manifest: Manifest, *, moves_latest: Callable[[], bool]) -> None:
        folder = self.root / POINTERS / check_package_name(name)
        top_hash = manifest.top_hash
        with os_errors(f"Publishing {name} to {self.url}"), self._staging() as staging:
            for place, entry in _places(manifest):
                if not _is_there(self.root / place, entry.size):
                    raise NotFoundError(
                        f"{name} cannot be published. The object of {entry.logical_key!r} is not in {self.url}.",
                        hint="Push the version again.",
                    )
            text = self._text(manifest)
            path = self.root / MANIFESTS / top_hash
            if not path.is_file() or path.read_bytes() != text:
                self._write(path, text, staging)
            with self._alone():
                pointers = self._pointers(folder)
                if pointers.get(LATEST) != top_hash and moves_latest():
                    self._write(folder / LATEST, top_hash.encode(), staging)
                pointers.pop(LATEST, None)
                if top_hash not in pointers.values():
                    seconds = max(int(time.time()), *(int(name) + 1 for name in pointers), 0)
                    self._write(folder / str(seconds), top_hash.encode(), staging)

    def points(self, name: str, top_hash: str, *, latest: bool) -> bool:
        with os_errors(f"Reading from {self.url}"):
            pointers = self._pointers(self.root / POINTERS / check_package_name(name))
        return (pointers.pop(LATEST, None) == top_hash or not latest) and top_hash in pointers.values()

    def _pointers(self, folder: Path) -> dict[str, str]:
        """Return what `latest` and the pointers called by seconds hold."""
        names = os.listdir(folder) if folder.is_dir() else []
        chosen = [name for name in names if name == LATEST or _SECONDS.fullmatch(name)]
        return {
            name: read_regular(folder / name, max_bytes=_MAX_POINTER).decode("ascii", "replace").strip()
            for name in chosen
        }

    def _text(self, manifest: Manifest) -> bytes:
        base = self.root.as_uri()
        return manifest.placed([f"{base}/{place}" for place, _ in _places(manifest)]).encode()

    def _write(self, path: Path, data: bytes, staging: Path) -> None:
        descriptor, temporary = new_file(staging)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(descriptor)
        _make_folder(path.parent)
        Path(temporary).replace(path)
        fsync_folder(path.parent)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with open_lock(self.root / _OURS / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """Give a folder for what has no name yet, and clear those of writers that died."""
        base = self.root / _OURS / "tmp"
        _make_folder(base)
        with contextlib.ExitStack() as stack:
            with self._alone():
                for name in os.listdir(base):
                    if _is_abandoned(base / name):
                        shutil.rmtree(base / name, ignore_errors=True)
                folder = Path(tempfile.mkdtemp(dir=base))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                owner = stack.enter_context((folder / _OWNER).open("wb"))
                fcntl.flock(owner, fcntl.LOCK_EX)
            yield folder


class _Copying:
    """The objects of one version on their way into the folder."""

    def __init__(self, root: Path, folder: Path, manifest: Manifest, source: Registry, what: str) -> None:
        self._root = root
        self._folder = folder
        self._manifest = manifest
        self._source = source
        self._reader = source.reader(manifest, what=what)
        self._what = what
        self._names: dict[str, dict[str, set[str]]] = {}  # folder → the digits of an object → the files it has there
        self._new: set[str] = set()
        self._count = 0
        self._bytes = 0

    def run(self, advance: Advance) -> tuple[int, int]:
        links: list[tuple[str, str, int]] = []
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(_SYNCING) as pool:
            try:
                for place, position in self._wanted().items():
                    twin = self._twin(place, self._manifest.entries[position].size)
                    if twin is None:
                        running.append(pool.submit(_settle, *self._fetch(position), self._room(place)))
                    elif twin != place:
                        links.append((twin, place, position))
                    while len(running) > _PENDING:
                        running.popleft().result()
                    advance()
                while running:
                    running.popleft().result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for twin, place, position in links:
            if not _link(self._root / twin, self._room(place)):
                _settle(*self._fetch(position), self._root / place)
        for folder in {place.rpartition("/")[0] for place in self._new}:
            fsync_folder(self._root / folder)
        return self._count, self._bytes

    def _wanted(self) -> dict[str, int]:
        """Return every place once, with the position of an entry that has it."""
        wanted: dict[str, int] = {}
        for position, (place, entry) in enumerate(_places(self._manifest)):
            other = self._manifest.entries[wanted.setdefault(place, position)]
            if other.size != entry.size:
                raise DataMismatchError(
                    f"{entry.logical_key} of {self._what} is said to have {entry.size:,} bytes, "
                    f"and the same digest as {other.logical_key}, which has {other.size:,}."
                )
        return wanted

    def _twin(self, place: str, size: int) -> str | None:
        """Return a file that has the bytes, or will have: this one, or the one with another ending."""
        folder, _, name = place.rpartition("/")
        if folder not in self._names:
            self._names[folder] = {}
            with contextlib.suppress(FileNotFoundError):
                for other in os.listdir(self._root / folder):
                    self._names[folder].setdefault(other[:_REST], set()).add(other)
        names = self._names[folder].setdefault(name[:_REST], set())
        for other in sorted(names, key=lambda other: (other != name, other)):
            twin = f"{folder}/{other}"
            if twin in self._new or _is_there(self._root / twin, size):
                return twin
        names.add(name)
        return None

    def _room(self, place: str) -> Path:
        path = self._root / place
        if place not in self._new:
            self._new.add(place)
            _make_folder(path.parent)
        return path

    def _fetch(self, position: int) -> tuple[int, str]:
        """Write an object to a temporary file, verified; return its descriptor and name."""
        entry = self._manifest.entries[position]
        what = f"{entry.logical_key} of {self._what}"
        descriptor, name = new_file(self._folder)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as sink:
                if entry.size < SMALL:
                    sink.write(self._reader.read(position))
                else:
                    self._source.copy_object(entry, sink, what=what)
        except BaseException:
            os.close(descriptor)
            raise
        self._count += 1
        self._bytes += entry.size
        return descriptor, name


def _places(manifest: Manifest) -> Iterator[tuple[str, Entry]]:
    """Yield where each entry's object belongs."""
    return ((object_place(entry.digest, entry.logical_key), entry) for entry in manifest.entries)


def _settle(descriptor: int, name: str, final: Path) -> None:
    """Make a temporary file durable and give it its name."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    Path(name).replace(final)


def _link(existing: Path, new: Path) -> bool:
    """Give a file one more name; False where the file system has no such thing."""
    try:
        new.unlink(missing_ok=True)  # one of another size, which is no object
        new.hardlink_to(existing)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _is_there(path: Path, size: int) -> bool:
    try:
        seen = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(seen.st_mode) and seen.st_size == size


def _is_abandoned(folder: Path) -> bool:
    try:
        with open_regular(folder / _OWNER) as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder whose name is durable."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)
