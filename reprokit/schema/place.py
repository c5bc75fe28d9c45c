"""Where in a run: its initial state, an epoch, a step, a batch, and by whose sign it was saved. Data and words."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["BEGINNING", "INITIAL", "Place", "SaveKind", "Spot"]

BEGINNING = "the beginning"
"""Where a run starts that goes on from no checkpoint."""

SaveKind = Literal["initial", "checkpoint", "signal", "exception"]
"""Why something was saved: before the first step; as the policy or the script asked; the run was told to stop; the
script failed. Where the last two happen is chance."""


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where in a run something was saved or seen.

    Attributes:
        kind: By whose sign it was saved.
        epoch: From 0; None where the script counts none.
        step: Optimiser steps done.
        batch: Batches done of the epoch, in the middle of one; None at its end.
        save: Which save it is of those that this place had, from 1.
    """

    kind: SaveKind = "checkpoint"
    epoch: int | None = None
    step: int | None = None
    batch: int | None = None
    save: int = 1

    @property
    def is_initial(self) -> bool:
        return self.kind == "initial"

    @property
    def is_by_chance(self) -> bool:
        """True if it was saved because the run was stopped or failed: another run has nothing to set against it."""
        return self.kind in ("signal", "exception")

    @property
    def is_counted(self) -> bool:
        """True if the script said where it was."""
        return self.epoch is not None or self.step is not None

    @property
    def comparable(self) -> Place:
        """The place as other runs have it too: an epoch may take them another number of steps."""
        if self.is_initial:
            return INITIAL
        return Place(epoch=self.epoch, batch=self.batch) if self.epoch is not None else Place(step=self.step)

    @property
    def following(self) -> Place | None:
        """Where a run goes on that restored the checkpoint of this place; None at its beginning."""
        if self.is_initial:
            return None
        if self.epoch is None:
            return Place(step=self.step, save=self.save)
        return Place(epoch=self.epoch + (self.batch is None), batch=self.batch)

    @property
    def selector(self) -> str | None:
        """What names it after `RUN@`; None if nothing does."""
        if self.is_initial:
            return "initial"
        named = (("epoch", self.epoch), ("step", self.step))
        return next((f"{name}={number}" for name, number in named if number is not None), None)

    @property
    def exact(self) -> str:
        """Every number that is known of it, in words: `epoch 3, step 1200`."""
        if self.is_initial:
            return str(self)
        counts = (("epoch", self.epoch), ("batch", self.batch), ("step", self.step))
        return ", ".join(f"{name} {number}" for name, number in counts if number is not None) or str(self)

    @property
    def tick(self) -> str:
        """The same on an axis of checkpoints: `start`, or what it counts."""
        return "start" if self.is_initial else str(self).removeprefix("epoch ")

    def __str__(self) -> str:
        """In words, no more than tells it apart from the run's others: `epoch 3`, `epoch 3, batch 20`, `step 500`."""
        if self.is_initial:
            return "initial state"
        if self.epoch is not None:
            text = f"epoch {self.epoch}" + ("" if self.batch is None else f", batch {self.batch}")
        elif self.step is not None:
            text = f"step {self.step}"
        else:
            return f"checkpoint {self.save}"
        return text if self.save == 1 else f"{text}, save {self.save}"


INITIAL = Place(kind="initial")


class Spot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a run is looked at: a checkpoint; or an output, or a metric of a checkpoint or of the run's end.

    Attributes:
        place: Of the checkpoint; None for an output, and a metric at the end.
    """

    place: Place | None = None
    output: str | None = None
    metric: str | None = None

    def __str__(self) -> str:
        if self.output is not None:
            return f"output {self.output}"
        if self.metric is not None:
            return f"metric {self.metric}" + (f" of {self.place}" if self.place is not None else "")
        return "" if self.place is None else str(self.place)
