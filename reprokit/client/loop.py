"""A training loop that saves and resumes: what the callbacks of all hand-written loops share.

    for epoch in ckpt.epochs(n):               # starts where a resumed run left off
        for batch in ckpt.batches(loader):     # mid-epoch saves and resume; plain `loader` does for whole epochs
            ...
        ckpt.save(val_loss=loss)               # last in the body: an epoch is over when it was saved

A subclass says what the state is: `_capture` adds it to a snapshot, `_restore` puts it back.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, ClassVar

from reprokit.client import number
from reprokit.client.connection import connect, line
from reprokit.client.notebook_cells import keep
from reprokit.client.policy import Policy
from reprokit.client.probe import flat
from reprokit.client.probe.carried import Carried, anew, around, loop_frame, taken
from reprokit.client.restored import Restored, resumed
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving, writer

__all__ = ["Loop"]

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_BETWEEN_REPORTS = 0.25  # seconds


class Loop(ABC):
    """Counts epochs, batches and steps, and saves when the policy, a signal or the user asks for it.

    Args:
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too, so that a divergence can be told from a different start.

    Attributes:
        state: The user's own: what is put here is saved with each checkpoint, and is here again when a run resumes.
    """

    framework = "numpy"
    _run: ClassVar[str | None] = None  # where it is recorded
    _trainings: ClassVar[int] = 0  # that this process began before in it
    _so_far: ClassVar[int] = 0  # steps that they did: no two checkpoints of a run have one place
    counts_epochs = False
    """A step is an epoch where neither batches nor the steps of an optimiser were seen in it."""

    def __init__(self, *, package: str | None = None, initial: bool = True) -> None:
        self.package = package
        self.state: dict[str, Any] = {}
        self._initial = initial
        self._policy = Policy()
        self._epoch: int | None = None
        self._last: int | None = None
        self._steps = 0
        self._steps_are_batches = True  # until a subclass knows an optimiser to count
        self._batch: int | None = None  # batches done of this epoch, while inside `batches`
        self._resume_batch: int | None = None
        self._restored: Restored | None = None
        self._signal: int | None = None
        self._saved_at: tuple[int | None, int | None, int] | None = None
        self._carried = Carried()
        self._counted = 0  # steps at the end of the epoch before
        self._has_batches = False  # some were counted in this epoch
        self._next_report = 0.0
        self._training = 0  # how many the process began before this one
        self._steps_before = 0  # that those before it did
        self._owed = False  # a checkpoint was due after the last batch of this epoch: its end is saved instead

    @property
    def step(self) -> int:
        """Optimiser steps done; batches, where no optimiser is known; of PyTorch, epochs where neither is seen."""
        return self._steps

    @property
    def batch(self) -> int:
        """Batches of this epoch that `batches` has given, the present one too: 1 in the body for the first.

        A resumed run counts on, where `enumerate` would begin anew.
        """
        return self._batch or 0

    @staticmethod
    def _refuse(state: dict[str, Any], found: list[str]) -> None:
        """Note in a checkpoint's state why a run could not go on from it with the same bits; its record says so."""
        if found:
            state["refused"] = found

    @staticmethod
    def _check_resumable(restored: Restored) -> None:
        """Refuse a checkpoint of which `_refuse` was told.

        Raises:
            RuntimeError: It cannot be resumed from; the reasons are named.
        """
        if refused := restored.state("refused"):
            raise RuntimeError(
                f"reprokit: no run can be resumed from this checkpoint bit for bit: {'; '.join(refused)}"
            )

    def _put_state(self, stored: dict[str, Any]) -> None:
        """Put the user's state back, in the lists and mappings that the script may hold already."""
        for key, value in stored.items():
            own = self.state.get(key)
            if type(own) is list and type(value) is list:
                own[:] = value
                stored = {**stored, key: own}
            elif type(own) is dict and type(value) is dict:
                own.clear()
                own.update(value)
                stored = {**stored, key: own}
        self.state.clear()
        self.state.update(stored)

    @abstractmethod
    def _capture(self, snapshot: Snapshot) -> None:
        """Add everything that the training's future depends on, but for `state`, epoch, step and position."""

    @abstractmethod
    def _restore(self, restored: Restored) -> None:
        """Put everything back that `_capture` added."""

    def _new_snapshot(self) -> Snapshot:
        return Snapshot(framework=self.framework)

    def _position(self) -> dict[str, Any] | None:
        """Return what it takes to come back to this batch of the epoch; None at the end of an epoch."""
        return None if self._batch is None else {"batch": self._batch}

    def _user(self) -> dict[str, Any]:
        """Return the user's state as it is stored; `_user_of` gives this process's part of it back."""
        return self.state

    def _user_of(self, stored: dict[str, Any]) -> dict[str, Any]:
        return stored

    def epochs(self, total: int) -> Iterator[int]:
        """Yield the epochs to train, 0 … `total` − 1: from where a resumed run left off, to where it is told to stop.

        Args:
            total: Epochs of the whole training.
        Raises:
            RuntimeError: A checkpoint could not be stored, or not be restored.
        """
        frame = loop_frame()
        self._carried = Carried(around(frame), flat(vars(self)), anew(frame), taken(frame))
        last = self._last = self._policy.last_epoch(total)
        self._tell({"type": "epochs", "total": last + 1})
        self._count_training()
        first = self._begin()
        with self.watching(), self._counted_on():
            for epoch in range(first, last + 1):
                self._epoch, self._batch = epoch, None
                self._before_epoch()
                yield epoch
                self._after_body()
                self._batch = None
                if self._resume_batch is not None:
                    raise RuntimeError(
                        f"reprokit: this run goes on from batch {self._resume_batch} of epoch {epoch}, but its loop "
                        "does not take its batches from ckpt.batches(…)"
                    )
                self._save_if_owed()
                self._tell({"type": "epoch", "epoch": epoch})
                self._leave_if_told()
        self._carried = Carried()
        self.close()

    def save(self, *, state: dict[str, Any] | None = None, **metrics: Any) -> Saving | None:
        """Save a checkpoint of this moment, if the recipe's policy asks for one after this epoch.

        Call it last in the body of the loop: a resumed run goes on with the next batch or epoch.

        Args:
            state: Added to `self.state`: anything of your own that training depends on: numbers, text, lists, tensors.
            metrics: Numbers, or one-element tensors.
        Returns:
            Its way into the registry, or None if no checkpoint was due.
        Raises:
            TypeError: Something cannot be stored faithfully; it is named.
            RuntimeError: An earlier checkpoint could not be stored.
        """
        values = {name: number(name, value) for name, value in metrics.items()}
        self.state.update(state or {})
        return self._save_if_due(values)

    def _save_if_due(self, values: dict[str, float]) -> Saving | None:
        ends_epoch = self._epoch is not None and self._batch is None
        if ends_epoch and self.counts_epochs and self._steps == self._counted and not self._has_batches:
            self._steps += 1
        self._counted, self._has_batches = self._steps, not ends_epoch
        if (
            ends_epoch
            and self._epoch is not None
            and not self._policy.due_after_epoch(self._epoch, self._last, step=self._steps)
        ):
            self._tell({"type": "metrics", "step": self._steps, "values": values})
            return None
        return self._save(values)

    def close(self) -> None:
        """Wait until everything is stored.

        Raises:
            RuntimeError: A checkpoint was not.
        """
        if self._writes:
            writer().drain()

    @property
    def _writes(self) -> bool:
        """True in the process that saves, of several that train one model."""
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        if self._writes:
            connect().send(message)

    def _report(self, batch: int, total: Callable[[], Any], *, epoch: int | None = None) -> None:
        """Say where the training is, a few times a second.

        Args:
            batch: Batches of this epoch that are done.
            total: Returns how many there are; raises, or returns what is no number above 0, where nobody can know.
        """
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + _BETWEEN_REPORTS
        found = None
        with contextlib.suppress(Exception):  # a loader of the user's: what its length raises is not ours to pass on
            found = int(total())
        told = found if found is not None and found >= batch else None
        self._tell({"type": "batch", "epoch": self._epoch if epoch is None else epoch, "batch": batch, "total": told})

    def _before_epoch(self) -> None:  # noqa: B027 - most have nothing to do
        """Called before the body of each epoch."""

    def _after_body(self) -> None:  # noqa: B027 - as above
        """Called after the body of each epoch."""

    def _begin(self) -> int:
        """Restore, or save the initial state; return the first epoch to train."""
        restored = resumed(self.framework) if self._training == 0 else None
        if restored is None:
            if self._initial and self._training == 0:
                self._save({}, kind="initial")
            return 0
        if later := restored.raw_state.get("training", 0):
            raise RuntimeError(
                f"reprokit: the checkpoint is of training {later + 1} of this script, and what those before it made is "
                "not in it; resume from a checkpoint of the first"
            )
        self._take_up(restored)
        if restored.epoch is None:
            return 0
        self._resume_batch = restored.batch
        return restored.epoch if restored.batch is not None else restored.epoch + 1

    def _count_training(self) -> None:
        """Note that a training begins in this process; those after the first count their steps on."""
        self._count_on()
        self._training, Loop._trainings = Loop._trainings, Loop._trainings + 1

    def _count_on(self) -> None:
        """Count steps on from those that were done before in this process, and in this run."""
        now = line()
        if Loop._run not in (None, now):  # None: nothing had been sent, so that there was no line yet
            Loop._trainings, Loop._so_far = 0, 0
        Loop._run = now
        if Loop._so_far:
            self._steps = self._counted = self._steps_before = Loop._so_far
            self._policy.resumed(self._steps)

    @contextlib.contextmanager
    def _counted_on(self) -> Iterator[None]:
        try:
            yield
        finally:
            Loop._so_far = max(Loop._so_far, self._steps)

    def _take_up(self, restored: Restored) -> None:
        """Put back what a checkpoint holds, and count on from there."""
        self._restored = restored
        self._restore(restored)
        self._put_state(self._user_of(restored.state("user", {})))
        self._steps = self._counted = restored.step
        self._has_batches = restored.batch is not None
        self._policy.resumed(restored.step)
        self._tell_lost(restored)

    def _tell_lost(self, restored: Restored) -> None:
        """Say which variables of the script do not hold what they held when a checkpoint was saved."""
        if restored.epoch is not None and (lost := self._carried.lost(restored.carried, self.state)):
            self._tell({"type": "lost", "names": lost})

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        snapshot = self._new_snapshot()
        snapshot.state |= {
            "epoch": self._epoch,
            "step": self._steps,
            "position": self._position(),
            "user": self._user(),
        }
        self._capture(snapshot)
        if self._training:
            snapshot.state["training"] = self._training
            snapshot.unresumable.append(
                f"it is of training {self._training + 1} of the script, and what those before it made is not in it. "
                "Give each training a run of its own"
            )
        saving = snapshot.save(
            epoch=self._epoch, step=self._steps, batch=self._batch, metrics=metrics, kind=kind, package=self.package,
            carried=self._carried.moved(),
        )  # fmt: skip
        self._saved(kind)
        return saving

    def _saved(self, kind: str) -> None:
        """Note that a checkpoint was saved; leave if it was the last one that this run is asked for."""
        self._saved_at, self._owed = (self._epoch, self._batch, self._steps), False
        if kind != "initial" and self._policy.saved(self._steps, epoch=self._epoch, batch=self._batch):
            self.close()
            raise SystemExit(0)

    def _between_batches(self, *, last: bool = False) -> None:
        """Save if the policy asks for it here; save and leave if a signal does.

        Args:
            last: No batch follows in this epoch. A run that went on from here would not enter the loop's body, so that
                all of this is done at the epoch's end.
        """
        self._steps += self._steps_are_batches
        self._has_batches = True
        if last:
            self._owed = self._owed or self._policy.due_at_end(self._epoch, self._batch, self._steps)
            return
        self._owed = self._owed or self._policy.due_after_batch(self._epoch, self._batch, self._steps)
        if self._owed:
            self._save({})
        self._leave_if_told()

    def _check_epoch(self) -> None:
        """Refuse batches that are of no epoch."""
        if self._epoch is None:
            raise RuntimeError(
                "reprokit: ckpt.batches belongs inside `for epoch in ckpt.epochs(n)`; a loop that counts iterations is "
                "one epoch, ckpt.epochs(1), left by break"
            )

    def _save_if_owed(self) -> None:
        """Save the end of an epoch after whose last batch a checkpoint was due, if the script did not."""
        if self._owed:
            self._save({})

    def _leave_if_told(self) -> None:
        if self._signal is None:
            return
        if self._saved_at != (self._epoch, self._batch, self._steps):
            self._save({}, kind="signal")
        self.close()
        raise SystemExit(128 + self._signal)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the loop runs: on SIGTERM go on to the next boundary, save and leave; save on an exception if asked."""
        wanted = "signal" in self._policy.on and threading.current_thread() is threading.main_thread()
        before = {}
        for number_ in _SIGNALS if wanted else ():
            if signal.getsignal(number_) is signal.SIG_DFL:
                before[number_] = signal.signal(number_, self._note)
        hook = sys.excepthook
        if "exception" in self._policy.on:
            sys.excepthook = self._save_on_exception(hook)
            keep(sys.excepthook)
        try:
            yield
            keep(None)
            sys.excepthook = hook  # not in `finally`: an exception ends this generator before the hook is called
        finally:
            for number_, handler in before.items():
                signal.signal(number_, handler)

    def _goes_on(self, _frame: FrameType | None) -> bool:
        """True if the loop runs below this frame, and so will come to its next boundary."""
        return True

    def _note(self, number_: int, frame: FrameType | None) -> None:
        # asked twice, or an abandoned loop: at once. A forked worker lives on, its loop needs it
        if self._signal is not None or not self._goes_on(frame):
            signal.signal(number_, signal.SIG_DFL)
            signal.raise_signal(number_)
        self._signal = number_

    def _save_on_exception(self, hook: Any) -> Any:
        def save(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            hook(kind, error, trace)
            sys.excepthook = hook
            with contextlib.suppress(Exception):
                self._save({}, kind="exception")

        return save
