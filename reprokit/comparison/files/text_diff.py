"""What differs inside two files of one logical key, for people: lines of a text, cells of a table. Reads no files."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from reprokit.comparison.files.tables import SEPARATORS, TableDiff, compare_tables

__all__ = ["ContentDiff", "compare_content", "compare_texts"]

_MAX_TEXT = 4 * 1024 * 1024  # bytes; above, a comparison line by line takes too long to be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDiff:
    """How two contents differ.

    Attributes:
        kind: text, table or bytes.
        lines: For people: a unified diff of a text; of a table what changed in it; of bytes one sentence.
        table: What changed in a table.
    """

    kind: str
    lines: tuple[str, ...]
    table: TableDiff | None = None


def compare_content(key: str, left: bytes, right: bytes) -> ContentDiff:
    """Return how two contents of a logical key differ: as tables if it ends in .csv or .tsv, else as text if UTF-8."""
    sizes = f"{len(left):,} → {len(right):,} bytes"
    if max(len(left), len(right)) > _MAX_TEXT:
        return ContentDiff(kind="bytes", lines=(f"not compared inside: larger than {_MAX_TEXT:,} bytes ({sizes})",))
    try:
        before, after = left.decode(), right.decode()
    except UnicodeDecodeError:
        first = next(
            (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
        return ContentDiff(kind="bytes", lines=(f"bytes differ from offset {first:,} on ({sizes})",))
    separator = SEPARATORS.get(key.rpartition(".")[2].lower())
    if separator is not None:
        table = compare_tables(left, right, separator)
        if table is not None:
            return ContentDiff(kind="table", lines=tuple(_tell(table)), table=table)
    return ContentDiff(kind="text", lines=tuple(compare_texts(before, after)))


def compare_texts(before: str, after: str) -> list[str]:
    """Return a unified diff without its head."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return [line for number, line in enumerate(lines) if number > 1]


def _tell(table: TableDiff) -> list[str]:
    lines = [f"+ column {name}" for name in table.columns_added]
    lines += [f"- column {name}" for name in table.columns_removed]
    lines += [f"+ row {name}" for name in table.rows_added]
    lines += [f"- row {name}" for name in table.rows_removed]
    width = max((len(f"{row}, {column}") for row, column, _, _ in table.cells), default=0)
    lines += [f"~ {f'{row}, {column}':<{width}}  {old} → {new}" for row, column, old, new in table.cells]
    return lines or ["~ quoting, blank lines, or the order of rows or columns"]
