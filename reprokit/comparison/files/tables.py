"""Tables with commas or tabs: one parser, and one walk over the cells of two. Reads no files.

A blank line is no row. What two cells must share to be equal is the caller's to say: their text, for people; the number
that they are, for `compare: values`.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["SEPARATORS", "Cell", "TableDiff", "compare_tables", "paired_cells", "read_rows", "value_of"]

SEPARATORS = {"csv": ",", "tsv": "\t"}  # by the ending of a file's name
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,299})", re.ASCII)  # 007 is a label
_REAL = re.compile(
    r"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?|\d+e[+-]?\d+|nan|inf(?:inity)?)", re.ASCII | re.IGNORECASE
)


class Cell(NamedTuple):
    """A cell of one table and its counterpart in the other; a side that has none has None.

    Attributes:
        row, column: Their numbers, from 0.
    """

    row: int
    column: int
    one: str | None
    other: str | None


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


def read_rows(data: bytes, separator: str) -> Iterator[list[str]]:
    """Yield the rows of a table in UTF-8, one at a time.

    Raises:
        ValueError: It is not UTF-8.
        csv.Error: A quote is not closed, or a field is too long.
    """
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    return (row for row in csv.reader(text, delimiter=separator, strict=True) if row)


def paired_cells(ours: Iterable[Sequence[str | None]], theirs: Iterable[Sequence[str | None]]) -> Iterator[Cell]:
    """Yield every cell of two tables, row n beside row n, column n beside column n: also where one side has no more."""
    for row, (one, other) in enumerate(itertools.zip_longest(ours, theirs, fillvalue=())):
        for column, (a, b) in enumerate(itertools.zip_longest(one, other)):
            yield Cell(row, column, a, b)


def value_of(text: str) -> int | float | str:
    """Return the number that a cell spells, or its text; a label such as 007, and a number beyond floats, is text."""
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped):
        return int(stripped)
    if not _REAL.fullmatch(stripped):
        return text
    value = float(stripped)
    return text if math.isinf(value) and "n" not in stripped.lower() else value  # 1e999 is no infinity


def compare_tables(before: bytes, after: bytes, separator: str) -> TableDiff | None:
    """Return how two tables with a head line differ, cell by cell as text; None if one of them is none."""
    left, right = _table(before, separator), _table(after, separator)
    if left is None or right is None:
        return None
    by_key = _distinct(left) and _distinct(right) and left[0][0] == right[0][0]
    old, new = _rows(left, by_key), _rows(right, by_key)
    rows = [name for name in old if name in new]
    shared = set(left[0]) & set(right[0])
    columns = [column for column in left[0] if column in shared]
    aligned = ([[side[name][column] for column in columns] for name in rows] for side in (old, new))
    return TableDiff(
        columns_added=tuple(column for column in right[0] if column not in shared),
        columns_removed=tuple(column for column in left[0] if column not in shared),
        rows_added=tuple(name for name in new if name not in old),
        rows_removed=tuple(name for name in old if name not in new),
        cells=tuple(
            (rows[cell.row], columns[cell.column], cell.one, cell.other)
            for cell in paired_cells(*aligned)
            if cell.one is not None and cell.other is not None and cell.one != cell.other
        ),
    )


def _table(data: bytes, separator: str) -> list[list[str]] | None:
    try:
        rows = list(read_rows(data, separator))
    except (ValueError, csv.Error):
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
