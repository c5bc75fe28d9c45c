"""Checkpoints as Keras models: `config.json` is audited, built, compared with the weights, and filled with them.

Keras turns a config into objects by the names in it, and its own safe mode has been passed by before (CVE-2025-1550,
-8747, -9906). So a config reaches Keras only if each class it names is one of Keras's own that is data alone: a layer,
an operation, an initialiser and the like. Layers that carry code or read files (Lambda, TFSMLayer, …) are refused.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
from keras.src.backend.common import global_state  # the list of variables without values has no public home

from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import DTYPES, StoredArray, as_array
from reprokit.errors import DataMismatchError

__all__ = ["check_config", "load_model", "save_keras"]

_KINDS = (
    keras.layers.Layer,
    keras.Operation,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.dtype_policies.DTypePolicy,
    keras.quantizers.Quantizer,
)
_CARRY_CODE = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_VALUES = {"__keras_tensor__", "__ellipsis__", "__slice__", "__bytes__"}
_ARRAYS = {"__tensor__", "__numpy__"}
_MAX_OBJECTS = 10_000
_WAITING = "uninitialized_variables"


def load_model(checkpoint: Checkpoint, *, custom_objects: Mapping[str, type] | None = None) -> Any:
    """Return the model of a checkpoint with its weights, not compiled.

    Args:
        custom_objects: Classes of yours that the model is made of, by the names they are registered under
            (`package>Name`). Their code runs.
    Raises:
        DataMismatchError: The checkpoint has no architecture, one that is refused, or one with other weights.
    """
    config = checkpoint.config
    own = dict(custom_objects or {})
    if not isinstance(config, dict) or "class_name" not in config:
        raise DataMismatchError(
            f"{checkpoint.package} has no architecture that Keras reads, so no model can be built.",
            hint="A model of your own class has one if it defines `get_config`; its tensors load in any case.",
        )
    config = _without_builds(config)
    check_config(config, what=f"config.json of {checkpoint.package}", custom_objects=own)
    stored = checkpoint.arrays("model")
    _match(_try(config, own, checkpoint), stored, checkpoint)  # before memory for the weights is taken
    model = _build(config, own, checkpoint)
    for variable, array in _match(list(model.variables), stored, checkpoint):
        if array.dtype.startswith("F8"):
            raise DataMismatchError(
                f"{variable.path} of {checkpoint.package} is {array.dtype}, which is not converted."
            )
        value = as_array(array)
        if _is_seed(variable) and (value.astype(variable.dtype) != value).any():
            raise DataMismatchError(
                f"{variable.path} of {checkpoint.package} does not fit this backend's {variable.dtype}."
            )
        variable.assign(value)
    return model


def save_keras(checkpoint: Checkpoint, path: Path, *, custom_objects: Mapping[str, type] | None = None) -> None:
    """Write a `.keras` file: architecture and weights, not compiled.

    Raises:
        DataMismatchError: As `load_model`.
    """
    load_model(checkpoint, custom_objects=custom_objects).save(path)


def check_config(config: Any, *, what: str, custom_objects: Mapping[str, type] | None = None) -> None:
    """Raise DataMismatchError, by name, if a config names anything but Keras's own inert classes."""
    count = 0
    for node in _nodes(config):
        if isinstance(node.get("vocabulary"), str) or isinstance(node.get("idf_weights"), str):
            raise _refused(what, f"reads the file {str(node.get('vocabulary') or node['idf_weights'])[:200]!r}")
        if "class_name" not in node:
            continue
        count += 1
        if count > _MAX_OBJECTS:
            raise _refused(what, f"describes more than {_MAX_OBJECTS:,} objects")
        _check_object(node, what, custom_objects or {})


def _check_object(node: dict[str, Any], what: str, custom_objects: Mapping[str, type]) -> None:
    name, module = node["class_name"], node.get("module")
    registered = node.get("registered_name")
    told = f"{module}.{name}"[:200]
    if not isinstance(name, str):
        raise _refused(what, f"names the class {str(name)[:200]!r}")
    if name in _VALUES:
        return
    if name in _ARRAYS:
        inner = node.get("config")
        if not isinstance(inner, dict) or str(inner.get("dtype")) not in DTYPES:
            raise _refused(what, f"has an array whose dtype is not one of {', '.join(DTYPES)}")
        return
    if isinstance(registered, str) and registered in custom_objects:
        return
    if registered not in (None, name):
        raise _refused(what, f"names {told!r}, registered as {str(registered)[:200]!r}")
    found = _resolve(module, name)
    if name in _CARRY_CODE or not isinstance(found, type) or not issubclass(found, _KINDS):
        raise _refused(what, f"names {told!r}")
    if found.__name__ in _CARRY_CODE or not found.__module__.startswith("keras."):
        raise _refused(what, f"names {told!r}")


def _resolve(module: Any, name: str) -> Any:
    """Return what a dotted module of Keras's calls `name`, without importing anything; None if there is no such."""
    if not isinstance(module, str) or module.split(".")[0] != "keras":
        return None
    place: Any = keras
    for part in module.split(".")[1:]:
        place = vars(place).get(part)
        if not isinstance(place, ModuleType):
            return None
    return vars(place).get(name)


def _refused(what: str, why: str) -> DataMismatchError:
    return DataMismatchError(
        f"{what} {why}: refused.",
        hint="Only classes of Keras's own that carry no code are built. The checkpoint's tensors load in any case; a "
        "class of yours can be named in `custom_objects`.",
    )


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _without_builds(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config for building as the script did: the model builds its layers, which gives them their paths.

    How it was compiled is left out: it may name functions of the script's.
    """

    def inner(node: Any) -> Any:
        if isinstance(node, list):
            return [inner(item) for item in node]
        if not isinstance(node, dict):
            return node
        left = ("build_config", "compile_config") if "class_name" in node else ()
        return {key: inner(value) for key, value in node.items() if key not in left}

    whole: dict[str, Any] = inner(config)
    return whole | ({"build_config": config["build_config"]} if "build_config" in config else {})


def _try(config: dict[str, Any], custom_objects: Mapping[str, type], checkpoint: Checkpoint) -> list[Any]:
    """Return the variables that the model would have, without values: no memory is taken for them."""
    before = list(global_state.get_global_attribute(_WAITING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            return list(_build(config, custom_objects, checkpoint).variables)
    finally:
        global_state.set_global_attribute(_WAITING, before)  # else the next scope would give them values


def _build(config: dict[str, Any], custom_objects: Mapping[str, type], checkpoint: Checkpoint) -> Any:
    own = copy.deepcopy(config)  # Keras takes it apart
    try:
        model = keras.saving.deserialize_keras_object(own, custom_objects=dict(custom_objects), safe_mode=True)
    except Exception as error:  # noqa: BLE001 - whatever Keras and its backend say of a stranger's config
        raise DataMismatchError(
            f"config.json of {checkpoint.package} cannot be built: {type(error).__name__}: {str(error)[:300]}."
        ) from None
    if not isinstance(model, keras.Model):
        raise DataMismatchError(f"config.json of {checkpoint.package} describes no model.")
    return model


def _match(
    variables: list[Any], stored: Mapping[str, StoredArray], checkpoint: Checkpoint
) -> list[tuple[Any, StoredArray]]:
    """Return each variable with its array. Numbers that Keras counts up over a process's life may differ."""
    here: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for variable in variables:  # named as the callback names them
        count = counts[variable.path]
        counts[variable.path] += 1
        here[variable.path if count == 0 else f"{variable.path}#{count}"] = variable
    pairs = {name: name for name in here if name in stored}
    left = sorted(here.keys() - pairs.keys(), key=_numbered)
    other = sorted(stored.keys() - pairs.keys(), key=_numbered)
    if [_numbered(name)[0] for name in left] != [_numbered(name)[0] for name in other]:
        raise DataMismatchError(
            f"The model that config.json of {checkpoint.package} describes has other weights than are stored: "
            f"{', '.join([*left, *other][:5])}."
        )
    pairs |= dict(zip(left, other, strict=True))
    for ours, theirs in pairs.items():
        variable, array = here[ours], stored[theirs]
        same = DTYPES.get(variable.dtype) == array.dtype or (_is_seed(variable) and array.dtype in ("I32", "I64"))
        if tuple(variable.shape) != array.shape or not same:
            raise DataMismatchError(
                f"{ours} is {variable.dtype} {list(variable.shape)} by config.json of {checkpoint.package}, "
                f"and stored as {array.dtype} {list(array.shape)}."
            )
    return [(here[ours], stored[theirs]) for ours, theirs in pairs.items()]


def _is_seed(variable: Any) -> bool:
    """True for the state of a seed generator, which is of 32 bits or of 64 as the backend likes it."""
    return bool(re.search(r"seed_generator(_\d+)?/seed_generator_state$", variable.path))


def _numbered(path: str) -> tuple[str, list[int]]:
    """Return a path without the numbers in it, and the numbers: `seed_generator_12/state` is the 12th of its kind."""
    return re.sub(r"_\d+(?=[/#]|$)|#\d+$", "", path), [int(number) for number in re.findall(r"_(\d+)(?=[/#]|$)", path)]
