"""Curves and rows of checkpoints in a line of a terminal, with what its encoding has."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from reprokit.core.terminal_text import printable
from reprokit.schema.record import Record

__all__ = [
    "ASCII",
    "UNICODE",
    "Marks",
    "columns",
    "curve_lines",
    "ends",
    "here",
    "marks_of",
    "metrics_by_checkpoint",
    "short",
    "spark",
    "strip",
]

_T = TypeVar("_T")
_MOST = 12  # metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What lines are made of.

    Attributes:
        heights: From the lowest value to the highest.
        lost: Stands for NaN and the infinities.
        missing: Stands for a checkpoint that has no value, or that is in one run alone.
    """

    heights: str
    lost: str
    missing: str
    unlike: str
    arrow: str


UNICODE = Marks(heights="▁▂▃▄▅▆▇█", lost="×", missing="·", unlike="≠", arrow="→")
ASCII = Marks(heights="_.-=+*#@", lost="x", missing=" ", unlike="!", arrow="->")


def marks_of(encoding: str | None) -> Marks:
    """Return the marks that an encoding can print."""
    every = UNICODE.heights + UNICODE.lost + UNICODE.missing + UNICODE.unlike + UNICODE.arrow
    try:
        every.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def columns() -> int:
    """Return the terminal's width in characters."""
    return shutil.get_terminal_size().columns


def short(name: str) -> str:
    """Return a metric's name that leaves three quarters of the terminal to its course."""
    return printable(name, max(min(columns() // 4, 24), 4))


def here() -> Marks:
    """Return the marks that stdout can print."""
    return marks_of(getattr(sys.stdout, "encoding", None))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def spark(
    values: Sequence[float | None], width: int, marks: Marks = UNICODE, *, beside: Sequence[float | None] = ()
) -> str:
    """Return values as heights, at most `width` of them: of several that share one place, their mean.

    Args:
        values: None where there is none. One that is not finite is shown as lost, also among others.
        beside: Values of another line that has the same scale.
    """
    finite = [value for value in chain(values, beside) if value is not None and math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_height(part, low, high, marks) for part in _parts(values, width))


def _height(part: Sequence[float | None], low: float, high: float, marks: Marks) -> str:
    known = [value for value in part if value is not None]
    if not known:
        return marks.missing
    if not all(map(math.isfinite, known)):
        return marks.lost
    if low == high:
        return marks.heights[len(marks.heights) // 2 - 1]
    mean = math.fsum(value / len(known) for value in known)
    share = (mean / 2 - low / 2) / (high / 2 - low / 2)  # halves: the difference of two floats may be none
    return marks.heights[min(max(round(share * (len(marks.heights) - 1)), 0), len(marks.heights) - 1)]


def strip(states: Sequence[str], width: int, marks: Marks = UNICODE) -> str:
    """Return which checkpoints are equal, at most `width` places: one that stands for several shows the worst.

    Args:
        states: `equal`, `differs` or `missing` (from one of the runs).
    """
    signs = {"differs": marks.unlike, "missing": marks.missing, "equal": "="}
    return "".join(next(sign for state, sign in signs.items() if state in part) for part in _parts(states, width))


def _parts(values: Sequence[_T], width: int) -> Iterable[Sequence[_T]]:
    count = min(len(values), max(width, 1))
    return (values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count))


def metrics_by_checkpoint(record: Record) -> dict[str, list[float | None]]:
    """Return each metric that checkpoints were saved with, a value for each checkpoint."""
    names = dict.fromkeys(name for entry in record.checkpoints for name in entry.metrics)
    return {name: [entry.metrics.get(name) for entry in record.checkpoints] for name in names}


def curve_lines(record: Record, *, indent: int) -> list[str]:
    """Return a line for each metric that two checkpoints or more have: its name, its course, its first and last value.

    Args:
        indent: Characters that stand before each line.
    """
    found = {name: values for name, values in metrics_by_checkpoint(record).items() if _count(values) > 1}
    shown = list(found)[:_MOST]
    marks, names = here(), [short(name) for name in shown]
    told = [ends(found[name], marks) for name in shown]
    wide = max(map(len, names), default=0)
    width = columns() - indent - wide - max(map(len, told), default=0) - 4
    lines = [
        f"{name:<{wide}}  {spark(found[key], width, marks)}  {end}"
        for key, name, end in zip(shown, names, told, strict=True)
    ]
    return lines + [f"and {len(found) - _MOST:,} more (--json has all)"] * (len(found) > _MOST)


def ends(values: Sequence[float | None], marks: Marks) -> str:
    """Return the first value and the last."""
    known = [value for value in values if value is not None]
    return f"{_number(known[0])} {marks.arrow} {_number(known[-1])}" if known else "none"


def _count(values: Sequence[float | None]) -> int:
    return sum(value is not None for value in values)
