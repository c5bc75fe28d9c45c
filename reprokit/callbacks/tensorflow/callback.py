"""Checkpoints from a TensorFlow training loop of one's own, and its resume, bit for bit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

from reprokit.callbacks.tensorflow import random as tensorflow_random
from reprokit.callbacks.tensorflow import state as tensorflow_state
from reprokit.callbacks.tensorflow.data import Reading, fingerprint
from reprokit.callbacks.tensorflow.survey import Survey
from reprokit.client.batches.taken import OVER, STALE, Taken
from reprokit.client.loop import Loop
from reprokit.client.restored import Restored
from reprokit.client.rng import rng_state, same
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint"]

_END = object()


class PackageCheckpoint(Loop):
    """Saves variables, optimiser, dataset and random state as a package version, and resumes from one.

        ckpt = PackageCheckpoint(model=model, optimizer=optimizer, dataset=train)
        for epoch in ckpt.epochs(params["epochs"]):
            for x, y in ckpt.batches(train):
                ...
            ckpt.save(val_loss=loss)

    Where a run is resumed, `epochs` restores everything when it is entered, and builds optimisers. A step is a batch of
    `ckpt.batches`; in loops that do not use it, a step of the Keras optimiser.

    Args:
        model: One tf.Module, Keras model, metric, or anything else that TensorFlow tracks; or several by name. All
            variables below are saved under the path that leads to them.
        optimizer: Of Keras, or a tf.Module of your own; several in a list, or by name.
        dataset: The datasets that are read with `ckpt.batches`; several in a list, or by name. Those that shuffle must
            be given.
        generators: Random generators of your own by name: tf.random.Generator, keras.random.SeedGenerator,
            numpy.random.Generator, random.Random.
        stateful: Anything else with `state_dict` and `load_state_dict`, by name.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too, so that a divergence can be told from a different start.
    """

    framework = "tensorflow"

    def __init__(
        self,
        *,
        model: Any,
        optimizer: Any = None,
        dataset: Any = None,
        generators: dict[str, Any] | None = None,
        stateful: dict[str, Any] | None = None,
        package: str | None = None,
        initial: bool = True,
    ) -> None:
        super().__init__(package=package, initial=initial)
        self.models = _named(model)
        self.optimizers = _named(optimizer)
        self.datasets = {name: Reading(name, one) for name, one in _named(dataset).items()}
        self._generators = dict(generators or {})
        self._stateful = dict(stateful or {})
        self._steps_are_batches = False  # counted here: a save in the body of the loop has its own batch counted
        self._taken: Callable[[], Taken | None] = lambda: None  # what the script has of this epoch's batches
        self._begun: list[str] = []  # datasets that this epoch began to read
        self._reading = False
        self._uses_batches = False
        self._last_batch: Any = None
        self._hidden: list[str] = []  # why nobody can come back to the middle of this epoch

    def batches(self, dataset: Any) -> Taken:
        """Return an iterator over a dataset; between its batches the recipe's policy may save, and a resumed run starts
        there.

        Take them in a `for` loop; `enumerate` around it counts on in a resumed run. Where they are taken by `next(…)`,
        runs can be resumed from the ends of epochs alone, and checkpoints inside them say so.
        Where an epoch reads several datasets, one after the other, saves are made between the batches of the first.

        Raises:
            RuntimeError: The dataset does not give the batches that it gave before; or it shuffles, and was not given
                to PackageCheckpoint; or batches follow upon the save at an epoch's end.
        """
        taken = Taken(self._batches_of(dataset))
        self._taken = weakref.ref(taken)
        return taken

    def _batches_of(self, dataset: Any) -> Generator[Any, None, None]:
        self._check_epoch()
        if self._reading:
            raise RuntimeError("reprokit: two ckpt.batches at once; zip the datasets: tf.data.Dataset.zip(a, b)")
        reading, first = self._reading_of(dataset), not self._begun
        self._begun.append(reading.name)
        self._reading = self._uses_batches = True
        done, whole, batches = 0, False, iter(dataset)
        try:
            if self._restored is not None and self._resume_batch is not None:
                done = self._come_back(self._restored, reading, batches)
                if (taken := self._taken()) is not None:
                    taken.skipped = done
            before = rng_state()
            batch = next(batches, _END)
            self._hidden = _hidden(reading, before)
            while batch is not _END:
                done += 1
                if first:
                    self._batch, self._last_batch = done, batch
                    self._steps += 1
                    self._report(done, lambda: dataset.cardinality())
                yield batch
                due = first and self._is_due()
                batch = next(batches, _END)
                if due:
                    self._between_batches(last=batch is _END)
            whole = True
        finally:
            if done:
                reading.was_read(whole=whole)
            self._batch = self._last_batch = None
            self._reading = False

    def save(self, *, state: dict[str, Any] | None = None, **metrics: Any) -> Saving | None:
        if (taken := self._taken()) is not None and self._epoch is not None and not taken.is_inside():
            taken.close(OVER)
        if self._reading and self._batch is None:
            raise RuntimeError("reprokit: ckpt.save between the batches of an epoch's second dataset; save after them")
        return super().save(state=state, **metrics)

    def _reading_of(self, dataset: Any) -> Reading:
        for reading in self.datasets.values():
            if reading.dataset is dataset:
                return reading
        reading = Reading("dataset", dataset)
        if reading.state():
            raise RuntimeError(
                "reprokit: this dataset shuffles anew at each reading, and where it is in that is part of the state: "
                "PackageCheckpoint(…, dataset=train)"
            )
        return reading

    def _come_back(self, restored: Restored, reading: Reading, batches: Iterator[Any]) -> int:
        """Read the batches again that were done; return how many."""
        position = restored.state("position")
        done, self._resume_batch = int(position["batch"]), None
        if position["dataset"] != reading.name:
            raise RuntimeError(
                f"reprokit: this run goes on from batch {done} of dataset {position['dataset']!r}, but its loop begins "
                f"with dataset {reading.name!r}"
            )
        last = None
        for number in range(done):
            last = next(batches, _END)
            if last is _END:
                raise RuntimeError(f"reprokit: dataset {reading.name!r} has {number} batches, the run was at {done}")
        if fingerprint(last) != position["last"]:
            raise RuntimeError(
                f"reprokit: batch {done} of dataset {reading.name!r} is not what it was before the run was resumed. "
                "Something in the dataset depends on more than its seeds; resume from the end of an epoch"
            )
        self._restore(restored)  # once more: what the epoch's body did before its batches has been done already
        self.state.clear()
        self.state.update(self._user_of(restored.state("user", {})))
        return done

    def _is_due(self) -> bool:
        due = self._policy.due_after_batch(self._epoch, self._batch, self._steps)
        return due or self._signal is not None

    def _before_epoch(self) -> None:
        if (taken := self._taken()) is not None:
            taken.close(STALE)
        self._begun = []

    def _leave_if_told(self) -> None:
        if self._batch is None or self._obstacle() is None:  # else at the end of the epoch
            super()._leave_if_told()

    def _obstacle(self) -> str | None:
        taken = self._taken() if self._batch is not None else None
        return None if taken is None else taken.obstacle()

    def _position(self) -> dict[str, Any] | None:
        if self._batch is None:
            return None
        return {"batch": self._batch, "dataset": self._begun[0], "last": fingerprint(self._last_batch)}

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        if not self._uses_batches:
            done = tensorflow_state.iterations(self.optimizers)
            self._steps = self._steps_before + done if done else self._steps
        return super()._save(metrics, kind=kind)

    def _capture(self, snapshot: Snapshot) -> None:
        survey = self._survey()
        tensorflow_state.add_model(snapshot, survey)
        tensorflow_state.add_optimizers(snapshot, self.optimizers, survey.names())
        snapshot.state["parts"] = {name: one.state_dict() for name, one in self._stateful.items()}
        snapshot.state["rng"] = tensorflow_random.capture_rng(self._generators)
        snapshot.state["datasets"] = {name: reading.state() for name, reading in self.datasets.items()}
        self._refuse(snapshot.state, self._refused())

    def _restore(self, restored: Restored) -> None:
        self._check_resumable(restored)
        restored.converters["tensorflow"] = tensorflow_state.as_tensor
        survey = self._survey()
        tensorflow_state.restore_model(restored, survey)
        tensorflow_state.restore_optimizers(restored, self.optimizers, survey)
        parts, datasets = restored.state("parts", {}), restored.state("datasets", {})
        if parts.keys() != self._stateful.keys() or datasets.keys() != self.datasets.keys():
            raise RuntimeError(
                f"reprokit: the checkpoint has the parts {[*parts]} and the datasets {[*datasets]}, here are "
                f"{[*self._stateful]} and {[*self.datasets]}"
            )
        for name, one in self._stateful.items():
            one.load_state_dict(parts[name])
        for name, reading in self.datasets.items():
            reading.restore(datasets[name])
        tensorflow_random.restore_rng(restored.state("rng"), self._generators)

    def _survey(self) -> Survey:
        return Survey(self.models, without=self.optimizers.values())

    def _new_snapshot(self) -> Snapshot:
        return Snapshot(framework=self.framework, tensor=tensorflow_state.add_state_tensor)

    def _refused(self) -> list[str]:
        """Return why a run could not go on from here with the same bits."""
        if self._epoch is None:
            return []
        for name, reading in self.datasets.items():
            if self._batch is None and reading.state() and name not in self._begun:
                reading.refuse("it shuffles anew at each reading, and was not read with ckpt.batches")
        found = [f"dataset {one.name!r}: {why}" for one in self.datasets.values() for why in one.refused]
        found += [
            f"the tf.function {name} draws random numbers whose state nobody can read; draw from a tf.random.Generator"
            for name in tensorflow_random.functions_that_draw()
        ]
        found += self._hidden if self._batch is not None else []
        return found if (inside := self._obstacle()) is None else [*found, f"inside an epoch, {inside}"]


def _hidden(reading: Reading, before: dict[str, Any]) -> list[str]:
    """Return why nobody can come back to the middle of a reading; `before` is the state before its first element."""
    after = rng_state()
    drew = [
        name
        for name, key in (("Python", "python"), ("NumPy", "numpy"))
        if key in before and not same(before[key], after[key])
    ]
    name = f"dataset {reading.name!r}"
    found = [f"{name} draws from {one}'s global generator while TensorFlow reads ahead" for one in drew]
    found += [f"{name} changes a variable ({one}) while TensorFlow reads ahead" for one in reading.runs_ahead]
    return [f"{why}; resume from the end of an epoch" for why in found]


def _named(value: Any) -> dict[str, Any]:
    """Return one object as {"0": object}, several by name as they are, none as {}."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return dict(value)
    return {str(i): item for i, item in enumerate(value)} if isinstance(value, (list, tuple)) else {"0": value}
