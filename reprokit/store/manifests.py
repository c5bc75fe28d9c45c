"""Manifests as they are stored: JSON lines, gzipped; a version much like another is stored as the difference.

    <header>                          the version's own first line, always
    {"base": "<top hash>"}            only in a difference; the base is whole itself, so a chain has two links at most
    [<first>, <count>]                lines of the base's body, counted from 0
    {"logical_key": …}                a line as it is

Whichever form, the text that comes out is believed only when it gives the top hash that names it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from reprokit.core.canonical_json import canonical
from reprokit.core.terminal_text import printable
from reprokit.errors import DataMismatchError, NotFoundError, UsageError
from reprokit.schema.manifest import MAX_ENTRIES, MAX_LINE, MAX_MANIFEST, Manifest
from reprokit.store.storage import Readable, Storage

__all__ = ["GENERATIONS", "ManifestStore"]

_GZIP = 31  # zlib's window bits for gzip
_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\x04\x03"  # without name and time; nothing else checks these bytes
_FOLDER = "manifests"
_SUFFIX = ".jsonl.gz"
_HASH = re.compile(r"[0-9a-f]{64}")
_BASE = re.compile(rb'\{"base":"([0-9a-f]{64})"\}')
_COPY = re.compile(rb"\[(\d{1,9}),(\d{1,9})\]")
_AT_ONCE = 64 * 1024 * 1024  # bytes of text; of more, the limits are checked before any is kept
_BLOCK = 1024 * 1024
GENERATIONS = 8  # of a key; see `registry.remote.gc`
_WORTH_IT = 64  # lines; below, a difference saves nothing


class ManifestStore:
    """`manifests/<top hash>.jsonl.gz`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.many = False  # generations: where gc has no lock, a key that it condemned is never used again

    def key(self, top_hash: str, generation: int = 0) -> str:
        """Return where a version is stored, there or not; later generations are for a key that gc has condemned.

        Raises:
            DataMismatchError: That is no hash. Records name versions, and anybody can have written one.
        """
        if not _HASH.fullmatch(top_hash):
            raise DataMismatchError(f"{printable(top_hash)!r} names no version: a top hash has 64 hexadecimal digits.")
        return f"{_FOLDER}/{top_hash}{f'~{generation}' if generation else ''}{_SUFFIX}"

    def _keys(self, top_hash: str) -> Iterator[str]:
        """Yield where a version may be stored."""
        return (self.key(top_hash, generation) for generation in range(GENERATIONS if self.many else 1))

    def has(self, top_hash: str) -> bool:
        """True if something is stored as that version; it is not read."""
        return any(self.storage.stat(key) is not None for key in self._keys(top_hash))

    def names(self) -> set[str]:
        """Return the top hash of every manifest that is there."""
        names = self.storage.names(_FOLDER)
        found = {name.removesuffix(_SUFFIX).partition("~")[0] for name in names if name.endswith(_SUFFIX)}
        return {name for name in found if _HASH.fullmatch(name)}

    def write(self, manifest: Manifest, *, near: str | None, avoid: Container[str] = ()) -> None:
        """Store a version durably, as a difference to `near` or to what that one differs from, if that is small.

        One that is there stays as it is, since others may be stored as differences to it; a damaged one is written
        anew, whole.

        Args:
            avoid: Keys that gc has condemned.
        """
        key = next(key for key in self._keys(manifest.top_hash) if key not in avoid)
        damaged = False
        if not (self.many and len(manifest.entries) < _WORTH_IT) and self.storage.stat(key) is not None:
            if self._is_sound(manifest.top_hash):
                return
            damaged, near = True, None
        text = manifest.encode()
        header, _, body = text.partition(b"\n")
        lines = body.split(b"\n")[:-1]
        if max(map(len, [header, *lines])) > MAX_LINE or len(text) > MAX_MANIFEST:
            raise UsageError(
                f"A version whose manifest has {len(text):,} bytes, {max(map(len, [header, *lines])):,} of them in one "
                f"line, is not published: at most {MAX_MANIFEST:,} and {MAX_LINE:,} are read.",
                hint="Metadata and metrics of that size belong into a file of the version.",
            )
        difference = self._difference(lines, near, manifest.top_hash) if near and len(lines) >= _WORTH_IT else None
        if difference is not None:
            text = b"\n".join([header, *difference, b""])
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        packed = _HEAD + (packer.compress(text) + packer.flush())[len(_HEAD) :]
        if damaged:
            self.storage.put(key, packed)
            return
        try:
            self.storage.create(key, packed)
        except FileExistsError:  # another writer was faster with the same version; or it was not looked for
            if self.many and not self._is_sound(manifest.top_hash):
                self.storage.put(key, packed)

    def _is_sound(self, top_hash: str) -> bool:
        try:
            self.read(top_hash)
        except (NotFoundError, DataMismatchError):
            return False
        return True

    def _difference(self, lines: list[bytes], near: str, top_hash: str) -> list[bytes] | None:
        try:
            base = self.base_of(near) or near
            if base == top_hash:
                return None
            theirs = self._body(base)
        except (NotFoundError, DataMismatchError):
            return None
        at = {line: number for number, line in enumerate(theirs)}
        pieces: list[bytes | tuple[int, int]] = []
        literal = 0
        for line in lines:
            number = at.get(line)
            if number is None:
                pieces.append(line)
                literal += 1
            elif pieces and isinstance(last := pieces[-1], tuple) and sum(last) == number:
                pieces[-1] = (last[0], last[1] + 1)
            else:
                pieces.append((number, 1))
        if literal * 4 > len(lines) or len(pieces) * 2 > len(lines) or len(lines) - literal > len(theirs):
            return None
        told = [piece if isinstance(piece, bytes) else b"[%d,%d]" % piece for piece in pieces]
        return [canonical({"base": base}), *told]

    def read(self, top_hash: str) -> Manifest:
        """Return a version, verified.

        Raises:
            NotFoundError: It, or the one it differs from, is not there.
            DataMismatchError: It is corrupt.
        """
        what = f"Manifest {top_hash[:12]} of {self.storage.url}"
        text = self._text(top_hash)
        header, _, body = text.partition(b"\n")
        if body.startswith(b'{"base"'):
            text = b"\n".join([header, *self._expand(body.split(b"\n")[:-1], what), b""])
        return Manifest.decode(text, top_hash=top_hash, what=what)

    def listing(self, top_hash: str) -> bytes:
        """Return the lines of a version's entries as they are stored, to see if two list the same; not verified."""
        body = self._text(top_hash).partition(b"\n")[2]
        if body.startswith(b'{"base"'):
            what = f"Manifest {top_hash[:12]} of {self.storage.url}"
            body = b"\n".join([*self._expand(body.split(b"\n")[:-1], what), b""])
        return body

    def header(self, top_hash: str) -> dict[str, Any]:
        """Return a version's header alone: for listings, and not verified."""
        what = f"Manifest {top_hash[:12]} of {self.storage.url}"
        return Manifest.decode_header(next(self._first_lines(top_hash)), what=what)

    def base_of(self, top_hash: str) -> str | None:
        """Return the version that this one is stored as a difference to, None if it is whole."""
        lines = self._first_lines(top_hash)
        next(lines)
        found = _BASE.fullmatch(next(lines, b""))
        return found[1].decode("ascii") if found else None

    def _expand(self, lines: list[bytes], what: str) -> Iterator[bytes]:
        named = _BASE.fullmatch(lines[0])
        if named is None:
            raise DataMismatchError(f"{what} is malformed: its second line names no base.")
        theirs = self._body(named[1].decode("ascii"))
        copies = 0
        for line in lines[1:]:
            copied = _COPY.fullmatch(line)
            if copied is None:
                yield line
                continue
            start, length = int(copied[1]), int(copied[2])
            if start + length > len(theirs):
                raise DataMismatchError(f"{what} is malformed: it copies lines that its base does not have.")
            copies += length
            if copies > len(theirs):  # a key would stand there twice
                raise DataMismatchError(f"{what} is malformed: it copies more lines than its base has.")
            yield from theirs[start : start + length]

    def _body(self, top_hash: str) -> list[bytes]:
        """Return the lines after the header of a version that is stored whole, unverified."""
        body = self._text(top_hash).partition(b"\n")[2]
        if body.startswith(b'{"base"'):
            raise DataMismatchError(
                f"Manifest {top_hash[:12]} of {self.storage.url} is itself a difference, which no base may be."
            )
        return body.split(b"\n")[:-1]

    def _bytes(self, top_hash: str) -> bytes:
        for key in self._keys(top_hash):
            with suppress(FileNotFoundError):
                return self.storage.read(key, max_bytes=MAX_MANIFEST)
        raise self._missing(top_hash)

    def _missing(self, top_hash: str) -> NotFoundError:
        return NotFoundError(
            f"No version {top_hash[:12]}… in {self.storage.url}.",
            hint=self.storage.absence
            or "It was deleted, or its manifest is lost: restore it from another copy of the registry.",
        )

    def _text(self, top_hash: str) -> bytes:
        packed = self._bytes(top_hash)
        if packed[: len(_HEAD)] != _HEAD:
            raise self._damaged(top_hash, "it does not start as gzip without name and time does")
        try:
            text = self._unpack(packed, top_hash)
            return text if text is not None else zlib.decompress(packed, _GZIP)
        except zlib.error as error:
            raise self._damaged(top_hash, str(error)) from None

    def _unpack(self, packed: bytes, top_hash: str) -> bytes | None:
        """Return the text, None if it is long but within the limits; what is beyond them never is in memory."""
        opener = zlib.decompressobj(_GZIP)
        text = opener.decompress(packed, _AT_ONCE)
        size, lines, block = len(text), text.count(b"\n"), text
        while not opener.eof and block:
            block = opener.decompress(opener.unconsumed_tail, _BLOCK)
            size += len(block)
            lines += block.count(b"\n")
            if size > MAX_MANIFEST:
                raise self._damaged(top_hash, f"it unpacks to more than {MAX_MANIFEST:,} bytes")
            if lines > MAX_ENTRIES + 2:
                raise self._damaged(top_hash, f"it has more than {MAX_ENTRIES:,} entries")
        if not opener.eof or opener.unused_data:
            raise self._damaged(top_hash, "it is truncated, or something follows its end")
        return text if size == len(text) else None

    def _first_lines(self, top_hash: str) -> Iterator[bytes]:
        """Yield up to two lines, unpacking no more than they need."""
        text = b""
        opener = zlib.decompressobj(_GZIP)
        lines = 0
        try:
            with self._open(top_hash) as handle:
                while lines < 2 and not opener.eof and len(text) <= MAX_LINE:
                    block = opener.unconsumed_tail or handle.read(4096)
                    if not block:
                        break
                    text += opener.decompress(block, 64 * 1024)
                    while b"\n" in text and lines < 2:
                        line, _, text = text.partition(b"\n")
                        lines += 1
                        yield line
        except FileNotFoundError:
            raise self._missing(top_hash) from None
        except zlib.error as error:
            raise self._damaged(top_hash, str(error)) from None
        if not lines:
            raise self._damaged(top_hash, "its first line does not end")

    def _open(self, top_hash: str) -> AbstractContextManager[Readable]:
        for key in self._keys(top_hash):
            with suppress(FileNotFoundError):
                return self.storage.open(key)
        raise FileNotFoundError(top_hash)

    def _damaged(self, top_hash: str, why: str) -> DataMismatchError:
        return DataMismatchError(
            f"Manifest {top_hash[:12]} of {self.storage.url} is corrupt: {why}.",
            hint="Restore it from another copy of the registry; nothing of it was used.",
        )
