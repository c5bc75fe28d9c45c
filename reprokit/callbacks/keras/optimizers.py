"""The optimisers of a Keras model with a train step of its own: those beside `model.optimizer`, held as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from reprokit.callbacks.keras import private

__all__ = ["build", "facts", "held_by"]


def held_by(model: Any) -> dict[str, Any]:
    """Return the optimisers that a model and its layers hold, without `model.optimizer`, by where they are held."""
    found: dict[str, Any] = {}
    known = {id(getattr(model, "optimizer", None))}
    for owner in [model, *private.layers_of(model)]:
        place = "" if owner is model else f"{owner.path}/"
        for name, optimizer in _among(vars(owner)):
            if id(optimizer) not in known:
                known.add(id(optimizer))
                found[place + name] = optimizer
    return found


def _among(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        items: Any = value.items() if isinstance(value, dict) else ()
        items = enumerate(value) if isinstance(value, (list, tuple)) else items
        if isinstance(value, keras.optimizers.Optimizer):
            yield name, value
        for key, item in items:
            if isinstance(item, keras.optimizers.Optimizer):
                yield f"{name}/{key}", item


def facts(optimizers: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """Return the type of each, and what it trains.

    Args:
        names: The name of each of the model's variables by `id()`.
    """
    return {key: {"type": kind_of(one), "trains": _trained(one, names)} for key, one in optimizers.items()}


def _trained(optimizer: Any, names: Mapping[int, str]) -> list[str] | None:
    if not optimizer.built:
        return None
    trained = private.trained_by(optimizer)
    if any(id(one) not in names for one in trained):
        raise TypeError(
            "reprokit: an optimiser trains a variable that belongs to no layer of the model; give it a layer"
        )
    return [names[id(one)] for one in trained]


def kind_of(optimizer: Any) -> str | None:
    """Return the type of an optimiser, and of the one inside it; None for none."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return None if optimizer is None else " of ".join(type(one).__name__ for one in (optimizer, inner) if one)


def build(optimizers: Mapping[str, Any], told: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Build optimisers for what they trained, so that they can be restored.

    Args:
        told: As `facts` returned.
        variables: Those of the model, by name.
    Raises:
        RuntimeError: The model holds others.
    """
    here = {key: kind_of(one) for key, one in optimizers.items()}
    there = {key: one["type"] for key, one in told.items()}
    if here != there:
        raise RuntimeError(
            f"reprokit: beside model.optimizer the model holds the optimisers {here} here, {there} in the checkpoint"
        )
    names = {id(variable): name for name, variable in variables.items()}
    for key, optimizer in optimizers.items():
        trains = told[key]["trains"]
        if trains is not None and not optimizer.built:
            optimizer.build([variables[name] for name in trains if name in variables])
        if _trained(optimizer, names) != trains:
            raise RuntimeError(f"reprokit: the optimiser {key!r} trains other variables here than in the checkpoint")
