"""The state of PyTorch objects: into a snapshot, and back, bit for bit. For every callback of a PyTorch framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from reprokit.client.facts.numeric import note_parts
from reprokit.client.restored import Restored
from reprokit.client.rng import generator_state, rng_state, set_generator_state, set_rng_state
from reprokit.client.snapshot import Snapshot
from reprokit.client.tensors import DTYPES, StoredArray

__all__ = [
    "add_model",
    "add_optimizer",
    "add_state_tensor",
    "add_tensor",
    "as_tensor",
    "capture_rng",
    "generators_of",
    "named",
    "names_of",
    "parameters_of",
    "plain_state",
    "restore_model",
    "restore_optimizer",
    "restore_plain",
    "restore_rng",
    "set_state_of_generator",
    "state_of_generator",
]

_TORCH = {stored: getattr(torch, name) for name, stored in DTYPES.items() if hasattr(torch, name)}


def named(value: Any) -> dict[str, Any]:
    """Return one object as {"0": object}, several by name as they are, none as {}."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return dict(value)
    return {str(i): item for i, item in enumerate(value)} if isinstance(value, (list, tuple)) else {"0": value}


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside torch.compile's, DataParallel's and DDP's wrappers, which change its tensors' names."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
            inner = model.module
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner


def add_model(snapshot: Snapshot, section: str, models: Mapping[str, torch.nn.Module]) -> dict[int, str]:
    """Add parameters, all buffers, extra state and training flags of models; several are told apart by their name.

    Returns:
        The name of each parameter by `id()`, as `names_of` does.
    Raises:
        TypeError: A tensor that cannot be stored faithfully, by name.
    """
    first: dict[tuple[Any, ...], str] = {}
    flags: dict[str, Any] = {}
    for key, wrapped in models.items():
        model = bare(wrapped)
        note_parts(model.modules())
        prefix = "" if len(models) == 1 else f"{key}."
        known: set[str] = set()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            known.add(name)
            group = "trainable" if parameter.requires_grad else "frozen"
            add_tensor(snapshot, section, prefix + name, parameter, group, first)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            known.add(name)
            add_tensor(snapshot, section, prefix + name, buffer, "buffer", first)
        extra = {name: value for name, value in model.state_dict().items() if name not in known}
        flags[key] = {
            "evaluating": [name for name, module in model.named_modules() if not module.training],
            "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
            **({"extra": extra} if extra else {}),
        }
    snapshot.state[section] = flags
    return names_of(models)


def restore_model(restored: Restored, section: str, models: Mapping[str, torch.nn.Module]) -> None:
    """Put tensors, extra state, training flags and requires_grad of models back.

    Raises:
        RuntimeError: The models have other tensors than the checkpoint; some are named.
    """
    stored = restored.section(section)
    flags = restored.state(section, {})
    own: dict[str, torch.Tensor] = {}
    for key, wrapped in models.items():
        model = bare(wrapped)
        prefix = "" if len(models) == 1 else f"{key}."
        own |= {prefix + name: p for name, p in model.named_parameters(remove_duplicate=False)}
        own |= {prefix + name: b for name, b in model.named_buffers(remove_duplicate=False)}
        told = flags.get(key, {})
        evaluating, frozen = set(told.get("evaluating", ())), set(told.get("frozen", ()))
        for name, module in model.named_modules():
            module.training = name not in evaluating
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        if told.get("extra"):
            model.load_state_dict(told["extra"], strict=False)
    _check_names(section, own.keys(), stored.keys())
    with torch.no_grad():
        for name, tensor in own.items():
            value = as_tensor(stored[name])
            if value.dtype != tensor.dtype or value.shape != tensor.shape:
                raise RuntimeError(
                    f"reprokit: {section} tensor {name!r} is {tensor.dtype} {list(tensor.shape)} here, "
                    f"{value.dtype} {list(value.shape)} in the checkpoint"
                )
            tensor.copy_(value)


def _check_names(section: str, here: Iterable[str], there: Iterable[str]) -> None:
    missing, extra = sorted(set(here) - set(there)), sorted(set(there) - set(here))
    if missing or extra:
        parts = [f"not in the checkpoint: {', '.join(missing[:5])}"] if missing else []
        parts += [f"only in the checkpoint: {', '.join(extra[:5])}"] if extra else []
        raise RuntimeError(f"reprokit: the {section} has other tensors than the checkpoint ({'; '.join(parts)})")


def add_optimizer(
    snapshot: Snapshot, optimizers: Mapping[str, torch.optim.Optimizer], names: Mapping[int, str]
) -> None:
    """Add optimisers: tensors as `<parameter>.<slot>`, the rest of their state and their groups as values.

    Args:
        names: The name of each parameter by `id()`, as `add_model` returns them.
    """
    note_parts(optimizers.values())
    for key, optimizer in optimizers.items():
        plain = optimizer.state_dict()
        order = parameters_of(optimizer)
        slots: dict[str, dict[str, Any]] = {}
        for index, own in plain["state"].items():
            label = _label(index, order, names)
            for slot, value in own.items():
                if isinstance(value, torch.Tensor):
                    name = f"{_prefix(key)}{label}.{slot}"
                    add_tensor(snapshot, "optimizer", name, value, "trainable", {})
                    slots.setdefault(label, {})[slot] = {"optimizer": name}
                else:
                    slots.setdefault(label, {})[slot] = {"value": value}
        snapshot.state.setdefault("optimizer", {})[key] = {
            "type": type(optimizer).__name__,
            "parameters": [_label(index, order, names) for index in range(len(order))],
            "groups": plain["param_groups"],
            "slots": slots,
        }


def restore_optimizer(
    restored: Restored, optimizers: Mapping[str, torch.optim.Optimizer], names: Mapping[int, str]
) -> None:
    """Put optimisers back, each tensor in the dtype that it was saved in.

    Raises:
        RuntimeError: Another optimiser, other parameters, or a tensor that the optimiser itself would change.
    """
    told = restored.state("optimizer", {})
    stored = restored.section("optimizer")
    if told.keys() != optimizers.keys():
        raise RuntimeError(f"reprokit: the checkpoint has the optimisers {[*told]}, here are {[*optimizers]}")
    for key, optimizer in optimizers.items():
        facts, order = told[key], parameters_of(optimizer)
        here = [_label(index, order, names) for index in range(len(order))]
        if facts["type"] != type(optimizer).__name__ or facts["parameters"] != here:
            raise RuntimeError(
                f"reprokit: optimiser {key!r} is {type(optimizer).__name__} over {len(here)} parameters here, "
                f"{facts['type']} over {len(facts['parameters'])} in the checkpoint, or their order differs"
            )
        state: dict[int, dict[str, Any]] = {}
        for index, label in enumerate(here):
            for slot, place in facts["slots"].get(label, {}).items():
                value = place["value"] if "value" in place else as_tensor(_one(stored, place["optimizer"]))
                state.setdefault(index, {})[slot] = _like(value, order[index])
        optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
        for index, slots in state.items():
            _keep_bits(optimizer, order[index], slots, here[index])


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


def _like(value: Any, parameter: torch.Tensor) -> Any:
    """Return a tensor laid out in memory as the parameter is: channels-last moments stay channels-last."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape == parameter.shape and value.dim():
        return torch.empty_like(parameter, dtype=value.dtype, device="cpu", requires_grad=False).copy_(value)
    return value


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _label(index: int, order: list[torch.Tensor], names: Mapping[int, str]) -> str:
    found = names.get(id(order[index]))
    if found is None:
        raise TypeError(
            f"reprokit: the optimiser's parameter {index}, of shape {list(order[index].shape)}, belongs to no "
            "model that is saved; pass all models: model={'net': net, 'loss': loss}"
        )
    return found


def names_of(models: Mapping[str, torch.nn.Module]) -> dict[int, str]:
    """Return the name of each parameter by `id()`; those of several models begin with the model's own."""
    names: dict[int, str] = {}
    for key, wrapped in models.items():
        prefix = "" if len(models) == 1 else f"{key}."
        for name, parameter in bare(wrapped).named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), prefix + name)
    return names


def _prefix(key: str) -> str:
    return "" if key == "0" else f"{key}:"


def add_tensor(
    snapshot: Snapshot, section: str, name: str, tensor: torch.Tensor, group: str, first: dict[tuple[Any, ...], str]
) -> None:
    """Add one tensor; the same memory under a second name becomes an alias."""
    tensor = tensor.detach()
    kind = type(tensor)
    if getattr(kind, "__torch_dispatch__", None) is not torch.Tensor.__torch_dispatch__:  # DTensor, torchao
        raise TypeError(
            f"reprokit: {section} tensor {name!r} is a {kind.__module__}.{kind.__qualname__}, which is not stored; "
            "gather or dequantise it first"
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(
            f"reprokit: {section} tensor {name!r} is {'quantised' if tensor.is_quantized else tensor.layout}, which is "
            "not stored"
        )
    if tensor.is_meta:
        raise TypeError(f"reprokit: {section} tensor {name!r} is on the meta device and has no values")
    same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
    if tensor.numel() and first.setdefault(same, name) != name:
        snapshot.add_alias(section, name, first[same])
        return
    nbytes = tensor.numel() * tensor.element_size()

    def copy(view: Any) -> None:
        # resolve_*: a lazily conjugated or negated view holds other bytes than its values
        target = torch.frombuffer(view, dtype=tensor.dtype).view(tensor.shape)
        target.copy_(tensor.resolve_conj().resolve_neg())

    snapshot.add(
        section,
        name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        nbytes=nbytes,
        copy=copy,
        group=group,
    )


def add_state_tensor(snapshot: Snapshot, name: str, value: Any) -> str | None:
    """Add a tensor that stands in the state; see `Snapshot`."""
    if not isinstance(value, torch.Tensor):
        return None
    add_tensor(snapshot, "state", name, value, "buffer", {})
    return "torch"


def as_tensor(stored: StoredArray) -> torch.Tensor:
    """Return a stored tensor as one that owns its memory."""
    dtype = _TORCH[stored.dtype]
    if not stored.data:
        return torch.empty(stored.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(stored.data), dtype=dtype)
    return flat.view(stored.shape)


def plain_state(thing: Any) -> Any:
    """Return a scheduler's, scaler's or sampler's `state_dict()` without functions, which their owner has anew."""
    state = thing.state_dict()
    return {k: v for k, v in state.items() if not callable(v)} if isinstance(state, Mapping) else state


def restore_plain(thing: Any, state: Any) -> None:
    """Give a state back to `load_state_dict`, with its own kinds of mapping."""
    if isinstance(state, dict):
        own = getattr(thing, "__dict__", {})
        state = {k: Counter(v) if isinstance(own.get(k), Counter) else v for k, v in state.items()}
    thing.load_state_dict(state)


def capture_rng() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, torch, and every accelerator in use."""
    state = {**rng_state(), "torch": torch.get_rng_state().numpy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = [one.numpy() for one in torch.cuda.get_rng_state_all()]
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Put the generators back to where `capture_rng` found them.

    Raises:
        RuntimeError: The checkpoint knows another number of CUDA devices.
    """
    set_rng_state(state)
    torch.set_rng_state(torch.from_numpy(state["torch"]))
    devices = state.get("cuda", [])
    if devices:
        if torch.cuda.device_count() != len(devices):
            raise RuntimeError(
                f"reprokit: the checkpoint has the random state of {len(devices)} CUDA devices, here are "
                f"{torch.cuda.device_count()}"
            )
        torch.cuda.set_rng_state_all([torch.from_numpy(one) for one in devices])


def generators_of(loaders: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return every generator that loaders, their samplers and the user hold, by name, each once."""
    found: dict[str, Any] = {}
    for key, loader in loaders.items():
        for path in ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator"):
            thing = loader
            for part in path.split("."):
                thing = getattr(thing, part, None)
            if thing is not None and all(thing is not other for other in found.values()):
                found[f"loader.{key}.{path}"] = thing
    return found | {f"own.{name}": generator for name, generator in own.items()}


def state_of_generator(generator: Any) -> Any:
    return generator.get_state().numpy() if isinstance(generator, torch.Generator) else generator_state(generator)


def set_state_of_generator(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(state))
    else:
        set_generator_state(generator, state)
