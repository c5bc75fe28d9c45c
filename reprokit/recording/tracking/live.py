"""Sends a run to MLflow while it goes on, from a process of its own: what is slow or fails there costs the run nothing.

The process reads the run's record in the registry and the journal's log of metrics as that grows. When the run has
ended it sends what is left, and what was found of the run, or of the one that it repeats.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reprokit.core.canonical_json import metric_values
from reprokit.core.config import Config
from reprokit.core.package_root import IMPORT_ROOT
from reprokit.errors import Error, RegistryError
from reprokit.recording.tracking.client import Tracked, Tracking, shown
from reprokit.recording.tracking.send import send_run
from reprokit.registry import Registry, open_registry
from reprokit.runs.logged import is_well
from reprokit.runs.store import RunStore

__all__ = ["followed"]

_LOOKS = 2.0  # seconds between two looks at the log
_AGAIN = 20.0  # seconds until what failed is tried again
_PATIENCE = 15.0  # seconds that the end of a run waits for it
_PIECE = 4 * 1024 * 1024  # bytes of the log that are read at once
_END = b"end\n"
_HASTY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_STDOUT = 1  # which the runner reads
_TOLD = "REPROKIT_FOLLOWED"  # what the process is told: a variable, for an address may have a password


@contextlib.contextmanager
def followed(
    store: str | None, run_id: str, log: Path, *, registry: Registry, note: Callable[[str], None]
) -> Iterator[None]:
    """Send a run to a store of MLflow's for as long as the context is open, and what it ended with.

    Args:
        store: Its address; without one nothing is sent.
        log: The journal's lines of metrics.
        note: Is told once if that does not work.
    """
    if store is None:
        yield
        return
    later = f"`reprokit export {run_id} --as mlflow -o {shown(store)}` sends it later."
    if Config.is_offline() and store.startswith(("http:", "https:")):
        note(f"Run {run_id} is not sent to MLflow, for nothing is asked of the network: {later}")
        yield
        return
    process = _started(store, run_id, log, registry)
    if process is None:
        note(f"Run {run_id} is not sent to MLflow, for no process could be started: {later}")
        yield
        return
    reader = threading.Thread(target=_pass_on, args=(process, note), name="reprokit-mlflow", daemon=True)
    reader.start()
    try:
        yield
    finally:
        _end(process, lambda: note(f"MLflow's store does not answer, and has not all of run {run_id}: {later}"))
        reader.join(1)


def _started(store: str, run_id: str, log: Path, registry: Registry) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-P", "-m", __name__]
    told = json.dumps([store, run_id, str(log), registry.url])
    path = os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**_HASTY, **os.environ, "PYTHONPATH": path, _TOLD: told}, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None


def _pass_on(process: subprocess.Popen[bytes], note: Callable[[str], None]) -> None:
    for line in process.stdout or ():
        note(line.decode(errors="replace").rstrip("\n"))


def _end(process: subprocess.Popen[bytes], late: Callable[[], None]) -> None:
    """Say that the run has ended, and wait for the process, but not for ever."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.write(_END)
            process.stdin.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        late()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# ------------------------------------------------------------------------------------------------ the process itself


class _Follower:
    """What the process knows: how much of the log was sent, and whether it was said that something failed."""

    def __init__(self, store: str, run_id: str, log: Path, registry: Registry) -> None:
        self._store = store
        self._run_id = run_id
        self._log = log
        self._registry = registry
        self._sent = 0  # bytes of the log
        self._tracking: Tracking | None = None
        self._tracked: Tracked | None = None
        self._said = False

    def follow(self) -> None:
        """Send what there is until the run has ended, or its runner is gone."""
        pause = 0.0
        while not _is_over(pause):
            pause = _LOOKS if self._tried(self._look) else _AGAIN
        if not self._tried(self._finish):
            _say(f"`reprokit export {self._run_id} --as mlflow -o {shown(self._store)}` sends what is missing.")

    def _tried(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except (Error, OSError) as error:
            if not self._said:
                why = error.message if isinstance(error, Error) else str(error)
                hint = f" {error.hint}" if isinstance(error, Error) and not isinstance(error, RegistryError) else ""
                _say(f"Run {self._run_id} is not sent to MLflow now; it goes on. {why}{hint}")
                self._said = True
            return False
        return True

    def _opened(self) -> tuple[Tracking, Tracked]:
        if self._tracking is None or self._tracked is None:
            runs = RunStore(self._registry)
            run = runs.load(self._run_id)
            self._tracking = self._tracking or Tracking(self._store)
            self._tracked = self._tracking.begin(run.record, runs.find_lock(run))
        return self._tracking, self._tracked

    def _look(self) -> None:
        tracking, tracked = self._opened()
        while rows := self._rows():
            tracking.log(tracked, rows[0])
            self._sent += rows[1]

    def _rows(self) -> tuple[list[dict[str, Any]], int] | None:
        """Return the whole lines that come next, and how many bytes they are."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as handle:
            handle.seek(self._sent)
            data = handle.read(_PIECE)
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                rows = [row for line in whole.splitlines() if (row := _row(line)) is not None]
                return rows, len(whole)
        return None

    def _finish(self) -> None:
        tracking, tracked = self._opened()
        run = RunStore(self._registry).load(self._run_id)
        send_run(run, tracking, registry=self._registry, tracked=tracked)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return {**row, "values": metric_values(row["values"])} if isinstance(row, dict) and is_well(row) else None


def _is_over(pause: float) -> bool:
    """Wait, and return whether the run has ended: its runner says so, or is gone."""
    readable, _, _ = select.select([sys.stdin], [], [], pause)
    return bool(readable)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(_STDOUT, f"{' '.join(text.split())}\n".encode())


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr  # whatever a library prints is no word to the runner
    store, run_id, log, registry = json.loads(os.environ[_TOLD])
    _Follower(store, run_id, Path(log), open_registry(registry)).follow()


if __name__ == "__main__":
    _main()
