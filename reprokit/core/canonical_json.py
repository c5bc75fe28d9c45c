"""Canonical JSON: equal values give equal bytes, and so equal hashes."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

__all__ = ["canonical", "metric_values", "sha256_of", "spelled"]

_SPELLED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

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


def spelled(value: Any) -> Any:
    """Return a JSON value with the floats that JSON lacks, as a loss that diverged, spelled "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: spelled(item) for key, item in value.items()}
    return [spelled(item) for item in value] if isinstance(value, (list, tuple)) else value


def metric_values(value: Any) -> Any:
    """Return metrics as they were before they were `spelled`; what is no mapping or no number stays as it is."""
    if not isinstance(value, dict):
        return value
    return {name: _SPELLED.get(number, number) if isinstance(number, str) else number for name, number in value.items()}
