"""A version as a tree of folders and files whose bytes are verified: find, list, read. Knows no FUSE; `mount` does."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, runtime_checkable

from reprokit.errors import DataMismatchError
from reprokit.packages.package import Package
from reprokit.schema.manifest import Entry
from reprokit.store.mapping import unchanged

__all__ = ["ChunkedSource", "Contents", "Node", "PackageSource", "Source", "Tree"]

_CAPACITY = 256 * 1024 * 1024
_ATTEMPTS = 3
_MAX_DEPTH = 4096  # a logical key is at most 4096 bytes long

Block = bytes | memoryview


class Source(Protocol):
    """Where contents come from. Whatever it returns was verified."""

    def size(self, key: str) -> int: ...

    def read(self, key: str) -> Block:
        """Return the whole file."""


@runtime_checkable
class ChunkedSource(Source, Protocol):
    """A source that can verify part of a file by itself, so that reading here and there in a large one costs little."""

    def chunk_size(self, key: str) -> int: ...

    def chunk(self, key: str, index: int) -> Block:
        """Return bytes `index * chunk_size` to `(index + 1) * chunk_size`, the last chunk being shorter."""


class PackageSource:
    """The contents of an open package: the one place where serving meets storage."""

    def __init__(self, package: Package) -> None:
        self._package = package

    def size(self, key: str) -> int:
        return self._package.manifest[key].size

    def read(self, key: str) -> Block:
        data = self._package.reader.view(self._package.manifest.position(key))
        if len(data) != self.size(key):
            raise DataMismatchError(f"{key} of {self._package} has {len(data):,} bytes; {self.size(key):,} expected.")
        return data


class Contents:
    """Parts of files, from blocks that the source verified; the blocks used last are kept.

    A block is a chunk where the source has chunks, else a file. Threads that want the same block wait for one reading.

    Args:
        capacity: Bytes of blocks kept; one block is kept however large it is.
    """

    def __init__(self, source: Source, *, capacity: int = _CAPACITY) -> None:
        self._source = source
        self._chunked = source if isinstance(source, ChunkedSource) else None
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._kept_bytes = 0
        self._loading: dict[tuple[str, int], Future[Block]] = {}
        self._lock = Lock()

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end of the file.

        Raises:
            DataMismatchError: The object is corrupt; no byte of it is returned.
        """
        end = min(offset + size, self._source.size(key))
        if offset >= end:
            return b""
        for _ in range(_ATTEMPTS):
            data = self._read(key, offset, end)
            if data is not None:
                return data
        raise DataMismatchError(f"{key} changes while it is read: nothing of it was handed out.")

    def _read(self, key: str, offset: int, end: int) -> bytes | None:
        """Return the bytes; None if a block is not any more what it was when it was verified."""
        if self._chunked is None:
            # Who takes a file whole does not come back for it soon: the kernel keeps what it has read.
            whole = offset == 0 and end == self._source.size(key)
            return _copied(self._block(key, 0, keep=not whole), offset, end)
        step = self._chunked.chunk_size(key)
        parts: list[bytes] = []
        while offset < end:
            index, start = divmod(offset, step)
            stop = min(step, end - index * step)
            part = _copied(self._block(key, index, keep=True), start, stop)
            if part is None:
                return None
            parts.append(part)
            offset = index * step + stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _block(self, key: str, index: int, *, keep: bool) -> Block:
        place = (key, index)
        with self._lock:
            block = self._kept.get(place)
            if block is not None and not unchanged(block):
                self._kept_bytes -= len(self._kept.pop(place))
                block = None
            if block is not None:
                self._kept.move_to_end(place)
                return block
            loading = self._loading.get(place)
            if loading is None:
                mine = self._loading[place] = Future()
        if loading is not None:
            return loading.result()
        try:
            block = self._source.read(key) if self._chunked is None else self._chunked.chunk(key, index)
        except BaseException as error:
            with self._lock:
                del self._loading[place]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._loading[place]
            if keep:
                self._keep(place, block)
        mine.set_result(block)
        return block

    def _keep(self, place: tuple[str, int], block: Block) -> None:
        self._kept[place] = block
        self._kept_bytes += len(block)
        while self._kept_bytes > self._capacity and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)


def _copied(block: Block, start: int, stop: int) -> bytes | None:
    """Return a part of a block; None if what lies behind it changed, then or before."""
    if not unchanged(block):  # what was cut from a mapped file cannot be read there
        return None
    data = bytes(block[start:stop])
    return data if unchanged(block) else None


@dataclass(frozen=True, slots=True)
class Node:
    """A file or folder of a tree.

    Attributes:
        path: Relative to the root, which is "".
        inode: The same in every mount of the version.
        first: Index of the entry, or of a folder's first one.
        entry: None for a folder.
    """

    path: str
    inode: int
    first: int
    entry: Entry | None


class Tree:
    """The folders that logical keys imply.

    Nothing is built: a manifest sorts its entries per folder level, so a folder is a range of them and a search by
    halves finds it. A million entries take no memory beyond the manifest's own.

    Args:
        entries: Sorted as `Manifest.entries` are.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self.root = Node("", 1, 0, None)

    def find(self, path: str) -> Node | None:
        """Return the file or folder at `path`; None if there is none."""
        if not path:
            return self.root
        index = bisect_left(self._entries, path.split("/"), key=_parts)
        if index == len(self._entries):
            return None
        return self._node(path, index)

    def _node(self, path: str, index: int) -> Node | None:
        entry = self._entries[index]
        if entry.logical_key == path:
            return Node(path, (index + 1) * _MAX_DEPTH, index, entry)
        if entry.logical_key.startswith(path + "/"):
            return Node(path, (index + 1) * _MAX_DEPTH + path.count("/") + 1, index, None)
        return None

    def children(self, folder: Node, start: int | None = None) -> Iterator[tuple[str, Node, int]]:
        """Yield (name, child, index where the next child starts) in order; `start` is such an index to go on from."""
        prefix = folder.path + "/" if folder.path else ""
        index = folder.first if start is None else start
        while index < len(self._entries):
            key = self._entries[index].logical_key
            if not key.startswith(prefix):
                return
            name, slash, _ = key[len(prefix) :].partition("/")
            child = self._node(prefix + name, index)
            if child is None:
                return
            index = self._end(prefix + name + "/", index) if slash else index + 1
            yield name, child, index

    def _end(self, prefix: str, index: int) -> int:
        """Return the index behind the entries from `index` on that start with `prefix`."""
        return bisect_left(self._entries, True, lo=index, key=lambda entry: not entry.logical_key.startswith(prefix))


def _parts(entry: Entry) -> list[str]:
    return entry.logical_key.split("/")
