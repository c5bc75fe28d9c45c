"""What RECORD says of an installed package, and what is really there.

Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from reprokit.environment.local.stat_cache import Memory

__all__ = ["Row", "actual_rows", "is_identity", "record_digest", "rows_of", "spell"]

Row = tuple[str, str, str]
"""Path relative to site-packages, hash as `sha256=…`, size; hash and size may be empty."""

_NOTES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}
_ALGORITHMS = ("sha256", "sha384", "sha512")
_CHUNK = 1024 * 1024


def rows_of(text: str) -> list[Row]:
    """Return the rows of a RECORD."""
    return [(row[0], row[1], row[2]) for row in csv.reader(io.StringIO(text)) if len(row) >= 3]


def is_identity(path: str) -> bool:
    """True for a row of RECORD that does not depend on where, when and by what it was installed."""
    noted = path.rpartition("/")[2] in _NOTES and ".dist-info/" in path
    return not path.startswith("../") and not path.endswith(".pyc") and not noted


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


def actual_rows(record: Path, rows: list[Row], memory: Memory) -> tuple[list[Row], list[str]]:
    """Return the rows as they would be for the files that are there, and which were changed or are missing.

    Installers write RECORD last: a file of the size that it says, untouched since, is taken to be what was installed.
    The others are read, once.
    """
    site = str(record.parent.parent)
    written = record.stat().st_ctime_ns
    found, changed = [], []
    for row in rows:
        path, digest, size = row
        if digest and is_identity(path):
            file = f"{site}/{path}"
            try:
                seen = os.stat(file)  # noqa: PTH116 - a hundred thousand of them
            except OSError:
                changed.append(path)
                continue
            touched = max(seen.st_mtime_ns, seen.st_ctime_ns) >= written
            if (touched or (size and size != str(seen.st_size))) and (
                actual := _hash(file, digest, seen, memory)
            ) != digest:
                changed.append(path)
                found.append((path, actual, str(seen.st_size)))
                continue
        found.append(row)
    return found, changed


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
