"""Object hashes: `sha2-256-chunked` as Quilt and S3 compute it, and plain `SHA256` for reading old manifests.

Source: quilt3 8.0 `data_transfer.get_checksum_chunksize`; S3 composite checksums of multipart uploads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from reprokit.core.regular_files import open_regular
from reprokit.errors import DataMismatchError

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = [
    "CHUNKED",
    "PLAIN",
    "Digest",
    "Hasher",
    "chunk_size",
    "copy_hashed",
    "hash_all",
    "hash_bytes",
    "hash_file",
    "hash_view",
    "spans",
    "write_all",
]

CHUNKED = "sha2-256-chunked"
PLAIN = "SHA256"

_MIN_CHUNK = 8 * 1024 * 1024
_MAX_CHUNKS = 10_000
_READ = 1024 * 1024
_TASK = 1024 * 1024
_AT_ONCE = 4 * 1024 * 1024  # bytes; less is hashed sooner than threads start


class Digest(NamedTuple):
    """The hash of an object's bytes: an algorithm's name and the value in that algorithm's own notation.

    A tuple, because versions of a million entries are built of them.
    """

    type: str
    value: str

    @property
    def hex(self) -> str:
        """64 hexadecimal digits, the name of the object in a store."""
        if self.type == PLAIN:
            return self.value
        return self.raw.hex()

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return bytes.fromhex(self.value) if self.type == PLAIN else binascii.a2b_base64(self.value)

    @classmethod
    def chunked(cls, raw: bytes) -> Digest:
        return cls(CHUNKED, binascii.b2a_base64(raw, newline=False).decode("ascii"))

    @classmethod
    def named(cls, type_: str, hexadecimal: str) -> Digest:
        """Return the digest of a type whose hex is in an object's name."""
        return cls.chunked(bytes.fromhex(hexadecimal)) if type_ == CHUNKED else cls(type_, hexadecimal)

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
        raw = hashlib.sha256(hashlib.sha256(data).digest()).digest()
        return Digest(CHUNKED, binascii.b2a_base64(raw, newline=False).decode("ascii"))
    hasher = Hasher(len(data), type_)
    hasher.update(data)
    return hasher.digest()


def hash_view(view: memoryview, type_: str = CHUNKED, *, threads: int = 2) -> Digest:
    """Return the digest of bytes in memory or in a mapped file, without a copy; chunks hash in parallel."""
    from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

    chunk = chunk_size(len(view))
    if type_ == PLAIN or len(view) <= chunk:
        return hash_bytes(view, type_)
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(_sha256, (view[start : start + chunk] for start in range(0, len(view), chunk)))
        return Digest.chunked(hashlib.sha256(b"".join(parts)).digest())


def hash_all(objects: Sequence[Sequence[memoryview]], *, threads: int = 2) -> list[Digest]:
    """Return the digest of many objects in memory, each given in parts; the chunks of all of them hash in parallel."""
    from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

    chunks = [_chunks(parts) for parts in objects]
    every = [chunk for own in chunks for chunk in own]
    sizes = [sum(map(len, chunk)) for chunk in every]
    if sum(sizes) < _AT_ONCE:
        inner: Iterator[bytes] = map(_sha256_parts, every)
        return [Digest.chunked(hashlib.sha256(b"".join(islice(inner, len(own)))).digest()) for own in chunks]
    with ThreadPoolExecutor(threads) as pool:
        tasks = pool.map(lambda places: [_sha256_parts(every[place]) for place in places], spans(sizes, _TASK))
        inner = chain.from_iterable(tasks)
        return [Digest.chunked(hashlib.sha256(b"".join(islice(inner, len(own)))).digest()) for own in chunks]


def spans(sizes: Sequence[int], least: int) -> Iterator[range]:
    """Yield the positions of things in spans that are of at least that size together: worth handing to a thread."""
    start = held = 0
    for position, size in enumerate(sizes):
        held += size
        if held >= least:
            yield range(start, position + 1)
            start, held = position + 1, 0
    if start < len(sizes):
        yield range(start, len(sizes))


def _chunks(parts: Sequence[memoryview]) -> Sequence[Sequence[memoryview]]:
    """Return an object's chunks, each in parts."""
    size = sum(map(len, parts))
    if size <= _MIN_CHUNK:
        return [parts] if size else []
    return list(_cut(parts, chunk_size(size)))


def _cut(parts: Sequence[memoryview], chunk: int) -> Iterator[list[memoryview]]:
    piece: list[memoryview] = []
    room = chunk
    for part in parts:
        while part:
            piece.append(part[:room])
            part, room = part[room:], room - len(piece[-1])
            if not room:
                yield piece
                piece, room = [], chunk
    if piece:
        yield piece


def _sha256_parts(parts: Sequence[memoryview]) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def hash_file(path: Path, type_: str = CHUNKED) -> tuple[Digest, int]:
    """Return the digest and length in bytes of a file, each byte read once."""
    with open_regular(path) as source:
        return copy_hashed(source, None, os.fstat(source.fileno()).st_size, type_)


def copy_hashed(
    source: BinaryIO, sink: BinaryIO | None, size: int, type_: str = CHUNKED, *, threads: int = 2
) -> tuple[Digest, int]:
    """Copy `source` to `sink` and hash on the way; chunks of a large file hash in parallel.

    Args:
        source: Read from its position to its end, or until it gave one byte more than `size`: a file that grows does
            not hold us up.
        sink: Where the bytes go; None hashes only.
        size: Expected length in bytes, which fixes the chunk length.
        threads: That hash beside the caller's; 1 hashes on the caller's own.
    Returns:
        The digest, and the number of bytes that were there: unequal to `size` if the file changed meanwhile.
    """
    from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

    chunk = chunk_size(size)
    if threads == 1 or size <= chunk or type_ == PLAIN:
        hasher = Hasher(size, type_)
        total = 0
        buffer = memoryview(bytearray(min(max(size, 1), _READ)))
        while count := source.readinto(buffer[: size + 1 - total]):  # type: ignore[attr-defined]
            hasher.update(buffer[:count])
            total += count
            if sink is not None:
                write_all(sink, buffer[:count])
        return hasher.digest(), total
    outer = hashlib.sha256()
    spare = [memoryview(bytearray(chunk)) for _ in range(threads + 1)]
    pending: deque[tuple[Future[bytes], memoryview]] = deque()
    total = 0
    with ThreadPoolExecutor(threads) as pool:
        while True:
            if not spare:
                future, buffer = pending.popleft()
                outer.update(future.result())
            else:
                buffer = spare.pop()
            count = _fill(source, buffer[: size + 1 - total])
            if not count:
                break
            total += count
            pending.append((pool.submit(_sha256, buffer[:count]), buffer))
            if sink is not None:
                write_all(sink, buffer[:count])
        for future, _ in pending:
            outer.update(future.result())
    return Digest.chunked(outer.digest()), total


def _fill(source: BinaryIO, buffer: memoryview) -> int:
    """Read until `buffer` is full or the source ends; return the number of bytes."""
    count = 0
    while count < len(buffer) and (more := source.readinto(buffer[count:])):  # type: ignore[attr-defined]
        count += more
    return count


def write_all(sink: BinaryIO, data: memoryview) -> None:
    """Write all of `data`: an unbuffered file may take a part at a time."""
    while data:
        data = data[sink.write(data) :]


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()
