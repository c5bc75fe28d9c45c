"""Parameters as they are typed: KEY=VALUE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import UsageError

__all__ = ["parse_params"]


def parse_params(items: Iterable[str]) -> dict[str, Any]:
    """Parse KEY=VALUE pairs; values are YAML scalars, lists or mappings."""
    found: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"-p {item}: write KEY=VALUE.")
        found[key] = load_yaml(value.encode(), what=f"-p {item}")
    return found
