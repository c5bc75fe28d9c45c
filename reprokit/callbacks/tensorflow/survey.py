"""The variables below TensorFlow and Keras objects, and the path that leads to each.

Keras is looked at where the script has loaded it, and never imported: its import draws random numbers.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from reprokit.callbacks.tensorflow import private

__all__ = ["Found", "Survey", "is_keras", "raw"]


class Found(NamedTuple):
    """A variable of an object.

    Attributes:
        name: The path that leads to it: attributes, keys and indices; within Keras objects, Keras's own path.
        variable: The tf.Variable.
        handed: What the script knows it as: the same, or the Keras variable around it.
    """

    name: str
    variable: Any
    handed: Any


class Survey:
    """What is below tf.Modules, Keras objects and other trackable things.

    Args:
        objects: By name; the names of several begin those of their variables.
        without: Objects that are not looked into.

    Attributes:
        variables: Each path to a variable that is found, the shortest first.
        layers: Keras's layers by their path, from the outside in.

    Raises:
        TypeError: Something on the way has a state that is not stored, by name.
    """

    def __init__(self, objects: Mapping[str, Any], *, without: Iterable[Any] = ()) -> None:
        self.variables: list[Found] = []
        self.layers: dict[str, Any] = {}
        left_out = {id(one) for one in without}
        for key, root in objects.items():
            walk = _Walk(left_out)
            prefix = "" if len(objects) == 1 else f"{key}."
            self.variables += [one._replace(name=prefix + (one.name or "value")) for one in walk.run(root)]
            self.layers |= {prefix + path: layer for path, layer in walk.layers}

    def names(self) -> dict[int, str]:
        """Return the name of each variable by `id()`, the first one where it has several."""
        found: dict[int, str] = {}
        for one in self.variables:
            found.setdefault(id(one.variable), one.name)
        return found


class _Walk:
    """One walk, breadth first, so that the shortest path to a variable is its name."""

    def __init__(self, left_out: set[int]) -> None:
        self._visited = set(left_out)
        self._names: dict[str, int] = {}
        self._owned: set[int] = set()  # variables that a Keras object has named
        self.layers: list[tuple[str, Any]] = []

    def run(self, root: Any) -> Iterator[Found]:
        waiting = deque([("", root)])
        while waiting:
            path, node = waiting.popleft()
            if isinstance(node, tf.Variable):
                if id(node) not in self._owned:
                    yield Found(path, node, node)
                continue
            if id(node) in self._visited:
                continue
            self._visited.add(id(node))
            if is_keras(node):
                if hasattr(node, "apply_gradients") and not hasattr(root, "apply_gradients"):
                    raise TypeError(
                        f"reprokit: {path!r} is an optimiser inside the model; give it: PackageCheckpoint(optimizer=…)"
                    )
                if hasattr(node, "trainable"):
                    self.layers.append((path, node))
                yield from self._of_keras(path, node)
            elif private.has_other_state(node):
                raise TypeError(
                    f"reprokit: {path!r} is a {type(node).__module__}.{type(node).__qualname__}, whose contents are "
                    "not stored; keep them in ckpt.state"
                )
            waiting.extend((_join(path, name), child) for name, child in _children(node))

    def _of_keras(self, path: str, node: Any) -> Iterator[Found]:
        for variable in _keras_variables(node):
            inner = raw(variable)
            if id(inner) in self._owned:
                continue
            self._owned.add(id(inner))
            name = _join(path, variable.path)
            count = self._names[name] = self._names.get(name, -1) + 1  # Keras does not promise that paths are unique
            yield Found(name if count == 0 else f"{name}#{count}", inner, variable)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _children(node: Any) -> list[tuple[str, Any]]:
    """Return what a node consists of: what TensorFlow tracks, and Keras's objects, not all of which it does."""
    if not private.is_trackable(node):
        return []
    found = [(str(name), child) for name, child in tf.train.TrackableView.children(node).items()]
    found = [(name, child) for name, child in found if not _is_keras_variable(child)]
    if isinstance(node, tf.Module) and not is_keras(node):
        tracked = {id(child) for _, child in found}
        inside = [(name, value) for name, value in vars(node).items() if isinstance(value, (list, tuple, dict))]
        found += [(name, value) for name, value in vars(node).items() if is_keras(value) and id(value) not in tracked]
        found += [(f"{name}/{key}", item) for name, value in inside for key, item in _plain_items(value)]
    return found


def _plain_items(value: Any) -> list[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return [(str(key), item) for key, item in pairs if is_keras(item)]


def is_keras(thing: Any) -> bool:
    """True for Keras's layers, metrics, optimisers and seed generators."""
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "Layer"):
        return False
    kinds = (keras.Layer, keras.metrics.Metric, keras.optimizers.Optimizer, keras.random.SeedGenerator)
    return isinstance(thing, kinds)


def _is_keras_variable(thing: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "Variable") and isinstance(thing, keras.Variable)


def _keras_variables(node: Any) -> list[Any]:
    if hasattr(node, "variables"):
        return [*node.variables, *getattr(node, "metrics_variables", ())]
    return [node.state]


def raw(variable: Any) -> Any:
    """Return the tf.Variable of a Keras variable."""
    return variable.value if _is_keras_variable(variable) else variable
