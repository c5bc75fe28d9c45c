"""The state that TensorFlow and Keras objects carry. Loads nothing: looks at what is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reprokit.client.probe.places import Living, Objects
from reprokit.client.probe.source import Given, Parts, Source, read, state_of, told

__all__ = ["facts", "find", "rng"]


def rng() -> Iterator[Source]:
    """Yield the global generators of TensorFlow and Keras, where they have been made; none is made by looking."""
    random = sys.modules.get("tensorflow.python.ops.stateful_random_ops")
    made = getattr(random, "global_generator", None)
    if made is not None:
        yield _global("TensorFlow RNG", made.state)
    eager = sys.modules.get("tensorflow.python.eager.context")
    context = eager.context_safe() if eager is not None and hasattr(eager, "context_safe") else None
    legacy = getattr(context, "_rng", None)
    if legacy is not None:
        yield _global("TensorFlow legacy RNG", legacy.getstate())
    state = sys.modules.get("keras.src.backend.common.global_state")
    seeds = state.get_global_attribute("global_seed_generator") if state is not None else None
    if seeds is not None:
        yield _global("Keras RNG", _array(seeds.state))


def find(names: Mapping[int, str], _objects: Objects, given: Given, living: Living) -> Iterator[Source]:
    """Yield Keras models and optimisers, and the variables of TensorFlow that belong to none of them."""
    keras, tensorflow = sys.modules.get("keras"), sys.modules.get("tensorflow")
    known: set[int] = set()
    if keras is not None and hasattr(keras, "Model"):
        models = living.of(keras.Model)
        inner = {id(layer) for model in models for layer in model._flatten_layers(include_self=False)}
        for model in sorted(models, key=lambda model: (id(model) not in names, len(names.get(id(model), "")))):
            variables = _identities(model)
            if id(model) in inner or variables <= known:  # a Sequential has a Functional of the same variables
                continue
            held = _is_held(variables, given)
            yield Source("model", type(model).__name__, names.get(id(model)), held, read(_model, model))
            known |= variables
        for optimizer in living.of(keras.optimizers.Optimizer):
            variables = _identities(optimizer)
            held = _is_held(variables, given)
            parts = read(_optimizer, optimizer)
            yield Source("optimiser", type(optimizer).__name__, names.get(id(optimizer)), held, parts)
            known |= variables
    if tensorflow is not None and hasattr(tensorflow, "Module"):
        yield from _modules(tensorflow, names, given, living, known)


def facts(_names: Mapping[int, str], _objects: Objects, _held: list[Any], living: Living) -> dict[str, Any]:
    """Return Keras's backend, and whether it shuffles arrays."""
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "config"):
        return {}
    return {"keras": {"backend": keras.config.backend(), "shuffles_arrays": _shuffles_arrays(living)}}


def _shuffles_arrays(living: Living) -> bool:
    """True if `fit` is shuffling arrays through tf.data."""
    module = sys.modules.get("keras.src.trainers.data_adapters.array_data_adapter")
    adapters = living.of(module.ArrayDataAdapter) if module is not None else []
    return any(getattr(adapter, "_shuffle", False) is True for adapter in adapters)


def _modules(
    tensorflow: Any, names: Mapping[int, str], given: Given, living: Living, known: set[int]
) -> Iterator[Source]:
    every = living.of(tensorflow.Module)
    found = [one for one in every if not type(one).__module__.startswith(("tensorflow.", "keras."))]
    inner = {id(child) for module in found for child in module.submodules}
    for module in found:
        if id(module) not in inner:
            variables = _identities(module)
            parts = read(_variables, module.variables)
            held = _is_held(variables, given)
            yield Source("model", type(module).__name__, names.get(id(module)), held, parts)
            known |= variables
    for generator in living.of(tensorflow.random.Generator):
        if id(generator) in names:
            parts = read(state_of, "own generator", generator.state)
            yield Source("generator", "Generator", names[id(generator)], given.has(generator), parts)
            known.add(id(generator.state))
    for variable in living.of(tensorflow.Variable):
        if id(variable) in names and id(variable) not in known:
            parts = read(state_of, "variable", variable)
            held = _is_held({id(variable)}, given)
            yield Source("variable", "tf.Variable", names[id(variable)], held, parts)


def _global(name: str, state: Any) -> Source:
    return Source("RNG", name, None, None, read(state_of, name, state))


def _identities(thing: Any) -> set[int]:
    """Return the variables of a model or optimiser by `id()`; Keras's wrap those of the backend."""
    return {id(getattr(variable, "_value", variable)) for variable in thing.variables}


def _is_held(variables: set[int], given: Given) -> bool | None:
    """True if all of these variables are in something that the callback was given, or were given themselves."""
    if not given.explicit:
        return None
    held = {id(getattr(thing, "_value", thing)) for thing in given.held}
    for thing in given.held:
        if hasattr(type(thing), "variables"):
            held |= _identities(thing)
    return variables <= held


def _array(variable: Any) -> Any:
    """Return a Keras variable as a NumPy array, whatever the backend."""
    keras = sys.modules["keras"]
    return keras.ops.convert_to_numpy(variable)


def _named(variables: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable in variables:
        name = str(getattr(variable, "path", None) or variable.name)
        while name in found:
            name += "+"
        found[name] = variable
    return found


def _model(model: Any) -> Parts:
    trainable = {id(variable) for variable in model.trainable_variables}
    of_optimizer = {id(variable) for variable in getattr(getattr(model, "optimizer", None), "variables", ())}
    parts: Parts = {"parameters": {}, "buffers": {}}
    for name, variable in _named(model.variables).items():
        if id(variable) not in of_optimizer:
            part = "parameters" if id(variable) in trainable else "buffers"
            parts[part][name] = told(_array(variable))
    return parts


def _optimizer(optimizer: Any) -> Parts:
    parts: Parts = {"optimiser moments": {}, "optimiser step": {}, "optimiser groups": {}}
    for name, variable in _named(optimizer.variables).items():
        last = name.rpartition("/")[2]
        part = {"iteration": "optimiser step", "learning_rate": "optimiser groups"}.get(last, "optimiser moments")
        value = _array(variable)
        parts[part][name] = told(value.item() if value.size == 1 else value)
    return parts


def _variables(variables: Iterable[Any]) -> Parts:
    parts: Parts = {"parameters": {}, "buffers": {}}
    for name, variable in _named(variables).items():
        parts["parameters" if variable.trainable else "buffers"][name] = told(variable)
    return parts
