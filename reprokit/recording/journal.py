"""The local journal of a run: an append-only file that says what happened, so that a kill loses nothing finished.

`<home>/runs/<run id>/`: `lock` (flock held by the runner), `journal.jsonl`, `metrics.jsonl`, `log.txt`, `inputs.txt`,
`asked.txt`, `workspace/`; `ended.json`, what is about to be published of a run that has ended, and `reserve`, room for
it; `unsaved/`, checkpoints that the registry did not take; of a notebook, `notebook/` with what was executed of it, and
`failure.txt`. A journal whose lock nobody holds belongs to a run that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.core.regular_files import open_lock
from reprokit.errors import RefusedError
from reprokit.registry.liveness import in_use, sign
from reprokit.schema.manifest import Entry
from reprokit.schema.metric_log import metric_lines

__all__ = ["UNSAVED", "Ended", "Journal", "abandoned", "any_journal", "stored_as"]

_FILE = "journal.jsonl"
_ENDED = "ended.json"
UNSAVED = "unsaved"
"""A registry of the checkpoints that the run's own did not take."""
_RESERVE = "reserve"
_ROOM = 256 * 1024  # bytes: what the end of a run takes on a disk that is full by then
_OWN = (_FILE, "metrics.jsonl", "log.txt", "inputs.txt", "asked.txt", "failure.txt", _ENDED, _RESERVE, "lock")


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended, as it is to be published.

    Attributes:
        outputs: Logical key below `outputs/` → file.
        workspace: Where they lie; None where that is not known.
        left: There is something else that nobody kept.
    """

    record: bytes
    outputs: dict[str, Path]
    workspace: Path | None
    left: bool = False


def stored_as(entry: Entry) -> dict[str, Any]:
    """Return how an event names something that is in the registry."""
    return {"key": entry.logical_key, "size": entry.size, "type": entry.digest.type, "value": entry.digest.value}


class Journal:
    """One run's folder, held by this process."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock
        self._torn: set[IO[bytes]] = set()
        self._events = (folder / _FILE).open("ab", buffering=0)
        self._metrics = (folder / "metrics.jsonl").open("ab", buffering=0)
        self._log = (folder / "log.txt").open("ab", buffering=0)

    @classmethod
    def create(cls, home: Path, run_id: str, *, files: Mapping[str, bytes] | None = None) -> Journal:
        """Make the folder of a run and hold its lock.

        Args:
            files: What log and metrics start with, by name, where the run goes on from an earlier attempt. What that
                attempt left behind in the folder is set aside as `<run id>.<n>`.
        Raises:
            RefusedError: Another process goes on with this run.
        """
        folder = home / "runs" / run_id
        with os_errors(f"Creating the journal {folder}"):
            if folder.exists() and not (folder / _FILE).exists():
                folder.rename(next(p for n in count(1) if not (p := folder.with_name(f"{run_id}.{n}")).exists()))
            try:
                folder.mkdir(parents=True)
                lock = open_lock(folder / "lock")
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (FileExistsError, BlockingIOError):
                raise _taken(run_id, folder) from None
            sign(lock)
            for name, data in (files or {}).items():
                (folder / name).write_bytes(data)
            (folder / _RESERVE).write_bytes(bytes(_ROOM))
            return cls(folder, lock)

    def event(self, event: str, /, **facts: Any) -> None:
        """Append one event; whole or, after a crash, not at all."""
        self._append(self._events, json.dumps({"event": event, "time": time.time(), **facts}).encode() + b"\n")

    def metrics(self, step: int | None, values: dict[str, float]) -> None:
        """Append what is logged at a step, in lines that can be read again."""
        for line in metric_lines(step, values, time=time.time()):
            self._append(self._metrics, line)

    def log(self, stream: str, line: bytes) -> None:
        """Append one line of the script's output with its time (UTC) and stream."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        self._append(self._log, f"{stamp} {stream} ".encode() + line.rstrip(b"\r\n") + b"\n")

    def _append(self, handle: IO[bytes], line: bytes) -> None:
        """Append a line; where a full disk took the half of one, the next one stands by itself."""
        if handle in self._torn:
            handle.write(b"\n")
            self._torn.discard(handle)
        done = 0
        try:
            while done < len(line):
                done += handle.write(line[done:])
        finally:
            if 0 < done < len(line):
                self._torn.add(handle)

    @property
    def has_begun(self) -> bool:
        """True once anything was noted."""
        return os.fstat(self._events.fileno()).st_size > 0

    def file(self, name: str) -> Path:
        return self.folder / name

    def ending(self, ended: Ended) -> None:
        """Note what is about to be published, durably; on a full disk in the room that was kept for it."""
        told = {
            "record": ended.record.decode("utf-8"),
            "outputs": {key: str(file) for key, file in ended.outputs.items()},
            "workspace": None if ended.workspace is None else str(ended.workspace),
            "left": ended.left,
        }
        data = json.dumps(told).encode()
        for again in (True, False):
            try:
                durable_write(self.folder / _ENDED, data)
            except OSError:
                if not again:
                    return  # the end may be published all the same
                (self.folder / _RESERVE).unlink(missing_ok=True)
            else:
                return

    def ended(self) -> Ended | None:
        """Return what `ending` noted; None of a run that did not come to its end."""
        try:
            told = json.loads((self.folder / _ENDED).read_bytes())
            place = told["workspace"]
            return Ended(
                told["record"].encode("utf-8"),
                {key: Path(file) for key, file in told["outputs"].items()},
                None if place is None else Path(place),
                bool(told["left"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def close(self, *, keep_workspace: bool) -> None:
        """Remove what is published now; the workspace too, unless it holds something nobody kept."""
        for handle in (self._events, self._metrics, self._log):
            handle.close()
        workspace, unsaved = self.folder / "workspace", self.folder / UNSAVED
        if unsaved.exists() and not keep_workspace:
            shutil.rmtree(workspace, ignore_errors=True)
        if unsaved.exists() or (keep_workspace and workspace.exists()):
            for name in _OWN:
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "notebook", ignore_errors=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def leave(self) -> None:
        """Close without publishing: the next command finds the journal and finalises it."""
        for handle in (self._events, self._metrics, self._log, self._lock):
            handle.close()


def _taken(run_id: str, folder: Path) -> RefusedError:
    """Return why this process cannot go on with a run: another one does, or has left what nobody could publish yet."""
    with contextlib.suppress(OSError), (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return RefusedError(
            f"What an earlier attempt at run {run_id} left in {folder} could not be published yet.",
            hint="Every command tries again: see that the registry of that run can be written, and call `reprokit ls`.",
        )
    return in_use(run_id, folder / "lock")


def any_journal(home: Path) -> bool:
    """True if this home has a journal at all: of a run that goes on, or of one that was killed."""
    base = home / "runs"
    return base.is_dir() and any((base / name / _FILE).exists() for name in os.listdir(base))


def abandoned(home: Path) -> Iterator[tuple[Journal, list[dict[str, Any]]]]:
    """Yield every journal whose runner is dead, held by this process now, with its events."""
    base = home / "runs"
    for name in sorted(os.listdir(base)) if base.is_dir() else []:
        folder = base / name
        if not (folder / _FILE).is_file() or not (folder / "lock").is_file():
            continue
        try:
            lock = (folder / "lock").open("ab")  # what it says of its holder stays
        except OSError:  # somebody else's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        events = [*read_lines(folder / _FILE)]
        if (folder / _FILE).is_file():  # not finalised by another command meanwhile
            yield Journal(folder, lock), events
        else:
            lock.close()


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a JSON-lines file; a torn one is left out."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
