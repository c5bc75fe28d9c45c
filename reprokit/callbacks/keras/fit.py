"""One call of Keras's `model.fit`: when it saves, what a checkpoint of it holds, and how a resumed run comes back."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import keras

from reprokit.callbacks.keras import private
from reprokit.callbacks.keras import state as keras_state
from reprokit.callbacks.keras.data import Feed
from reprokit.callbacks.keras.objects import Changes, restore_callbacks, state_of_callbacks
from reprokit.client.loop import Loop
from reprokit.client.probe import flat
from reprokit.client.probe.carried import Carried, of
from reprokit.client.restored import Restored, resumed
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["Fit"]

_SHOWS = keras.callbacks.ProgbarLogger


class Fit(Loop):
    """One call of `model.fit`: counts, saves and restores.

    Attributes:
        logs: Names of what Keras itself measures.
    """

    framework = "keras"
    count = 0  # calls so far in this process
    steps = 0  # batches trained in them
    latest: Fit | None = None

    def __init__(self, owner: Any, iterator: Any, container: Any) -> None:
        self.number, Fit.count = Fit.count, Fit.count + 1
        super().__init__(package=owner.package, initial=owner.initial and self.number == 0)
        self._steps_are_batches = False  # `_between` counts them
        if Fit.latest is not None:
            Fit.latest.stack.close()  # it ended with an exception
        Fit.latest = self
        self.state = owner.state
        self.stack: contextlib.ExitStack = contextlib.ExitStack()
        self.logs = {"learning_rate"}
        self._owner = owner
        self._container = container
        # the first and the last are the owner's
        self._callbacks = [one for one in container.callbacks[1:-1] if not isinstance(one, _SHOWS)]
        self._changes = [(type(one).__name__, Changes(one)) for one in self._callbacks]
        self._data = Feed(iterator, epoch=lambda: self._epoch or 0)
        self._inside = self._data.obstacles_inside()
        self._validation: Feed | None = None
        self._before_validation: dict[str, Any] | None = None
        self._start: dict[str, Any] | None = None
        self._steps = self._steps_before = Fit.steps
        self._done = 0
        self._began = False
        self._uncaptured: list[str] | None = None
        self._unbuilt = keras_state.unbuilt(owner.model)
        self._gradients = keras_state.gradients_of(owner.model)
        self._warned: set[str] = set()

    @property
    def model(self) -> Any:
        return self._owner.model

    def begin(self, epochs: int) -> None:
        if any(isinstance(one, keras.callbacks.BackupAndRestore) for one in self._callbacks):
            raise ValueError("reprokit: BackupAndRestore and PackageCheckpoint both resume; leave BackupAndRestore out")
        self._last = self._policy.last_epoch(epochs)
        self._tell({"type": "epochs", "total": self._last + 1})
        self._carried = Carried(of([*self._callbacks, self.model]), flat(vars(self)))
        self._restored = resumed(self.framework) if self.number == 0 else None
        if self._restored is not None:
            self._check(self._restored)
            private.set_first_epoch(self.model, self._first_epoch(self._restored, epochs))
            for one in self._callbacks:
                if isinstance(one, keras.callbacks.CSVLogger):
                    _continue_csv(one, private.first_epoch(self.model))
        self._data.watch(begin=self._begin_batches, arrived=self._arrived, done=self._between, ended=self._ended)
        self.stack.enter_context(self.watching())

    def _check(self, restored: Restored) -> None:
        """Refuse what would not go on bit for bit."""
        facts = restored.raw_state
        backend = facts["model"].get("backend") if isinstance(facts.get("model"), dict) else None
        if backend != keras_state.BACKEND or backend not in ("tensorflow", "torch"):
            raise RuntimeError(
                f"reprokit: the checkpoint was saved on Keras's backend {backend}, this is {keras_state.BACKEND}; a "
                "run resumes on the backend that it was begun on, tensorflow or torch"
            )
        if facts.get("fit", 0):
            raise RuntimeError(
                f"reprokit: the checkpoint is of call {facts['fit'] + 1} of model.fit in this script, and what the "
                "calls before made is not in it; resume from a checkpoint of the first call"
            )
        if facts.get("obstacles"):
            raise RuntimeError(
                f"reprokit: a run cannot go on bit for bit from this checkpoint: {'; '.join(facts['obstacles'])}"
            )

    def _first_epoch(self, restored: Restored, epochs: int) -> int | None:
        if restored.raw_state.get("stopped"):
            return epochs
        if restored.epoch is None:
            return None
        return restored.epoch if restored.batch is not None else restored.epoch + 1

    def restore_if_over(self, epochs: int) -> None:
        if self._restored is not None and private.first_epoch(self.model) >= epochs:
            self._begin()

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._batch, self._done, self._steps_before = epoch, None, 0, self._steps
        if not self._began:
            self._begin()

    def _begin(self) -> int:
        self._began = True
        if self._restored is None:
            if self._initial and self.model.built:
                epoch, self._epoch = self._epoch, None
                self._save({}, kind="initial")
                self._epoch = epoch
        elif self._restored.batch is None:
            self._take_up(self._restored)
        else:  # the state is restored when the batches that are done have been left out
            self._resume_batch = self._restored.batch
            self._data.restore(self._restored.state("data")["training"], inside=True)
        self._steps_before = self._steps
        return self._epoch or 0

    def _begin_batches(self) -> int:
        """Return how many of the epoch's batches are done already."""
        if self._resume_batch is not None and self._restored is not None:
            start = self._restored.state("position")["start"]
            keras_state.restore_rng(start["rng"])
            self._data.set_own(start["own"])
        if not self._inside:
            self._start = {"rng": keras_state.capture_rng(), "own": self._data.own()}
        self._batch = self._resume_batch or 0
        return self._batch

    def _arrived(self) -> None:
        if self._restored is not None and self._resume_batch is not None:
            self._take_up(self._restored)
            self._steps_before = self._steps - self._resume_batch
        self._resume_batch = None

    def batches_done(self, batches: int) -> None:
        self._done = max(self._done, min(batches, self._data.count or batches))
        self._report(batches, lambda: self._data.count)

    def _between(self, batches: int) -> None:
        """Between two batches: save if the policy asks for it here; save and leave if a signal does."""
        self._batch, self._steps = batches, self._steps_before + batches
        self._between_batches()

    def _ended(self) -> None:
        if self._restored is not None and self._validation is None:
            self._before_validation = keras_state.capture_rng()

    def _leave_if_told(self) -> None:
        if self._batch is None or not self._inside:  # else at the end of the epoch
            super()._leave_if_told()

    def begin_validation(self) -> None:
        """Restore what the validation data draw, when there is a place to put it."""
        iterator = private.validation_iterator(self.model)
        if iterator is None or (self._validation is not None and self._validation.iterator is iterator):
            return
        self._validation = Feed(iterator)
        self._validation.watch()
        if (stored := self._stored_validation()) is not None:
            if self._before_validation is not None:  # Keras may have drawn: it looks at two batches for their shapes
                keras_state.restore_rng(self._before_validation)
            self._validation.restore(stored)
            iterator.reset()  # as Keras did just before: it tells the data that an epoch ended

    def _stored_validation(self) -> Any:
        return self._restored.state("data")["validation"] if self._restored is not None else None

    def end_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._batch, self._steps = None, self._steps_before + self._done
        if self.model.stop_training:
            self._last = epoch
        self._save_if_due(metrics)
        self._tell({"type": "epoch", "epoch": epoch})
        self._leave_if_told()
        if self._last is not None and epoch >= self._last:
            self.model.stop_training = True

    def end(self) -> None:
        private.set_first_epoch(self.model, None)
        Fit.steps = self._steps
        Fit.latest = None
        self.stack.close()
        for feed in (self._data, self._validation):
            if feed is not None:
                feed.leave()
        self.close()

    def _goes_on(self, frame: FrameType | None) -> bool:
        return private.is_within(frame, self._data.iterator)

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        for future in private.unfinished(self._container):
            future.result()
        return super()._save(metrics, kind=kind)

    def _position(self) -> dict[str, Any] | None:
        return None if self._batch is None else {"batch": self._batch, "start": self._start}

    def _new_snapshot(self) -> Snapshot:
        return Snapshot(framework=self.framework, tensor=keras_state.add_state_array)

    def _capture(self, snapshot: Snapshot) -> None:
        keras_state.add_model(snapshot, self.model)
        state = snapshot.state
        if self._gradients is not None:
            self._gradients.add(snapshot, self._gradients.now(None, "", None))
        state["rng"] = keras_state.capture_rng()
        if self._batch is not None:
            state["metrics"] = keras_state.metrics_of(self.model)
        state["callbacks"] = state_of_callbacks(self._callbacks, self.logs)
        state["logs"] = sorted(self.logs)
        validation = self._validation.capture() if self._validation is not None else self._stored_validation()
        state["data"] = {"training": self._data.capture(), "validation": validation}
        state["fit"] = self.number
        state["stopped"] = bool(self.model.stop_training)
        state["obstacles"] = self._obstacles()
        snapshot.config = _architecture(self.model)
        snapshot.unresumable += state["obstacles"]
        if self.number:
            snapshot.unresumable.append(
                f"it is of call {self.number + 1} of model.fit in the script, and what the calls before made is not in "
                "it. Give each call a run of its own"
            )
        self._warn()

    def _restore(self, restored: Restored) -> None:
        restored.converters["keras"] = keras_state.as_stored
        if restored.batch is None:
            self._data.restore(restored.state("data")["training"])
        else:
            self._data.set_own(restored.state("data")["training"]["own"])
        self._data.build(self.model, metrics=restored.batch is not None)
        keras_state.restore_model(restored, self.model)
        if self._gradients is not None:
            self._gradients.restore(restored, lambda own: own)
        if restored.batch is not None:
            keras_state.set_metrics(self.model, restored.state("metrics"))
        restore_callbacks(self._callbacks, restored.state("callbacks"))
        self.logs = set(restored.state("logs"))
        keras_state.restore_rng(restored.state("rng"))

    def _obstacles(self) -> list[str]:
        """Return why a run cannot go on bit for bit from here."""
        found = [*self._data.obstacles(), *(self._validation.obstacles() if self._validation is not None else ())]
        if self._batch:
            found += [f"in the middle of an epoch: {why}" for why in self._inside]
        if self._uncaptured is None and self._steps > self._steps_before:
            self._uncaptured = keras_state.uncaptured(self.model)
        found += [*(self._uncaptured or []), *self._unbuilt]
        if self._data.draws_unseeded():
            found.append("TensorFlow has no seed, so it draws the order of the data anew")
        replicas = getattr(getattr(self.model, "distribute_strategy", None), "num_replicas_in_sync", 1)
        return [*found, f"the model trains on {replicas} replicas"] if replicas > 1 else found

    def _warn(self) -> None:
        """Say once what will be missing when the run is resumed."""
        told = []
        for name, changes in self._changes:
            if changed := changes.names():
                told.append(
                    f"the callback {name} changes {', '.join(changed)}, which is not saved; give it state_dict() and "
                    "load_state_dict(), or a resumed run has it anew"
                )
        for text in told:
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(f"reprokit: {text}", stacklevel=2)


def _continue_csv(logger: Any, epoch: int) -> None:
    """Have a CSVLogger go on with the file of the run so far, up to the epoch that comes next."""
    logger.append = True
    with contextlib.suppress(FileNotFoundError), Path(logger.filename).open("r+", newline="") as file:
        lines = file.readlines()
        first = [line.split(logger.sep)[0] for line in lines]
        file.seek(0)
        file.writelines(
            line for line, cell in zip(lines, first, strict=True) if not cell.isdigit() or int(cell) < epoch
        )
        file.truncate()


def _architecture(model: Any) -> Any:
    """Return the model's own description, None where its class has none."""
    try:
        described = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        return None
    described.pop("build_config", None)  # by which way it was built, which a resumed run does otherwise
    return described
