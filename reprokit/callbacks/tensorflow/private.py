"""Every private part of TensorFlow that callbacks use: what is read or set, and why there is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with TensorFlow 2.21, Keras 3.15.
Of Keras, what a loop of one's own needs is here too: `callbacks.keras` imports Keras, which draws random numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import stateful_random_ops
from tensorflow.python.trackable import base

__all__ = [
    "TRAINED",
    "USED",
    "functions",
    "global_generator",
    "global_seed",
    "graphs_of",
    "has_other_state",
    "inputs_of",
    "is_trackable",
    "keras_seeds",
    "operation",
    "operation_seeds",
    "reshuffles",
    "seeds_of",
    "set_global_seed",
    "set_operation_seeds",
    "traced",
    "trained_by",
]

_CONTEXT = "tensorflow.python.eager.context"
_DATASET = "tensorflow.python.data.ops.dataset_ops.DatasetV2"
_SHUFFLE = "tensorflow.python.data.ops.shuffle_op._ShuffleDataset"
_RANDOM = "tensorflow.python.data.ops.random_op._RandomDataset"

USED: tuple[tuple[str, str], ...] = (
    (f"{_CONTEXT}.context", "the process's eager context"),
    (f"{_CONTEXT}.global_seed", "the seed of tf.random.set_seed"),
    (f"{_CONTEXT}.Context._set_global_seed", "sets that seed"),
    (f"{_CONTEXT}.Context._rng", "where eager random operations get their seeds from"),
    (f"{_CONTEXT}.Context.list_function_names", "every tf.function that was traced"),
    (f"{_CONTEXT}.Context.get_function_def", "the operations of a traced function"),
    ("tensorflow.python.framework.op_def_registry.get", "which operations have a state"),
    ("tensorflow.python.ops.stateful_random_ops.global_generator", "the global generator, if there is one"),
    ("tensorflow.python.trackable.base.Trackable._serialize_to_tensors", "what is stored, but not as variables"),
    (f"{_DATASET}._inputs", "the parts that a pipeline is made of"),
    (f"{_DATASET}._functions", "the functions of a pipeline"),
    (f"{_SHUFFLE}._seed", "the seed of a shuffle"),
    (f"{_SHUFFLE}._seed2", "the seed of a shuffle"),
    (f"{_SHUFFLE}._reshuffle_each_iteration", "whether a shuffle draws anew at each reading"),
    (f"{_RANDOM}._seed", "the seed of random elements"),
    (f"{_RANDOM}._seed2", "the seed of random elements"),
    (f"{_RANDOM}._rerandomize", "whether they are drawn anew at each reading"),
    (
        "tensorflow.python.eager.polymorphic_function.polymorphic_function.Function._list_all_concrete_functions",
        "what a compiled train step consists of",
    ),
    ("keras.src.backend.common.global_state.get_global_attribute", "Keras's global seed generator, if there is one"),
    ("keras.src.optimizers.base_optimizer.BaseOptimizer._trainable_variables", "what a Keras optimiser trains"),
)

TRAINED = "_trainable_variables"
"""The attribute of a Keras optimiser that holds what it trains, among the slots for it."""


def operation_seeds() -> Any:
    """Return the state of the generator that seeds eager random operations, None if nothing has drawn from it yet.

    `tf.random` can set its seed, and cannot say how far it is.
    """
    drawing = getattr(context.context(), "_rng", None)
    return None if drawing is None else drawing.getstate()


def set_operation_seeds(state: Any) -> None:
    """Put back what `operation_seeds` returned."""
    context.context()._rng.setstate(state)


def global_seed() -> int | None:
    """Return the seed that `tf.random.set_seed` was given; nothing public says it."""
    seed: int | None = context.global_seed()
    return seed


def set_global_seed(seed: int | None) -> None:
    """Set that seed, also to none, which `tf.random.set_seed` refuses."""
    context.context()._set_global_seed(seed)


def global_generator() -> Any:
    """Return the global generator, None if nothing has asked for one; `tf.random.get_global_generator` makes one."""
    return stateful_random_ops.global_generator


def functions() -> Iterator[tuple[str, Any]]:
    """Yield every traced function of the process: its name, and a call that returns its definition."""
    eager = context.context()
    for name in eager.list_function_names():
        yield name, lambda name=name: eager.get_function_def(name)


def operation(name: str) -> Any:
    """Return the definition of an operation: its attributes, and whether it has a state; None if it is not known."""
    return op_def_registry.get(name)


def traced(function: Any) -> list[Any]:
    """Return the concrete functions of a tf.function, [] for anything else; they are public one by one alone."""
    listed = getattr(function, "_list_all_concrete_functions", None)
    return list(listed()) if listed is not None else []


def inputs_of(dataset: Any) -> list[Any]:
    """Return the pipelines that a tf.data pipeline reads; it is made of them and says so to nobody."""
    return list(dataset._inputs())


def graphs_of(dataset: Any) -> Iterator[Any]:
    """Yield the graphs of the functions that a part of a tf.data pipeline calls."""
    for function in dataset._functions():
        graph = getattr(function.function, "graph", None)
        if graph is not None:
            yield graph


def seeds_of(dataset: Any) -> tuple[int, int] | None:
    """Return the two seeds of a part that draws, None for one that does not; both 0 stand for none given."""
    return (int(dataset._seed), int(dataset._seed2)) if hasattr(dataset, "_seed") else None


def reshuffles(dataset: Any, *, shuffle: bool) -> bool:
    """Return whether a part that draws does so anew at each reading.

    Args:
        shuffle: It is a shuffle, and not a source of random numbers.
    """
    return bool(dataset._reshuffle_each_iteration if shuffle else dataset._rerandomize)


def is_trackable(thing: Any) -> bool:
    """True for what TensorFlow tracks the parts of; only its subclasses are public."""
    return isinstance(thing, base.Trackable)


def has_other_state(thing: Any) -> bool:
    """True for what TensorFlow would store of its own accord, but not as variables: tables, iterators."""
    saves = getattr(type(thing), "_serialize_to_tensors", None)
    return saves is not None and saves is not base.Trackable._serialize_to_tensors


def trained_by(optimizer: Any) -> list[Any]:
    """Return the variables that a Keras optimiser was built for, in order; `variables` has all of its slots."""
    return list(getattr(optimizer, TRAINED))


def keras_seeds() -> Any:
    """Return Keras's global seed generator, None if there is none, or no Keras; there is no public home for it."""
    module = sys.modules.get("keras.src.backend.common.global_state")
    return None if module is None else module.get_global_attribute("global_seed_generator")
