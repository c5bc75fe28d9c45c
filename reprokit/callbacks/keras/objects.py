"""What other callbacks and datasets of `fit` remember between epochs: named attributes, never a whole `__dict__`.

A callback or dataset may say itself what its state is, with `state_dict()` and `load_state_dict(state)`. For Keras's
own callbacks it is known. A dataset's numbers, texts, random generators, layers and one-dimensional arrays of integers
are taken along; whether anything else changed is told by marks, so that it can be named.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from reprokit.callbacks.keras import private
from reprokit.callbacks.keras import state as keras_state
from reprokit.client.rng import generator_state, set_generator_state

__all__ = ["Changes", "dataset_state", "restore_callbacks", "restore_dataset", "state_of_callbacks"]

_WITHOUT = (
    keras.callbacks.CSVLogger,
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TerminateOnNaN,
)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
_WITH_VARIABLES: tuple[type, ...] = (keras.Layer, keras.random.SeedGenerator)
if keras_state.BACKEND == "tensorflow":
    _WITH_VARIABLES += (sys.modules["tensorflow"].random.Generator,)
_PLAIN = (bool, int, float, str, type(None))
_SAMPLE = 1024


def state_of_callbacks(callbacks: Iterable[Any], logs: set[str]) -> dict[str, Any]:
    """Return what callbacks remember, each under its place and type.

    Args:
        logs: The names whose history is kept: Keras's own, and not what other callbacks measure, such as clocks.
    """
    found: dict[str, Any] = {}
    for key, callback in _places(callbacks).items():
        if isinstance(callback, keras.callbacks.History):
            kept = {name: list(values) for name, values in callback.history.items() if name in logs}
            found[key] = {"epoch": list(callback.epoch), "history": kept}
        elif _says_itself(callback):
            found[key] = callback.state_dict()
        elif names := _names(callback):
            found[key] = {name: getattr(callback, name) for name in names}
    return found


def restore_callbacks(callbacks: Iterable[Any], state: Mapping[str, Any]) -> None:
    """Put back what `state_of_callbacks` returned.

    Raises:
        RuntimeError: `fit` was given other callbacks.
    """
    having = {key: callback for key, callback in _places(callbacks).items() if _has_state(callback)}
    if having.keys() != state.keys():
        raise RuntimeError(f"reprokit: the checkpoint has the callbacks {[*state]}, here are {[*having]}")
    for key, callback in having.items():
        if _says_itself(callback):
            callback.load_state_dict(state[key])
        else:
            names = ("epoch", "history") if isinstance(callback, keras.callbacks.History) else _names(callback)
            for name in names:
                setattr(callback, name, state[key][name])


def _places(callbacks: Iterable[Any]) -> dict[str, Any]:
    return {f"{place}.{type(callback).__name__}": callback for place, callback in enumerate(callbacks)}


def _says_itself(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def _names(callback: Any) -> tuple[str, ...]:
    return next((names for kind, names in private.CALLBACK_STATE.items() if isinstance(callback, kind)), ())


def _has_state(callback: Any) -> bool:
    return isinstance(callback, keras.callbacks.History) or _says_itself(callback) or bool(_names(callback))


class Changes:
    """Tells which attributes of an object have changed since it was made, of those that nobody takes along."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._marks = self._now()

    def names(self) -> list[str]:
        now = self._now()
        return sorted(name for name in now.keys() | self._marks.keys() if now.get(name) != self._marks.get(name))

    def _now(self) -> dict[str, Any]:
        thing = self._thing
        known = isinstance(thing, (*_WITHOUT, keras.callbacks.History)) or _names(thing)
        if _says_itself(thing) or (known and type(thing).__module__.startswith("keras.")):
            return {}
        skipped = {*private.NO_STATE, *_names(thing)}
        if isinstance(thing, keras.utils.PyDataset):
            skipped |= {name for name, value in vars(thing).items() if _is_taken(value)}
        return {name: _mark(value) for name, value in vars(thing).items() if name not in skipped}


def _mark(value: Any) -> Any:
    """Return something small that differs, but for a rare chance, when a value was changed or replaced."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, np.ndarray):
        sample = value.flat[:: max(1, value.size // _SAMPLE)]
        return zlib.crc32(sample.tobytes()), value.shape, str(value.dtype)
    if isinstance(value, (list, tuple)):
        return len(value), [id(item) for item in value[:: max(1, len(value) // _SAMPLE)]]
    if isinstance(value, dict):
        return len(value), [(key, id(item)) for key, item in list(value.items())[:_SAMPLE]]
    if isinstance(value, _GENERATORS):
        return repr(generator_state(value))
    return repr(value.get_state()) if callable(getattr(value, "get_state", None)) else id(value)


def _is_taken(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and bool(np.issubdtype(value.dtype, np.integer))
    return isinstance(value, (*_PLAIN, *_GENERATORS, *_WITH_VARIABLES))


def dataset_state(dataset: Any) -> Any:
    """Return what a PyDataset remembers between batches and epochs."""
    if _says_itself(dataset):
        return dataset.state_dict()
    return {name: _taken(value) for name, value in vars(dataset).items() if _is_taken(value)}


def restore_dataset(dataset: Any, state: Any) -> None:
    """Put back what `dataset_state` returned."""
    if _says_itself(dataset):
        dataset.load_state_dict(state)
        return
    for name, value in state.items():
        own = getattr(dataset, name, None)
        if isinstance(own, _GENERATORS):
            set_generator_state(own, value)
        elif isinstance(own, _WITH_VARIABLES):
            keras_state.set_values(_variables(own), value)
        else:
            setattr(dataset, name, value)


def _taken(value: Any) -> Any:
    if isinstance(value, _GENERATORS):
        return generator_state(value)
    if isinstance(value, _WITH_VARIABLES):
        return keras_state.values_of(_variables(value))
    return value.copy() if isinstance(value, np.ndarray) else value


def _variables(value: Any) -> list[Any]:
    return list(value.variables) if isinstance(value, keras.Layer) else [value.state]
