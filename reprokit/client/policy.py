"""When a checkpoint is due, as the recipe's `checkpoints` section says."""

from __future__ import annotations

import time
from typing import Any

from reprokit.client import context, probe

__all__ = ["Policy"]


class _Crossing:
    """What a doctor asks for: a checkpoint within an epoch, one at its end, and one in the epoch after.

    Args:
        seconds: How long the epoch's end is waited for.
        least: Steps before the first checkpoint at an epoch's end.

    Attributes:
        first: Epoch and batch of the first checkpoint.
    """

    def __init__(self, seconds: float, least: int) -> None:
        self.seconds = seconds
        self.least = least
        self.first: tuple[int | None, int | None] | None = None

    def waits(self, epoch: int | None) -> bool:
        """True within the epoch of the first checkpoint: its end is what comes next."""
        return self.first is not None and self.first[1] is not None and self.first[0] == epoch

    def is_over(self, epoch: int | None, batch: int | None, waited: float) -> bool:
        """Note a checkpoint; return true if an epoch's end lies between the first one and this, or took too long."""
        if self.first is None:
            self.first = epoch, batch
            return False
        return self.first[1] is None or epoch != self.first[0] or (batch is not None and waited >= self.seconds)


class Policy:
    """Counts epochs, steps and minutes since the last checkpoint.

    Attributes:
        until: The last epoch (from 0) that this run is asked for; None for all.
    """

    def __init__(self) -> None:
        told: dict[str, Any] = context()
        every = told.get("every") or {"unit": "epoch", "n": 1}
        self._unit = str(every["unit"])
        self._n = int(every["n"])
        at = told.get("at")
        self._at: set[tuple[int, int | None]] | None = None if at is None else {(epoch, batch) for epoch, batch in at}
        self.until: int | None = told.get("until")
        self.on: list[str] = list(told.get("on", ["signal"]))
        self._stop_after: int | None = told.get("stop_after")
        cross: dict[str, Any] | None = told.get("cross")
        self._crossing = None if cross is None else _Crossing(float(cross["seconds"]), int(cross["least"]))
        self._step = 0
        self._time = time.monotonic()

    @property
    def inside_epochs(self) -> bool:
        """True if the recipe asks for checkpoints inside epochs, and not only at their ends."""
        return any(batch is not None for _, batch in self._at or ()) or self._unit != "epoch"

    @property
    def by_clock(self) -> bool:
        """True if the recipe saves by the clock, and nobody says after which batches that was."""
        return self._unit == "minute" and self._at is None

    def last_epoch(self, total: int) -> int:
        """Return the last epoch (from 0) to train, of `total`."""
        return total - 1 if self.until is None else min(total - 1, self.until)

    def due_after_epoch(self, epoch: int, last: int | None = None, *, step: int | None = None) -> bool:
        """True if a save at the end of `epoch` is wanted: unless `every: n epochs` skips it; the last one always.

        Args:
            step: Steps done, where they are counted.
        """
        if self._crossing is not None and step is not None and (last is None or epoch < last):
            return self._crossing.first is not None or step - self._step >= self._crossing.least
        if self._unit != "epoch" or (last is not None and epoch >= last):
            return True
        return (epoch + 1) % self._n == 0

    def due_after_batch(self, epoch: int | None, batch: int | None, step: int) -> bool:
        """True if the policy asks for a checkpoint here, inside an epoch.

        Args:
            batch: Batches done of the epoch.
            step: Optimiser steps done in all.
        """
        if self._at is not None:
            return (epoch, batch) in self._at
        if self._crossing is not None and self._crossing.waits(epoch):
            return time.monotonic() - self._time >= self._crossing.seconds
        if self._unit == "step":
            return step // self._n > self._step // self._n
        if self._unit == "minute":
            return step != self._step and time.monotonic() - self._time >= self._n * 60
        return False

    def due_at_end(self, epoch: int | None, batch: int | None, step: int) -> bool:
        """True if the policy asks for a checkpoint after an epoch's last batch, where the epoch's end is saved instead.

        Args:
            batch, step: As of `due_after_batch`.
        """
        return (epoch, None) in self._at if self._at is not None else self.due_after_batch(epoch, batch, step)

    def agree(self) -> None:
        """Leave out what processes that train together would not decide alike.

        Raises:
            RuntimeError: The recipe saves by the clock, which no two processes read at the same batch.
        """
        if self.by_clock:
            raise RuntimeError(
                "reprokit: `every: … minutes` cannot be used with several processes; give steps or epochs"
            )
        self.on = [reason for reason in self.on if reason not in ("signal", "exception")]

    def resumed(self, step: int) -> None:
        """Go on counting from the checkpoint that was restored; call it when everything was put back."""
        self._step = step
        probe.look("restored", step=step)

    def saved(self, step: int, *, epoch: int | None = None, batch: int | None = None) -> bool:
        """Note that a checkpoint was saved; return true if it was the last one that this run is asked for.

        Args:
            batch: Batches done of the epoch; None at its end.
        """
        waited = time.monotonic() - self._time
        self._step, self._time = step, time.monotonic()
        if self._crossing is not None:
            return self._crossing.is_over(epoch, batch, waited)
        if self._stop_after is None:
            return False
        self._stop_after -= 1
        return self._stop_after <= 0
