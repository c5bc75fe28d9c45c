"""A folder that Quilt wrote, or that `push --layout quilt` did, read as a registry. Nothing is ever written to it.

All of it is untrusted: manifests must give the top hash that names them, objects their digest, and a physical key may
point anywhere: only what lies below the registry's folder, or below folders that the caller names, is opened.

Source: quilt3 8.0 `backends/base.py` (`PackageRegistryV1`), `util.PhysicalKey.from_url`, `packages.Package._load`.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import unquote_to_bytes, urlsplit

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import Digest, copy_hashed, hash_bytes
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef, check_package_name, check_tag
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.registry.base import Head, LogEntry, Registry, Sink
from reprokit.registry.heads import heads_by_log
from reprokit.schema.manifest import MAX_LINE, MAX_MANIFEST, Entry, Manifest
from reprokit.store.objects import corrupt

__all__ = ["LATEST", "MANIFESTS", "OBJECTS", "POINTERS", "QuiltRegistry", "object_place"]

MANIFESTS = ".quilt/packages"
POINTERS = ".quilt/named_packages"
OBJECTS = "objects"
LATEST = "latest"

_HASH = re.compile(r"[0-9a-f]{64}")
_SECONDS = re.compile(r"[0-9]{1,11}")
_ENDING = re.compile(r"(?:\.[A-Za-z0-9_]{1,12}){1,2}")
_MAX_POINTER = 1024
_TORN = (0.0, 0.02, 0.1, 0.5)  # seconds: quilt3 rewrites `latest` in place, so a reader can find it empty for a moment


def object_place(digest: Digest, logical_key: str) -> str:
    """Return where `push --layout quilt` puts an object: `objects/<algorithm>/<2 hex>/<rest><ending>`.

    The ending is the logical key's, up to two of them: quilt3 picks the reader of a file by that of its physical key.
    """
    name = logical_key.rpartition("/")[2]
    endings = "".join(Path(name).suffixes[-2:])
    ending = endings if _ENDING.fullmatch(endings) else ""
    return f"{OBJECTS}/{digest.type}/{digest.hex[:2]}/{digest.hex[2:]}{ending}"


class QuiltRegistry(Registry):
    """See the module. Quilt keeps no history of tags: the log is made up of the pointers that are there."""

    def __init__(self, root: Path, *, outside: Sequence[Path] = ()) -> None:
        """Open a registry.

        Args:
            outside: Folders elsewhere whose files physical keys may name as well.
        """
        self.root = root
        self.url = str(root)
        self._allowed = [os.path.realpath(folder) for folder in (root, *outside)]

    # objects

    def has_object(self, digest: Digest, size: int) -> bool:
        with os_errors(f"Reading from {self.url}"):
            places = self._places_of(digest)
            return any(place.lstat().st_size == size for place in places)

    def read_object(self, entry: Entry, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"), self._open_object(entry, what) as handle:
            data = handle.read(entry.size + 1)
        found = hash_bytes(data, entry.digest.type)
        if found != entry.digest or len(data) != entry.size:
            raise corrupt(what, entry.digest, found)
        return data

    def copy_object(self, entry: Entry, sink: BinaryIO | None, *, what: str) -> None:
        with os_errors(f"Reading {what}"), self._open_object(entry, what) as handle:
            found, length = copy_hashed(handle, sink, entry.size, entry.digest.type)
        if found != entry.digest or length != entry.size:
            raise corrupt(what, entry.digest, found)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"), self._open_object(entry, what) as handle:
            handle.seek(offset)
            return handle.read(length)

    def _places_of(self, digest: Digest) -> list[Path]:
        """Return the files that are called by a digest."""
        folder = self.root / OBJECTS / digest.type / digest.hex[:2]
        rest = digest.hex[2:]
        try:
            return [folder / name for name in os.listdir(folder) if name.startswith(rest)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _open_object(self, entry: Entry, what: str) -> BinaryIO:
        """Open the file that an entry's first physical key names; else the one that has its digest for a name."""
        error: NotFoundError | RefusedError | DataMismatchError
        key = entry.physical_keys[0] if entry.physical_keys else ""
        try:
            return self._open_file(self._path_of(key, what), entry, what)
        except (NotFoundError, RefusedError, DataMismatchError) as caught:
            error = caught
        try:  # as in a registry of ours that was moved: its keys are absolute
            return self._open_file(str(self.root / object_place(entry.digest, entry.logical_key)), entry, what)
        except (NotFoundError, RefusedError, DataMismatchError):
            raise error from None

    def _path_of(self, key: str, what: str) -> str:
        """Return the path that a physical key names.

        Raises:
            DataMismatchError: It is none that names a file.
        """
        if key.startswith("/"):
            path = key
        else:
            try:
                parts = urlsplit(key)
                path = os.fsdecode(unquote_to_bytes(parts.path))
            except ValueError:
                raise _no_place(key, what) from None
            if parts.fragment or (parts.query and not parts.query.startswith("versionId=")):
                raise _no_place(key, what)
            if parts.scheme == "s3" and parts.netloc:  # a bucket that was copied to a folder
                path = f"{self._allowed[0]}/{path}"
            elif parts.scheme != "file" or parts.netloc not in ("", "localhost") or not path.startswith("/"):
                raise _no_place(key, what)
        if "\0" in path:
            raise _no_place(key, what)
        return path

    def _open_file(self, path: str, entry: Entry, what: str) -> BinaryIO:
        found = os.path.realpath(path)
        base = next((base for base in self._allowed if _is_below(found, base)), None)
        if base is None:
            raise RefusedError(
                f"{what} is said to lie outside the registry {self.url}, at {found}; nothing was read there.",
                hint="If you trust that place, name a folder above it: "
                f"`reprokit pull … --allow-outside {os.path.dirname(found)}`.",  # noqa: PTH120 - not a Path
            )
        try:
            handle = _open_below(base, found)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"{what} is missing: there is no {found}.",
                hint="Restore the file, or push or build the version again where it came from.",
            ) from None
        if handle is None:
            raise RefusedError(f"{what}: {found} is not a file; nothing was read there.")
        if (size := os.fstat(handle.fileno()).st_size) != entry.size:
            handle.close()
            raise DataMismatchError(
                f"{what} is corrupt: expected {entry.size:,} bytes, {found} has {size:,}.",
                hint="Nothing of it was used. The file was changed after the version was made.",
            )
        return handle

    # manifests

    def read_manifest(self, top_hash: str) -> Manifest:
        what = self._name_of(top_hash)
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.url}"), self._open_manifest(top_hash) as handle:
            if (size := handle.seek(0, os.SEEK_END)) > MAX_MANIFEST:
                raise DataMismatchError(f"{what} is {size:,} bytes long; at most {MAX_MANIFEST:,} are read.")
            handle.seek(0)
            data = handle.read(size + 1)
        return Manifest.decode(data, top_hash=top_hash, what=what)

    def read_header(self, top_hash: str) -> dict[str, object]:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.url}"), self._open_manifest(top_hash) as handle:
            first = handle.readline(MAX_LINE + 1)
        return Manifest.decode_header(first, what=self._name_of(top_hash))

    def holds(self, manifest: Manifest) -> bool:
        with os_errors(f"Reading from {self.url}"):
            try:
                for entry in manifest.entries:
                    self._open_object(entry, entry.logical_key).close()
                self._open_manifest(manifest.top_hash).close()
            except (NotFoundError, RefusedError, DataMismatchError):
                return False
        return True

    def _name_of(self, top_hash: str) -> str:
        return f"Manifest {top_hash[:12]} of {self.url}"

    def _open_manifest(self, top_hash: str) -> BinaryIO:
        if not _HASH.fullmatch(top_hash):
            raise UsageError(f"Not a top hash: {top_hash[:80]!r}.")
        handle = self._open_own(f"{MANIFESTS}/{top_hash}")
        if handle is None:
            raise NotFoundError(f"No version {top_hash[:12]}… in {self.url}.", hint="`quilt3 list-packages` lists all.")
        return handle

    def _open_own(self, place: str) -> BinaryIO | None:
        """Open a file of `.quilt/`; None if it is not there, or leads elsewhere."""
        path = os.path.realpath(self.root / place)
        if not _is_below(path, self._allowed[0]):
            return None
        try:
            return _open_below(self._allowed[0], path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    # pointers

    def head(self, name: str) -> LogEntry | None:
        log = self.log(name)
        return log[-1] if log else None

    def log(self, name: str) -> list[LogEntry]:
        """Return what the pointers tell, by their seconds; only the last entry has tags, since only today's are known.

        Raises:
            DataMismatchError: A pointer is not a top hash.
        """
        with os_errors(f"Reading the pointers of {name} in {self.url}"):
            pointers = self._pointers(name)
        seconds = sorted((int(pointer), pointer) for pointer in pointers if _SECONDS.fullmatch(pointer))
        tags = {tag: top_hash for tag, top_hash in pointers.items() if not _SECONDS.fullmatch(tag)}
        rows = [(time_, pointers[pointer]) for time_, pointer in seconds]
        if not rows:
            rows = [(0, top_hash) for top_hash in dict.fromkeys(tags.values())]
        return [
            LogEntry(
                seq=seq,
                prev=None,
                action="publish",
                top_hash=top_hash,
                time=time_ * 1_000_000_000,
                writer="quilt",
                tags=tags if seq == len(rows) else {},
            )
            for seq, (time_, top_hash) in enumerate(rows, 1)
        ]

    def top_hashes(self, name: str) -> list[str]:
        log = self.log(name)
        tagged = log[-1].tags.values() if log else ()
        return list(dict.fromkeys([*(entry.top_hash for entry in log), *tagged]))

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        with os_errors(f"Listing {self.url}"):
            for space in [namespace] if namespace else self._listdir(POINTERS):
                for short in self._listdir(f"{POINTERS}/{space}"):
                    if _is_name(name := f"{space}/{short}"):
                        yield name

    def resolve(self, ref: PackageRef) -> str:
        """Return the top hash that a reference names; a whole one need not be pointed at, as in quilt3."""
        if ref.hash is not None and _HASH.fullmatch(ref.hash) and self.head(ref.name) is not None:
            self._open_manifest(ref.hash).close()
            return ref.hash
        return super().resolve(ref)

    def _listdir(self, place: str) -> list[str]:
        path = os.path.realpath(self.root / place)
        try:
            return sorted(os.listdir(path)) if _is_below(path, self._allowed[0]) else []
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _pointers(self, name: str) -> dict[str, str]:
        """Return what each pointer of a package points at: those called by seconds, `latest`, and other legal tags."""
        folder = f"{POINTERS}/{check_package_name(name)}"
        names = [name for name in self._listdir(folder) if _SECONDS.fullmatch(name) or _is_tag(name)]
        found = ((pointer, self._pointer(f"{folder}/{pointer}")) for pointer in names)
        return {pointer: top_hash for pointer, top_hash in found if top_hash is not None}

    def _pointer(self, place: str) -> str | None:
        for pause in _TORN:
            time.sleep(pause)
            handle = self._open_own(place)
            if handle is None:
                return None
            with handle:
                text = handle.read(_MAX_POINTER).decode("ascii", "replace").strip()
            if _HASH.fullmatch(text):
                return text
        raise DataMismatchError(
            f"{self.url}/{place} does not hold a top hash.",
            hint="Restore it, or write the 64 hex digits of a version into it.",
        )

    # what a reader cannot do

    def staging(self, *, progress: Progress = SILENT) -> AbstractContextManager[Sink]:  # noqa: ARG002
        self._refuse("Nothing can be stored")

    def recall(self, source: str) -> bytes | None:  # noqa: ARG002 - nothing is remembered here
        return None

    def remember(self, source: str, facts: bytes) -> None:
        pass

    def publish(
        self,
        name: str,
        manifest: Manifest,  # noqa: ARG002
        *,
        tags: tuple[str, ...] = (),  # noqa: ARG002
        latest: bool = True,  # noqa: ARG002
        note: str | None = None,  # noqa: ARG002
    ) -> LogEntry:
        self._refuse(f"{name} cannot be published")

    def tag(self, name: str, top_hash: str, tags: tuple[str, ...], *, permanent: bool = False) -> LogEntry:  # noqa: ARG002
        self._refuse(f"{name} cannot be tagged")

    def untag(self, name: str, tag: str) -> LogEntry:
        self._refuse(f"The tag {tag!r} cannot be taken from {name}")

    def rollback(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:  # noqa: ARG002
        self._refuse(f"{name} cannot be rolled back")

    def delete(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:  # noqa: ARG002
        self._refuse(f"{name}@{top_hash[:12]} cannot be deleted")

    def heads(self, namespace: str) -> list[Head]:
        return heads_by_log(self, namespace)

    def note(self, name: str, text: str) -> LogEntry:  # noqa: ARG002
        self._refuse(f"Nothing can be noted on {name}")

    def claim(self, run_id: str) -> AbstractContextManager[str]:
        self._refuse(f"Run {run_id} cannot be recorded")

    def is_claimed(self, run_id: str) -> bool:  # noqa: ARG002 - nothing runs into a registry that is only read
        return False

    def _refuse(self, what: str) -> NoReturn:
        raise RefusedError(
            f"{what} in the Quilt registry {self.url}: reprokit only reads it.",
            hint="Work in a registry of reprokit's, then `reprokit push --layout quilt REF FOLDER`.",
        )


def _is_below(path: str, base: str) -> bool:
    """True if one real path is inside another."""
    return path.startswith(base.rstrip("/") + "/")


def _open_below(base: str, path: str) -> BinaryIO | None:
    """Open a real path below a real folder, None if it is no file; a link that was put there since is not followed."""
    folders = path[len(base.rstrip("/")) + 1 :].split("/")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    at = os.open(base, flags | os.O_DIRECTORY)
    try:
        for folder in folders[:-1]:
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        descriptor = os.open(folders[-1], flags | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def _no_place(key: str, what: str) -> DataMismatchError:
    return DataMismatchError(
        f"{what}: {key[:200]!r} is not a place that reprokit reads.",
        hint="Physical keys are file:// URLs, absolute paths, or s3:// URLs of a bucket that was copied here.",
    )


def _is_name(name: str) -> bool:
    try:
        return bool(check_package_name(name))
    except UsageError:
        return False


def _is_tag(name: str) -> bool:
    try:
        return bool(check_tag(name))
    except UsageError:
        return False
