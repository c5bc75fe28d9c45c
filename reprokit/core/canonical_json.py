"""Canonical JSON: equal values give equal bytes, and so equal hashes. And the same where the order of keys counts."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

__all__ = ["canonical", "metric_values", "ordered", "sha256_of", "spelled"]

_SPELLED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
_IN_ORDER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys, no blanks, ASCII only: equal values give equal bytes.

    Raises:
        ValueError: A float is NaN or infinite.
    """
    return _ENCODE(value).encode("ascii")


def ordered(value: Any) -> bytes:
    """Return JSON as `canonical` spells it, with keys in the order that they have: it is part of what is equal.

    Raises:
        ValueError: A float is NaN or infinite.
    """
    return _IN_ORDER(value).encode("ascii")


def sha256_of(value: Any) -> str:
    """Return the hex SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def spelled(value: Any) -> Any:
    """Return a JSON value with what JSON lacks spelled in text that every reader takes.

    A float, as a loss that diverged, becomes "nan", "inf" or "-inf"; half of a surrogate pair, as in the name of a file
    that is not UTF-8, its escape.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {spelled(key): spelled(item) for key, item in value.items()}
    return [spelled(item) for item in value] if isinstance(value, (list, tuple)) else value


def metric_values(value: Any) -> Any:
    """Return metrics as they were before they were `spelled`; what is no mapping or no number stays as it is."""
    if not isinstance(value, dict):
        return value
    return {name: _SPELLED.get(number, number) if isinstance(number, str) else number for name, number in value.items()}
