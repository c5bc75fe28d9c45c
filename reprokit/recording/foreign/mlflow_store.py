"""Runs of MLflow: a folder `mlruns` and an SQLite file, as MLflow's own stores keep them.

MLflow is not needed, and nothing of it is changed. Artifacts are kept where they lie in a folder of this machine.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprokit.core.refs import is_run_id
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import Error, NotFoundError, RegistryError
from reprokit.recording.foreign.runs import ForeignRun, Found, ImportedRuns, Tool, record_runs
from reprokit.recording.tracking.tags import RUN_TAG
from reprokit.registry.context import Context
from reprokit.schema.flags import from_text
from reprokit.schema.record import Status

__all__ = ["import_mlflow"]

_STATUS: dict[str, Status] = {"FINISHED": "finished", "FAILED": "failed"}
_NUMBERS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_YEAR_10000 = 253_402_300_800_000  # ms since 1970
_MAX_TEXT = 1 << 20  # bytes of a file of a parameter or tag


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

    def found(self) -> Found:
        """Return it as one of the runs to be imported."""
        here = self.tags.get(RUN_TAG, "")
        return Found(id=self.id, started=self.started, load=self.load, here=here if is_run_id(here) else None)

    def load(self) -> ForeignRun:
        notes: list[str] = []
        run = ForeignRun(
            name=self.name or self.experiment,
            status=_STATUS.get(self.status, "interrupted"),
            started=self.started,
            ended=self.ended,
            by=self.tags.get("mlflow.user", ""),
            commit=self.tags.get("mlflow.source.git.commit", ""),
            params={name: from_text(value) for name, value in self.params.items()},
            told={"run": self.id, "experiment": self.experiment, "tags": self.tags},
            files=[*_artifacts(self, notes)],
            notes=notes,
        )
        for name, found in self.metrics.items():
            for step, at, value in found:
                run.log(name, step, at / 1000, value)
        return run


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
    imported = ImportedRuns()
    runs = [run for run in read(store, imported.notes) if experiment in (None, run.experiment)]
    if experiment is not None and not runs:
        raise NotFoundError(f"{store} has no run of an experiment {experiment!r}.")
    return record_runs(
        (run.found() for run in sorted(runs, key=lambda one: (one.started, one.id))),
        tool=Tool("MLflow", "mlflow"), total=len(runs), context=context, imported=imported,
    )  # fmt: skip


def _artifacts(run: _Run, notes: list[str]) -> Iterator[tuple[str, Path]]:
    scheme, separator, rest = run.artifacts.partition("://")
    if separator and scheme != "file":
        notes.append(f"its artifacts are at {scheme}://, and were not taken")
        return
    folder = Path(urllib.parse.unquote(rest if separator else run.artifacts.removeprefix("file:")))
    if run.artifacts and folder.is_dir():
        yield from _files(folder)


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
