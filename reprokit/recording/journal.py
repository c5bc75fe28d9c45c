"""The local journal of a run: an append-only file that says what happened, so that a kill loses nothing finished.

`<home>/runs/<run id>/`: `lock` (flock held by the runner), `journal.jsonl`, `metrics.jsonl`, `log.txt`, `inputs.txt`,
`workspace/`; of a notebook, `notebook/` with what was executed of it, and `failure.txt`. A journal whose lock nobody
holds belongs to a run that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import IO, Any

from reprokit.core.canonical_json import spelled
from reprokit.core.logical_keys import os_errors

__all__ = ["Journal", "abandoned", "any_journal"]

_FILE = "journal.jsonl"


class Journal:
    """One run's folder, held by this process."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock
        self._events = (folder / _FILE).open("ab", buffering=0)
        self._metrics = (folder / "metrics.jsonl").open("ab", buffering=0)
        self._log = (folder / "log.txt").open("ab", buffering=0)

    @classmethod
    def create(cls, home: Path, run_id: str, *, files: Mapping[str, bytes] | None = None) -> Journal:
        """Make the folder of a run and hold its lock.

        Args:
            files: What log and metrics start with, by name, where the run goes on from an earlier attempt. What that
                attempt left behind in the folder is set aside as `<run id>.<n>`.
        """
        folder = home / "runs" / run_id
        with os_errors(f"Creating the journal {folder}"):
            if folder.exists() and not (folder / _FILE).exists():
                folder.rename(next(p for n in count(1) if not (p := folder.with_name(f"{run_id}.{n}")).exists()))
            folder.mkdir(parents=True)
            lock = (folder / "lock").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name, data in (files or {}).items():
                (folder / name).write_bytes(data)
            return cls(folder, lock)

    def event(self, event: str, /, **facts: Any) -> None:
        """Append one event; whole or, after a crash, not at all."""
        self._events.write(json.dumps({"event": event, "time": time.time(), **facts}).encode() + b"\n")

    def metrics(self, step: int | None, values: dict[str, float]) -> None:
        self._metrics.write(json.dumps({"time": time.time(), "step": step, "values": spelled(values)}).encode() + b"\n")

    def log(self, stream: str, line: bytes) -> None:
        """Append one line of the script's output with its time (UTC) and stream."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        self._log.write(f"{stamp} {stream} ".encode() + line.rstrip(b"\r\n") + b"\n")

    def file(self, name: str) -> Path:
        return self.folder / name

    def close(self, *, keep_workspace: bool) -> None:
        """Remove what is published now; the workspace too, unless it holds something nobody kept."""
        for handle in (self._events, self._metrics, self._log):
            handle.close()
        workspace = self.folder / "workspace"
        if keep_workspace and workspace.exists():
            for name in (_FILE, "metrics.jsonl", "log.txt", "inputs.txt", "failure.txt", "lock"):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "notebook", ignore_errors=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def leave(self) -> None:
        """Close without publishing: the next command finds the journal and finalises it."""
        for handle in (self._events, self._metrics, self._log, self._lock):
            handle.close()


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
        lock = (folder / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        events = read_lines(folder / _FILE)
        if (folder / _FILE).is_file():  # not finalised by another command meanwhile
            yield Journal(folder, lock), events
        else:
            lock.close()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON-lines file; a torn last one is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
    return found
