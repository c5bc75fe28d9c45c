"""Values as YAML on one line, as the lines of a recipe have them."""

from __future__ import annotations

import json
import re
from typing import Any

from reprokit.core.safe_yaml import load_yaml

__all__ = ["flow"]

_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    text = json.dumps(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")  # which YAML takes for a number
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and load_yaml(value.encode(), what="a default") == value
    return str(value) if plain else text
