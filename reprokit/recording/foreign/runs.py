"""A run that another tool recorded becomes a record here, without a lock: listed, compared and shown as others are.

What reads a tool's files says which runs there are, and reads one when it is asked for; all else is here: their IDs,
what looks like a secret, files, the log of metrics, the record. Nothing of it is taken to be well-meant.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from reprokit._version import __version__
from reprokit.core.canonical_json import spelled
from reprokit.core.digest import Digest
from reprokit.core.logical_keys import check_logical_key
from reprokit.core.refs import RESERVED
from reprokit.core.regular_files import read_regular
from reprokit.core.secret_scan import in_file, in_value
from reprokit.errors import DataMismatchError, Error
from reprokit.recording.kept_files import UnkeptError, keep_file
from reprokit.registry.base import Sink
from reprokit.registry.context import Context
from reprokit.registry.package_log import writer
from reprokit.runs.bounded import bounded
from reprokit.runs.logged import MAX_SERIES, digest_of_rows
from reprokit.runs.store import RECORD_KEY, RunStore
from reprokit.schema.bounds import LOGGED, LeftOut
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.metric_log import METRICS_KEY, metric_lines
from reprokit.schema.record import Record, Status

__all__ = [
    "MAX_METRICS",
    "MAX_NAME",
    "MAX_POINTS",
    "ForeignRun",
    "Found",
    "ImportedRuns",
    "Points",
    "Tool",
    "record_runs",
]

MAX_POINTS = 10_000_000
"""Values of a run that are read; each takes 24 bytes of memory."""
MAX_METRICS = 100_000
MAX_NAME = 1_000
"""Characters of the name of a metric or parameter."""

_YEAR_10000 = 253_402_300_800  # seconds since 1970
_MAX_PARAMS = 10_000
_MAX_SCANNED = 1 << 20  # bytes of a file that is looked through for secrets
_ROWS = 1 << 16  # that are Python's objects at once


class Tool(NamedTuple):
    """Whose runs they are: its name, and the same in small letters alone."""

    name: str
    slug: str


@dataclass(frozen=True, kw_only=True)
class ImportedRuns:
    """What came over.

    Attributes:
        runs: The runs' IDs here, by those of the other tool.
        known: Those of them that had come before, or that this registry's runs were sent as.
        notes: What was left out, and why.
    """

    runs: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"runs": self.runs, "known": self.known, "notes": self.notes}


class Points:
    """The values of a metric with their steps and times (seconds since 1970), in the order of logging."""

    __slots__ = ("steps", "times", "values")

    def __init__(self) -> None:
        self.steps, self.times, self.values = array("q"), array("d"), array("d")

    def add(self, step: int, at: float, value: float) -> None:
        """Add a value.

        Raises:
            ValueError: The time is none that a year of four digits has, or the step has more than 64 bits.
        """
        if not 0 <= at < _YEAR_10000:
            raise ValueError(f"{at} is no time in seconds since 1970")
        if not -(2**63) <= step < 2**63:
            raise ValueError(f"{step} is no step that a run can have")
        self.steps.append(step)
        self.times.append(at)
        self.values.append(value)


@dataclass(kw_only=True)
class ForeignRun:
    """A run as another tool has it; times in ms since 1970.

    Attributes:
        name: What it is called there; its slug is its name here.
        by: Who executed it, if that is known.
        commit: Of its code, if that is known.
        told: What else is known of it, kept as `artifacts/TOOL.json`; what looks like a secret is not.
        files: Those that are kept below `artifacts/`, with their keys there.
        notes: What was left out of it.
    """

    name: str
    status: Status
    started: int
    ended: int | None = None
    by: str = ""
    commit: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Points] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    files: Iterable[tuple[str, Path]] = ()
    notes: list[str] = field(default_factory=list)
    points: int = 0

    def log(self, name: str, step: int, at: float, value: float) -> None:
        """Add a value of a metric.

        Raises:
            ValueError: Of `Points.add`; or there are too many values or metrics, or the name is too long.
        """
        points = self.metrics.get(name)
        if points is None:
            if len(name) > MAX_NAME or not name:
                raise ValueError(f"a metric's name has {len(name):,} characters")
            if len(self.metrics) >= MAX_METRICS:
                raise ValueError(f"it has more than {MAX_METRICS:,} metrics")
            points = self.metrics[name] = Points()
        self.points += 1
        if self.points > MAX_POINTS:
            raise ValueError(f"it has more than {MAX_POINTS:,} values")
        points.add(step, at, value)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run that there is to be imported.

    Attributes:
        id: What names it there, for ever.
        started: In ms since 1970.
        load: Reads it; ValueError, Error or OSError of one that is malformed.
        shown: What it is called in notes and results; the ID unless given.
        here: The run of this registry that it was sent as, if it says so.
    """

    id: str
    started: int
    load: Callable[[], ForeignRun]
    shown: str = ""
    here: str | None = None


def record_runs(
    found: Iterable[Found], *, tool: Tool, total: int, context: Context, imported: ImportedRuns
) -> ImportedRuns:
    """Record what was found; what came before stays as it is.

    Args:
        total: How many, for those who watch.
        imported: What is added to, with the notes that there are already.
    """
    runs = RunStore(context.registry)
    with context.progress.task(f"Importing from {tool.name}", total, unit="runs") as advance:
        for one in found:
            shown = one.shown or one.id
            run_id = one.here if one.here is not None and runs.has(one.here) else _run_id(tool.slug, one)
            if runs.has(run_id):
                imported.runs[shown] = run_id
                imported.known.append(shown)
            else:
                try:
                    run = one.load()
                except (ValueError, TypeError, OverflowError, OSError, Error) as error:
                    why = error.message if isinstance(error, Error) else str(error)
                    imported.notes.append(f"{shown} was left out, for it is malformed: {why}")
                else:
                    notes = _record(run, run_id, tool, context)
                    imported.runs[shown] = run_id
                    imported.notes.extend(f"{run_id}: {note}" for note in notes)
            advance(1)
    return imported


def _run_id(slug: str, found: Found) -> str:
    """Return the ID that a run has here, the same each time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(found.started / 1000))
    return f"{stamp}-{hashlib.sha256(f'{slug} {found.id}'.encode('utf-8', 'replace')).hexdigest()[:6]}"


def _record(run: ForeignRun, run_id: str, tool: Tool, context: Context) -> list[str]:
    """Publish the record of a run; return what was left out."""
    notes, registry = [*run.notes], context.registry
    params = _params(run.params, notes)
    told = json.dumps(spelled(_without_secrets(run.told)), indent=1).encode()
    warning = (
        f"Imported from {tool.name}: what it says is what was logged there. Its code, data and environment are not "
        "pinned, and it cannot be reproduced."
    )
    if run.commit:
        warning += f" Its commit was {run.commit[:64]}."
    artifacts: list[Entry] = []
    with registry.staging() as sink:
        for key, file in run.files:
            kept = _kept(f"artifacts/{key}", file, sink, notes)
            artifacts += [kept] if kept is not None else []
        artifacts.append(_entry(f"artifacts/{tool.slug}.json", told, sink))
        logged, left = _log(run, artifacts, sink)
        record = Record(
            run_id=run_id,
            name=re.sub(r"[^A-Za-z0-9_-]+", "-", run.name).strip("-")[:100] or tool.slug,
            status=run.status,
            lock_hash=None,
            code=None,
            environment=None,
            params=params,
            metrics={metric: _last(points) for metric, points in run.metrics.items()},
            logged=logged,
            started=_iso(run.started),
            ended=None if run.ended is None else _iso(run.ended),
            by=run.by[:200] or writer(),
            artifacts=sorted(entry.logical_key for entry in artifacts if entry.logical_key != METRICS_KEY),
            warnings=[warning],
            left_out=left,
            reprokit=__version__,
        )
        record = bounded(record)
        stored = _entry(RECORD_KEY, record.encode(), sink)
    manifest = Manifest.make(
        [*artifacts, stored],
        message=f"{record.name}: {record.status}, from {tool.name}",
        user_meta=meta_of(record.summary()),
    )
    registry.publish(f"{RESERVED}/{run_id}", manifest)
    return notes


def _params(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the parameters that are kept: what looks like a secret is named and left out."""
    secret = dict.fromkeys(name for name, value in given.items() if any(in_value({name: value}, "params")))
    short = [name for name in given if name not in secret and len(name) <= MAX_NAME][:_MAX_PARAMS]
    kept = {name: given[name] for name in short}
    gone = len(given) - len(secret) - len(kept)
    if gone:
        notes.insert(0, f"left out {gone:,} of {len(given):,} parameters: too many, or names that are too long")
    if secret:
        notes.insert(0, f"left out {', '.join(secret)}, which looks like a secret")
    checked: dict[str, Any] = spelled(kept)
    return checked


def _without_secrets(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a run but for what looks like a secret."""
    kept: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, dict):
            kept[name] = _without_secrets(value)
        elif not any(in_value({name: value}, "")):
            kept[name] = value
    return kept


def _kept(key: str, file: Path, sink: Sink, notes: list[str]) -> Entry | None:
    """Keep a file; None, and a note, where it cannot be or where something in it looks like a secret."""
    try:
        check_logical_key(key)
        head = read_regular(file, max_bytes=_MAX_SCANNED)
        finding = next(in_file(head, key, key), None) if len(head) <= _MAX_SCANNED else None
        if finding is None:
            return keep_file(key, file, sink)
        notes.append(f"{key} was left out, for it holds what looks like a secret, {finding.what}")
    except (Error, UnkeptError, OSError) as error:
        why = error.message if isinstance(error, Error) else str(error)
        notes.append(f"{key!r} was left out: {why}")
    return None


def _entry(key: str, data: bytes, sink: Sink) -> Entry:
    digest, size = sink.put_bytes(data)
    return Entry(key, size, digest)


def _log(run: ForeignRun, entries: list[Entry], sink: Sink) -> tuple[dict[str, str] | None, list[LeftOut]]:
    """Store what a run logged; return the digests of its metrics, or that they are too long to be compared."""
    with tempfile.TemporaryFile(prefix="reprokit-") as file:
        for line in _lines(run.metrics):
            file.write(line)
        size = file.tell()
        file.seek(0)
        if size:
            digest, size = _stored(file, size, sink)
            entries.append(Entry(METRICS_KEY, size, digest))
            if size > MAX_SERIES:
                return None, [LeftOut(what=LOGGED, count=size, digest=digest.hex)]
    return {name: digest_of_rows(_by_value(points)) for name, points in run.metrics.items()}, []


def _stored(file: IO[bytes], size: int, sink: Sink) -> tuple[Digest, int]:
    return sink.put_stream(cast("Any", file), size)


def _lines(metrics: Mapping[str, Points]) -> Iterator[bytes]:
    """Yield the lines of the log, by step and time: the last of a metric has the value that the run ended with."""
    names = sorted(metrics)
    if not names:
        return
    sizes = [len(metrics[name].steps) for name in names]
    which = np.repeat(np.arange(len(names)), sizes)
    steps, times, values = (
        np.concatenate([np.frombuffer(getattr(metrics[name], kind), dtype) for name in names])
        for kind, dtype in (("steps", np.int64), ("times", np.float64), ("values", np.float64))
    )
    order = np.lexsort((which, times, steps))
    place: tuple[int, float] | None = None
    together: dict[str, float] = {}
    for first in range(0, len(order), _ROWS):
        rows = order[first : first + _ROWS]
        columns = (column[rows].tolist() for column in (which, steps, times, values))
        for number, step, at, value in zip(*columns, strict=True):
            name = names[number]
            if place != (step, at) or name in together:
                if place is not None:
                    yield from metric_lines(place[0], together, time=place[1])
                place, together = (step, at), {}
            together[name] = value
    if place is not None:
        yield from metric_lines(place[0], together, time=place[1])


def _by_value(points: Points) -> Iterator[tuple[int, float]]:
    steps, values = np.frombuffer(points.steps, np.int64), np.frombuffer(points.values)
    order = np.lexsort((values, steps))
    for first in range(0, len(order), _ROWS):
        rows = order[first : first + _ROWS]
        yield from zip(steps[rows].tolist(), values[rows].tolist(), strict=True)


def _last(points: Points) -> float:
    """Return the value of the last step; of several there, that of the last time."""
    order = np.lexsort((np.frombuffer(points.times), np.frombuffer(points.steps, np.int64)))
    return points.values[int(order[-1])]


def _iso(moment: int) -> str:
    if not 0 <= moment < _YEAR_10000 * 1000:
        raise DataMismatchError(f"{moment} is no time in ms since 1970.")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03d}Z"
