"""Compare two declared outputs that are not equal in every byte, as the recipe says. Reads no files.

Equal bytes are the only `match`; what is equal by a kinder measure is `tolerated`, and the detail says by which.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from reprokit.comparison.files.images import compare_pixels
from reprokit.comparison.files.values import MAX_TEXT, compare_values
from reprokit.core.terminal_text import printable
from reprokit.schema.recipe import OutputMode
from reprokit.schema.verdict import Comparison

__all__ = ["MAX_OUTPUT", "compare_output"]

MAX_OUTPUT = 256 * 1024 * 1024  # bytes; larger ones are told apart by their digests alone
_BLOCK = 1 << 24


def compare_output(
    path: str, mode: OutputMode, left: bytes, right: bytes, tolerances: Mapping[str, float]
) -> Comparison:
    """Return how the original's output and the repetition's compare.

    Args:
        tolerances: What numbers may be off by, by name; of `values` alone.
    """
    if left == right:
        return Comparison(what=path, result="match", detail=f"{len(left):,} bytes")
    return _MODES[mode](path, left, right, tolerances)


def _compare_bytes(path: str, left: bytes, right: bytes, why: str = "") -> Comparison:
    at = _first_byte(left, right)
    detail = f"{why}{len(left):,} and {len(right):,} bytes, the first difference at byte {at:,} (from 0)"
    return Comparison(what=path, result="differs", detail=detail)


def _first_byte(left: bytes, right: bytes) -> int:
    """Return the offset of the first byte that differs; where one goes on, its own first byte differs."""
    shorter = min(len(left), len(right))
    one, other = np.frombuffer(left, np.uint8, shorter), np.frombuffer(right, np.uint8, shorter)
    for start in range(0, shorter, _BLOCK):
        differ = one[start : start + _BLOCK] != other[start : start + _BLOCK]
        if differ.any():
            return start + int(np.argmax(differ))
    return shorter


def _compare_lines(path: str, left: bytes, right: bytes) -> Comparison:
    """Compare line n with line n. Lines end with LF, CR LF or CR; whether the last one does, does not matter."""
    if max(len(left), len(right)) > MAX_TEXT:
        return _compare_bytes(path, left, right, f"more than {MAX_TEXT:,} bytes are not read as lines: ")
    try:
        one, other = (io.StringIO(data.decode("utf-8"), newline=None) for data in (left, right))
    except UnicodeDecodeError:
        return _compare_bytes(path, left, right, "not UTF-8 text: ")
    first, count = "", 0
    number = 0
    for number, (a, b) in enumerate(itertools.zip_longest(one, other), 1):
        ours, theirs = (None if line is None else line.removesuffix("\n") for line in (a, b))
        if ours == theirs:
            continue
        count += 1
        first = first or f"line {number:,}: {_shown(ours, theirs)} → {_shown(theirs, ours)}"
    if count:
        return Comparison(what=path, result="differs", detail=f"{first} ({count:,} of {number:,} lines differ)")
    detail = f"other bytes, all {number:,} lines equal (how they end is not compared)"
    return Comparison(what=path, result="tolerated", detail=detail)


def _shown(line: str | None, beside: str | None) -> str:
    """Return a line for people, cut down to where it differs from the one that it stands beside."""
    if line is None:
        return "missing"
    pairs = zip(line, beside or "", strict=False)
    same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(line), len(beside or "")))
    start = same - 20 if same > 40 else 0
    return f"'{'…' if start else ''}{printable(line[start:])}'"


_MODES: dict[OutputMode, Callable[[str, bytes, bytes, Mapping[str, float]], Comparison]] = {
    "bytes": lambda path, left, right, _: _compare_bytes(path, left, right),
    "values": compare_values,
    "pixels": lambda path, left, right, _: compare_pixels(path, left, right),
    "lines": lambda path, left, right, _: _compare_lines(path, left, right),
}
"""What compares the bytes of an output, by the word in the recipe; `ignore` compares nothing."""
