"""What the machines of a team tell each other of a run while it goes on: how far it is, what it wrote, whether it is
to stop.

    live/<run id>/now             how far the run is, as its runner said last
    live/<run id>/log/<offset>    what its script wrote, from that byte of its log on
    live/<run id>/stop            somebody asked it to stop

All of it goes when the run has ended: its record says the same and more. It is for people, and nothing rests on it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from reprokit.core.refs import is_run_id
from reprokit.errors import UsageError
from reprokit.store.storage import Storage

__all__ = ["LiveRun", "Now", "StopRequest", "sweep_live"]

_MAX_TOLD = 64 * 1024  # bytes
_MAX_CHUNK = 16 * 1024 * 1024  # bytes of a log that are told at once
_OFFSET = re.compile(r"[0-9]{15}")

_Told = TypeVar("_Told", "Now", "StopRequest")
_Text = Annotated[str, msgspec.Meta(max_length=1000)]


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is.

    Attributes:
        by: user@host of its runner, and the process.
        at: When that was said, by the runner's clock.
        checkpoint: Where the newest was saved: `epoch 3`.
        metrics: As they were logged last.
        stoppable: The runner can pass a request to stop on to the script.
    """

    by: _Text
    at: _Text
    checkpoints: int = 0
    checkpoint: _Text | None = None
    metrics: Annotated[dict[_Text, float], msgspec.Meta(max_length=100)] = {}
    stoppable: bool = True


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked a run to stop, and why if that was said."""

    by: _Text
    at: _Text
    why: _Text | None = None

    def __str__(self) -> str:
        return f"{self.by}{f': {self.why}' if self.why else ''}"


class LiveRun:
    """One run that goes on, somewhere."""

    def __init__(self, storage: Storage, run_id: str) -> None:
        if not is_run_id(run_id):
            raise UsageError(f"{run_id!r} is not a run ID.")
        self._storage = storage
        self._folder = f"live/{run_id}"

    def tell(self, now: Now) -> None:
        """Say how far the run is."""
        self._storage.put(f"{self._folder}/now", msgspec.msgpack.encode(now))

    def now(self) -> Now | None:
        """Return how far it said that it is; None if it said nothing, or nothing that can be read."""
        return self._read("now", Now)

    def add_log(self, offset: int, data: bytes) -> None:
        """Tell a piece of the log."""
        self._storage.put(f"{self._folder}/log/{offset:015d}", data)

    def log(self, start: int = 0) -> bytes:
        """Return what was told of the log from a byte on, as far as it is without a gap."""
        found = b""
        for name in sorted(self._storage.names(f"{self._folder}/log")):
            if not _OFFSET.fullmatch(name):
                continue
            skipped = start + len(found) - int(name)
            if skipped < 0:
                break
            with contextlib.suppress(FileNotFoundError):
                data = self._storage.read(f"{self._folder}/log/{name}", max_bytes=_MAX_CHUNK)
                found += data[skipped:]
        return found

    def ask_to_stop(self, request: StopRequest) -> bool:
        """Ask the run to stop; False if somebody did before."""
        try:
            self._storage.create(f"{self._folder}/stop", msgspec.msgpack.encode(request))
        except FileExistsError:
            return False
        return True

    def asked_to_stop(self) -> StopRequest | None:
        """Return who asked it to stop, None if nobody did; what cannot be read was somebody's request all the same."""
        found = self._read("stop", StopRequest)
        if found is None and self._storage.stat(f"{self._folder}/stop") is not None:
            return StopRequest(by="somebody", at="")
        return found

    def clear(self) -> None:
        """Take back all that was told."""
        for stored in list(self._storage.walk(self._folder)):
            self._storage.delete(stored.key)
        for folder in (f"{self._folder}/log", self._folder):
            self._storage.prune(folder)

    def touched(self) -> float:
        """Return when something was told last, in seconds since 1970 by the clock of the place; 0 if nothing is."""
        return max((stored.modified for stored in self._storage.walk(self._folder)), default=0.0)

    def _read(self, name: str, form: type[_Told]) -> _Told | None:
        try:
            return msgspec.msgpack.decode(self._storage.read(f"{self._folder}/{name}", max_bytes=_MAX_TOLD), type=form)
        except (FileNotFoundError, msgspec.DecodeError):
            return None


def sweep_live(storage: Storage, *, is_alive: Callable[[str], bool], before: float) -> None:
    """Remove what runs told that are dead, and that was told before a time, by the clock of the place."""
    for run_id in storage.names("live"):
        if is_run_id(run_id) and not is_alive(run_id):
            live = LiveRun(storage, run_id)
            if live.touched() < before:
                live.clear()
