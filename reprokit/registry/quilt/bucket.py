"""A bucket that Quilt wrote, or `push --layout quilt`: read as a registry, and written so that quilt3 reads it.

    .quilt/packages/<top hash>                             as in a folder
    .quilt/named_packages/<ns>/<name>/{<unix seconds>,latest}
    objects/<algorithm>/<2 hex>/<rest><ending>             what we write: never overwritten, so a key says enough

Quilt names what it read by `s3://bucket/key?versionId=…`, which is read in that version. Of other buckets nothing is
read unless the caller names them. There is no lock: quilt3 has none either, and `latest` is whoever wrote last.

Source: quilt3 8.0 `util.PhysicalKey`, `backends/base.py`.
"""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import Digest, copy_hashed, hash_bytes
from reprokit.core.progress import Advance
from reprokit.core.refs import check_package_name
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.registry.base import Registry
from reprokit.registry.quilt.registry import LATEST, MANIFESTS, OBJECTS, POINTERS, QuiltRegistry, object_place
from reprokit.registry.quilt.writer import QuiltTarget
from reprokit.schema.manifest import MAX_MANIFEST, Entry, Manifest
from reprokit.store.object_storage import ObjectStorage, open_storage
from reprokit.store.objects import corrupt
from reprokit.store.packs import SMALL
from reprokit.store.ranges import BLOCK, stream_of
from reprokit.store.storage import Storage

__all__ = ["QuiltBucket", "QuiltBucketWriter"]

_MARKER = "reprokit-registry.json"
_MAX_POINTER = 1024
_SECONDS = re.compile(r"[0-9]{1,11}")
_AT_ONCE = 8
_SAFE = "/"  # of a key: all else is quoted, as quilt3 does


class QuiltBucket(QuiltRegistry):
    """See the module."""

    def __init__(self, storage: Storage, *, outside: Sequence[str] = ()) -> None:
        """Open a registry.

        Args:
            outside: Addresses elsewhere (`s3://bucket/prefix`) whose objects physical keys may name as well.
        """
        self.storage = storage
        self.url = storage.url
        self._places = [f"{place.rstrip('/')}/" for place in (storage.url, *outside)]
        self._others: dict[str, Storage] = {}

    def has_object(self, digest: Digest, size: int) -> bool:
        folder, _, rest = object_place(digest, "").rpartition("/")
        with os_errors(f"Reading from {self.url}"):
            return any(
                one.size == size
                for one in self.storage.walk(folder, after=f"{folder}/{rest[:-1]}")
                if one.key.startswith(f"{folder}/{rest}")
            )

    def read_object(self, entry: Entry, *, what: str) -> bytes:
        sink = io.BytesIO()
        self.copy_object(entry, sink, what=what)
        return sink.getvalue()

    def copy_object(self, entry: Entry, sink: BinaryIO | None, *, what: str) -> None:
        with os_errors(f"Reading {what}"):
            read = self._reading(entry, what)
            blocks = (read(at, min(BLOCK, entry.size - at)) for at in range(0, entry.size, BLOCK))
            found, length = copy_hashed(stream_of(blocks), sink, entry.size, entry.digest.type)
        if found != entry.digest or length != entry.size:
            raise corrupt(what, entry.digest, found)

    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        with os_errors(f"Reading {what}"):
            return self._reading(entry, what)(offset, min(length, entry.size - offset))

    def holds(self, manifest: Manifest) -> bool:
        with os_errors(f"Reading from {self.url}"):
            try:
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    list(pool.map(lambda entry: self._reading(entry, entry.logical_key), manifest.entries))
                self._open_manifest(manifest.top_hash).close()
            except (NotFoundError, RefusedError, DataMismatchError):
                return False
        return True

    def _reading(self, entry: Entry, what: str) -> Callable[[int, int], bytes]:
        """Return what reads a part of an entry's object: where its first physical key says, else by its digest.

        Raises:
            NotFoundError, RefusedError, DataMismatchError: It is not there, somewhere else, or of another size.
        """
        error: NotFoundError | RefusedError | DataMismatchError
        try:
            return self._at(*self._place_of(entry.physical_keys[0] if entry.physical_keys else "", what), entry, what)
        except (NotFoundError, RefusedError, DataMismatchError) as caught:
            error = caught
        try:  # as in a bucket of ours that was copied: its keys name the first one
            return self._at(self.storage, object_place(entry.digest, entry.logical_key), None, entry, what)
        except (NotFoundError, RefusedError, DataMismatchError):
            raise error from None

    def _at(
        self, storage: Storage, key: str, version: str | None, entry: Entry, what: str
    ) -> Callable[[int, int], bytes]:
        name = f"{storage.name(key)}{f' (version {version})' if version else ''}"
        if version is not None and isinstance(storage, ObjectStorage):
            size = storage.size_of_version(key, version)
        else:
            stored = storage.stat(key)
            size, version = None if stored is None else stored.size, None
        if size is None:
            raise NotFoundError(
                f"{what} is missing: there is no {name}.",
                hint="Restore the object, or push or build the version again where it came from.",
            )
        if size != entry.size:
            raise DataMismatchError(
                f"{what} is corrupt: expected {entry.size:,} bytes, {name} has {size:,}.",
                hint="Nothing of it was used. The object was changed after the version was made.",
            )
        if version is not None and isinstance(storage, ObjectStorage):
            there, wanted = storage, version
            return lambda offset, length: there.read_version(key, wanted, offset, length)
        return lambda offset, length: storage.read_range(key, offset, length)

    def _place_of(self, physical: str, what: str) -> tuple[Storage, str, str | None]:
        """Return where a physical key leads to: a storage, the key in it, and the version.

        Raises:
            DataMismatchError: It is no place in a bucket.
            RefusedError: In another one.
        """
        try:
            parts = urlsplit(physical)
            key = unquote(parts.path, errors="strict").removeprefix("/")
            query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        except ValueError:
            key, query, parts = "", {}, urlsplit("")
        version = query.pop("versionId", [None])[0]
        if parts.scheme != "s3" or not parts.netloc or not key or "\0" in key or query or parts.fragment:
            raise DataMismatchError(
                f"{what}: {physical[:200]!r} is not a place that reprokit reads in a bucket.",
                hint="Physical keys there are s3://BUCKET/KEY?versionId=….",
            )
        address = f"s3://{parts.netloc}/{key}"
        base = next((base for base in self._places if address.startswith(base)), None)
        if base is None:
            raise RefusedError(
                f"{what} is said to lie outside the registry {self.url}, at {address}; nothing was read there.",
                hint="If you trust that place, name it: "
                f"`reprokit pull … --allow-outside {address.rpartition('/')[0]}`.",
            )
        inside = address.removeprefix(base)
        return (self.storage if base == self._places[0] else self._other(base)), inside, version

    def _other(self, base: str) -> Storage:
        if base not in self._others:
            self._others[base] = open_storage(base.rstrip("/"))
        return self._others[base]

    # what the folder's registry is built from

    def _open_own(self, place: str) -> BinaryIO | None:
        most = _MAX_POINTER if place.startswith(POINTERS) else MAX_MANIFEST
        try:
            return io.BytesIO(self.storage.read(place, max_bytes=most))
        except FileNotFoundError:
            return None

    def _listdir(self, place: str) -> list[str]:
        return sorted(self.storage.names(place))


class QuiltBucketWriter(QuiltTarget):
    """See the module. `reader` reads what is there."""

    def __init__(self, storage: Storage) -> None:
        """Open a bucket, whatever else is in it.

        Raises:
            RefusedError: It is a registry of reprokit's, or only read.
        """
        if not isinstance(storage, ObjectStorage) or not storage.url.startswith("s3://"):
            raise RefusedError(f"{storage.url} is no bucket that quilt3 reads.", hint="Name one on S3: s3://BUCKET.")
        self._storage = storage
        self.url = storage.url
        self.reader = QuiltBucket(storage)
        with os_errors(f"Opening the Quilt registry {storage.url}"):
            if storage.stat(_MARKER) is not None:
                raise RefusedError(
                    f"{storage.url} is a registry of reprokit's; one that Quilt reads needs a bucket of its own.",
                    hint="Name another bucket, or push without --layout quilt.",
                )

    def copy(self, manifest: Manifest, *, source: Registry, what: str, advance: Advance) -> tuple[int, int]:
        wanted: dict[str, int] = {}
        for position, (place, entry) in enumerate(_places(manifest)):
            other = manifest.entries[wanted.setdefault(place, position)]
            if other.size != entry.size:
                raise DataMismatchError(
                    f"{entry.logical_key} of {what} is said to have {entry.size:,} bytes, and the same digest as "
                    f"{other.logical_key}, which has {other.size:,}."
                )
        with os_errors(f"Storing objects in {self.url}"):
            there = {one.key: one.size for one in self._storage.walk(OBJECTS)}
            missing = [one for one in wanted.items() if there.get(one[0]) != manifest.entries[one[1]].size]
            advance(len(manifest.entries) - len(missing))

            def send(one: tuple[str, int]) -> int:
                place, position = one
                size = self._send(place, manifest.entries[position], source, f"of {what}")
                advance(1)
                return size

            with ThreadPoolExecutor(_AT_ONCE) as pool:
                try:
                    sizes = list(pool.map(send, missing))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        return len(sizes), sum(sizes)

    def _send(self, place: str, entry: Entry, source: Registry, of: str) -> int:
        what = f"{entry.logical_key} {of}"
        if entry.size < SMALL:
            data = source.read_object(entry, what=what)
            if hash_bytes(data, entry.digest.type) != entry.digest:
                raise corrupt(what, entry.digest, hash_bytes(data, entry.digest.type))
            self._storage.put(place, data)
            return entry.size
        with tempfile.NamedTemporaryFile(prefix="reprokit-") as file:
            source.copy_object(entry, cast("BinaryIO", file), what=what)
            file.flush()
            self._storage.put_file(place, Path(file.name))
        return entry.size

    def holds(self, manifest: Manifest) -> bool:
        with os_errors(f"Reading from {self.url}"):
            if self._stored(manifest.top_hash) != self._text(manifest):
                return False
            there = {one.key: one.size for one in self._storage.walk(OBJECTS)}
            return all(there.get(place) == entry.size for place, entry in _places(manifest))

    def publish(self, name: str, manifest: Manifest, *, moves_latest: Callable[[], bool]) -> None:
        folder, top_hash = f"{POINTERS}/{check_package_name(name)}", manifest.top_hash
        with os_errors(f"Publishing {name} to {self.url}"):
            there = {one.key: one.size for one in self._storage.walk(OBJECTS)}
            for place, entry in _places(manifest):
                if there.get(place) != entry.size:
                    raise NotFoundError(
                        f"{name} cannot be published. The object of {entry.logical_key!r} is not in {self.url}.",
                        hint="Push the version again.",
                    )
            text = self._text(manifest)
            if self._stored(top_hash) != text:
                self._storage.put(f"{MANIFESTS}/{top_hash}", text)
            pointers = self._pointers(folder)
            if pointers.get(LATEST) != top_hash and moves_latest():
                self._storage.put(f"{folder}/{LATEST}", top_hash.encode())
            pointers.pop(LATEST, None)
            if top_hash not in pointers.values():
                seconds = max(int(time.time()), *(int(pointer) + 1 for pointer in pointers), 0)
                while True:
                    try:
                        self._storage.create(f"{folder}/{seconds}", top_hash.encode())
                    except FileExistsError:
                        seconds += 1
                    else:
                        return

    def points(self, name: str, top_hash: str, *, latest: bool) -> bool:
        with os_errors(f"Reading from {self.url}"):
            pointers = self._pointers(f"{POINTERS}/{check_package_name(name)}")
        return (pointers.pop(LATEST, None) == top_hash or not latest) and top_hash in pointers.values()

    def _pointers(self, folder: str) -> dict[str, str]:
        names = [name for name in self._storage.names(folder) if name == LATEST or _SECONDS.fullmatch(name)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            texts = pool.map(lambda name: self._storage.read(f"{folder}/{name}", max_bytes=_MAX_POINTER), names)
            return {name: text.decode("ascii", "replace").strip() for name, text in zip(names, texts, strict=True)}

    def _stored(self, top_hash: str) -> bytes | None:
        try:
            return self._storage.read(f"{MANIFESTS}/{top_hash}", max_bytes=MAX_MANIFEST)
        except FileNotFoundError:
            return None

    def _text(self, manifest: Manifest) -> bytes:
        base = self.url.rstrip("/")
        return manifest.placed([f"{base}/{quote(place, safe=_SAFE)}" for place, _ in _places(manifest)]).encode()


def _places(manifest: Manifest) -> Iterator[tuple[str, Entry]]:
    return ((object_place(entry.digest, entry.logical_key), entry) for entry in manifest.entries)
