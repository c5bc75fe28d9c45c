"""Every private part of Keras that its callback uses: what is read or replaced, and why there is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with Keras 3.15.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

__all__ = [
    "CALLBACK_STATE",
    "KINDS",
    "NO_STATE",
    "USED",
    "build_by_shapes",
    "caller",
    "data_loader",
    "epoch_iterator",
    "first_epoch",
    "follow",
    "global_seeds",
    "has_own_train_step",
    "is_within",
    "known_batches",
    "layers_of",
    "leave",
    "made_global_seeds",
    "no_global_seeds",
    "open_iterator",
    "reopen",
    "replace_dataset",
    "set_first_epoch",
    "set_known_batches",
    "set_steps_seen",
    "shuffles",
    "spec_of_batches",
    "steps_of_epoch",
    "steps_seen",
    "tf_dataset",
    "trained_by",
    "unfinished",
    "validation_iterator",
]

_TRAINER = "keras.src.trainers.trainer.Trainer"
_ITERATOR = "keras.src.trainers.epoch_iterator.EpochIterator"
_ADAPTERS = "keras.src.trainers.data_adapters"
_CALLBACKS = "keras.src.callbacks"

USED: tuple[tuple[str, str], ...] = (
    (f"{_TRAINER}._initial_epoch", "the epoch that a resumed fit begins with"),
    (f"{_TRAINER}._symbolic_build", "makes the variables that Keras makes with the first batch"),
    ("keras.src.layers.layer.Layer._flatten_layers", "every layer inside a model"),
    ("keras.src.optimizers.base_optimizer.BaseOptimizer._trainable_variables", "what an optimiser was built for"),
    ("keras.src.backend.tensorflow.trainer.TensorFlowTrainer.fit:epoch_iterator", "the data of a fit, on TensorFlow"),
    ("keras.src.backend.torch.trainer.TorchTrainer.fit:epoch_iterator", "the data of a fit, on torch"),
    ("keras.src.backend.tensorflow.trainer.TensorFlowTrainer._eval_epoch_iterator", "the data of a validation"),
    ("keras.src.backend.torch.trainer.TorchTrainer._eval_epoch_iterator", "the data of a validation"),
    ("keras.src.backend.tensorflow.trainer.TFEpochIterator._distributed_dataset", "the tf.data pipeline that is read"),
    (f"{_ITERATOR}._enumerate_iterator", "replaced: what is between two batches"),
    (f"{_ITERATOR}._num_batches", "how many batches an epoch had"),
    (f"{_ITERATOR}._steps_seen", "how many batches were taken under steps_per_epoch"),
    (f"{_ITERATOR}._current_iterator", "the iterator that stays open under steps_per_epoch"),
    (f"{_ITERATOR}._get_iterator", "opens the data"),
    (f"{_ITERATOR}.data_adapter", "what kind of data these are"),
    (f"{_ITERATOR}.num_batches", "batches in an epoch"),
    (f"{_ITERATOR}.steps_per_epoch", "whether the data stay open from epoch to epoch"),
    (f"{_ITERATOR}.steps_per_execution", "batches that are trained at once"),
    (f"{_ITERATOR}.reset", "tells the data that an epoch ended"),
    (f"{_ADAPTERS}.array_data_adapter.ArrayDataAdapter._shuffle", "whether arrays are shuffled"),
    (f"{_ADAPTERS}.py_dataset_adapter.PyDatasetAdapter.py_dataset", "the PyDataset that is read"),
    (f"{_ADAPTERS}.py_dataset_adapter.PyDatasetAdapter.enqueuer", "the workers that read it ahead"),
    ("keras.src.trainers.data_adapters.py_dataset_adapter.PyDatasetEnqueuer.ready_queue", "emptied: batches left over"),
    (f"{_ADAPTERS}.tf_dataset_adapter.TFDatasetAdapter._dataset", "replaced: the pipeline that is read on torch"),
    (f"{_ADAPTERS}.torch_data_loader_adapter.TorchDataLoaderAdapter._dataloader", "the DataLoader that is read"),
    (f"{_CALLBACKS}.callback_list.CallbackList._futures", "what callbacks have left to a thread"),
    (f"{_CALLBACKS}.callback_list.CallbackList.callbacks", "replaced: ours come first and last"),
    (f"{_CALLBACKS}.model_checkpoint.ModelCheckpoint._batches_seen_since_last_saving", "what it remembers"),
    (f"{_CALLBACKS}.model_checkpoint.ModelCheckpoint._current_epoch", "what it remembers"),
    (f"{_CALLBACKS}.model_checkpoint.ModelCheckpoint._last_batch_seen", "what it remembers"),
    (f"{_CALLBACKS}.swap_ema_weights.SwapEMAWeights._ema_weights_in_model", "what it remembers"),
    (f"{_CALLBACKS}.tensorboard.TensorBoard._global_train_batch", "what it remembers"),
    (f"{_CALLBACKS}.tensorboard.TensorBoard._global_test_batch", "what it remembers"),
    (f"{_CALLBACKS}.callback.Callback._model", "left out where changes of a callback are looked for"),
    ("keras.src.backend.common.global_state.get_global_attribute", "the global seed generator, if there is one"),
    ("keras.src.backend.common.global_state.set_global_attribute", "takes the global seed generator away"),
    ("keras.src.random.seed_generator.GLOBAL_SEED_GENERATOR", "the global seed generator's name"),
    ("keras.src.random.seed_generator.global_seed_generator", "the global seed generator, made if need be"),
)  # fmt: skip

KINDS = {
    "ArrayDataAdapter": "arrays",
    "PyDatasetAdapter": "PyDataset",
    "TFDatasetAdapter": "tf.data",
    "TorchDataLoaderAdapter": "DataLoader",
}
"""What the classes around a fit's data stand for; an iterator says it by nothing but its adapter's class."""

CALLBACK_STATE: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_current_epoch", "_last_batch_seen"),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_test_batch", "_global_train_batch"),
}
"""What Keras's own callbacks remember between epochs; none of them says so itself."""

NO_STATE = ("_model", "params", "monitor_op", "min_delta", "csv_file", "writer", "keys", "append", "append_header")
"""What Keras itself sets in callbacks, or they make anew with each `fit`."""


def caller(name: str, kind: type) -> Any:
    """Return a local variable of a calling function: Keras gives callbacks neither their list nor the data."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get(name)
        if found is not None and isinstance(found, kind):
            return found
        frame = frame.f_back
    return None


def epoch_iterator() -> Any:
    """Return the `EpochIterator` of the `fit` that calls, None if there is none that can be followed."""
    found = caller("epoch_iterator", object)
    return found if hasattr(found, "_enumerate_iterator") else None


def is_within(frame: FrameType | None, iterator: Any) -> bool:
    """True if a frame, or one that called it, is the `fit` that reads these data."""
    while frame is not None:
        if frame.f_locals.get("epoch_iterator") is iterator:
            return True
        frame = frame.f_back
    return False


def validation_iterator(model: Any) -> Any:
    """Return the `EpochIterator` of the validation data, None before there is one; no callback is given it."""
    return getattr(model, "_eval_epoch_iterator", None)


def first_epoch(model: Any) -> int:
    """Return the epoch that `fit` begins with."""
    return int(model._initial_epoch or 0)


def set_first_epoch(model: Any, epoch: int | None) -> None:
    """Have `fit` begin with an epoch, as Keras's BackupAndRestore does; its argument was read long before."""
    model._initial_epoch = epoch


def layers_of(model: Any) -> list[Any]:
    """Return every layer inside a model; `model.layers` has those of the first level alone."""
    return list(model._flatten_layers())


def has_own_train_step(model: Any) -> bool:
    """True if a model's class says itself how a batch is trained."""
    return str(type(model).train_step.__module__).partition(".")[0] != "keras"


def trained_by(optimizer: Any) -> list[Any]:
    """Return the variables that an optimiser was built for."""
    return list(optimizer._trainable_variables)


def build_by_shapes(model: Any, batch: Any) -> None:
    """Make the variables that Keras makes with the first batch, from shapes and dtypes; `build` makes no metrics."""
    model._symbolic_build(data_batch=batch)


def spec_of_batches(iterator: Any) -> Any:
    """Return shapes and dtypes of a batch, on TensorFlow."""
    return iterator._distributed_dataset.element_spec


def known_batches(iterator: Any) -> int | None:
    """Return how many batches an epoch had; unlike `num_batches`, not what `steps_per_epoch` says."""
    found: int | None = iterator._num_batches
    return found


def set_known_batches(iterator: Any, batches: int | None) -> None:
    """Say how many batches an epoch had: Keras finds it out in the first epoch, which a resumed fit leaves out."""
    iterator._num_batches = batches


def open_iterator(iterator: Any) -> Any:
    """Return the iterator that is open, None if none is; under `steps_per_epoch` it outlives an epoch."""
    return iterator._current_iterator


def reopen(iterator: Any) -> Any:
    """Open the data anew, and return their iterator."""
    iterator._current_iterator = iter(iterator._get_iterator())
    return iterator._current_iterator


def steps_seen(iterator: Any) -> Any:
    """Return how many batches were taken from the open iterator; Keras counts them nowhere else."""
    return iterator._steps_seen


def set_steps_seen(iterator: Any, steps: Any) -> None:
    """Put back what `steps_seen` returned."""
    iterator._steps_seen = steps


def steps_of_epoch(iterator: Any) -> Iterator[Any]:
    """Return an epoch's steps as Keras itself goes through them, whatever `follow` has put in their place."""
    steps: Iterator[Any] = type(iterator)._enumerate_iterator(iterator)
    return steps


def follow(iterator: Any, enumerate_epoch: Callable[[], Iterator[Any]]) -> None:
    """Have an epoch's steps go through a generator of ours: a callback is called before its batch is quite over."""
    iterator._enumerate_iterator = enumerate_epoch


def leave(iterator: Any) -> None:
    """Undo `follow`."""
    vars(iterator).pop("_enumerate_iterator", None)


def tf_dataset(adapter: Any) -> Any:
    """Return the tf.data pipeline that `fit` was given."""
    return adapter._dataset


def replace_dataset(iterator: Any, pipeline: Any, *, tensorflow: bool) -> None:
    """Have `fit` read another tf.data pipeline; it has taken the one that it was given before any callback is called.

    Args:
        tensorflow: The backend is TensorFlow, which reads what it has distributed.
    """
    if tensorflow:
        iterator._distributed_dataset = pipeline
    else:
        iterator.data_adapter._dataset = pipeline


def data_loader(adapter: Any) -> Any:
    """Return the DataLoader that `fit` was given."""
    return adapter._dataloader


def shuffles(adapter: Any) -> Any:
    """Return whether arrays are shuffled: the `shuffle` that `fit` was given."""
    return getattr(adapter, "_shuffle", False)


def unfinished(container: Any) -> list[Any]:
    """Return the futures of what callbacks do with a batch, which Keras may have left to a thread."""
    return list(container._futures)


def global_seeds() -> Any:
    """Return the generator that layers and initialisers without a seed draw from, None if nothing has drawn yet."""
    return global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)


def made_global_seeds() -> Any:
    """Return the same, made if need be: that draws a number from Python's generator."""
    return seed_generator.global_seed_generator()


def no_global_seeds() -> None:
    """Take the generator away, as it is in a process where nothing has drawn yet."""
    global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, None)
