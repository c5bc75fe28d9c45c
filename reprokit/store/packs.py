"""Packs: the small objects of a commit in one stored (uncompressed) zip, named by its own hash.

Any zip tool reads one. Members are named by the 64 hex digits of their `sha2-256-chunked` digest, so all records of the
central directory are of one length and are read without a zip library. A pack never needs Zip64.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import threading
import zlib
from binascii import hexlify, unhexlify
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reprokit.core.digest import Hasher
from reprokit.core.regular_files import open_regular
from reprokit.errors import DataMismatchError

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = [
    "MAX_BYTES",
    "MAX_MEMBERS",
    "PACK_NAME",
    "SMALL",
    "Member",
    "Pack",
    "PackWriter",
    "directory_size",
    "parse_directory",
]

SMALL = 1024 * 1024  # bytes; an object of this size or more lies loose
MAX_MEMBERS = 65_000
PACK_NAME = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 1024 * 1024 * 1024  # and what the last member has beyond it
_FLUSH = 4 * 1024 * 1024
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_DATE = 0x21  # 1980-01-01, so that equal members give equal bytes
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I64s")
_END = struct.Struct("<4s4H2IH")
_LOCAL_HEAD = struct.pack("<4s5H", b"PK\x03\x04", 10, 0, 0, 0, _DATE)
_CENTRAL_HEAD = struct.pack("<4s6H", b"PK\x01\x02", 3 << 8 | 20, 10, 0, 0, 0, _DATE)
_SIZES = struct.Struct("<3I")
_NAME_LENGTHS = struct.pack("<2H", 64, 0)
_CENTRAL_MIDDLE = struct.pack("<5HI", 64, 0, 0, 0, 0, 0o100444 << 16)
_OFFSET = struct.Struct("<I")
_HEADER = _LOCAL.size + 64


class Member(NamedTuple):
    """Where an object's bytes lie in a pack."""

    offset: int
    size: int


class PackWriter:
    """Writes one pack. Not for several threads at once; hashing goes on in a thread of its own."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, durable: bool = True) -> None:
        from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

        self.path = path
        self._durable = durable
        self._max_bytes = max_bytes
        self.members: dict[bytes, Member] = {}
        self._handle = os.fdopen(os.open(path, _CREATE, 0o444), "wb", buffering=0)
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._written = 0
        self._directory: list[bytes] = []
        self._hasher = Hasher(0)
        self._hashing = ThreadPoolExecutor(1)
        self._hashed: list[Future[None]] = []

    @property
    def is_full(self) -> bool:
        return len(self.members) >= MAX_MEMBERS or self._written + self._pending_bytes >= self._max_bytes

    def add(self, raw: bytes, data: bytes | memoryview) -> None:
        """Append an object by the 32 bytes of its digest."""
        size = len(data)
        name = hexlify(raw)
        start = self._written + self._pending_bytes
        sizes = _SIZES.pack(zlib.crc32(data), size, size)
        self._pending += (_LOCAL_HEAD, sizes, _NAME_LENGTHS, name, data)
        self._pending_bytes += _HEADER + size
        self.members[raw] = Member(start + _HEADER, size)
        self._directory += (_CENTRAL_HEAD, sizes, _CENTRAL_MIDDLE, _OFFSET.pack(start), name)
        if self._pending_bytes >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        block = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._hashed.append(self._hashing.submit(self._hasher.update, block))
        view = memoryview(block)
        while view:
            view = view[self._handle.write(view) :]
        self._written += len(block)
        while len(self._hashed) > 3:  # never more than a few blocks in memory
            self._hashed.pop(0).result()

    def finish(self) -> str:
        """Write the directory, make the bytes durable and return the pack's name."""
        start = self._written + self._pending_bytes
        directory = b"".join(self._directory)
        count = len(self.members)
        self._pending += (directory, _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0))
        self._flush()
        if self._durable:
            os.fsync(self._handle.fileno())
        self.close()
        return self._hasher.digest().hex

    def close(self) -> None:
        self._hashing.shutdown(wait=True)
        self._handle.close()


class Pack:
    """An open pack. Nothing in it is believed: whoever reads a member compares it with its digest."""

    def __init__(self, path: Path) -> None:
        """Open and map a pack.

        Raises:
            FileNotFoundError: There is no such pack.
            DataMismatchError: It is too short to be one.
        """
        self.path = path
        self.lock = threading.Lock()
        with open_regular(path) as handle:
            self.fd = os.dup(handle.fileno())
        self._seen = _stamp(os.fstat(self.fd))
        self.size = self._seen[0]
        if self.size < _END.size:
            raise self._damaged("it is truncated")
        self.map = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def unchanged(self) -> bool:
        """True if the file is, by its stat, what it was when it was opened: what was verified since needs no more."""
        seen = os.fstat(self.fd)
        return (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino) == self._seen

    @cached_property
    def members(self) -> Mapping[bytes, Member]:
        """Return where each member, by the 32 bytes of its digest, claims to lie; every claim is inside the file.

        Raises:
            DataMismatchError: The directory is not one that reprokit writes.
        """
        if not self.reaches(self.size):
            raise self._damaged("it was truncated")
        try:
            tail = directory_size(self.map[-_END.size :], self.size)
            return parse_directory(self.map[-tail:], self.size)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the pack, unverified; fewer than `size` if the place is not inside."""
        return self.map[offset : offset + size] if self.reaches(offset + size) else b""

    def reaches(self, end: int) -> bool:
        """True if the file is that long now: reading what was cut from a mapped file would end the process."""
        return os.fstat(self.fd).st_size >= end

    def view(self, offset: int, size: int) -> memoryview:
        return memoryview(self.map)[offset : offset + size]

    def _damaged(self, why: str) -> DataMismatchError:
        return DataMismatchError(
            f"Pack {self.path.stem[:12]}… is damaged: {why} ({self.path}).",
            hint="Nothing of it was used. Restore the file from another copy of the registry; "
            "`reprokit verify --all` lists what it affects.",
        )


def directory_size(end: bytes, size: int) -> int:
    """Return how many bytes at the end of a pack its directory takes.

    Args:
        end: Its last bytes, at least 22 of them.
        size: Of the pack.
    Raises:
        ValueError: It is not a pack that reprokit writes; says why.
    """
    if len(end) < _END.size:
        raise ValueError("it is truncated")
    sign, _, _, _, count, length, start, comment = _END.unpack(end[-_END.size :])
    if sign != b"PK\x05\x06" or comment or start + length + _END.size != size or length != count * _CENTRAL.size:
        raise ValueError("it is truncated, or not a pack")
    return int(length) + _END.size


def parse_directory(tail: bytes, size: int) -> dict[bytes, Member]:
    """Return where each member, by the 32 bytes of its digest, claims to lie; every claim is inside the pack.

    Args:
        tail: The directory, to the end of the pack.
        size: Of the pack.
    Raises:
        ValueError: As `directory_size`.
    """
    start = size - len(tail)
    found: dict[bytes, Member] = {}
    for record in _CENTRAL.iter_unpack(tail[: -_END.size]):
        at, length, name = record[16] + _HEADER, record[9], record[17]
        if record[0] != b"PK\x01\x02" or record[4] or record[8] != length or record[10] != 64 or at + length > start:
            raise ValueError(f"its directory says that {name[:12]!r} lies where nothing can")
        try:
            found[unhexlify(name)] = Member(at, length)
        except ValueError:
            raise ValueError(f"{name[:12]!r} in its directory is no digest") from None
    return found


def _stamp(seen: os.stat_result) -> tuple[int, int, int, int]:
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino
