"""The state of a Keras model on the TensorFlow and the torch backend: into a snapshot, and back, bit for bit."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import ml_dtypes
import numpy as np

from reprokit.callbacks.keras import optimizers, private
from reprokit.client.facts.numeric import note_parts
from reprokit.client.restored import Restored, check_names, some
from reprokit.client.rng import rng_state, set_rng_state
from reprokit.client.snapshot import Snapshot
from reprokit.client.tensors import DTYPES, StoredArray, as_array

BACKEND: str = keras.config.backend()
if BACKEND == "tensorflow":
    from reprokit.callbacks.tensorflow import private as tensorflow_private
if BACKEND == "torch":
    import torch

    from reprokit.callbacks.pytorch import state as torch_state
    from reprokit.callbacks.pytorch.gradients import Gradients

__all__ = [
    "BACKEND",
    "add_model",
    "add_state_array",
    "as_stored",
    "capture_rng",
    "gradients_of",
    "is_seeded",
    "metrics_of",
    "restore_model",
    "restore_rng",
    "set_metrics",
    "set_values",
    "uncaptured",
    "values_of",
]

_NARROW = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}


def add_model(snapshot: Snapshot, model: Any) -> None:
    """Add a model's variables and its optimiser's; both are told apart by their paths.

    Raises:
        TypeError: A variable that cannot be stored faithfully, by name.
    """
    trainable = {id(variable) for variable in model.trainable_variables}
    weights = {id(variable) for variable in model.weights}
    names = _model_variables(model)
    compiled = (getattr(model, name, None) for name in ("optimizer", "loss"))
    note_parts([*private.layers_of(model), *(one for one in compiled if one is not None)])
    for name, variable in names.items():
        group = "trainable" if id(variable) in trainable else "frozen" if id(variable) in weights else "buffer"
        _add(snapshot, "model", name, variable, group)
    snapshot.state["model"] = {
        "backend": BACKEND,
        "trainable": [name for name, variable in names.items() if id(variable) in trainable],
    }
    for name, variable in _optimizer_variables(model).items():
        _add(snapshot, "optimizer", name, variable, "trainable")
    snapshot.state["optimizer"] = optimizers.kind_of(getattr(model, "optimizer", None))
    if held := optimizers.held_by(model):
        snapshot.state["optimizers"] = optimizers.facts(held, {id(variable): name for name, variable in names.items()})


def restore_model(restored: Restored, model: Any) -> None:
    """Put a model's variables and its optimiser's back.

    Raises:
        RuntimeError: The model has other variables than the checkpoint, or trains others; some are named.
    """
    here_kind = optimizers.kind_of(getattr(model, "optimizer", None))
    if (kind := restored.state("optimizer")) != here_kind:
        raise RuntimeError(f"reprokit: the optimiser is {here_kind} here, {kind} in the checkpoint")
    trainable = {id(variable) for variable in model.trainable_variables}
    names = _model_variables(model)
    optimizers.build(optimizers.held_by(model), restored.state("optimizers", {}), names)
    _assign(restored, "model", names)
    _assign(restored, "optimizer", _optimizer_variables(model))
    here = {name for name, variable in names.items() if id(variable) in trainable}
    if other := here ^ set(restored.state("model")["trainable"]):
        raise RuntimeError(f"reprokit: these are trained here or in the checkpoint, not in both: {some(other)}")


def metrics_of(model: Any) -> dict[str, Any]:
    """Return the metrics' variables as arrays, by path."""
    return {name: _read(variable).copy() for name, variable in _named(model.metrics_variables).items()}


def set_metrics(model: Any, stored: Mapping[str, Any]) -> None:
    """Put back what `metrics_of` returned.

    Raises:
        RuntimeError: The model has other metrics.
    """
    names = _named(model.metrics_variables)
    check_names(names, stored, "metrics has other variables")
    set_values(names.values(), [stored[name] for name in names])


def gradients_of(model: Any) -> Any:
    """Return what keeps the gradients that a train step of the model's own may go on with; None if it has none.

    Keras's own clears them first.
    """
    if BACKEND != "torch" or not private.has_own_train_step(model):
        return None
    return Gradients(lambda: [(name, _native(variable)) for name, variable in _model_variables(model).items()])


def values_of(variables: Iterable[Any]) -> list[Any]:
    """Return variables as arrays."""
    return [_read(variable).copy() for variable in variables]


def set_values(variables: Iterable[Any], values: Iterable[Any]) -> None:
    """Put back what `values_of` returned."""
    for variable, value in zip(variables, values, strict=True):
        if BACKEND == "torch":
            _native(variable).data.copy_(torch.from_numpy(np.array(value)))
        else:
            _native(variable).assign(value)


def add_state_array(snapshot: Snapshot, name: str, value: Any) -> str | None:
    """Add an array of a dtype that NumPy has not of its own, standing in the state; see `Snapshot`."""
    if not isinstance(value, np.ndarray) or value.dtype not in _NARROW.values():
        return None
    snapshot.add_array("state", name, value)
    return "keras"


def _optimizer_variables(model: Any) -> dict[str, Any]:
    """Return the variables of all optimisers, by the last parts of their paths; what comes before tells only where one
    was built.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built and model.trainable_variables:
        optimizer.build(model.trainable_variables)
    found = {} if optimizer is None else _named(optimizer.variables, parts=2)
    for key, held in optimizers.held_by(model).items():
        found |= {f"{key}:{name}": variable for name, variable in _named(held.variables, parts=2).items()}
    return found


def _model_variables(model: Any) -> dict[str, Any]:
    """Return everything of the model that changes: Keras's variables, and what a framework's own layers keep."""
    every = [one for one in (getattr(model, "optimizer", None), *optimizers.held_by(model).values()) if one is not None]
    of_optimizer = {id(variable) for one in every for variable in one.variables}
    names = _named(variable for variable in model.variables if id(variable) not in of_optimizer)
    known = {id(_native(variable)) for variable in names.values()}
    own = _of_modules(model) if BACKEND == "torch" else _of_attributes(model) if BACKEND == "tensorflow" else ()
    for name, variable in own:
        if id(variable) not in known:
            names[name] = variable
            known.add(id(variable))
    return names


def _named(variables: Iterable[Any], *, parts: int = 0) -> dict[str, Any]:
    """Return variables by path, or its last parts. Keras does not promise that they differ, so repeats are numbered."""
    found: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for variable in {id(one): one for one in variables}.values():
        path = "/".join(variable.path.split("/")[-parts:])
        count = counts[path] = counts.get(path, -1) + 1
        found[path if count == 0 else f"{path}#{count}"] = variable
    return found


def _of_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of torch modules inside a model: buffers, which Keras does not know, and parameters."""
    for layer in private.layers_of(model):  # Keras does not register layers as each other's modules
        for name, tensor in (*layer.named_buffers(), *layer.named_parameters()):
            yield f"{layer.path}/{name}", tensor


def _of_attributes(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tf.Variables that layers hold as attributes, those of generators too; Keras knows neither."""
    variable, generator = sys.modules["tensorflow"].Variable, sys.modules["tensorflow"].random.Generator
    for layer in private.layers_of(model):
        for name, value in vars(layer).items():
            value = value.state if isinstance(value, generator) else value
            if isinstance(value, variable):
                yield f"{layer.path}/{name}", value


def _native(variable: Any) -> Any:
    """Return the backend's own tensor or variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _read(variable: Any) -> Any:
    native = _native(variable)
    if BACKEND == "tensorflow":  # without a copy: TensorFlow copies itself before it writes to a tensor that is held
        return native.read_value().__array__()
    return keras.ops.convert_to_numpy(native)


def _add(snapshot: Snapshot, section: str, name: str, variable: Any, group: str) -> None:
    if BACKEND == "torch":
        torch_state.add_tensor(snapshot, section, name, _native(variable), group, {})
    else:
        snapshot.add_array(section, name, _read(variable), group=group)


def _assign(restored: Restored, section: str, variables: Mapping[str, Any]) -> None:
    stored = restored.section(section)
    check_names(variables, stored, f"{section} has other variables")
    for name, variable in variables.items():
        native, value = _native(variable), stored[name]
        dtype = str(native.dtype).removeprefix("torch.") if BACKEND == "torch" else native.dtype.name
        if DTYPES.get(dtype) != value.dtype or tuple(native.shape) != value.shape:
            raise RuntimeError(
                f"reprokit: {section} variable {name!r} is {dtype} {list(native.shape)} here, {value.dtype} "
                f"{list(value.shape)} in the checkpoint"
            )
        if BACKEND == "torch":
            native.data.copy_(torch_state.as_tensor(value))
        else:
            native.assign(as_stored(value))


def as_stored(value: StoredArray) -> Any:
    """Return a stored tensor as an array of its own dtype."""
    if value.dtype in _NARROW:
        return np.frombuffer(value.data, dtype=_NARROW[value.dtype]).reshape(value.shape)
    return as_array(value)


def capture_rng() -> dict[str, Any]:
    """Return the states of the global generators: Python's, NumPy's, Keras's, and those of the loaded frameworks."""
    if BACKEND == "torch":
        state = torch_state.capture_rng()
    else:
        state = rng_state()
        if (loaded := sys.modules.get("torch")) is not None:
            state["torch"] = loaded.get_rng_state().numpy()
    generator = private.global_seeds()
    state["keras"] = None if generator is None else _read(generator.state).copy()
    if BACKEND == "tensorflow":
        common = tensorflow_private.global_generator()
        drawn = None if common is None else common.state.read_value().numpy()
        state["tensorflow"] = {"eager": tensorflow_private.operation_seeds(), "global": drawn}
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Put the generators back to where `capture_rng` found them."""
    if state["keras"] is None:
        private.no_global_seeds()
    else:
        set_values([private.made_global_seeds().state], [state["keras"]])  # which may draw: before the others
    if BACKEND == "tensorflow":
        told = state["tensorflow"]
        if told["eager"] is not None:
            tensorflow_private.set_operation_seeds(told["eager"])
        if told["global"] is not None:
            sys.modules["tensorflow"].random.get_global_generator().reset(told["global"])
    if BACKEND == "torch":
        torch_state.restore_rng(state)
        return
    set_rng_state(state)
    if "torch" in state:
        loaded = importlib.import_module("torch")
        loaded.set_rng_state(loaded.from_numpy(state["torch"]))


def is_seeded() -> bool:
    """True if TensorFlow was given a global seed."""
    return tensorflow_private.global_seed() is not None


def has_no_call(model: Any) -> bool:
    """True if a model is never called itself: its `train_step` calls its parts."""
    return type(model).call is keras.Model.call


def unbuilt(model: Any) -> list[str]:
    """Return, in sentences, which parts the first batch will make that a resumed run could not make without it."""
    if not has_no_call(model):
        return []
    return [
        f"the layer {layer.name} is made by the first batch, which a resumed run leaves out, and the model has no "
        "call() to make it by; give it its shape before model.fit, as by keras.Input"
        for layer in model.layers
        if not layer.built
    ]


def uncaptured(model: Any) -> list[str]:
    """Return what the compiled train step of TensorFlow keeps that no checkpoint holds."""
    if BACKEND != "tensorflow" or model.train_function is None:
        return []
    every = [getattr(model, "optimizer", None), *optimizers.held_by(model).values()]
    known = [*_model_variables(model).values(), *model.metrics_variables]
    known += [variable for one in every if one is not None for variable in one.variables]
    for generator in (private.global_seeds(), tensorflow_private.global_generator()):
        known += [generator.state] if generator is not None else []
    ids = {id(_native(variable)) for variable in known}
    found: list[str] = []
    for cell in model.train_function.__closure__ or ():
        for function in tensorflow_private.traced(cell.cell_contents):
            definition = function.graph.as_graph_def()
            nodes = [*definition.node, *(node for one in definition.library.function for node in one.node_def)]
            found += [
                f"the operation {op} keeps its own state; draw from keras.random with a SeedGenerator that the model "
                "holds, or by tf.random.stateless_…"
                for op in sorted({n.op for n in nodes} & _STATEFUL)
            ]
            strays = [variable.name for variable in function.graph.variables if id(variable) not in ids]
            found += [f"the train step uses the variable {name}, which no layer holds" for name in sorted(strays)]
    return list(dict.fromkeys(found))


# random operations whose kernels count by themselves, inside a compiled function out of reach
_STATEFUL = {
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal",
}  # fmt: skip
