"""Watch a run that goes on, here or on another machine, and have it stop: logs, stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reprokit.core.progress import SILENT, Progress
from reprokit.errors import NotFoundError, RefusedError
from reprokit.registry import Registry
from reprokit.registry.live import LiveRun, Now, StopRequest
from reprokit.registry.package_log import writer
from reprokit.runs.history import check_said
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.record import Record

__all__ = ["Seen", "Watcher", "follow", "logs", "stop"]

_LOG = "log.txt"
_PAUSE = 2.0  # seconds between two looks
_KEPT = 500  # lines of a log


def logs(ref: str, *, registry: Registry, journals: Path) -> tuple[str, bytes]:
    """Return a run's ID, and what its script wrote so far, each line with its time.

    Of a run that goes on elsewhere it is what its runner told the registry of it: the last seconds are missing.

    Args:
        journals: Where the runs that go on here are written.
    Raises:
        NotFoundError: No such run; or it goes on elsewhere, and told nothing yet.
    """
    stored = RunStore(registry).load(ref)
    found = _written(stored, 0, registry, journals)
    if found is None:
        raise NotFoundError(f"Run {stored.record.run_id} has no log yet: it is {stored.record.status} elsewhere.")
    return stored.record.run_id, found


def follow(ref: str, *, registry: Registry, journals: Path, pause: float = _PAUSE) -> Iterator[bytes]:
    """Yield what a run's script wrote, and what it writes until its end.

    Args:
        journals: As of `logs`.
        pause: Seconds between two looks.
    Raises:
        NotFoundError: No such run.
    """
    runs = RunStore(registry)
    run_id = runs.load(ref).record.run_id
    given = 0
    while True:
        stored = runs.load(run_id)
        found = _written(stored, given, registry, journals)
        if found:
            given += len(found)
            yield found
        if stored.record.status != "running":
            return
        time.sleep(pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A run as it stands.

    Attributes:
        now: What its runner said last, of one that goes on.
        lines: The last lines of its log, without their times.
    """

    record: Record
    now: Now | None
    lines: list[str]


class Watcher:
    """Looks at a run again and again; of its log only what is new is read."""

    def __init__(self, ref: str, *, registry: Registry, journals: Path) -> None:
        """Watch a run.

        Args:
            journals: As of `logs`.
        Raises:
            NotFoundError: No such run.
        """
        self._runs = RunStore(registry)
        self._journals = journals
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._given = 0
        self._open = ""  # a line that has not ended
        self.run_id = self._runs.load(ref).record.run_id

    def look(self) -> Seen:
        """Return the run as it stands now."""
        registry = self._runs.registry
        stored = self._runs.load(self.run_id)
        found = _written(stored, self._given, registry, self._journals) or b""
        self._given += len(found)
        *whole, self._open = (self._open + found.decode(errors="replace")).split("\n")
        self._lines.extend(_said(line) for line in whole)
        live = registry.live(self.run_id) if stored.record.status == "running" else None
        return Seen(record=stored.record, now=live.now() if live is not None else None, lines=[*self._lines])


def _said(line: str) -> str:
    """Return what a script wrote in a line of a log, which has its time and stream before that."""
    return line.split(" ", 2)[2] if line.count(" ") >= 2 else line


def _written(stored: StoredRun, start: int, registry: Registry, journals: Path) -> bytes | None:
    """Return what was written from a byte on; None if nothing is known of it."""
    run_id = stored.record.run_id
    if _LOG in stored.manifest:
        return registry.read_object(stored.manifest[_LOG], what=f"{_LOG} of run {run_id}")[start:]
    journal = journals / run_id / _LOG
    if journal.exists():
        with journal.open("rb") as handle:
            handle.seek(start)
            return handle.read()
    live = registry.live(run_id)
    found = live.log(start) if live is not None else b""
    return found or (None if not start else b"")


def stop(
    ref: str,
    *,
    registry: Registry,
    why: str | None = None,
    wait: float | None = None,
    progress: Progress = SILENT,
    pause: float = _PAUSE,
) -> Record:
    """Ask a run to stop, wherever it goes on: its runner passes it on as SIGTERM, on which callbacks save and leave.

    Args:
        why: Kept in its record.
        wait: Seconds to wait for its end; None waits as long as it takes.
        pause: Seconds between two looks.
    Returns:
        Its record, which may say that it still runs.
    Raises:
        NotFoundError: No such run.
        RefusedError: It does not go on, or cannot be stopped from outside; or `why` looks like a secret.
    """
    if why:
        check_said(why)
    runs = RunStore(registry)
    record = runs.load(ref).record
    if record.status != "running":
        raise RefusedError(f"Run {record.run_id} does not go on: it is {record.status}.")
    live = registry.live(record.run_id)
    _check_stoppable(record.run_id, live, registry)
    if live is None:
        return record
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    request = StopRequest(by=writer(), at=at, why=why[:1000] if why else None)
    if not live.ask_to_stop(request):
        before = live.asked_to_stop()
        progress.note(f"It was asked to stop before{f', by {before}' if before else ''}.")
    deadline = None if wait is None else time.monotonic() + wait
    while record.status == "running" and (deadline is None or time.monotonic() < deadline):
        time.sleep(pause)
        record = runs.load(record.run_id).record
        if record.status == "running":
            _check_stoppable(record.run_id, live, registry)
            live.ask_to_stop(request)  # one that was asked before its runner listened is asked again
    return record


def _check_stoppable(run_id: str, live: LiveRun | None, registry: Registry) -> None:
    """Raise RefusedError if nobody is there who would pass a request on."""
    said = live.now() if live is not None else None
    if live is None or (said is not None and not said.stoppable):
        raise RefusedError(
            f"Run {run_id} cannot be stopped through {registry.url}: it has no runner that passes it on.",
            hint=f"Stop the process that executes it: {said.by}." if said is not None else None,
        )
