"""Object hashes: `sha2-256-chunked` as Quilt and S3 compute it, and plain `SHA256` for reading old manifests.

Source: quilt3 8.0 `data_transfer.get_checksum_chunksize`; S3 composite checksums of multipart uploads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reprokit.errors import DataMismatchError

__all__ = ["CHUNKED", "PLAIN", "Digest", "Hasher", "chunk_size", "copy_hashed", "hash_bytes", "hash_file"]

CHUNKED = "sha2-256-chunked"
PLAIN = "SHA256"

_MIN_CHUNK = 8 * 1024 * 1024
_MAX_CHUNKS = 10_000
_READ = 1024 * 1024


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The hash of an object's bytes: an algorithm's name and the value in that algorithm's own notation."""

    type: str
    value: str

    @property
    def hex(self) -> str:
        """64 hexadecimal digits, the name of the object in a store."""
        if self.type == PLAIN:
            return self.value
        return base64.b64decode(self.value, validate=True).hex()

    @classmethod
    def chunked(cls, raw: bytes) -> Digest:
        return cls(CHUNKED, base64.b64encode(raw).decode("ascii"))

    @classmethod
    def checked(cls, type_: object, value: object) -> Digest:
        """Return the digest, or raise if an untrusted pair is not one of the two algorithms, well-formed.

        Raises:
            DataMismatchError: Unknown algorithm, or a value of the wrong length or alphabet.
        """
        if type_ == CHUNKED and isinstance(value, str):
            try:
                raw = base64.b64decode(value, validate=True)
                if len(raw) == 32 and base64.b64encode(raw).decode("ascii") == value:
                    return cls(CHUNKED, value)
            except (binascii.Error, ValueError):
                pass
        elif type_ == PLAIN and isinstance(value, str) and len(value) == 64 and set(value) <= _HEX:
            return cls(PLAIN, value)
        raise DataMismatchError(
            f"Not a digest that reprokit reads: type {type_!r}, value {str(value)[:80]!r}.",
            hint=f"Known types are {CHUNKED!r} (base64) and {PLAIN!r} (lower-case hex).",
        )


_HEX = frozenset("0123456789abcdef")


def chunk_size(size: int) -> int:
    """Return the chunk length in bytes for an object of `size` bytes: 8 MiB, doubled while over 10,000 chunks."""
    chunk = _MIN_CHUNK
    while -(-size // chunk) > _MAX_CHUNKS:
        chunk *= 2
    return chunk


class Hasher:
    """Hash a stream of known length as `type_`, in pieces of any size, on the caller's thread."""

    def __init__(self, size: int, type_: str = CHUNKED) -> None:
        self._chunk = chunk_size(size)
        self._plain = hashlib.sha256() if type_ == PLAIN else None
        self._outer = hashlib.sha256()
        self._inner = hashlib.sha256()
        self._filled = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        if self._plain is not None:
            self._plain.update(data)
            return
        view = memoryview(data).cast("B")
        while view:
            take = min(self._chunk - self._filled, len(view))
            self._inner.update(view[:take])
            self._filled += take
            view = view[take:]
            if self._filled == self._chunk:
                self._close_chunk()

    def _close_chunk(self) -> None:
        self._outer.update(self._inner.digest())
        self._inner = hashlib.sha256()
        self._filled = 0

    def digest(self) -> Digest:
        if self._plain is not None:
            return Digest(PLAIN, self._plain.hexdigest())
        if self._filled:
            self._close_chunk()
        return Digest.chunked(self._outer.digest())


def hash_bytes(data: bytes | bytearray | memoryview, type_: str = CHUNKED) -> Digest:
    """Return the digest of bytes in memory."""
    if type_ == CHUNKED and 0 < len(data) <= _MIN_CHUNK:  # the common case, without the machinery
        return Digest.chunked(hashlib.sha256(hashlib.sha256(data).digest()).digest())
    hasher = Hasher(len(data), type_)
    hasher.update(data)
    return hasher.digest()


def hash_file(path: Path, type_: str = CHUNKED) -> tuple[Digest, int]:
    """Return the digest and length in bytes of a file, each byte read once."""
    with path.open("rb") as source:
        return copy_hashed(source, None, os.fstat(source.fileno()).st_size, type_)


def copy_hashed(source: BinaryIO, sink: BinaryIO | None, size: int, type_: str = CHUNKED) -> tuple[Digest, int]:
    """Copy `source` to `sink` and hash on the way; chunks of a large file hash in parallel.

    Args:
        source: Read from its position to its end.
        sink: Where the bytes go; None hashes only.
        size: Expected length in bytes, which fixes the chunk length.
    Returns:
        The digest, and the number of bytes that were there: unequal to `size` if the file changed meanwhile.
    """
    if size <= _MIN_CHUNK or type_ == PLAIN:
        hasher = Hasher(size, type_)
        total = 0
        while block := source.read(_READ):
            hasher.update(block)
            total += len(block)
            if sink is not None:
                sink.write(block)
        return hasher.digest(), total
    chunk = chunk_size(size)
    outer = hashlib.sha256()
    pending: deque[Future[bytes]] = deque()
    total = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        while block := source.read(chunk):
            pending.append(pool.submit(_sha256, block))
            total += len(block)
            if sink is not None:
                sink.write(block)
            while len(pending) > 3:
                outer.update(pending.popleft().result())
        while pending:
            outer.update(pending.popleft().result())
    return Digest.chunked(outer.digest()), total


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
