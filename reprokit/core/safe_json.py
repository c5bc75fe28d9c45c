"""Reading JSON that a stranger wrote: capped in size and depth, no key twice. Showing a stranger's text."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from reprokit.errors import DataMismatchError

__all__ = ["check_depth", "load_json", "printable", "tame"]

_WILD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def load_json(
    data: bytes, *, what: str, max_bytes: int = 64 * 1024 * 1024, max_depth: int = 64, constants: bool = False
) -> Any:
    """Parse untrusted JSON.

    Args:
        what: Names the source in errors, e.g. ``record.json of run 20261123-…``.
        max_bytes, max_depth: Caps; more is refused before or right after the parse.
        constants: Read NaN and the infinities, which Python and others write though JSON has none.
    Raises:
        DataMismatchError: Too large, too deep, not JSON, NaN or a key twice.
    """
    if len(data) > max_bytes:
        raise DataMismatchError(f"{what} is {len(data):,} bytes long; at most {max_bytes:,} are read.")
    try:
        allowed = None if constants else _no_constant
        value = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=allowed, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DataMismatchError(f"{what} is not JSON that reprokit reads: {error}.") from None
    check_depth(value, what=what, max_depth=max_depth)
    return value


def check_depth(value: Any, *, what: str, max_depth: int, max_nodes: int = 50_000_000) -> None:
    """Raise DataMismatchError if lists and objects nest deeper than `max_depth`, or are too many (aliases multiply)."""
    level = [value]
    for _ in range(max_depth + 1):
        max_nodes -= len(level)
        if max_nodes < 0:
            raise DataMismatchError(f"{what} holds too many lists and objects.")
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise DataMismatchError(f"{what} nests deeper than {max_depth} levels.")


def printable(text: str, limit: int = 60) -> str:
    """Return a stranger's text for a terminal: nothing in it moves the cursor, and it is short."""
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def tame(text: str) -> str:
    """Return text for a terminal in which no stranger's character moves the cursor, colours, or turns the reading."""
    return _WILD.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} stands twice in one object")
            seen.add(key)
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
