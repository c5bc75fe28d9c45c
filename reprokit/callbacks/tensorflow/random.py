"""TensorFlow's and Keras's random generators: their states as values, and back; those that nobody can read, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from reprokit.callbacks.tensorflow import private
from reprokit.callbacks.tensorflow.survey import raw
from reprokit.client.rng import generator_state, rng_state, set_generator_state, set_rng_state

__all__ = ["capture_rng", "functions_that_draw", "restore_rng"]

_SEEN: dict[str, tuple[set[str], set[str]]] = {}  # function → its operations that draw numbers, functions it calls


def capture_rng(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, TensorFlow and Keras, and of those that the user holds."""
    chosen = private.global_generator()
    own = {
        "seed": private.global_seed(),
        "operations": private.operation_seeds(),
        "global": None if chosen is None else {"state": np.asarray(chosen.state), "algorithm": int(chosen.algorithm)},
    }
    keras = private.keras_seeds()
    return {
        **rng_state(),
        "tensorflow": own,
        "keras": None if keras is None else np.asarray(raw(keras.state)),
        "held": {name: _state_of(one) for name, one in held.items()},
    }


def restore_rng(state: dict[str, Any], held: Mapping[str, Any]) -> None:
    """Put the generators back to where `capture_rng` found them.

    Raises:
        RuntimeError: Other generators are held here than in the checkpoint.
    """
    if state["held"].keys() != held.keys():
        raise RuntimeError(f"reprokit: the checkpoint has the generators {[*state['held']]}, here are {[*held]}")
    for name, one in held.items():
        variable = _variable_of(one)
        if variable is None:
            set_generator_state(one, state["held"][name])
        else:
            variable.assign(state["held"][name])
    set_rng_state(state)
    own = state["tensorflow"]
    if own["seed"] != private.global_seed():
        private.set_global_seed(own["seed"])
    if own["operations"] is not None:
        private.set_operation_seeds(own["operations"])
    if own["global"] is not None:
        chosen = private.global_generator()
        if chosen is None:
            made = tf.random.Generator.from_state(own["global"]["state"], own["global"]["algorithm"])
            tf.random.set_global_generator(made)
        else:  # the same object: functions that were traced hold its variable
            chosen.state.assign(own["global"]["state"])
    if state["keras"] is not None:
        keras = private.keras_seeds()
        if keras is None:
            raise RuntimeError(
                "reprokit: the checkpoint has the state of Keras's seed generator, which is not made here"
            )
        raw(keras.state).assign(state["keras"])


def _variable_of(generator: Any) -> Any:
    """Return the variable of TensorFlow's and Keras's generators, None for Python's and NumPy's."""
    return raw(generator.state) if hasattr(getattr(generator, "state", None), "assign") else None


def _state_of(generator: Any) -> Any:
    variable = _variable_of(generator)
    return generator_state(generator) if variable is None else np.asarray(variable.read_value())


def functions_that_draw() -> list[str]:
    """Return the tf.functions that draw random numbers from a state inside TensorFlow's kernels, which cannot be read.

    Functions of `tf.data` are left out: they begin anew with each reading of their dataset.
    """
    for name, definition in private.functions():
        if name not in _SEEN and not name.startswith("__wrapped__"):
            nodes = definition().node_def
            called = {value.func.name for node in nodes for value in node.attr.values() if value.HasField("func")}
            _SEEN[name] = ({node.op for node in nodes if _draws_numbers(node.op)}, called)
    of_data = {name for name in _SEEN if "_Dataset_" in name}
    inside = of_data.union(*map(_called, of_data))
    found = set()
    for name in [one for one in _SEEN if one.startswith("__") and one not in inside]:  # others are parts of these
        drawing = _SEEN[name][0].union(*(_SEEN[one][0] for one in _called(name) if one in _SEEN))
        if drawing:
            found.add(f"{re.sub(r'^__[a-z]+_|_[0-9]+$', '', name)} ({', '.join(sorted(drawing))})")
    return sorted(found)


def _called(name: str) -> set[str]:
    """Return the functions that a function calls, and those that they call."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for inner in _SEEN.get(waiting.pop(), (set(), set()))[1] - found:
            found.add(inner)
            waiting.append(inner)
    return found


def _draws_numbers(operation: str) -> bool:
    """True for an operation that draws random numbers from a state of its own, which nobody can read."""
    known = private.operation(operation)
    if known is None or not known.is_stateful or "Dataset" in operation or "Generator" in operation:
        return False
    return {"seed", "seed2"} <= {attribute.name for attribute in known.attr}
