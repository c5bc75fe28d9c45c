"""What is running where, and what on this machine is still to be written into a registry."""

from __future__ import annotations

import fcntl
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.canonical_json import spelled
from reprokit.core.refs import is_run_id
from reprokit.recording.journal import UNSAVED, read_lines
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.registry.live import Now, StopRequest
from reprokit.runs.store import RunStore

__all__ = ["Going", "Status", "Waiting", "status"]

_JOURNAL = "journal.jsonl"


class Going(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has not ended.

    Attributes:
        status: `interrupted` of one that nobody executes any more, and whose record was not completed yet.
        by: Who says that they execute it.
        now: How far it said that it is; None where nothing was told.
        stop: Who asked it to stop.
    """

    run_id: str
    name: str
    status: str
    started: str
    by: str | None = None
    checkpoints: int = 0
    now: Now | None = None
    stop: StopRequest | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What is on this machine and its registry does not have.

    Attributes:
        run_id: Whose it is; None of what was published offline.
        registry: Where it belongs; None where that is not known.
        what: In a sentence.
    """

    run_id: str | None
    folder: str
    registry: str | None
    what: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    going: list[Going]
    waiting: list[Waiting]

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = spelled(msgspec.to_builtins(self))
        return value


def status(*, context: Context) -> Status:
    """Return which runs of a registry have not ended, and what this machine has still to write into one."""
    return Status(going=_going(context.registry), waiting=[*_waiting(context.home / "runs"), *_unsent(context.home)])


def _going(registry: Registry) -> list[Going]:
    found = []
    holders = registry.running()
    for summary in RunStore(registry).summaries():
        if summary.ended is not None or summary.status not in ("running", "interrupted"):
            continue
        live = registry.live(summary.run)
        found.append(
            Going(
                run_id=summary.run,
                name=summary.name,
                status=summary.status,
                started=summary.started,
                by=holders.get(summary.run),
                checkpoints=summary.checkpoints,
                now=live.now() if live is not None else None,
                stop=live.asked_to_stop() if live is not None else None,
            )
        )
    return found


def _waiting(journals: Path) -> list[Waiting]:
    found = []
    for name in sorted(os.listdir(journals)) if journals.is_dir() else []:
        folder = journals / name
        if not is_run_id(name) or _is_held(folder / "lock"):
            continue
        if (folder / _JOURNAL).is_file():
            started = next((one for one in read_lines(folder / _JOURNAL) if one.get("event") == "start"), {})
            registry = started.get("registry")
            found.append(
                Waiting(
                    run_id=name,
                    folder=str(folder),
                    registry=registry if isinstance(registry, str) else None,
                    what="its record is to be completed; every command tries it",
                )
            )
        elif (folder / UNSAVED).is_dir():
            found.append(
                Waiting(
                    run_id=name, folder=str(folder), registry=None, what="checkpoints that its registry did not take"
                )
            )
    return found


def _unsent(home: Path) -> list[Waiting]:
    if not (home / "offline").is_dir():
        return []
    unsent = import_module("reprokit.registry.remote.offline").unsent  # with an object store's client
    return [
        Waiting(
            run_id=None,
            folder=str(folder),
            registry=address,
            what=f"{sum(1 for _ in folder.glob('log/*/*/*')):,} commit(s) that were made offline are to be sent; "
            "every command with the network does",
        )
        for address, folder in unsent(home)
    ]


def _is_held(lock: Path) -> bool:
    """True if somebody executes the run."""
    try:
        with lock.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
