"""The state of TensorFlow models and optimisers: into a snapshot, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from reprokit.callbacks.tensorflow import private
from reprokit.callbacks.tensorflow.survey import Found, Survey, is_keras, raw
from reprokit.client.facts.numeric import note_parts
from reprokit.client.restored import Restored, check_names
from reprokit.client.snapshot import Snapshot
from reprokit.client.tensors import DTYPES, StoredArray

__all__ = [
    "add_model",
    "add_optimizers",
    "add_state_tensor",
    "as_tensor",
    "iterations",
    "restore_model",
    "restore_optimizers",
]


def add_model(snapshot: Snapshot, survey: Survey) -> None:
    """Add the variables of models, and which of their Keras layers are not trained.

    Raises:
        TypeError: Something cannot be stored faithfully, by name.
    """
    names = survey.names()
    for one in survey.variables:
        first = names[id(one.variable)]
        if first == one.name:
            _add(snapshot, "model", one)
        else:
            snapshot.add_alias("model", one.name, first)
    note_parts(survey.layers.values())
    snapshot.state["model"] = {"frozen": [path for path, layer in survey.layers.items() if not layer.trainable]}


def _add(snapshot: Snapshot, section: str, one: Found) -> None:
    variable = one.variable
    if isinstance(variable, tf.distribute.DistributedValues):
        raise TypeError(f"reprokit: {section} tensor {one.name!r} is a {type(variable).__name__}, which is not stored")
    if variable.dtype.name not in DTYPES:  # asked of TensorFlow: NumPy takes qint8 for int8
        raise TypeError(
            f"reprokit: {section} tensor {one.name!r} has the dtype {variable.dtype.name}, which is not stored"
        )
    # read_value shares the variable's memory, which an assignment leaves as it is while it is looked at
    group = "trainable" if variable.trainable else "buffer"
    snapshot.add_array(section, one.name, np.asarray(variable.read_value()), group=group)


def restore_model(restored: Restored, survey: Survey) -> None:
    """Put the variables of models back, and say which layers are not trained.

    Raises:
        RuntimeError: The models have other variables than the checkpoint; some are named.
    """
    frozen = set(restored.state("model", {}).get("frozen", ()))
    for path, layer in survey.layers.items():  # from the outside in: a layer tells those inside
        if layer.trainable == (path in frozen):
            layer.trainable = path not in frozen
    _assign("model", survey.variables, restored.section("model"))


def _assign(section: str, found: list[Found], stored: Mapping[str, StoredArray]) -> None:
    hint = (
        ". Variables that are made when they are first used must be made before ckpt.epochs(…): call the model once, "
        "or its build()"
    )
    check_names((one.name for one in found), stored, f"{section} has other variables", hint=hint)
    for one in found:
        variable, value = one.variable, stored[one.name]
        if DTYPES.get(variable.dtype.name) != value.dtype or not variable.shape.is_compatible_with(value.shape):
            raise RuntimeError(
                f"reprokit: {section} tensor {one.name!r} is {variable.dtype.name} {variable.shape} here, "
                f"{value.dtype} {list(value.shape)} in the checkpoint"
            )
        variable.assign(_array(value, variable.dtype))


def _array(stored: StoredArray, dtype: tf.DType) -> Any:
    flat = np.frombuffer(stored.data, dtype=dtype.as_numpy_dtype) if stored.data else np.empty(0, dtype.as_numpy_dtype)
    return flat.reshape(stored.shape)


def add_optimizers(snapshot: Snapshot, optimizers: Mapping[str, Any], names: Mapping[int, str]) -> None:
    """Add optimisers: the slots of Keras's as `<variable>.<slot>`, the variables of any other by their path."""
    note_parts(optimizers.values())
    for key, optimizer in optimizers.items():
        for one in _of_optimizer(key, optimizer, names):
            _add(snapshot, "optimizer", one)
        trained = _trained(optimizer)
        snapshot.state.setdefault("optimizer", {})[key] = {
            "type": type(optimizer).__name__,
            "variables": None if trained is None else [_name(variable, names) for variable in trained],
        }


def restore_optimizers(restored: Restored, optimizers: Mapping[str, Any], survey: Survey) -> None:
    """Put optimisers back; those whose variables are made at the first step are built first.

    Raises:
        RuntimeError: Another optimiser, or one for other variables.
    """
    told = restored.state("optimizer", {})
    if told.keys() != optimizers.keys():
        raise RuntimeError(f"reprokit: the checkpoint has the optimisers {[*told]}, here are {[*optimizers]}")
    names = survey.names()
    handed = {one.name: one.handed for one in survey.variables}
    found: list[Found] = []
    for key, optimizer in optimizers.items():
        order = told[key]["variables"]
        if order is not None and _trained(optimizer) is None:
            optimizer.build([handed[name] for name in order if name in handed])
        trained = _trained(optimizer)
        here = None if trained is None else [_name(variable, names) for variable in trained]
        if told[key]["type"] != type(optimizer).__name__ or here != order:
            raise RuntimeError(
                f"reprokit: optimiser {key!r} is {type(optimizer).__name__} for {len(here or ())} variables here, "
                f"{told[key]['type']} for {len(order or ())} in the checkpoint, or their order differs"
            )
        found += _of_optimizer(key, optimizer, names)
    _assign("optimizer", found, restored.section("optimizer"))


def _trained(optimizer: Any) -> list[Any] | None:
    """Return the variables that a Keras optimiser was built for, None if it was not, or is no Keras optimiser."""
    if not is_keras(optimizer) or not optimizer.built:
        return None
    return private.trained_by(optimizer)


def _of_optimizer(key: str, optimizer: Any, names: Mapping[int, str]) -> list[Found]:
    prefix = "" if key == "0" else f"{key}:"
    slots: dict[int, str] = {}
    for part in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        trained = _trained(part) or []
        for slot, values in vars(part).items() if part is not None and trained else ():
            if isinstance(values, list) and len(values) == len(trained) and slot != private.TRAINED:
                pairs = [(value, _name(one, names)) for value, one in zip(values, trained, strict=True)]
                slots |= {
                    id(raw(value)): f"{name}.{slot.lstrip('_')}" for value, name in pairs if hasattr(value, "path")
                }
    every = Survey({"0": optimizer}).variables
    own = {id(one.variable): one for one in reversed(every) if id(one.variable) not in names}
    return [one._replace(name=prefix + slots.get(id(one.variable), one.name)) for one in reversed(own.values())]


def _name(variable: Any, names: Mapping[int, str]) -> str:
    found = names.get(id(raw(variable)))
    if found is None:
        raise TypeError(
            f"reprokit: the optimiser trains a variable of shape {variable.shape} that belongs to no model that is "
            "saved; pass all models: model={'net': net, 'loss': loss}"
        )
    return found


def iterations(optimizers: Mapping[str, Any]) -> int | None:
    """Return how many steps the first Keras optimiser has made."""
    counted = [one.iterations for one in optimizers.values() if hasattr(one, "iterations")]
    return int(np.asarray(raw(counted[0]))) if counted else None


def add_state_tensor(snapshot: Snapshot, name: str, value: Any) -> str | None:
    """Add a tensor or variable that stands in the user's state; see `Snapshot`."""
    value = raw(value)
    if not isinstance(value, (tf.Tensor, tf.Variable)):
        return None
    if value.dtype.name not in DTYPES:
        raise TypeError(f"reprokit: {name} has the dtype {value.dtype.name}, which is not stored")
    snapshot.add_array("state", name, np.asarray(value), group="buffer")
    return "tensorflow"


def as_tensor(stored: StoredArray) -> Any:
    """Return a stored tensor as one of TensorFlow's."""
    dtype = next(tf.as_dtype(name) for name, spelled in DTYPES.items() if spelled == stored.dtype)
    return tf.constant(_array(stored, dtype))
