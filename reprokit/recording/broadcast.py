"""Tells a registry how far a run is, while it goes on; and the run, that somebody wants it to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from reprokit.errors import Error
from reprokit.recording.checkpoint_saver import Collected
from reprokit.recording.recorder import now
from reprokit.registry.live import LiveRun, Now, StopRequest
from reprokit.registry.package_log import writer

__all__ = ["Broadcast"]

_LOOKS = 2.0  # seconds between two looks at whether it is to stop
_TELLS = 10.0  # seconds between two words on how far it is
_FIRST = 4.0  # seconds until the first piece of the log; later ones take longer, so that they do not become many
_SHARE = 100  # a piece takes this part of the time that passed
_MAX_PIECE = 8 * 1024 * 1024  # bytes
_SHOWN = 20  # metrics


class Broadcast:
    """See the module. What cannot be told is told later, and costs the run nothing.

    Attributes:
        stopped: Who asked for the stop that was passed on.
    """

    def __init__(self, live: LiveRun | None, log: Path, collected: Collected) -> None:
        self._live = live
        self._log = log
        self._collected = collected
        self._told = 0  # bytes of the log
        self._ended = threading.Event()
        self._said: Now | None = None
        self.stopped: StopRequest | None = None

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Tell for as long as the context is open, and take all of it back at its end."""
        if self._live is None:
            yield
            return
        thread = threading.Thread(target=self._run, args=(self._live,), name="reprokit-live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(60)

    def clear(self) -> None:
        """Take back what was told, once the record says it."""
        if self._live is not None and (self._told or self._said is not None or self.stopped is not None):
            with contextlib.suppress(Error, OSError):
                self._live.clear()

    def _run(self, live: LiveRun) -> None:
        with contextlib.suppress(Error, OSError):
            live.clear()  # what an attempt that was killed left there; a stop that was asked of it is over
        began = time.monotonic()
        logged, spoke = began, began - _TELLS + _FIRST
        while not self._ended.wait(_LOOKS):
            at = time.monotonic()
            with contextlib.suppress(Error, OSError):
                self._look(live)
                if at - logged >= max(_FIRST, (at - began) / _SHARE):
                    logged = at
                    self._tell_log(live)
                if at - spoke >= _TELLS:
                    spoke = at
                    self._tell(live)

    def _look(self, live: LiveRun) -> None:
        if self.stopped is None:
            request = live.asked_to_stop()
            if request is not None and _can_be_stopped():
                self.stopped = request
                os.kill(os.getpid(), signal.SIGTERM)

    def _tell_log(self, live: LiveRun) -> None:
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as handle:
            handle.seek(self._told)
            data = handle.read(_MAX_PIECE)
            whole = data[: data.rfind(b"\n") + 1]  # a line that is being written comes with the next piece
            if whole:
                live.add_log(self._told, whole)
                self._told += len(whole)

    def _tell(self, live: LiveRun) -> None:
        saved = self._collected.checkpoints
        said = Now(
            by=f"{writer()}, process {os.getpid()}",
            at=now(),
            checkpoints=len(saved),
            checkpoint=str(saved[-1].place) if saved else None,
            metrics=dict(list(self._collected.metrics.items())[:_SHOWN]),
            stoppable=_can_be_stopped(),
        )
        live.tell(said)
        self._said = said


def _can_be_stopped() -> bool:
    """True if this process passes a signal on to its script."""
    return callable(signal.getsignal(signal.SIGTERM))
