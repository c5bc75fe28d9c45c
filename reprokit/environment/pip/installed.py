"""What RECORD says of an installed package, and what is really there.

Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from reprokit.environment.local.stamp import Mark
from reprokit.environment.local.stat_cache import Memory

__all__ = ["Row", "Told", "actual_rows", "beside", "is_identity", "read_record", "record_digest", "rows_of", "spell"]

Row = tuple[str, str, str]
"""Path relative to site-packages, hash as `sha256=…`, size; hash and size may be empty."""

_NOTES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}
_ALGORITHMS = ("sha256", "sha384", "sha512")
_LONG = 120 * 10**9  # ns that the installation of one package takes at most; if it took longer, more is read
_CHUNK = 1024 * 1024


class Told(NamedTuple):
    """What a RECORD says.

    Attributes:
        digest: Of its rows, see `record_digest`.
        written: When its package was installed, in ns: a file that is older is the installer's.
    """

    rows: list[Row]
    digest: str
    written: int


def read_record(record: Path, memory: Memory) -> Told:
    """Return what a RECORD says, and when its package was installed.

    An installer writes a package's files, then its notes, RECORD last. A RECORD that was touched later, and says what
    it said before, does not make the package younger.
    """
    key, seen = f"record:{record}", record.stat()
    rows = rows_of(record.read_text(encoding="utf-8", errors="surrogateescape"))
    known = memory.get(key, seen)
    if known is None:
        known = {"digest": record_digest(rows), "written": _written(record, seen)}
        before = memory.last(key)
        if before is not None and before["digest"] == known["digest"]:
            known["written"] = min(known["written"], before["written"])
        memory.put(key, seen, known)
    return Told(rows, known["digest"], known["written"])


def _written(record: Path, seen: os.stat_result) -> int:
    """Return when a package was installed, by the notes that its installer wrote one after the other."""
    times = {"RECORD": seen.st_ctime_ns}
    for name in ("INSTALLER", "METADATA"):
        with contextlib.suppress(OSError):
            times[name] = (record.parent / name).stat().st_ctime_ns
    earlier = times.pop("METADATA", seen.st_ctime_ns)
    last = min(times.values())
    return last if last - earlier < _LONG else earlier


def rows_of(text: str) -> list[Row]:
    """Return the rows of a RECORD."""
    if '"' not in text:
        parts = [line.split(",") for line in text.splitlines()]
        return [(row[0], row[1], row[2]) for row in parts if len(row) >= 3]
    return [(row[0], row[1], row[2]) for row in csv.reader(io.StringIO(text)) if len(row) >= 3]


def is_identity(path: str) -> bool:
    """True for a row of RECORD that does not depend on where, when and by what it was installed."""
    if path.startswith("../") or path.endswith(".pyc"):
        return False
    return ".dist-info/" not in path or path.rpartition("/")[2] not in _NOTES


def record_digest(rows: Iterable[Row]) -> str:
    """Return SHA-256 over the rows of a RECORD that do not depend on where it was installed, sorted.

    Left out: scripts (their shebang names the prefix), .pyc files, RECORD itself, and what installers note.
    """
    joined = "\n".join(sorted("\0".join(row) for row in rows if is_identity(row[0])))
    return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()


def spell(handle: IO[bytes], like: str) -> str | None:
    """Return the hash of a file as RECORD spells it, by the algorithm that `like` names; None if that is a weak one."""
    algorithm = like.partition("=")[0]
    if algorithm not in _ALGORITHMS:
        return None
    hasher = hashlib.new(algorithm)
    while block := handle.read(_CHUNK):
        hasher.update(block)
    return f"{algorithm}={base64.urlsafe_b64encode(hasher.digest()).rstrip(b'=').decode()}"


def actual_rows(site: str, told: Told, memory: Memory, seen: Mapping[str, Mark] = {}) -> tuple[list[Row], list[str]]:
    """Return the rows as they would be for the files that are there, and which were changed or are missing.

    A file of the size that RECORD says, untouched since its package was installed, is taken to be what was installed.
    The others are read, once.

    Args:
        seen: Marks of files that were looked at already, by path.
    """
    found, changed = [], []
    for row in told.rows:
        path, digest, _ = row
        if digest and is_identity(path):
            try:
                file = f"{site}/{path}"
                actual = _differing(file, row, told.written, memory, seen.get(file))
            except OSError:
                changed.append(path)
                continue
            if actual is not None:
                changed.append(path)
                found.append((path, *actual))
                continue
        found.append(row)
    return found, changed


def beside(site: str, told: Told, memory: Memory) -> Iterator[tuple[str, bool]]:
    """Yield files that are no part of the identity and may be executed, commands mostly: is each what RECORD says?"""
    for row in told.rows:
        path, digest, _ = row
        if digest and (path.startswith("../") or path.endswith(".pyc")):
            file = os.path.normpath(f"{site}/{path}")
            with contextlib.suppress(OSError):
                yield file, _differing(file, row, told.written, memory) is None


def _differing(file: str, row: Row, written: int, memory: Memory, mark: Mark | None = None) -> tuple[str, str] | None:
    """Return hash and size of a file that is not what its row says; None if it is."""
    _, digest, size = row
    if mark is not None and mark[2] < written and (not size or size == str(mark[0])):
        return None
    seen = os.stat(file)  # noqa: PTH116 - a hundred thousand of them
    touched = max(seen.st_mtime_ns, seen.st_ctime_ns) >= written
    if (touched or (size and size != str(seen.st_size))) and (actual := _hash(file, digest, seen, memory)) != digest:
        return actual, str(seen.st_size)
    return None


def _hash(file: str, like: str, seen: os.stat_result, memory: Memory) -> str:
    known = memory.get(file, seen)
    if known is None:
        try:
            with open(file, "rb") as handle:  # noqa: PTH123 - its path is text already
                known = spell(handle, like) or "unknown"
        except OSError:
            return "unreadable"
        memory.put(file, seen, known)
    return str(known)
