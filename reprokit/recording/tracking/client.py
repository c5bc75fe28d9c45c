"""The one door to MLflow's own client, which is imported nowhere else: runs in a store of MLflow's, found by a tag.

What is sent twice is there once: a run is found by its ID, a parameter that is there stays, a value of a metric that is
there is not sent again.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reprokit.core.own_extras import pip_words
from reprokit.errors import RegistryError, UsageError
from reprokit.recording.tracking.tags import RUN_TAG, STATUS, Names, milliseconds, params_of, tags_of
from reprokit.schema.lock import RunLock
from reprokit.schema.record import Record

__all__ = ["Tracked", "Tracking", "address_of", "shown"]

_MOST = 1000  # values of metrics in a request
_PAIRS = 100  # parameters or tags in one
_LARGEST = 1.7976931348623157e308  # what SQL keeps of an infinity
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_QUIET = ("mlflow", "alembic")
_VARIABLES = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # whoever names a folder has one
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
Point = tuple[int, int, float | str]  # step, ms since 1970, value


def address_of(store: str, *, folder: Path | None = None) -> str:
    """Return a store's address as MLflow's client takes it: a URL as it is, a path as a folder or an SQLite file.

    Args:
        folder: What a path is relative to; by default the current one.
    """
    base = folder or Path.cwd()
    if store.startswith("sqlite:///"):
        return f"sqlite:///{base / store.removeprefix('sqlite:///')}"
    if _URI.match(store):
        return store
    path = base / Path(store).expanduser()
    is_file = path.is_file() or (path.suffix in (".db", ".sqlite") and not path.is_dir())
    return f"sqlite:///{path}" if is_file else path.as_uri()


def shown(address: str) -> str:
    """Return an address without a password."""
    return re.sub(r"//[^/@]*@", "//", address)


class Tracked:
    """A run in MLflow.

    Attributes:
        id: Its ID there.
        new: It was made just now.
    """

    def __init__(self, run: Any, *, new: bool) -> None:
        self.id = str(run.info.run_id)
        self.new = new
        self.params: dict[str, str] = dict(run.data.params)
        self.tags: dict[str, str] = dict(run.data.tags)
        self.known: dict[str, set[Point]] = {}
        self.names = Names()


class Tracking:
    """A store of MLflow's: a folder, an SQLite file or another data base, or a server.

    Args:
        store: As a user names it.
    Raises:
        UsageError: MLflow's client is not installed.
        RegistryError: The store cannot be opened; so do all methods where it cannot be read or written.
    """

    def __init__(self, store: str) -> None:
        self.address = address_of(store)
        self.shown = shown(self.address)
        if importlib.util.find_spec("mlflow") is None:
            raise UsageError(
                "MLflow's client is not installed, by which runs are sent to its stores.",
                hint=f"Install it: `{sys.executable} -m pip install {pip_words('mlflow')}`.",
            )
        with self._calm():
            self._client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=self.address)
            self._entities = importlib.import_module("mlflow.entities")

    def find(self, run_id: str) -> Tracked | None:
        """Return the run that a run of reprokit was sent as; the newest of several."""
        with self._calm():
            token = None
            while True:
                page = self._client.search_experiments(page_token=token)
                places = [one.experiment_id for one in page]
                query = f"tags.`{RUN_TAG}` = '{run_id}'"
                found = self._client.search_runs(places, filter_string=query, max_results=1) if places else []
                if found:
                    return Tracked(found[0], new=False)
                token = page.token
                if not token:
                    return None

    def begin(self, record: Record, lock: RunLock | None, *, experiment: str | None = None) -> Tracked:
        """Return the run that a run is sent as, found or made, with its parameters and tags as they are now.

        Args:
            experiment: Where it is made; the recipe's name unless given.
        """
        tracked = self.find(record.run_id)
        tags = tags_of(record, lock)
        if tracked is None:
            named = experiment or (record.name if lock is None else lock.recipe.name)
            with self._calm():
                there = self._client.get_experiment_by_name(named)
                place = there.experiment_id if there is not None else self._client.create_experiment(named)
                made = self._client.create_run(
                    place, start_time=milliseconds(record.started), run_name=record.run_id,
                    tags={RUN_TAG: record.run_id, "mlflow.user": tags.get("mlflow.user", "")},
                )  # fmt: skip
            tracked = Tracked(made, new=True)
        params = {tracked.names(name): value for name, value in params_of(record).items()}
        with self._calm():
            for part in _parts({name: value for name, value in params.items() if name not in tracked.params}, _PAIRS):
                self._client.log_batch(tracked.id, params=[self._entities.Param(*one) for one in part])
        self.tag(tracked, tags)
        return tracked

    def tag(self, tracked: Tracked, tags: Mapping[str, str]) -> None:
        """Set those tags of a run that are not there, or say something else."""
        with self._calm():
            for part in _parts({k: v for k, v in tags.items() if tracked.tags.get(k) != v}, _PAIRS):
                self._client.log_batch(tracked.id, tags=[self._entities.RunTag(*one) for one in part])
                tracked.tags |= dict(part)

    def log(self, tracked: Tracked, rows: Iterable[Mapping[str, Any]]) -> int:
        """Send lines of a run's log, of which some may be there; return how many values were sent."""
        sent, batch = 0, list[Any]()
        for row in rows:
            moment, step = round(row.get("time", 0) * 1000), row.get("step") or 0
            for name, value in row["values"].items():
                key, point = tracked.names(name), (step, moment, _told(value))
                if point in self._there(tracked, key):
                    continue
                tracked.known[key].add(point)
                batch.append(self._entities.Metric(key, float(value), moment, step))
                if len(batch) == _MOST:
                    self._send(tracked, batch)
                    sent, batch = sent + len(batch), []
        self._send(tracked, batch)
        return sent + len(batch)

    def _there(self, tracked: Tracked, key: str) -> set[Point]:
        if key not in tracked.known:
            history: list[Any] = []
            if not tracked.new:
                with self._calm():
                    history = self._client.get_metric_history(tracked.id, key)
            tracked.known[key] = {(one.step, one.timestamp, _told(one.value)) for one in history}
        return tracked.known[key]

    def _send(self, tracked: Tracked, batch: list[Any]) -> None:
        if batch:
            with self._calm():
                self._client.log_batch(tracked.id, metrics=batch)

    def sizes(self, tracked: Tracked, folder: str) -> dict[str, int]:
        """Return the artifacts of a folder that are there, with their sizes, by path."""
        with self._calm():
            return {one.path: one.file_size or 0 for one in self._client.list_artifacts(tracked.id, folder or None)}

    def keep(self, tracked: Tracked, file: Path, folder: str) -> None:
        """Send a file as an artifact into a folder of these."""
        with self._calm():
            self._client.log_artifact(tracked.id, str(file), folder or None)

    def end(self, tracked: Tracked, record: Record) -> None:
        """Say how a run ended, if it did."""
        if record.status != "running":
            moment = None if record.ended is None else milliseconds(record.ended)
            with self._calm():
                self._client.set_terminated(tracked.id, STATUS[record.status], moment)

    @contextlib.contextmanager
    def _calm(self) -> Iterator[None]:
        """Keep MLflow from talking and from waiting for minutes, and say what went wrong as reprokit does."""
        loggers = [logging.getLogger(name) for name in _QUIET]
        levels = [one.level for one in loggers]
        ours = {name: value for name, value in _VARIABLES.items() if name not in os.environ}
        os.environ.update(ours)
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        except _failures() as error:
            why = shown(" ".join(str(error).split()))
            raise RegistryError(
                f"MLflow's store {self.shown} cannot be read or written: {why[:200].rstrip('. ')}.",
                hint="See that it is reachable, then export again: what is there already is not sent twice.",
            ) from error
        finally:
            for name in ours:
                os.environ.pop(name, None)
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


def _failures() -> tuple[type[Exception], ...]:
    """Return what MLflow's client raises, of what is loaded."""
    raised = (("mlflow.exceptions", "MlflowException"), ("sqlalchemy.exc", "SQLAlchemyError"))
    return (
        OSError,
        ValueError,
        *(getattr(sys.modules[module], name) for module, name in raised if module in sys.modules),
    )


def _told(value: float) -> float | str:
    """Return a value as it is compared: SQL keeps the largest number for an infinity; NaN is not equal to itself."""
    if math.isnan(value):
        return "nan"
    return math.copysign(_LARGEST, value) if math.isinf(value) else float(value)


def _parts(pairs: Mapping[str, str], most: int) -> Iterator[list[tuple[str, str]]]:
    items = list(pairs.items())
    for first in range(0, len(items), most):
        yield items[first : first + most]
