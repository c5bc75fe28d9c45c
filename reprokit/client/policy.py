"""When a checkpoint is due, as the recipe's `checkpoints` section says."""

from __future__ import annotations

import time
from typing import Any

from reprokit.client import context, probe

__all__ = ["Policy"]


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
        self._at: set[tuple[int, int]] | None = None if at is None else {(epoch, batch) for epoch, batch in at}
        self.until: int | None = told.get("until")
        self.on: list[str] = list(told.get("on", ["signal"]))
        self._stop_after: int | None = told.get("stop_after")
        self._step = 0
        self._time = time.monotonic()

    @property
    def inside_epochs(self) -> bool:
        """True if the recipe asks for checkpoints inside epochs, and not only at their ends."""
        return bool(self._at) or self._unit != "epoch"

    def last_epoch(self, total: int) -> int:
        """Return the last epoch (from 0) to train, of `total`."""
        return total - 1 if self.until is None else min(total - 1, self.until)

    def due_after_epoch(self, epoch: int, last: int | None = None) -> bool:
        """True if a save at the end of `epoch` is wanted: unless `every: n epochs` skips it; the last one always."""
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
        if self._unit == "step":
            return step // self._n > self._step // self._n
        if self._unit == "minute":
            return step != self._step and time.monotonic() - self._time >= self._n * 60
        return False

    def agree(self) -> None:
        """Leave out what processes that train together would not decide alike.

        Raises:
            RuntimeError: The recipe saves by the clock, which no two processes read at the same batch.
        """
        if self._unit == "minute" and self._at is None:
            raise RuntimeError(
                "reprokit: `every: … minutes` cannot be used with several processes; give steps or epochs"
            )
        self.on = [reason for reason in self.on if reason not in ("signal", "exception")]

    def resumed(self, step: int) -> None:
        """Go on counting from the checkpoint that was restored; call it when everything was put back."""
        self._step = step
        probe.look("restored", step=step)

    def saved(self, step: int) -> bool:
        """Note that a checkpoint was saved; return true if it was the last one that this run is asked for."""
        self._step, self._time = step, time.monotonic()
        if self._stop_after is None:
            return False
        self._stop_after -= 1
        return self._stop_after <= 0
