"""What a run logged: the values of each metric by step. A record keeps a digest of each: what is equal is not read.

A run that goes on after it was stopped logs once more what it does once more: of a step, its last value counts then,
and what was logged without a step counts not at all.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, BinaryIO, cast

from reprokit.core.canonical_json import canonical, metric_values
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError
from reprokit.registry import Registry
from reprokit.runs.store import StoredRun
from reprokit.schema.manifest import Entry
from reprokit.schema.metric_log import MAX_LINE, METRICS_KEY
from reprokit.schema.record import Record

__all__ = [
    "MAX_SERIES",
    "Series",
    "counted",
    "digest_of_rows",
    "digests_of",
    "is_well",
    "last_logged",
    "logged_apart",
    "logged_rows",
    "read_logged",
    "series_of",
]

MAX_SERIES = 256 * 1024 * 1024
"""Bytes of a log of which all values are held at once, to be compared; of a longer one the last of each metric is."""

_AT_ONCE = 4096  # steps of a series that are spelled at once

Series = dict[int | None, list[float]]
"""The values of a metric by step, the step that was logged last at the end; None: logged without a step."""


def series_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Return the series of each metric, by name, from the lines that were logged."""
    found: dict[str, Series] = {}
    for row in rows:
        for name, value in metric_values(row["values"]).items():
            series = found.setdefault(name, {})
            series[row.get("step")] = values = series.pop(row.get("step"), [])
            values.append(value)
    return found


def read_logged(run: StoredRun, registry: Registry) -> dict[str, Series]:
    """Return what a run logged, verified; nothing of one that logged nothing.

    Raises:
        DataMismatchError: It is malformed, or too large.
        NotFoundError: It is gone.
    """
    if METRICS_KEY not in run.manifest:
        return {}
    what = f"{METRICS_KEY} of run {run.record.run_id}"
    entry = run.manifest[METRICS_KEY]
    if entry.size > MAX_SERIES:
        raise DataMismatchError(f"{what} is {entry.size:,} bytes long; at most {MAX_SERIES:,} are compared.")
    return series_of(logged_rows(entry, registry, what=what))


def last_logged(entry: Entry, registry: Registry, *, what: str) -> dict[str, float]:
    """Return the last value of each metric in a run's log of them, in bounded memory however long that is.

    Raises:
        DataMismatchError: It is corrupt, or malformed.
    """
    found: dict[str, float] = {}
    for row in logged_rows(entry, registry, what=what):
        found.update(metric_values(row["values"]))
    return found


def logged_rows(entry: Entry, registry: Registry, *, what: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run's log, verified, in bounded memory however long it is.

    Raises:
        DataMismatchError: It is corrupt, or malformed.
    """
    with tempfile.TemporaryFile(prefix="reprokit-") as file:
        registry.copy_object(entry, cast("BinaryIO", file), what=what)
        file.seek(0)
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            row = load_json(line, what=f"Line {number} of {what}", max_bytes=MAX_LINE)
            if not isinstance(row, dict) or not is_well(row):
                raise DataMismatchError(f"Line {number} of {what} is malformed: {line[:80]!r}.")
            yield row


def is_well(row: Mapping[str, Any]) -> bool:
    """True for a line as a run writes it."""
    values, step = metric_values(row.get("values")), row.get("step")
    if not isinstance(values, dict) or not (step is None or type(step) is int):
        return False
    return all(type(value) is float or (type(value) is int and abs(value) < 2**63) for value in values.values())


def counted(series: Series, *, again: bool) -> Series:
    """Return what counts of a series: of each step all values, whichever came first.

    Args:
        again: The run, or the one that it is compared with, was stopped and went on.
    """
    if again:
        return {step: values[-1:] for step, values in series.items() if step is not None}
    return {step: sorted(values, key=lambda value: (math.isnan(value), value)) for step, values in series.items()}


def digests_of(logged: Mapping[str, Series], *, again: bool) -> dict[str, str]:
    """Return the digest of each metric's series: equal for equal values at equal steps."""
    return {name: _digest(counted(series, again=again)) for name, series in logged.items()}


def logged_apart(left: Record, right: Record) -> list[str] | None:
    """Return the metrics of which two finished runs logged other values, by their digests.

    None where these do not tell: of a run that went on after it was stopped, or whose digests nobody took.
    """
    one, other = left.logged, right.logged
    if one is None or other is None or not left.status == right.status == "finished":
        return None
    apart = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    return None if apart and (left.attempts or right.attempts) else apart


def digest_of_rows(rows: Iterable[tuple[int, float]]) -> str:
    """Return the digest of a series that nobody holds whole, as `digests_of` has it of a run that was not stopped.

    Args:
        rows: Its steps and values, by step and then by value, NaN last.
    """
    return _hashed((step, [value for _, value in group]) for step, group in groupby(rows, key=itemgetter(0)))


def _digest(series: Series) -> str:
    steps = sorted(series, key=lambda step: (step is not None, step or 0))
    return _hashed((step, series[step]) for step in steps)


def _hashed(rows: Iterator[tuple[int | None, list[float]]]) -> str:
    """Return the SHA-256 of the canonical JSON of the list of these rows, of which few are held at once."""
    found, opening = hashlib.sha256(b"["), b""
    while part := list(islice(rows, _AT_ONCE)):
        text = canonical([[step, [repr(float(value) + 0.0) for value in values]] for step, values in part])
        found.update(opening + text[1:-1])
        opening = b","
    found.update(b"]")
    return found.hexdigest()
