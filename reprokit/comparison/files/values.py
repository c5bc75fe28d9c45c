"""Compare two files by the values in them: JSON, JSON lines, tables, arrays. Reads no files, and never unpickles.

Both files may be a stranger's. What is too large, nests too deep, or is not what its name says raises ValueError, and
nothing is allocated because a header asks for it.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from reprokit.comparison.files.npy import MAX_BYTES, Archive, read_array
from reprokit.comparison.files.tables import SEPARATORS, paired_cells, read_rows, value_of
from reprokit.core.safe_json import load_json
from reprokit.core.terminal_text import printable
from reprokit.errors import DataMismatchError
from reprokit.schema.verdict import Comparison

__all__ = ["MAX_TEXT", "compare_values"]

MAX_TEXT = 64 * 1024 * 1024
_MAX_VALUES = 10_000_000  # of JSON, which is read as a whole: 3 bytes of it can become 72 in memory
_BLOCK = 1 << 20  # elements compared at once, so that an array is never held thrice


class _Absent:
    def __repr__(self) -> str:
        return "missing"


_ABSENT = _Absent()


def compare_values(path: str, left: bytes, right: bytes, tolerances: Mapping[str, float]) -> Comparison:
    """Return how two files of one name compare by value.

    Numbers are equal if they are the same number: 1 and 1.0, 0 and -0.0, NaN and NaN. Other values are equal only if
    their type is, too. A number may be off by the tolerance of the last key that leads to it: that of an object in
    JSON, a column's name in a table, an array's in an `.npz`. The order of an object's keys does not matter, nor do
    an array's byte order and memory layout; its type and shape do.

    Args:
        path: Its ending says what the files are: csv, tsv, jsonl, ndjson, npy, npz, else JSON.
        tolerances: Allowed |Δ| by key.
    Returns:
        `tolerated` or `differs`, with the first place that differs and how many do.
    """
    tally = _Tally(tolerances)
    kind = path.rpartition(".")[2].lower()
    try:
        if kind in ("npy", "npz"):
            _compare_arrays(kind, left, right, tally)
        else:
            if max(len(left), len(right)) > MAX_TEXT:
                raise ValueError(f"more than {MAX_TEXT:,} bytes are not read")
            if kind in SEPARATORS:
                _compare_tables(left, right, SEPARATORS[kind], tally)
            elif kind in ("jsonl", "ndjson"):
                values = itertools.zip_longest(_json_lines(left), _json_lines(right), fillvalue=_ABSENT)
                for number, (one, other) in enumerate(values):
                    tally.walk(one, other, number)
            else:
                tally.walk(_json(left), _json(right))
    except (ValueError, csv.Error) as error:
        detail = f"bytes differ, and values cannot be read: {printable(str(error), 200)}"
        return Comparison(what=path, result="differs", detail=detail)
    return tally.conclusion(path)


class _Tally:
    """What was found so far: how many values, how many differ, the first of those, the largest |Δ| that is allowed."""

    def __init__(self, tolerances: Mapping[str, float]) -> None:
        self._tolerances = tolerances
        self._places = self._differing = 0
        self._worst = 0.0
        self._first = ""
        self._trail: list[str | int] = []

    def conclusion(self, path: str) -> Comparison:
        if self._differing:
            count = f"{self._differing:,} of {self._places:,} values differ"
            return Comparison(what=path, result="differs", detail=f"{self._first} ({count})")
        told = f"within {self._worst:.3g}" if self._worst else "equal"
        return Comparison(what=path, result="tolerated", detail=f"other bytes, all {self._places:,} values {told}")

    def walk(self, one: Any, other: Any, *below: str | int, key: str = "") -> None:
        """Compare two JSON values; how deep they nest was checked when they were read."""
        self._trail += below
        if isinstance(one, dict) and isinstance(other, dict) and (one or other):
            for name in dict.fromkeys([*one, *other]):
                self.walk(one.get(name, _ABSENT), other.get(name, _ABSENT), name, key=name)
        elif isinstance(one, list) and isinstance(other, list) and (one or other):
            for index in range(max(len(one), len(other))):
                a = one[index] if index < len(one) else _ABSENT
                b = other[index] if index < len(other) else _ABSENT
                self.walk(a, b, index, key=key)
        else:
            self.value(one, other, key)
        del self._trail[len(self._trail) - len(below) :]

    def value(self, one: Any, other: Any, key: str, *place: str | int) -> None:
        self._places += 1
        if type(one) is type(other) and one == other:
            return
        if _is_number(one) and _is_number(other):
            if one == other or (one != one and other != other):
                return
            delta = _distance(one, other)
            if delta <= self._tolerances.get(key, 0.0):
                self._worst = max(self._worst, delta)
                return
        self.differ(_place([*self._trail, *place]), one, other)

    def differ(self, place: str, one: Any, other: Any, count: int = 1) -> None:
        self._differing += count
        if not self._first:
            change = f"{_shown(one)} → {_shown(other)}"
            self._first = f"{place}: {change}" if place else change

    def arrays(self, one: npt.NDArray[Any], other: npt.NDArray[Any], key: str) -> None:
        """Compare two arrays: one value each if they are of different types or shapes, else element by element."""
        allowed = self._tolerances.get(key, 0.0)
        if one.shape != other.shape or one.dtype.newbyteorder("=") != other.dtype.newbyteorder("="):
            self._places += 1
            self.differ(printable(key), _Type(one), _Type(other))
            return
        self._places += one.size
        left, right = one.reshape(-1), other.reshape(-1)
        for start in range(0, one.size, _BLOCK):
            a, b = left[start : start + _BLOCK], right[start : start + _BLOCK]
            outside = ~_equal(a, b)
            if allowed and outside.any() and a.dtype.kind in "iufc":
                delta = _distances(a, b)
                inside = outside & (delta <= allowed)
                self._worst = max(self._worst, float(np.max(delta, where=inside, initial=0.0)))
                outside &= ~inside
            if outside.any():
                at = int(np.argmax(outside))
                index = ", ".join(str(int(i)) for i in np.unravel_index(start + at, one.shape))
                self.differ(f"{printable(key)}[{index}]", a[at].item(), b[at].item(), int(np.count_nonzero(outside)))


class _Type:
    """An array's type and shape, where the values cannot be compared."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._text = f"{array.dtype.newbyteorder('=').name} {list(array.shape)}"

    def __repr__(self) -> str:
        return self._text


def _place(trail: list[str | int]) -> str:
    text = ""
    for part in trail:
        text += f"[{part}]" if isinstance(part, int) else f".{printable(part)}" if text else printable(part)
    return printable(text, 200)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):  # of which all is to be told is that the other side has none
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    return printable(repr(value[:100]) if isinstance(value, str | bytes) else repr(value))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _distance(one: float, other: float) -> float:
    try:
        return float(abs(one - other))
    except OverflowError:  # integers beyond the floats
        return math.inf


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _json(data: bytes) -> Any:
    if sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values are not read")
    try:
        return load_json(data, what="it", max_bytes=MAX_TEXT, constants=True, halves=True)
    except DataMismatchError as error:
        raise ValueError(error.message) from None


def _json_lines(data: bytes) -> Iterator[Any]:
    """Yield the value of each line that is not blank."""
    return (_json(line) for line in io.BytesIO(data) if line.strip())


def _compare_tables(left: bytes, right: bytes, separator: str, tally: _Tally) -> None:
    """Compare cell by cell; columns have names if the first rows are equal and look like names."""
    ours, theirs = read_rows(left, separator), read_rows(right, separator)
    heads = [*itertools.islice(ours, 1)], [*itertools.islice(theirs, 1)]
    names = heads[0][0] if heads[0] and heads[0] == heads[1] and _looks_like_names(heads[0][0]) else []
    for row, column, one, other in paired_cells(itertools.chain(heads[0], ours), itertools.chain(heads[1], theirs)):
        name = names[column] if column < len(names) else ""
        where = f"row {row if names else row + 1}, {name or f'column {column + 1}'}"
        tally.value(*((one, other) if one == other else (_value(one), _value(other))), name, where)


def _looks_like_names(row: list[str]) -> bool:
    return len(set(row)) == len(row) and not any(_is_number(value_of(cell)) for cell in row)


def _value(text: str | None) -> Any:
    return _ABSENT if text is None else value_of(text)


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare_arrays(kind: str, left: bytes, right: bytes, tally: _Tally) -> None:
    if max(len(left), len(right)) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes are not read")
    if kind == "npy":
        tally.arrays(read_array(left), read_array(right), "")
        return
    with Archive(left) as ours, Archive(right) as theirs:
        for name in dict.fromkeys([*ours.names, *theirs.names]):
            if name in ours.names and name in theirs.names:
                tally.arrays(ours.read(name), theirs.read(name), name)
            else:
                sides = [_Type(side.read(name)) if name in side.names else _ABSENT for side in (ours, theirs)]
                tally.value(sides[0], sides[1], "", name)


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = a == b
    if a.dtype.kind in "fc":
        equal |= np.isnan(a) & np.isnan(b)
    elif a.dtype.kind in "mM":
        equal |= np.isnat(a) & np.isnat(b)
    return equal


def _distances(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return |Δ| without overflow; infinity where a NaN meets a number."""
    distances: npt.NDArray[Any]
    if a.dtype.kind in "iu":
        distances = np.maximum(a, b).astype(np.uint64) - np.minimum(a, b).astype(np.uint64)  # exact modulo 2^64
        return distances
    wide = np.result_type(a.dtype, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(a.astype(wide) - b.astype(wide))
    distances = np.where(np.isnan(delta), math.inf, delta)
    return distances
