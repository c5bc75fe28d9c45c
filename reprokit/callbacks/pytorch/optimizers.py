"""The state of PyTorch optimisers: into a snapshot, and back, bit for bit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from reprokit.callbacks.pytorch.state import add_tensor, as_tensor, laid_out, parameters_of
from reprokit.client.facts.numeric import note_parts
from reprokit.client.restored import Restored
from reprokit.client.snapshot import Snapshot
from reprokit.client.tensors import StoredArray

__all__ = ["Strangers", "add_optimizer", "groups_of", "restore_optimizer", "unwrapped"]

_OWN = ("state", "param_groups")


def groups_of(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, int]:
    """Return how many groups of parameters each optimiser has."""
    return {key: len(one.param_groups) for key, one in optimizers.items()}


def add_optimizer(
    snapshot: Snapshot,
    optimizers: Mapping[str, torch.optim.Optimizer],
    names: Mapping[int, str],
    began: Mapping[str, int] | None = None,
) -> None:
    """Add optimisers: tensors as `<parameter>.<slot>`, the rest of their state and their groups as values.

    Args:
        names: The name of each parameter by `id()`, as `add_model` returns them.
        began: Inside an epoch, how many groups each had at its beginning.
    """
    note_parts(optimizers.values())
    for key, optimizer in optimizers.items():
        plain = optimizer.state_dict()
        order = parameters_of(optimizer)
        slots: dict[str, dict[str, Any]] = {}
        other: dict[Any, Any] = {}
        for index, own in plain["state"].items():
            if type(index) is not int or index >= len(order) or not isinstance(own, Mapping):
                other[index] = own  # state that belongs to no parameter
                continue
            label = _label(index, order, names)
            for slot, value in own.items():
                if isinstance(value, torch.Tensor):
                    name = f"{_prefix(key)}{label}.{slot}"
                    add_tensor(snapshot, "optimizer", name, value, "trainable", {})
                    slots.setdefault(label, {})[slot] = {"optimizer": name}
                else:
                    slots.setdefault(label, {})[slot] = {"value": value}
        more = {part: value for part, value in plain.items() if part not in _OWN}
        groups = (began or {}).get(key, len(optimizer.param_groups))
        snapshot.state.setdefault("optimizer", {})[key] = {
            "type": type(optimizer).__name__,
            "parameters": [_label(index, order, names) for index in range(len(order))],
            "groups": plain["param_groups"],
            "slots": slots,
            **({"other": other} if other else {}),
            **({"more": more} if more else {}),
            **({"began": groups} if groups != len(optimizer.param_groups) else {}),
        }


def restore_optimizer(
    restored: Restored,
    optimizers: Mapping[str, torch.optim.Optimizer],
    parameters: Mapping[str, torch.Tensor],
    *,
    begins: bool = False,
) -> None:
    """Put optimisers back, each tensor in the dtype that it was saved in.

    Groups that were added during the training are added.

    Args:
        parameters: Those of all models, by name.
        begins: The epoch of the checkpoint begins anew, up to its middle: groups that were added in it are not added.
    Raises:
        RuntimeError: Another optimiser, other parameters, or a tensor that the optimiser itself would change.
    """
    told = restored.state("optimizer", {})
    stored = restored.section("optimizer")
    if told.keys() != optimizers.keys():
        raise RuntimeError(f"reprokit: the checkpoint has the optimisers {[*told]}, here are {[*optimizers]}")
    names: dict[int, str] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), name)
    for key, optimizer in optimizers.items():
        facts = told[key]
        if begins and "began" in facts:
            facts = _as_it_began(facts)
        _add_groups(optimizer, facts, parameters)
        order = parameters_of(optimizer)
        here = [_label(index, order, names) for index in range(len(order))]
        if facts["type"] != type(optimizer).__name__ or facts["parameters"] != here:
            raise RuntimeError(_unlike(key, optimizer, here, facts))
        state: dict[Any, Any] = dict(facts.get("other", {}))
        places = {label: index for index, label in enumerate(here)}
        for label, slots in facts["slots"].items():  # in the order in which parameters were first stepped
            if label not in places:
                raise RuntimeError(
                    f"reprokit: the checkpoint has optimiser state of {label!r}, which is no parameter here"
                )
            index = places[label]
            for slot, place in slots.items():
                value = place["value"] if "value" in place else as_tensor(_one(stored, place["optimizer"]))
                state.setdefault(index, {})[slot] = laid_out(value, order[index])
        made = [dict(group) for group in optimizer.param_groups]
        optimizer.load_state_dict({"state": state, "param_groups": facts["groups"], **facts.get("more", {})})
        for index, slots in state.items():
            if index not in facts.get("other", {}):
                _keep_bits(optimizer, order[index], slots, here[index])
        _keep_objects(optimizer, made)


def _keep_objects(optimizer: torch.optim.Optimizer, made: list[dict[str, Any]]) -> None:
    """Leave in its groups the very values that it was made with, where they are equal.

    Groups share what their defaults are, and a file that pickles them says of the second that it is the first again.
    """
    for group, before in zip(optimizer.param_groups, made, strict=False):
        for name, value in group.items():
            own = before.get(name)
            if type(own) is type(value) and isinstance(own, (tuple, str, float, int)) and repr(own) == repr(value):
                group[name] = own


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimiser that steps, inside what Accelerate and its like put around it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    found: torch.optim.Optimizer = optimizer
    return found


class Strangers:
    """Optimisers that step on what is saved, and are not saved themselves."""

    def __init__(self, given: Iterable[Any]) -> None:
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._given = list(given)
        register_optimizer_step_post_hook(_weakly(self._seen))

    def found(self, names: Mapping[int, str]) -> list[str]:
        """Return why a run could not go on without them.

        Args:
            names: Those of the parameters that are saved, by `id()`.
        """
        known = {id(one) for one in self._given} | {id(part) for one in self._given for part in vars(one).values()}
        return sorted(
            f"{type(one).__name__} steps on {names[id(parameter)]!r}, has a state of its own, and is in no checkpoint; "
            "pass it: optimizer={…}"
            for one in self._seen
            if id(one) not in known and one.state
            for parameter in parameters_of(one)[:1]
            if id(parameter) in names
        )


def _weakly(seen: weakref.WeakSet[Any]) -> Any:
    def note(optimizer: Any, *_: Any) -> None:
        seen.add(optimizer)

    return note


def _as_it_began(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an optimiser was but for the groups that were added in the epoch."""
    groups = facts["groups"][: facts["began"]]
    known = facts["parameters"][: sum(len(group["params"]) for group in groups)]
    slots = {label: own for label, own in facts["slots"].items() if label in known}
    return {**facts, "groups": groups, "parameters": known, "slots": slots}


def _add_groups(
    optimizer: torch.optim.Optimizer, facts: Mapping[str, Any], parameters: Mapping[str, torch.Tensor]
) -> None:
    """Add the groups that a checkpoint has beyond the optimiser's own."""
    for group in facts["groups"][len(optimizer.param_groups) :]:
        labels = [facts["parameters"][index] for index in group["params"]]
        if all(label in parameters for label in labels):
            values = {name: value for name, value in group.items() if name not in ("params", "param_names")}
            optimizer.add_param_group({**values, "params": [parameters[label] for label in labels]})


def _unlike(key: str, optimizer: torch.optim.Optimizer, here: list[str], facts: Mapping[str, Any]) -> str:
    hint = "make it as it was made when the run began"
    if [*here[: len(facts["parameters"])]] == facts["parameters"]:
        hint = "the script has groups that the checkpoint has not; add them in the epoch that they are for"
    return (
        f"reprokit: optimiser {key!r} is {type(optimizer).__name__} over {len(here)} parameters here, "
        f"{facts['type']} over {len(facts['parameters'])} in the checkpoint, or their order differs; {hint}"
    )


def _one(stored: Mapping[str, StoredArray], name: str) -> StoredArray:
    if name not in stored:
        raise RuntimeError(f"reprokit: the optimiser state {name!r} is missing from the checkpoint")
    return stored[name]


def _keep_bits(optimizer: Any, parameter: torch.Tensor, slots: dict[str, Any], label: str) -> None:
    """See that `load_state_dict`, which casts to the parameter's dtype, left every bit as it was."""
    own = optimizer.state[parameter]
    for slot, value in slots.items():
        if not isinstance(value, torch.Tensor):
            continue
        if own[slot].dtype != value.dtype:
            own[slot] = value.to(parameter.device)
        if not _same_bits(own[slot], value):
            raise RuntimeError(f"reprokit: optimiser state {label}.{slot} was changed by load_state_dict")


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    a, b = one.detach().cpu().contiguous().reshape(-1), other.contiguous().reshape(-1)
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


def _label(index: int, order: list[torch.Tensor], names: Mapping[int, str]) -> str:
    found = names.get(id(order[index]))
    if found is None:
        raise TypeError(
            f"reprokit: the optimiser's parameter {index}, of shape {list(order[index].shape)}, belongs to no "
            "model that is saved; pass all models: model={'net': net, 'loss': loss}"
        )
    return found


def _prefix(key: str) -> str:
    return "" if key == "0" else f"{key}:"
