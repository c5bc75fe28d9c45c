"""Canonical JSON: equal values give equal bytes, and so equal hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["canonical", "sha256_of"]

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys, no blanks, ASCII only: equal values give equal bytes.

    Raises:
        ValueError: A float is NaN or infinite.
    """
    return _ENCODE(value).encode("ascii")


def sha256_of(value: Any) -> str:
    """Return the hex SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()
