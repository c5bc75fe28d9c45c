"""Reading JSON that a stranger wrote: capped in size and depth, no key twice. Showing a stranger's text."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from reprokit.errors import DataMismatchError

__all__ = ["check_depth", "check_text", "load_json"]

_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def load_json(
    data: bytes,
    *,
    what: str,
    max_bytes: int = 64 * 1024 * 1024,
    max_depth: int = 64,
    constants: bool = False,
    halves: bool = False,
) -> Any:
    """Parse untrusted JSON in UTF-8.

    Args:
        what: Names the source in errors, e.g. ``record.json of run 20261123-…``.
        max_bytes, max_depth: Caps; more is refused before or right after the parse.
        constants: Read NaN and the infinities, which Python and others write though JSON has none.
        halves: Read "\\ud800", half of a surrogate pair, which Python's text may hold and nothing can be encoded with.
    Raises:
        DataMismatchError: Too large, too deep, not JSON, not UTF-8, NaN, half of a character or a key twice.
    """
    if len(data) > max_bytes:
        raise DataMismatchError(f"{what} is {len(data):,} bytes long; at most {max_bytes:,} are read.")
    try:
        allowed = None if constants else _no_constant
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=allowed, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DataMismatchError(f"{what} is not JSON that reprokit reads: {error}.") from None
    check_depth(value, what=what, max_depth=max_depth)
    if not halves and _ESCAPED_HALF.search(text):
        check_text(value, what=what)
    return value


def check_text(value: Any, *, what: str) -> None:
    """Raise DataMismatchError if some text in a JSON value is none: half of a surrogate pair cannot be encoded."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise DataMismatchError(f"{what} holds half of a surrogate pair, which is no character.") from None


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
