"""What a face may want to hear while a run goes on."""

from __future__ import annotations

import contextlib

from reprokit.schema.record import CheckpointEntry

__all__ = ["DEAF", "Listener", "Unfailing"]


class Listener:
    """Is told what happens in a run; does nothing by itself."""

    def output(self, stream: str, data: bytes) -> None:
        """Hear what the script wrote to `stdout` or `stderr`."""

    def checkpoint(self, entry: CheckpointEntry) -> None:
        """Hear that a checkpoint was saved."""

    def total_epochs(self, total: int) -> None:
        """Hear how many epochs the script is going to train."""

    def epoch(self, epoch: int) -> None:
        """Hear that an epoch, counted from 0, is done."""

    def batch(self, epoch: int | None, batch: int, total: int | None) -> None:
        """Hear, now and then, how many batches of an epoch are done, of how many if that is known."""


class Unfailing(Listener):
    """Passes on what another listener wants to hear; that its terminal is gone costs no checkpoint and no line."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def output(self, stream: str, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._listener.output(stream, data)

    def checkpoint(self, entry: CheckpointEntry) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._listener.checkpoint(entry)

    def total_epochs(self, total: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._listener.total_epochs(total)

    def epoch(self, epoch: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._listener.epoch(epoch)

    def batch(self, epoch: int | None, batch: int, total: int | None) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._listener.batch(epoch, batch, total)


DEAF = Listener()
