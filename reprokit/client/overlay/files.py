"""What the hooks hand out for virtual files: file objects, descriptors and directory entries.

Nothing here is on disk. A descriptor, where one is asked for, is a read-only one of sealed memory. A view of a mapped
file is looked at before and after each copy from it: what changed on disk since it was verified is not handed out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn, Self

from reprokit.client.overlay.tree import Hit, inode, status

try:
    import fcntl
except ImportError:  # pragma: no cover - not on POSIX
    fcntl = None  # type: ignore[assignment]

__all__ = ["Entry", "Listing", "descriptor_of", "open_bytes"]

_LARGE = 1 << 20  # from this size on a memoryview is read in place; copying a smaller one is quicker


def open_bytes(data: bytes | memoryview, name: str | bytes) -> io.BufferedIOBase:
    """Return a file object, open for reading in binary, over `data`."""
    if isinstance(data, memoryview) and data.nbytes >= _LARGE:
        return io.BufferedReader(ViewFile(data, name))
    return BytesFile(data, name)


def descriptor_of(data: bytes | memoryview, at: int = 0) -> int:
    """Return a new descriptor, read-only and not inheritable, of memory that holds `data`, at position `at`.

    Raises:
        OSError: What lies behind `data` changed on disk since it was verified.
    """
    _check_unchanged(data)
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            _check_unchanged(data)
            descriptor = os.dup(file.fileno())
        os.lseek(descriptor, at, os.SEEK_SET)
        return descriptor
    descriptor = os.memfd_create("reprokit-overlay", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        _check_unchanged(data)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        # A second, read-only descriptor: before Linux 6.7 sealed memory cannot be mapped through a writable one.
        with contextlib.suppress(OSError):
            readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(descriptor)
            descriptor = readable
        os.lseek(descriptor, at, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_unchanged(data: bytes | memoryview) -> None:
    """Raise an OSError if a view is one of a file that changed; a layer's mapped file knows it by its `unchanged()`."""
    mapped = data.obj if isinstance(data, memoryview) else None
    unchanged = getattr(mapped, "unchanged", None)
    if unchanged is not None and not unchanged():
        raise OSError(errno.EIO, "reprokit: the object changed on disk after it was verified: open the file again")


class BytesFile(io.BytesIO):
    """A virtual file over bytes: what `open(path, "rb")` returns."""

    __slots__ = ("_descriptor", "name")

    mode = "rb"

    def __init__(self, data: bytes | memoryview, name: str | bytes) -> None:
        super().__init__(data)
        self.name = name
        self._descriptor = -1

    def fileno(self) -> int:
        if self._descriptor < 0:
            self._descriptor = descriptor_of(self.getvalue(), self.tell())
        return self._descriptor

    def peek(self, size: int = 0, /) -> bytes:
        at = self.tell()
        return self.getvalue()[at : at + max(size, io.DEFAULT_BUFFER_SIZE)]

    def writable(self) -> bool:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return False

    def write(self, _data: Any, /) -> int:
        raise io.UnsupportedOperation("write")

    def writelines(self, _lines: Any, /) -> None:
        raise io.UnsupportedOperation("write")

    def truncate(self, _size: int | None = None, /) -> int:
        raise io.UnsupportedOperation("truncate")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot pickle an open file")


class ViewFile(io.RawIOBase):
    """A virtual file over a memoryview, which is not copied; to be wrapped in a BufferedReader."""

    mode = "rb"

    def __init__(self, data: memoryview, name: str | bytes) -> None:
        self.name = name
        self._data = data.cast("B")
        self._at = 0
        self._descriptor = -1

    def readable(self) -> bool:
        self._check()
        return True

    def seekable(self) -> bool:
        self._check()
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._check()
        _check_unchanged(self._data)
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        _check_unchanged(self._data)
        self._at += len(piece)
        return len(piece)

    def readall(self) -> bytes:
        self._check()
        _check_unchanged(self._data)
        data = bytes(self._data[self._at :])
        _check_unchanged(self._data)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}.get(whence)
        if base is None or base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = base + offset
        return self._at

    def fileno(self) -> int:
        self._check()
        if self._descriptor < 0:
            self._descriptor = descriptor_of(self._data, self._at)
        return self._descriptor

    def close(self) -> None:
        if not self.closed:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._data = memoryview(b"")
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


class Entry:
    """What `os.scandir` yields for a virtual file or folder; used as an `os.DirEntry` is."""

    __slots__ = ("_folder", "_hit", "name", "path")

    def __init__(self, name: str | bytes, path: str | bytes, hit: Hit, folder: bool) -> None:
        self.name, self.path, self._hit, self._folder = name, path, hit, folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        return self._folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        return not self._folder

    def is_symlink(self) -> bool:
        return False

    def is_junction(self) -> bool:
        return False

    def inode(self) -> int:
        return inode(self._hit[2])

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        return status(self._hit, self._folder)

    def __fspath__(self) -> str | bytes:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class Listing:
    """The iterator that `os.scandir` returns: also a context manager, and closed at its end."""

    def __init__(self, entries: Iterator[Any]) -> None:
        self._entries = entries

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def close(self) -> None:
        if hasattr(self._entries, "close"):
            self._entries.close()
        self._entries = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
