"""What a run logged, by name, as the page draws it: by step, epoch or time, thinned so that no spike is lost."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.canonical_json import metric_values
from reprokit.core.terminal_text import printable
from reprokit.export.report.data import extremes
from reprokit.registry import Registry
from reprokit.runs.store import StoredRun
from reprokit.schema.metric_log import MAX_LINE, METRICS_KEY
from reprokit.schema.record import Record

__all__ = ["MOST", "Series", "as_chart", "is_too_long", "seconds_of", "series_of"]

MOST = 1000  # points of a line; more are not seen
_MOST_BYTES = 512 * 1024 * 1024  # of a log; of a longer one nothing is drawn, which the page says
_AT_ONCE = 4 * 1024 * 1024  # bytes whose lines are parsed at once
_MOST_NAMES = 1000
_LARGEST = 1e300  # what is larger is drawn as little as an infinity
_NONE = math.nan


@dataclass(slots=True)
class Series:
    """One metric of a run, in the order in which it was logged.

    Attributes:
        steps, epochs, times: Where each value belongs; NaN where nobody said. Times are seconds since 1970.
        lost: Values that are NaN, infinite or too large, and are not among `values`.
    """

    values: array[float] = field(default_factory=lambda: array("d"))
    steps: array[float] = field(default_factory=lambda: array("d"))
    epochs: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    lost: int = 0

    def add(self, value: float, *, step: float = _NONE, epoch: float = _NONE, time: float = _NONE) -> None:
        """Take a value, if it can be drawn."""
        if not abs(value) <= _LARGEST:
            self.lost += 1
            return
        self.values.append(value)
        self.steps.append(step)
        self.epochs.append(epoch)
        self.times.append(time)


class _Row(msgspec.Struct):
    """A line as a run writes it; what is more in it is not looked at."""

    values: dict[str, float | str]
    step: int | None = None
    time: float = _NONE


_DECODER = msgspec.json.Decoder(_Row)


def series_of(run: StoredRun, registry: Registry, journals: Path) -> dict[str, Series]:
    """Return the metrics of a run: what its checkpoints say, and what it logged beside that.

    Args:
        journals: Where the runs that go on here are written.
    Raises:
        DataMismatchError: What it logged is corrupt.
    """
    found = _of_checkpoints(run.record)
    by_checkpoint = set(found)
    for name, series in _logged(run, registry, journals).items():
        if name not in by_checkpoint or len(series.values) > len(found[name].values):
            found[name] = series
    return found


def is_too_long(run: StoredRun) -> bool:
    """True if a run logged more than is read for a page."""
    return METRICS_KEY in run.manifest and run.manifest[METRICS_KEY].size > _MOST_BYTES


def _of_checkpoints(record: Record) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for index, entry in enumerate(record.checkpoints):
        for name, value in entry.metrics.items():
            if name in found or len(found) < _MOST_NAMES:
                step = float(index if entry.step is None else entry.step)
                epoch = _NONE if entry.epoch is None else float(entry.epoch)
                found.setdefault(name, Series()).add(float(value), step=step, epoch=epoch)
    return found


def _logged(run: StoredRun, registry: Registry, journals: Path) -> dict[str, Series]:
    if METRICS_KEY in run.manifest:
        entry = run.manifest[METRICS_KEY]
        return {} if is_too_long(run) else _stored(_Log(entry.digest.value, registry, run))
    journal = journals / run.record.run_id / METRICS_KEY
    if journal.is_file():
        with journal.open("rb") as handle:
            return _parsed(handle.read(_MOST_BYTES))
    return {}


@dataclass(frozen=True, slots=True)
class _Log:
    """A run's log, known by the hash of its bytes: it is parsed once."""

    digest: str
    registry: Registry = field(hash=False)
    run: StoredRun = field(compare=False)


@lru_cache(maxsize=64)
def _stored(log: _Log) -> dict[str, Series]:
    what = f"{METRICS_KEY} of run {log.run.record.run_id}"
    return _parsed(log.registry.read_object(log.run.manifest[METRICS_KEY], what=what))


def _parsed(data: bytes) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for row in _rows(data):
        step = _NONE if row.step is None or abs(row.step) > 2**53 else float(row.step)
        for name, value in metric_values(row.values).items():
            if isinstance(value, float) and (name in found or len(found) < _MOST_NAMES):
                found.setdefault(name, Series()).add(value, step=step, time=row.time)
    return found


def _rows(data: bytes) -> Iterator[_Row]:
    """Yield the lines of a log; what in it is malformed costs nothing else."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", min(start + _AT_ONCE, len(data)))
        part = data[start : len(data) if end < 0 else end]
        start += len(part) + 1
        try:
            yield from _DECODER.decode_lines(part)
        except (msgspec.MsgspecError, ValueError):
            for line in part.split(b"\n"):
                if line and len(line) <= MAX_LINE:
                    try:
                        yield _DECODER.decode(line)
                    except (msgspec.MsgspecError, ValueError):
                        continue


def as_chart(name: str, lines: Iterable[tuple[str, str, Series]], *, most: int = MOST) -> dict[str, Any]:
    """Return what the page draws of a metric of one run, or of several.

    Args:
        lines: Of each run its ID, how it is called, and the metric.
        most: Points of each line.
    """
    drawn = []
    lost = 0
    for run, label, series in lines:
        kept = extremes(series.values, most)
        axes = {"step": series.steps, "epoch": series.epochs, "time": series.times}
        x = {axis: [values[at] for at in kept] for axis, values in axes.items() if not _lacks(values)}
        x["index"] = list(map(float, kept))
        drawn.append({"run": run, "label": label, "x": x, "y": [series.values[at] for at in kept]})
        lost += series.lost
    shared = [axis for axis in ("step", "epoch", "time", "index") if all(axis in line["x"] for line in drawn)]
    return {"name": printable(name, 80), "axes": shared, "lines": drawn, "lost": lost}


def _lacks(values: Sequence[float]) -> bool:
    """True if some value has no place on this axis."""
    return not values or any(value != value for value in (values[0], values[-1])) or any(v != v for v in values)


def seconds_of(moment: str) -> float:
    """Return an ISO 8601 time in UTC in seconds since 1970; NaN of what is none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return _NONE
