"""What differs inside two files of one logical key, for people: lines of a text, cells of a table. Reads no files."""

from __future__ import annotations

import csv
import difflib
import io
from dataclasses import dataclass

__all__ = ["ContentDiff", "TableDiff", "compare_content", "compare_tables", "compare_texts"]

_MAX_TEXT = 4 * 1024 * 1024  # bytes; above, a comparison line by line takes too long to be looked at
_TABLES = {"csv": ",", "tsv": "\t"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDiff:
    """How two tables differ. Rows are told apart by the first column if its values are all different, else by number.

    Attributes:
        cells: (row, column, before, after) of every cell that changed.
    """

    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    rows_added: tuple[str, ...]
    rows_removed: tuple[str, ...]
    cells: tuple[tuple[str, str, str, str], ...]


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
    separator = _TABLES.get(key.rpartition(".")[2].lower())
    if separator is not None:
        table = compare_tables(before, after, separator=separator)
        if table is not None:
            return ContentDiff(kind="table", lines=tuple(_tell(table)), table=table)
    return ContentDiff(kind="text", lines=tuple(compare_texts(before, after)))


def compare_texts(before: str, after: str) -> list[str]:
    """Return a unified diff without its head."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return [line for number, line in enumerate(lines) if number > 1]


def compare_tables(before: str, after: str, *, separator: str) -> TableDiff | None:
    """Return how two tables with a head line differ, None if one of them is none."""
    left, right = _table(before, separator), _table(after, separator)
    if left is None or right is None:
        return None
    by_key = _distinct(left) and _distinct(right) and left[0][0] == right[0][0]
    old, new = _rows(left, by_key), _rows(right, by_key)
    shared = [column for column in left[0] if column in right[0]]
    cells = [
        (name, column, old[name].get(column, ""), new[name].get(column, ""))
        for name in old
        if name in new
        for column in shared
        if old[name].get(column, "") != new[name].get(column, "")
    ]
    return TableDiff(
        columns_added=tuple(column for column in right[0] if column not in left[0]),
        columns_removed=tuple(column for column in left[0] if column not in right[0]),
        rows_added=tuple(name for name in new if name not in old),
        rows_removed=tuple(name for name in old if name not in new),
        cells=tuple(cells),
    )


def _table(text: str, separator: str) -> list[list[str]] | None:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator, strict=True) if row]
    except csv.Error:
        return None
    if not rows or len(set(rows[0])) != len(rows[0]) or any(len(row) != len(rows[0]) for row in rows):
        return None
    return rows


def _distinct(rows: list[list[str]]) -> bool:
    return len({row[0] for row in rows[1:]}) == len(rows) - 1


def _rows(rows: list[list[str]], by_key: bool) -> dict[str, dict[str, str]]:
    return {
        row[0] if by_key else str(number): dict(zip(rows[0], row, strict=True))
        for number, row in enumerate(rows[1:], 1)
    }


def _tell(table: TableDiff) -> list[str]:
    lines = [f"+ column {name}" for name in table.columns_added]
    lines += [f"- column {name}" for name in table.columns_removed]
    lines += [f"+ row {name}" for name in table.rows_added]
    lines += [f"- row {name}" for name in table.rows_removed]
    width = max((len(f"{row}, {column}") for row, column, _, _ in table.cells), default=0)
    lines += [f"~ {f'{row}, {column}':<{width}}  {old} → {new}" for row, column, old, new in table.cells]
    return lines or ["~ quoting, blank lines or the order of rows"]
