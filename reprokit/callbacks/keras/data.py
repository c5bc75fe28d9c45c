"""The batches that `fit` trains and validates on: how far they are, and the way back to there.

Keras keeps them in an `EpochIterator`, made once per `fit`. Some of it outlives an epoch: a shuffled tf.data pipeline
draws anew whenever it is opened, a dataset counts its epochs, an iterator stays open under `steps_per_epoch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from reprokit.callbacks.keras import private
from reprokit.callbacks.keras import state as keras_state
from reprokit.callbacks.keras.objects import Changes, dataset_state, restore_dataset
from reprokit.callbacks.keras.pipeline import Pipeline

if keras_state.BACKEND == "torch":
    from reprokit.callbacks.pytorch import state as torch_state

__all__ = ["Batches", "Feed"]


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Arrays in batches, in an order that depends on seed and epoch alone.

        model.fit(Batches(x, y, batch_size=64), epochs=n, callbacks=[PackageCheckpoint()])

    Args:
        x, y, sample_weight: Arrays, or lists and mappings of arrays, of one length.
        shuffle: Draw another order for each epoch; false leaves them as they are.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = (x,) if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
        self._arrays = keras.tree.map_structure(np.asarray, given)
        lengths = {len(array) for array in keras.tree.flatten(self._arrays)}
        if len(lengths) != 1:
            raise ValueError(f"reprokit: the arrays of Batches have different lengths: {sorted(lengths)}")
        self._length = lengths.pop()
        self._order: tuple[int, Any] = (-1, None)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self._length // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        """Return batch `index` of this epoch."""
        chosen: Any = slice(index * self.batch_size, (index + 1) * self.batch_size)
        if self.shuffle:
            epoch, order = self._order
            if epoch != self.epoch:
                epoch, order = self.epoch, np.random.default_rng((self.seed, self.epoch)).permutation(self._length)
                self._order = (epoch, order)
            chosen = order[chosen]
        return keras.tree.map_structure(lambda array: array[chosen], self._arrays)

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self.epoch += 1

    def state_dict(self) -> dict[str, int]:
        """Return all that is not given to the constructor."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put back what `state_dict` returned."""
        self.epoch = state["epoch"]


class Feed:
    """The batches of one `fit`, or of its validation.

    Args:
        iterator: Keras's own `EpochIterator`.
        epoch: Asked for the epoch that begins.
    """

    def __init__(self, iterator: Any, *, epoch: Callable[[], int] | None = None) -> None:
        self.iterator = iterator
        self.adapter = iterator.data_adapter
        self.kind = private.KINDS.get(type(self.adapter).__name__)
        self._epoch = epoch
        self._pipeline: Pipeline | None = None
        self._dataset = self._loader = None
        if self.kind == "PyDataset":
            self._dataset = self.adapter.py_dataset
            if self.adapter.enqueuer is not None:
                # Keras leaves batches there that it drew to build the model: each epoch would end with them, and begin
                # with the last ones of the epoch before; how many depends on how fast the workers were
                _empty(self.adapter.enqueuer.ready_queue)
        if self.kind == "tf.data":
            tensorflow = keras_state.BACKEND == "tensorflow"
            self._pipeline = Pipeline(private.tf_dataset(self.adapter), counts=not tensorflow)
            private.replace_dataset(iterator, self._pipeline, tensorflow=tensorflow)
        if self.kind == "DataLoader":
            self._loader = private.data_loader(self.adapter)
        self._changes = Changes(self._dataset) if self._dataset is not None else None

    @property
    def count(self) -> int | None:
        """Batches in an epoch, None while it is unknown."""
        found: int | None = self.iterator.num_batches
        return found

    def obstacles(self) -> list[str]:
        """Return why a run could not go on bit for bit at the end of an epoch."""
        found = []
        if self.kind is None:
            found.append(f"{type(self.adapter).__name__.removesuffix('DataAdapter')} has no place to come back to")
        if self.iterator.steps_per_epoch and self.kind != "tf.data" and self._epoch is not None:
            found.append(f"steps_per_epoch leaves {self.kind or 'data'} open from epoch to epoch")
        if self._loader is not None and keras_state.BACKEND != "torch":
            found.append(f"a DataLoader is read on the backend {keras_state.BACKEND}, and not on torch")
        if getattr(self._loader, "persistent_workers", False):
            found.append("a DataLoader with persistent_workers=True keeps what its workers drew")
        if self._changes is not None and (changed := self._changes.names()):
            name = type(self._dataset).__name__
            found.append(f"{name} changes {', '.join(changed)}, and has no state_dict() and load_state_dict()")
        return found

    def obstacles_inside(self) -> list[str]:
        """Return why a run could not go on bit for bit in the middle of an epoch."""
        tensorflow = keras_state.BACKEND == "tensorflow"
        found = []
        if self.iterator.steps_per_epoch:
            found.append("steps_per_epoch is given")
        elif self.count is None:
            found.append("the number of batches is not known")
        ahead = self._dataset is not None and (tensorflow or self.adapter.enqueuer is not None)
        if ahead and not isinstance(self._dataset, Batches):
            found.append(f"{type(self._dataset).__name__} is read ahead, which only reprokit's Batches may be")
        if self._pipeline is not None and self._pipeline.variables:
            found.append("the tf.data pipeline draws from seed generators ahead of the training")
        return found

    def draws_unseeded(self) -> bool:
        """True if TensorFlow shuffles and nobody gave it a seed."""
        draws = self._pipeline.draws if self._pipeline is not None else private.shuffles(self.adapter)
        return keras_state.BACKEND == "tensorflow" and bool(draws) and not keras_state.is_seeded()

    def capture(self) -> dict[str, Any]:
        """Return where the data are."""
        state: dict[str, Any] = {"kind": self.kind, "batches": private.known_batches(self.iterator), "own": self.own()}
        if self._pipeline is not None:
            state["taken"] = list(self._pipeline.taken)
            state["open"] = private.steps_seen(self.iterator) if self._stays_open() else None
            state["variables"] = [one.numpy() for one in self._pipeline.variables]
        return state

    def own(self) -> Any:
        """Return what the data draw from and count by themselves."""
        if self._dataset is not None:
            return dataset_state(self._dataset)
        if self._loader is not None and keras_state.BACKEND == "torch":
            generators = torch_state.generators_of({"0": self._loader}, {})
            return {name: torch_state.state_of_generator(one) for name, one in generators.items()}
        return None

    def set_own(self, state: Any) -> None:
        """Put back what `own` returned."""
        if self._dataset is not None:
            restore_dataset(self._dataset, state)
        elif self._loader is not None and keras_state.BACKEND == "torch":
            for name, one in torch_state.generators_of({"0": self._loader}, {}).items():
                torch_state.set_state_of_generator(one, state[name])

    def restore(self, state: dict[str, Any], *, inside: bool = False) -> None:
        """Bring the data to where `capture` found them.

        Args:
            inside: In the middle of an epoch, to whose batches `enumerate_from` comes back.
        Raises:
            RuntimeError: These are other data.
        """
        if state["kind"] != self.kind:
            raise RuntimeError(f"reprokit: this fit has {self.kind} as data, that of the checkpoint {state['kind']}")
        private.set_known_batches(self.iterator, state["batches"])
        self.set_own(state["own"])
        if self._pipeline is not None:
            stays = state["open"] is not None
            self._pipeline.replay(state["taken"][:-1] if stays or inside else state["taken"])
            if stays:
                elements = private.reopen(self.iterator)
                for _ in range(state["taken"][-1]):
                    next(elements, None)
                self._pipeline.taken = list(state["taken"])
                private.set_steps_seen(self.iterator, state["open"])
            for one, value in zip(self._pipeline.variables, state["variables"], strict=True):
                one.assign(value)

    def build(self, model: Any, *, metrics: bool) -> None:
        """Make the variables of a model, and of its metrics, that TensorFlow would make with the first batch.

        A model that is never called itself has none of its own.
        """
        if keras_state.has_no_call(model):
            return
        unbuilt = metrics or not all(layer.built for layer in private.layers_of(model))
        if keras_state.BACKEND == "tensorflow" and unbuilt:
            given = private.spec_of_batches(self.iterator)
            batch = keras.tree.map_structure(lambda one: keras.KerasTensor(one.shape, one.dtype.name), given)
            private.build_by_shapes(model, batch)

    def _stays_open(self) -> bool:
        return bool(self.iterator.steps_per_epoch) and private.open_iterator(self.iterator) is not None

    def watch(
        self,
        *,
        begin: Callable[[], int] = lambda: 0,
        arrived: Callable[[], None] = lambda: None,
        done: Callable[[int], None] = lambda _: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Be told of an epoch's batches.

        Args:
            begin: Called before the first one; returns how many of them to leave out.
            arrived: Called when they were left out, if there were any.
            done: Called between two batches with how many are done.
            ended: Called at the end of an epoch, unless it came unexpected.
        """

        def enumerate_epoch() -> Iterator[Any]:
            if isinstance(self._dataset, Batches) and self._epoch is not None:
                self._dataset.epoch = self._epoch()
            skip, width = begin(), self.iterator.steps_per_execution
            steps = private.steps_of_epoch(self.iterator)
            number = 0
            while number < skip:
                number += self._leave_out(steps, width, skip)
            if skip:
                arrived()
            for item in steps:
                number += width
                self._note(width)
                yield item
                if self.count is None or number < self.count:
                    done(number)
            ended()

        private.follow(self.iterator, enumerate_epoch)

    def leave(self) -> None:
        """Be told no more."""
        private.leave(self.iterator)

    def _leave_out(self, steps: Iterator[Any], width: int, skip: int) -> int:
        item = next(steps, None)
        self._note(width)
        if item is None or any(next(item[-1], None) is None for _ in range(width)):
            raise RuntimeError(f"reprokit: the run was at batch {skip} of its epoch, which has fewer here")
        return width

    def _note(self, width: int) -> None:
        if self._pipeline is not None and not self._pipeline.counts:
            self._pipeline.taken[-1] += width


def _empty(queue: Any) -> None:
    while not queue.empty():
        queue.get_nowait()
