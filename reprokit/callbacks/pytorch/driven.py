"""A PyTorch training that a framework drives: it tells where it is, and what is saved, when, and how it comes back
is as in a loop of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from reprokit.callbacks import pytorch
from reprokit.callbacks.pytorch import state as torch_state
from reprokit.client import number
from reprokit.client.probe import flat
from reprokit.client.probe.carried import Carried, of
from reprokit.client.restored import Restored, resumed
from reprokit.client.writer import Saving

__all__ = ["DrivenLoop", "next_training", "random_state", "regroups", "set_attributes", "to_resume"]

_TRAININGS = itertools.count()


def next_training() -> int:
    """Return how many trainings this process began before."""
    return next(_TRAININGS)


def to_resume(framework: str, training: int) -> Restored | None:
    """Return the checkpoint that this training goes on from.

    Raises:
        RuntimeError: It was saved by another framework's callback, or by a later training of the script.
    """
    restored = resumed(framework) if training == 0 else None
    if restored is None:
        return None
    restored.converters["torch"] = torch_state.as_tensor
    saved_by = int(restored.state("training", 0))
    if saved_by:
        raise RuntimeError(
            f"reprokit: this checkpoint was saved by training {saved_by + 1} of the script; only its first one can be "
            "resumed. Give each training a run of its own"
        )
    return restored


def random_state(loaders: dict[str, Any]) -> dict[str, Any]:
    """Return the random state of this process, with the generators that loaders hold."""
    held = torch_state.generators_of(loaders, {})
    states = {name: torch_state.state_of_generator(one) for name, one in held.items()}
    return {**torch_state.capture_rng(), "held": states}


def regroups(model: Any) -> str | None:
    """Return why the processes that train `model` would add up gradients in another order once they are resumed.

    DDP regroups gradients after its first step. Of two processes the sum is the same in any order; of more it is not.
    """
    if not isinstance(model, DistributedDataParallel) or torch.distributed.get_world_size() <= 2:
        return None
    if model.find_unused_parameters and not model.static_graph:
        return None
    return (
        "more than two processes add up gradients in another order in the first step of DDP than later; with "
        "find_unused_parameters=True they do not"
    )


def set_attributes(thing: Any, stored: dict[str, Any], names: Collection[str]) -> None:
    """Set attributes to what a checkpoint has of them.

    Raises:
        RuntimeError: It has others; whoever wrote it decides values, and not which attributes there are.
    """
    if others := sorted(stored.keys() - set(names)):
        raise RuntimeError(f"reprokit: the checkpoint sets {', '.join(others[:5])} of {type(thing).__name__}")
    vars(thing).update(stored)


class DrivenLoop(pytorch.PackageCheckpoint):
    """Saves and restores where a framework says that it is between two batches, or between two epochs.

    Args:
        training: As `next_training` counts.
        endings: Why this training can be resumed at epochs' ends alone; None if inside an epoch too.
        unresumable: Why it cannot be resumed at all; None if it can.
        objects: As for `pytorch.PackageCheckpoint`.

    Attributes:
        marks: Random states of this process that lead back to the batch; a framework's callback sets them.
    Raises:
        RuntimeError: The recipe asks for checkpoints that could not be resumed.
    """

    def __init__(self, *, training: int, endings: str | None, unresumable: str | None = None, **objects: Any) -> None:
        super().__init__(**objects)
        self.marks: dict[str, Any] = {}
        self._training = training
        self._endings = endings
        self._unresumable = unresumable
        self._groups = {}  # frameworks add groups again by themselves
        self._place: dict[str, Any] | None = None
        self._values: dict[str, float] = {}
        if endings is not None and self._policy.inside_epochs:
            raise RuntimeError(
                f"reprokit: the recipe asks for checkpoints inside epochs, but {endings}: this training can be resumed "
                "bit for bit at the ends of epochs alone. Give `every: 1 epoch`"
            )

    def begin(self, total: int | None, restored: Restored | None) -> None:
        """Save the initial state, or go on from a checkpoint.

        Args:
            total: Epochs in all, if that is known.
        """
        self._last = self._policy.until if total is None else self._policy.last_epoch(total)
        if total is not None and self._last is not None:
            self._tell({"type": "epochs", "total": self._last + 1})
        self._carried = Carried(of(self._driven()), flat(vars(self)))
        if restored is not None:
            self.go_back(restored)
            self._tell_lost(restored)
            if not restored.batch:  # else `come_back` follows, when the batches that were done were read again
                self._policy.resumed(restored.step)
            return
        if self._initial:
            self._batch = 0
            self._save({}, kind="initial")
            self._batch = None

    def _driven(self) -> Iterable[Any]:
        """Return the objects of the script that the framework calls, and that may keep something by themselves."""
        return ()

    def go_back(self, restored: Restored) -> None:
        """Put everything back to where a checkpoint was saved, as often as a framework's own start disturbs it.

        Raises:
            RuntimeError: This training cannot be resumed bit for bit, or is another one.
        """
        if self._unresumable is not None:
            raise RuntimeError(f"reprokit: this run cannot be resumed: {self._unresumable}")
        self._restored = restored
        self._restore(restored)
        self.state.clear()
        self.state.update(self._user_of(restored.state("user", {})))
        self._epoch, self._steps = restored.epoch, restored.step
        self._saved_at = (self._epoch, restored.batch, self._steps)

    def come_back(self, restored: Restored) -> None:
        """Put everything back for the last time, after the batches that were done of the epoch."""
        self.go_back(restored)
        self._policy.resumed(restored.step)

    def after_batch(
        self, epoch: int, batch: int, step: int, metrics: dict[str, Any], *, batches: Callable[[], Any]
    ) -> None:
        """Save if the policy asks for it; save and leave if a signal does.

        Args:
            batch: Batches done of this epoch.
            step: Optimiser steps done in all.
            batches: Returns how many the epoch has, where the framework knows.
        """
        self._report(batch, batches, epoch=epoch)
        if self._endings is not None:
            return
        self._epoch, self._batch, self._steps = epoch, batch, step
        if self._policy.due_after_batch(epoch, batch, step):
            self._save(_numbers(metrics))
        self._leave_if_told()
        self._batch = None

    def after_epoch(self, epoch: int, step: int, metrics: dict[str, Any]) -> None:
        """Save if the policy asks for it; save and leave if a signal does."""
        self._epoch, self._batch, self._steps = epoch, None, step
        self._values = _numbers(metrics)
        if self._policy.due_after_epoch(epoch, self._last):
            self._save(self._values)
        else:
            self._tell({"type": "metrics", "step": step, "values": self._values})
        self._tell({"type": "epoch", "epoch": epoch})
        self._leave_if_told()

    def finish(self) -> None:
        """Save what the training came to, if its last epoch was not saved, and wait until everything is stored.

        Raises:
            RuntimeError: A checkpoint was not.
        """
        if self._epoch is not None and self._saved_at != (self._epoch, None, self._steps):
            self._save(self._values)
        self.close()

    def save_on_exception(self) -> None:
        """Save what the training has come to, if the recipe wants that; never in the way of the exception."""
        if "exception" in self._policy.on:
            with suppress(Exception):
                self._save({}, kind="exception")

    @property
    def handles_signals(self) -> bool:
        """True if SIGTERM is to save and leave."""
        return "signal" in self._policy.on

    @property
    def last_epoch_done(self) -> bool:
        """True after the last epoch that this run is asked for."""
        return self._policy.until is not None and self._epoch is not None and self._epoch >= self._policy.until

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        self._place = None
        if self._batch is not None:
            self._place = {"batch": self._batch, **{name: self._of_all(mark) for name, mark in self.marks.items()}}
        return super()._save(metrics, kind=kind)

    def _position(self) -> dict[str, Any] | None:
        return self._place

    def _capture(self, snapshot: Any) -> None:
        super()._capture(snapshot)
        if self._unresumable is not None:
            snapshot.unresumable.append(self._unresumable)

    def loaders_now(self) -> dict[str, Any]:
        """Return the loaders whose generators are part of the state, as they are now."""
        return {}

    def own_random(self) -> dict[str, Any]:
        """Return this process's random state."""
        return random_state(self.loaders_now())

    def set_own_random(self, own: dict[str, Any]) -> None:
        """Put random states back that `own_random` returned; generators that came later are left alone.

        Raises:
            RuntimeError: A generator of the checkpoint is missing here.
        """
        found = torch_state.generators_of(self.loaders_now(), {})
        self._generators = {name: one for name, one in found.items() if name in own["held"]}
        self._set_own_random(own)

    def _own_random(self) -> dict[str, Any]:
        return self.own_random()

    def _set_random(self, state: dict[str, Any]) -> None:
        self.set_own_random(self._own_of(state))

    def mark(self, name: str) -> dict[str, Any]:
        """Return a mark of the checkpoint that the run goes on from."""
        if self._restored is None:
            raise RuntimeError("reprokit: there is no checkpoint to go back to")
        return self._own_of(self._restored.state("position")[name])

    def _obstacles(self) -> list[str]:
        return []  # what there is was refused when the training began

    def _count(self, *_: Any) -> None:
        """The steps are the framework's to count."""


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: number(name, value) for name, value in metrics.items()}
