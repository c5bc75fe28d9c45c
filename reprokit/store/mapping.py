"""Large objects as memory: mapped, hashed side by side, and not hashed again while their files' stats stay.

A mapped object costs no copy. What is cut from its file afterwards ends the process that reads there, and what is
rewritten in it shows; objects are read-only files that are replaced or removed, never rewritten, so only a stranger's
hand does that. Whoever hands bytes of a view on asks `unchanged` after copying them.
"""

from __future__ import annotations

import mmap
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import CHUNKED, Digest, hash_all, hash_bytes
from reprokit.core.regular_files import open_regular
from reprokit.schema.manifest import Entry
from reprokit.store.objects import ObjectStore, corrupt

__all__ = ["MappedFile", "map_file", "map_loose", "unchanged"]

_TICK = 2_000_000_000  # ns; a file that changed this short before it was read may change again and look the same
_WILLNEED = getattr(mmap, "MADV_WILLNEED", None)


class MappedFile(mmap.mmap):
    """A file that is mapped to be read, and what its stat was then. The views of it know it as their `obj`."""

    fd: int = -1
    seen: tuple[int, ...] = ()

    @classmethod
    def of(cls, handle: BinaryIO) -> MappedFile:
        mapped = cls(handle.fileno(), 0, prot=mmap.PROT_READ)
        mapped.fd = os.dup(handle.fileno())
        mapped.seen = mapped.stamp()
        return mapped

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def stamp(self) -> tuple[int, ...]:
        """Return what the stat of the file is now."""
        found = os.fstat(self.fd)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino

    def unchanged(self) -> bool:
        """True if the file is, by its stat, what it was when it was mapped."""
        return self.stamp() == self.seen


def unchanged(view: bytes | memoryview) -> bool:
    """True if what lies behind a view is still what was verified: always of bytes, by its stat of a mapped file."""
    mapped = view.obj if isinstance(view, memoryview) else None
    return not isinstance(mapped, MappedFile) or mapped.unchanged()


def map_loose(store: ObjectStore, entries: Sequence[Entry], *, what: str, own: bool = False) -> list[memoryview]:
    """Return the verified bytes of objects that lie loose.

    Args:
        what: Names the version in errors.
        own: Give memory that the caller may write to; the files stay as they are.
    Raises:
        DataMismatchError, NotFoundError, RegistryError: For the first that is corrupt, missing, or cannot be read.
    """
    known = store.index.verified(_name(entry.digest) for entry in entries)
    began = time.time_ns()
    views: list[memoryview] = [memoryview(b"")] * len(entries)
    new: dict[int, str] = {}
    room = _room()
    for count, place in enumerate(sorted(range(len(entries)), key=lambda place: -entries[place].size)):
        entry = entries[place]
        whole = f"{entry.logical_key} of {what}"
        with os_errors(f"Reading {whole}"), store.loose_file(entry, whole) as handle:
            seen = os.fstat(handle.fileno())
            stamp = f"{seen.st_dev} {seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"
            is_known = known.get(_name(entry.digest)) == stamp
            views[place] = _mapped(handle, own, ahead=not is_known) if count < room else _copied(handle, entry.size)
        if len(views[place]) != entry.size:
            raise corrupt(whole, entry.digest, f"{len(views[place]):,} bytes instead of {entry.size:,}")
        if not is_known:
            new[place] = stamp if max(seen.st_mtime_ns, seen.st_ctime_ns) < began - _TICK else ""
    for place, found in zip(new, _hashed([(entries[place], views[place]) for place in new]), strict=True):
        entry = entries[place]
        if found != entry.digest:
            raise corrupt(f"{entry.logical_key} of {what}", entry.digest, found)
    stamps = {_name(entries[place].digest): stamp for place, stamp in new.items() if stamp}
    if stamps:
        store.index.keep_verified(stamps)
    return views


def _name(digest: Digest) -> str:
    return f"{digest.type}/{digest.hex}"


def map_file(path: Path) -> memoryview:
    """Return the bytes of a file of ours, to be sent; unverified."""
    with open_regular(path) as handle:
        return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))


def _mapped(handle: BinaryIO, own: bool, *, ahead: bool) -> memoryview:
    mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY if own else mmap.ACCESS_READ)
    if ahead and _WILLNEED is not None:
        mapped.madvise(_WILLNEED)
    return memoryview(mapped)


def _copied(handle: BinaryIO, size: int) -> memoryview:
    buffer = memoryview(bytearray(size))
    return buffer[: handle.readinto(buffer)]  # type: ignore[attr-defined]


def _hashed(objects: Sequence[tuple[Entry, memoryview]]) -> list[Digest]:
    """Return the digests; the chunks of all objects hash in parallel."""
    chunked = iter(hash_all([[view] for entry, view in objects if entry.digest.type == CHUNKED]))
    return [
        next(chunked) if entry.digest.type == CHUNKED else hash_bytes(view, entry.digest.type)
        for entry, view in objects
    ]


def _room() -> int:
    """Return how many files may stay mapped: each keeps a descriptor open; the largest are mapped, the rest copied."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 65_536 if soft == resource.RLIM_INFINITY else max(soft // 4, 16)
