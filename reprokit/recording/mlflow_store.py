"""Runs of MLflow become runs here: without a lock, listed, compared and shown as those that no recipe started.

Read are a folder `mlruns` and an SQLite file, as MLflow's own stores keep them; MLflow is not needed, and nothing of it
is changed. Artifacts are kept where they lie in a folder of this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprokit._version import __version__
from reprokit.core.logical_keys import check_logical_key
from reprokit.core.refs import RESERVED
from reprokit.core.safe_yaml import load_yaml
from reprokit.core.secret_scan import in_value
from reprokit.errors import Error, NotFoundError, RegistryError
from reprokit.recording.kept_files import UnkeptError, keep_file
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.registry.package_log import writer
from reprokit.runs.bounded import bounded
from reprokit.runs.logged import digests_of, series_of
from reprokit.runs.store import RECORD_KEY, RunStore
from reprokit.schema.facts import meta_of
from reprokit.schema.flags import from_text
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.metric_log import METRICS_KEY, metric_lines
from reprokit.schema.record import Record, Status

__all__ = ["ImportedRuns", "import_mlflow"]

_STATUS: dict[str, Status] = {"FINISHED": "finished", "FAILED": "failed"}
_NUMBERS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_WARNING = (
    "Imported from MLflow: what it says is what was logged there. Its code, data and environment are not pinned, and "
    "it cannot be reproduced."
)
_YEAR_10000 = 253_402_300_800_000  # ms since 1970
_MAX_TEXT = 1 << 20  # bytes of a file of a parameter or tag


@dataclass(frozen=True, kw_only=True)
class ImportedRuns:
    """What came over.

    Attributes:
        runs: The runs' IDs here, by those in MLflow.
        known: Those of them that had come before.
        notes: What was left out, and why.
    """

    runs: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"runs": self.runs, "known": self.known, "notes": self.notes}


@dataclass(kw_only=True)
class _Run:
    """A run as MLflow has it; times in ms since 1970, metrics as (step, time, value) in the order of logging."""

    id: str
    name: str
    experiment: str
    status: str
    started: int
    ended: int | None
    artifacts: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)


def import_mlflow(store: Path, *, experiment: str | None = None, context: Context) -> ImportedRuns:
    """Record every run of a store of MLflow's that is not deleted; what came before stays as it is.

    Args:
        store: A folder `mlruns`, or an SQLite file (`mlflow.db`).
        experiment: The name of the only one that is read.
    Raises:
        NotFoundError: There is no such store, or no such experiment.
        RegistryError: It cannot be read.
    """
    read = _of_database if store.is_file() else _of_folder
    if not store.exists():
        raise NotFoundError(f"No store of MLflow's at {store}.", hint="Name a folder `mlruns`, or an SQLite file.")
    imported, runs = ImportedRuns(), RunStore(context.registry)
    found = [run for run in read(store, imported.notes) if experiment in (None, run.experiment)]
    if experiment is not None and not found:
        raise NotFoundError(f"{store} has no run of an experiment {experiment!r}.")
    with context.progress.task(f"Importing from {store}", len(found), unit="runs") as advance:
        for run in sorted(found, key=lambda one: (one.started, one.id)):
            run_id = _run_id(run)
            imported.runs[run.id] = run_id
            if runs.has(run_id):
                imported.known.append(run.id)
            else:
                _record(run, run_id, context.registry, imported.notes)
            advance(1)
    return imported


def _run_id(run: _Run) -> str:
    """Return the ID that a run has here, the same each time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(run.started / 1000))
    return f"{stamp}-{hashlib.sha256(f'mlflow {run.id}'.encode()).hexdigest()[:6]}"


def _record(run: _Run, run_id: str, registry: Registry, notes: list[str]) -> None:
    secret = [name for name, value in run.params.items() if any(in_value({name: value}, "params"))]
    if secret:
        notes.append(f"{run_id}: left out {', '.join(secret)}, which looks like a secret")
    params = {name: from_text(value) for name, value in run.params.items() if name not in secret}
    lines, last = _log(run)
    tags = {key: value for key, value in run.tags.items() if not any(in_value({key: value}, "tags"))}
    artifacts: list[Entry] = []
    with registry.staging() as sink:
        for key, file in _artifacts(run, run_id, notes):
            try:
                artifacts.append(keep_file(key, file, sink))
            except UnkeptError as error:
                notes.append(f"{run_id}: {key} was left out: {error}")
        told = {"run": run.id, "experiment": run.experiment, "tags": tags}
        kept = {"artifacts/mlflow.json": json.dumps(told, indent=1).encode(), METRICS_KEY: b"".join(lines)}
        for key, data in kept.items():
            if data:
                digest, size = sink.put_bytes(data)
                artifacts.append(Entry(key, size, digest))
        record = Record(
            run_id=run_id,
            name=re.sub(r"[^A-Za-z0-9_-]+", "-", run.name or run.experiment).strip("-")[:100] or "mlflow",
            status=_STATUS.get(run.status, "interrupted"),
            lock_hash=None,
            code=None,
            environment=None,
            params=params,
            metrics=last,
            logged=digests_of(series_of(map(json.loads, b"".join(lines).splitlines())), again=False),
            started=_iso(run.started),
            ended=None if run.ended is None else _iso(run.ended),
            by=run.tags.get("mlflow.user", "") or writer(),
            artifacts=sorted(entry.logical_key for entry in artifacts if entry.logical_key != METRICS_KEY),
            warnings=[_WARNING],
            reprokit=__version__,
        )
        record = bounded(record)
        digest, size = sink.put_bytes(record.encode())
    manifest = Manifest.make(
        [*artifacts, Entry(RECORD_KEY, size, digest)],
        message=f"{record.name}: {record.status}, from MLflow",
        user_meta=meta_of(record.summary()),
    )
    registry.publish(f"{RESERVED}/{run_id}", manifest)


def _log(run: _Run) -> tuple[list[bytes], dict[str, float]]:
    """Return the lines of what a run logged, in order, and the last value of each metric."""
    rows = [(at, step, name, value) for name, found in run.metrics.items() for step, at, value in found]
    lines: list[bytes] = []
    last: dict[str, float] = {}
    for at, step, name, value in sorted(rows, key=lambda row: row[:3]):
        lines += metric_lines(step, {name: value}, time=at / 1000)
    for name, found in run.metrics.items():
        last[name] = max(found, key=lambda row: row[:2])[2]
    return lines, last


def _artifacts(run: _Run, run_id: str, notes: list[str]) -> Iterator[tuple[str, Path]]:
    scheme, separator, rest = run.artifacts.partition("://")
    if separator and scheme != "file":
        notes.append(f"{run_id}: its artifacts are at {scheme}://, and were not taken")
        return
    folder = Path(urllib.parse.unquote(rest if separator else run.artifacts.removeprefix("file:")))
    if not run.artifacts or not folder.is_dir():
        return
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            key = f"artifacts/{file.relative_to(folder).as_posix()}"
            try:
                check_logical_key(key)
            except Error as error:
                notes.append(f"{run_id}: {key!r} was left out: {error.message}")
            else:
                yield key, file


def _iso(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03d}Z"


# ---------------------------------------------------------------------------------------------------- the two stores


def _of_folder(store: Path, notes: list[str]) -> Iterator[_Run]:
    """Yield the runs of a folder, as MLflow's file store has them."""
    for meta in sorted(store.glob("*/*/meta.yaml")):
        try:
            told = _yaml(meta)
            if "run_id" in told and told.get("lifecycle_stage") != "deleted":
                yield _in_folder(meta.parent, told)
        except (ValueError, TypeError, OverflowError, OSError, Error) as error:
            notes.append(f"{meta.parent} was left out, for it is malformed: {error}")


def _in_folder(folder: Path, told: dict[str, Any]) -> _Run:
    experiment = _yaml(folder.parent / "meta.yaml")
    run = _Run(
        id=str(told["run_id"]),
        name=str(told.get("run_name") or ""),
        experiment=str(experiment.get("name") or folder.parent.name),
        status=_status(told.get("status")),
        started=_moment(told.get("start_time") or 0),
        ended=None if told.get("end_time") is None else _moment(told["end_time"]),
        artifacts=str(told.get("artifact_uri") or ""),
    )
    for kind, kept in (("params", run.params), ("tags", run.tags)):
        for name, file in _files(folder / kind):
            kept[name] = file.read_bytes()[:_MAX_TEXT].decode("utf-8", "replace")
    for name, file in _files(folder / "metrics"):
        for line in file.read_text().splitlines():
            at, value, *step = line.split()
            run.metrics.setdefault(name, []).append((int(step[0]) if step else 0, _moment(at), float(value)))
    run.name = run.name or run.tags.get("mlflow.runName", "")
    return run


def _moment(told: Any) -> int:
    """Return milliseconds since 1970.

    Raises:
        ValueError: It is no time that a year of four digits has.
    """
    found = int(told)
    if not 0 <= found < _YEAR_10000:
        raise ValueError(f"{told} is no time in ms since 1970")
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder, with their names: one with a slash in it lies in a folder."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            yield file.relative_to(folder).as_posix(), file


def _yaml(file: Path) -> dict[str, Any]:
    found = load_yaml(file.read_bytes(), what=str(file)) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _status(told: Any) -> str:
    return _NUMBERS.get(told, "") if isinstance(told, int) else str(told)


def _of_database(store: Path, _: list[str]) -> Iterator[_Run]:
    """Yield the runs of an SQLite file, which is only read."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{urllib.parse.quote(str(store))}?mode=ro", uri=True)) as base:
            rows = base.execute(
                "SELECT r.run_uuid, r.name, e.name, r.status, r.start_time, r.end_time, r.artifact_uri FROM runs r "
                "JOIN experiments e ON e.experiment_id = r.experiment_id WHERE r.lifecycle_stage = 'active'"
            ).fetchall()
            found = {
                row[0]: _Run(
                    id=row[0], name=row[1] or "", experiment=row[2], status=row[3] or "", started=_moment(row[4] or 0),
                    ended=None if row[5] is None else _moment(row[5]), artifacts=row[6] or "",
                )
                for row in rows
            }  # fmt: skip
            for run_id, key, value in base.execute("SELECT run_uuid, key, value FROM params"):
                if run_id in found:
                    found[run_id].params[key] = str(value)
            for run_id, key, value in base.execute("SELECT run_uuid, key, value FROM tags"):
                if run_id in found:
                    found[run_id].tags[key] = str(value)
            for run_id, key, value, step, at, is_nan in base.execute(
                "SELECT run_uuid, key, value, step, timestamp, is_nan FROM metrics ORDER BY timestamp, step"
            ):
                if run_id in found:
                    number = math.nan if is_nan else float(value)
                    found[run_id].metrics.setdefault(key, []).append((int(step), _moment(at), number))
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise RegistryError(
            f"{store} cannot be read as a store of MLflow's: {error}.",
            hint="Name a folder `mlruns`, or an SQLite file.",
        ) from None
    yield from found.values()
