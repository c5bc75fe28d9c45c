"""Which registry an address led to last, kept in the home: without the network nobody else can tell."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from reprokit.core.atomic_files import durable_write
from reprokit.core.regular_files import read_regular
from reprokit.errors import DataMismatchError

__all__ = ["keep_uuid", "kept_uuid"]

_UUID = re.compile(r"[0-9a-f-]{36}")
_LENGTH = 36


def keep_uuid(home: Path, address: str, uuid: str | None) -> None:
    """Remember which registry an address leads to; None if to none any more."""
    if uuid is None:
        _file(home, address).unlink(missing_ok=True)
    elif kept_uuid(home, address) != uuid:
        durable_write(_file(home, address), uuid.encode(), sync=False)


def kept_uuid(home: Path, address: str) -> str | None:
    """Return the UUID of the registry that an address led to last; None if it never led to one."""
    try:
        found = read_regular(_file(home, address), max_bytes=_LENGTH).decode("ascii", "replace")
    except (OSError, DataMismatchError):
        return None
    return found if _UUID.fullmatch(found) else None


def _file(home: Path, address: str) -> Path:
    return home / "registries" / hashlib.sha256(address.encode()).hexdigest()[:32]
