"""A training by rounds, as boosters have it: the library's own loop runs, a callback counts, saves and resumes.

The library starts a resumed run's loop at its beginning. There are two ways back to the checkpoint. *Continued*: the
model is put back, and the rounds that it holds are passed over; only for trainings whose next round depends on the
model and the data alone. *Trained again*: the rounds are trained once more, and what came of them must be the stored
model, bit for bit, before the run goes on. It takes the time of those rounds.
"""

from __future__ import annotations

import contextlib
import warnings
from abc import abstractmethod
from types import FrameType
from typing import Any, ClassVar

from reprokit.client.loop import Loop
from reprokit.client.restored import Restored, resumed
from reprokit.client.rng import rng_state, set_rng_state
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["Rounds"]


class Rounds(Loop):
    """One training by rounds. An epoch is a round, from 0; a step is a round that is done, in all trainings so far.

    Attributes:
        again: Why its rounds would have to be trained again, were it resumed; empty if it could be continued.
    """

    trainer: ClassVar[str]
    """The module whose function runs the loop."""
    file: ClassVar[str]
    """The model's file in a checkpoint."""
    advice: ClassVar[str]
    """What to do where two trainings of the same rounds differ."""
    _count: ClassVar[int] = 0
    _done: ClassVar[int] = 0
    _latest: ClassVar[Rounds | None] = None

    def __init__(self, *, every: int, package: str | None, state: dict[str, Any]) -> None:
        if type(every) is not int or every < 1:
            raise ValueError(f"reprokit: every is {every!r}; it is a number of rounds, at least 1")
        super().__init__(package=package, initial=False)
        self.state = state
        self.number = Rounds._count
        Rounds._count += 1
        if Rounds._latest is not None:
            Rounds._latest.stack.close()  # it ended with an exception
        Rounds._latest = self
        self.stack: contextlib.ExitStack = contextlib.ExitStack()
        self.again: list[str] = []
        self._every = every
        self._steps = self._steps_before = Rounds._done
        self._target = 0  # rounds that a resumed run has to come back to

    @abstractmethod
    def _model(self) -> bytes:
        """Return the model as the file that the library itself writes."""

    @abstractmethod
    def _arrays(self, model: bytes) -> dict[str, Any]:
        """Return what is in the model as arrays by name, so that two can be compared number by number."""

    @property
    def comes_back(self) -> bool:
        """True until a resumed run is where its checkpoint was saved."""
        return self._steps < self._target

    @property
    def until(self) -> int | None:
        """The last round (from 0) that this run is asked for; None for all."""
        return self._policy.until

    def begin(self, *, total: int | None = None) -> Restored | None:
        """Begin before the first round; return the checkpoint to come back to.

        Args:
            total: Rounds that will be trained, unless it stops early.
        Raises:
            RuntimeError: The recipe saves by the clock; or this training cannot be resumed.
        """
        if self._policy.by_clock:
            raise RuntimeError("reprokit: `every: … minutes` cannot be used with boosters; give epochs: a round is one")
        if total is not None:
            self._tell({"type": "epochs", "total": self._policy.last_epoch(total) + 1})
        restored = resumed(self.framework) if self.number == 0 else None
        if restored is not None:
            earlier = restored.raw_state.get("training", 0)
            if earlier:
                raise RuntimeError(
                    f"reprokit: the checkpoint is of training {earlier + 1} of this script, and what those before it "
                    "made is not in it; resume from a checkpoint of the first"
                )
            self._target = 0 if restored.epoch is None else restored.epoch + 1
            self._restored = restored
        self.stack.enter_context(self.watching())
        return restored

    def say_trained_again(self, why: list[str]) -> None:
        """Tell the user what a resume costs here."""
        reason = f", because {'; '.join(why)}" if why else ""
        warnings.warn(
            f"reprokit: the first {self._target} rounds are trained again, and compared with the checkpoint{reason}",
            stacklevel=2,
        )

    def end_round(self, epoch: int, metrics: dict[str, float], *, last: bool = False) -> None:
        """Note that a round is over: save if it is due; save and leave if a signal asks for it.

        Args:
            last: Nothing is trained after it.
        """
        returns = self._steps < self._target
        self._epoch, self._steps = epoch, self._steps_before + epoch + 1
        Rounds._done = self._steps
        if not returns:
            if self._due(epoch, last=last):
                self._save(metrics)
            else:
                self._tell({"type": "metrics", "step": self._steps, "values": metrics})
            self._tell({"type": "epoch", "epoch": epoch})
        elif self._steps == self._target and self._restored is not None:
            self._take_up(self._restored)
        elif last:
            raise RuntimeError(
                f"reprokit: the training ended after {self._steps} rounds; its checkpoint is of {self._target}"
            )
        self._leave_if_told()

    def end(self) -> None:
        """Wait until everything is stored; what comes now is no part of the training."""
        Rounds._latest = None
        self.stack.close()
        self.close()

    def _due(self, epoch: int, *, last: bool) -> bool:
        if last or epoch == self.until:
            return True
        if self._policy.inside_epochs:
            return self._policy.due_after_batch(epoch, None, self._steps)
        return self._policy.due_after_epoch(epoch) and (epoch + 1) % self._every == 0

    def _leave_if_told(self) -> None:
        if self._signal is not None and self.comes_back:  # what was saved is still the last checkpoint
            self.close()
            raise SystemExit(128 + self._signal)
        super()._leave_if_told()

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        return None if self.comes_back else super()._save(metrics, kind=kind)

    def _goes_on(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_globals.get("__name__") == self.trainer:
                return True
            frame = frame.f_back
        return False

    def _capture(self, snapshot: Snapshot) -> None:
        model = self._model()
        snapshot.add_file(self.file, model, [])
        for name, array in self._arrays(model).items():
            snapshot.add_array("model", name, array)
        snapshot.state |= {"rng": rng_state(), "training": self.number, "again": self.again}
        if self.number:
            snapshot.unresumable.append(
                f"it is of training {self.number + 1} of the script, and what those before it made is not in it. Give "
                "each training a run of its own"
            )

    def _restore(self, restored: Restored) -> None:
        if self._model() != (restored.folder / self.file).read_bytes():
            raise RuntimeError(
                f"reprokit: after {self._steps} rounds the model is not the one that was saved there, so the run would "
                f"not end with what it would have ended with. {self.advice}"
            )
        set_rng_state(restored.state("rng"))
