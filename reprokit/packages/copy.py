"""Copy the objects of a version into another registry: verified, small ones in shared packs, large ones as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from reprokit.core.digest import CHUNKED
from reprokit.core.progress import SILENT, Advance, Progress
from reprokit.errors import DataMismatchError
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.registry.base import Sink
from reprokit.schema.manifest import Entry
from reprokit.store.packs import SMALL

__all__ = ["copy_objects"]

_PORTION = 1024 * 1024 * 1024  # bytes that an interruption can lose
_BATCH_FILES = 1024
_BATCH_BYTES = 16 * 1024 * 1024


def copy_objects(
    package: Package, missing: list[Entry], target: Registry, advance: Advance, *, progress: Progress = SILENT
) -> tuple[int, dict[str, str]]:
    """Store the objects of these entries in another registry, portion by portion.

    Args:
        missing: What the target lacks, as `Registry.lacking` tells.
    Returns:
        How many bytes were new; and the physical keys of small objects there, by their digests' values.
    Raises:
        DataMismatchError, NotFoundError: An object of the package is corrupt or missing.
    """
    places: dict[str, str] = {}
    new_bytes = 0
    for portion in _portions(missing):
        package.registry.fetch([one for one in portion if _is_small(one)], what=str(package), progress=progress)
        with target.staging(progress=progress) as sink:
            _copy_portion(package, portion, sink, advance)
        new_bytes += sink.new_bytes
        places |= {one.digest.value: sink.place(one.digest.value) for one in portion if _is_small(one)}
    return new_bytes, places


def _portions(missing: list[Entry]) -> Iterator[list[Entry]]:
    """Yield what becomes durable together: small objects first, so that they share packs."""
    yield from _split([entry for entry in missing if _is_small(entry)], _PORTION, len(missing))
    yield from _split([entry for entry in missing if not _is_small(entry)], _PORTION, len(missing))


def _is_small(entry: Entry) -> bool:
    return entry.size < SMALL and entry.digest.type == CHUNKED


def _split(entries: Iterable[Entry], most_bytes: int, most: int) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    filled = 0
    for entry in entries:
        if part and (filled + entry.size > most_bytes or len(part) >= most):
            yield part
            part, filled = [], 0
        part.append(entry)
        filled += entry.size
    if part:
        yield part


def _copy_portion(package: Package, portion: list[Entry], sink: Sink, advance: Advance) -> None:
    """Copy objects into a sink."""
    for batch in _split([entry for entry in portion if _is_small(entry)], _BATCH_BYTES, _BATCH_FILES):
        pieces = [package.reader.read(package.manifest.position(entry.logical_key)) for entry in batch]
        for entry, digest in zip(batch, sink.put_all(pieces), strict=True):
            if digest != entry.digest:
                raise DataMismatchError(f"{entry.logical_key} of {package} changed while it was copied.")
        advance(len(batch))
    for entry in portion:
        if not _is_small(entry):
            what = f"{entry.logical_key} of {package}"
            stream: Any = _Stream(package.registry, entry, what)
            sink.put_known(stream, entry.digest, entry.size, what=what)
            advance()


class _Stream(io.RawIOBase):
    """An object of a registry as a file that is read once, unverified: whoever takes it in compares the digest."""

    def __init__(self, registry: Registry, entry: Entry, what: str) -> None:
        self._registry = registry
        self._entry = entry
        self._what = what
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._entry.size - self._position)
        if length <= 0:
            return 0
        data = self._registry.read_range(self._entry, self._position, length, what=self._what)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
