"""TensorFlow's and Keras's random generators: their states as values, and back; those that nobody can read, by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import stateful_random_ops

from reprokit.callbacks.tensorflow.survey import raw
from reprokit.client.rng import generator_state, rng_state, set_generator_state, set_rng_state

__all__ = ["capture_rng", "functions_that_draw", "restore_rng"]

_SEEN: dict[str, tuple[set[str], set[str]]] = {}  # function → its operations that draw numbers, functions it calls


def capture_rng(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, TensorFlow and Keras, and of those that the user holds."""
    eager = context.context()
    chosen = stateful_random_ops.global_generator  # not get_global_generator(), which makes one
    legacy = getattr(eager, "_rng", None)
    own = {
        "seed": eager._seed,
        "operations": None if legacy is None else legacy.getstate(),  # where eager random operations get seeds from
        "global": None if chosen is None else {"state": np.asarray(chosen.state), "algorithm": int(chosen.algorithm)},
    }
    keras = _keras_seeds()
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
    own, eager = state["tensorflow"], context.context()
    if own["seed"] != eager._seed:
        eager._set_global_seed(own["seed"])
    if own["operations"] is not None:
        eager._rng.setstate(own["operations"])
    if own["global"] is not None:
        chosen = stateful_random_ops.global_generator
        if chosen is None:
            made = tf.random.Generator.from_state(own["global"]["state"], own["global"]["algorithm"])
            tf.random.set_global_generator(made)
        else:  # the same object: functions that were traced hold its variable
            chosen.state.assign(own["global"]["state"])
    if state["keras"] is not None:
        keras = _keras_seeds()
        if keras is None:
            raise RuntimeError(
                "reprokit: the checkpoint has the state of Keras's seed generator, which is not made here"
            )
        raw(keras.state).assign(state["keras"])


def _keras_seeds() -> Any:
    module = sys.modules.get("keras.src.backend.common.global_state")  # the global seed generator has no public home
    return None if module is None else module.get_global_attribute("global_seed_generator")


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
    eager = context.context()
    for name in eager.list_function_names():
        if name not in _SEEN and not name.startswith("__wrapped__"):
            nodes = eager.get_function_def(name).node_def
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
    known = op_def_registry.get(operation)
    if known is None or not known.is_stateful or "Dataset" in operation or "Generator" in operation:
        return False
    return {"seed", "seed2"} <= {attribute.name for attribute in known.attr}
