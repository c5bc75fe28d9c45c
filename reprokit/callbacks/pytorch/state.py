"""The state of PyTorch objects: into a snapshot, and back, bit for bit. For every callback of a PyTorch framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from reprokit.callbacks.pytorch import private
from reprokit.client.facts.numeric import note_parts
from reprokit.client.restored import Restored, check_names
from reprokit.client.rng import generator_state, rng_state, set_generator_state, set_rng_state
from reprokit.client.snapshot import Snapshot
from reprokit.client.tensors import DTYPES, StoredArray

__all__ = [
    "add_model",
    "add_state_tensor",
    "add_tensor",
    "as_tensor",
    "buffers_in",
    "capture_rng",
    "generators_of",
    "laid_out",
    "named",
    "names_of",
    "parameters_by_name",
    "parameters_in",
    "parameters_of",
    "plain_state",
    "prefixed",
    "restore_model",
    "restore_plain",
    "restore_rng",
    "set_state_of_generator",
    "state_of_generator",
    "tensors_in",
]

_PARALLEL = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
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
        inner = private.compiled(model)
        if inner is None and isinstance(model, _PARALLEL):
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
    for key, (prefix, model) in zip(models, prefixed(models), strict=True):
        note_parts(model.modules())
        known: set[str] = set()
        for name, parameter in parameters_in(model):
            known.add(name)
            group = "trainable" if parameter.requires_grad else "frozen"
            add_tensor(snapshot, section, prefix + name, parameter, group, first)
        for name, buffer in buffers_in(model):
            known.add(name)
            add_tensor(snapshot, section, prefix + name, buffer, "buffer", first)
        extra = {name: value for name, (_, value) in _state_of(model).items() if name not in known}
        flags[key] = {
            "evaluating": [name for name, module in modules_in(model) if not module.training],
            "frozen": [name for name, p in parameters_in(model) if not p.requires_grad],
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
    for key, (prefix, model) in zip(models, prefixed(models), strict=True):
        own |= {prefix + name: tensor for name, tensor in [*parameters_in(model), *buffers_in(model)]}
        told = flags.get(key, {})
        evaluating, frozen = set(told.get("evaluating", ())), set(told.get("frozen", ()))
        for name, module in modules_in(model):
            module.training = name not in evaluating
        for name, parameter in parameters_in(model):
            parameter.requires_grad_(name not in frozen)
        if told.get("extra"):
            here = _state_of(model)
            given = {here[name][0] if name in here else name: value for name, value in told["extra"].items()}
            model.load_state_dict(given, strict=False)
    check_names(own, stored, f"{section} has other tensors")
    with torch.no_grad():
        for name, tensor in own.items():
            _refuse_lazy(section, name, tensor)
            value = as_tensor(stored[name])
            if value.dtype != tensor.dtype or value.shape != tensor.shape:
                raise RuntimeError(
                    f"reprokit: {section} tensor {name!r} is {tensor.dtype} {list(tensor.shape)} here, "
                    f"{value.dtype} {list(value.shape)} in the checkpoint"
                )
            tensor.copy_(value)


def laid_out(value: Any, parameter: torch.Tensor) -> Any:
    """Return a tensor laid out in memory as the parameter is: channels-last moments stay channels-last."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape == parameter.shape and value.dim():
        return torch.empty_like(parameter, dtype=value.dtype, device="cpu", requires_grad=False).copy_(value)
    return value


def _state_of(model: torch.nn.Module) -> dict[str, tuple[str, Any]]:
    """Return what `state_dict` says, by name as in `parameters_in`: the model's own name, and the value."""
    inner = _wrappers(model)
    return {_unwrapped(name, inner): (name, value) for name, value in model.state_dict().items()}


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def names_of(models: Mapping[str, torch.nn.Module]) -> dict[int, str]:
    """Return the name of each parameter by `id()`; those of several models begin with the model's own."""
    names: dict[int, str] = {}
    for name, parameter in parameters_by_name(models).items():
        names.setdefault(id(parameter), name)
    return names


def parameters_by_name(models: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Return the parameters of models, tied ones under each of their names."""
    return {prefix + name: parameter for prefix, model in prefixed(models) for name, parameter in parameters_in(model)}


def tensors_in(models: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of models."""
    for prefix, model in prefixed(models):
        for name, tensor in [*parameters_in(model), *buffers_in(model)]:
            yield prefix + name, tensor


def prefixed(models: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield models without their wrappers, and what the names of their tensors begin with."""
    for key, wrapped in models.items():
        yield "" if len(models) == 1 else f"{key}.", bare(wrapped)


def parameters_in(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters of a model under their names, which wrappers inside it do not change."""
    inner = _wrappers(model)
    return [(_unwrapped(name, inner), one) for name, one in model.named_parameters(remove_duplicate=False)]


def buffers_in(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the buffers of a model, as `parameters_in` does."""
    inner = _wrappers(model)
    return [(_unwrapped(name, inner), one) for name, one in model.named_buffers(remove_duplicate=False)]


def modules_in(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the modules of a model, as `parameters_in` does."""
    inner = _wrappers(model)
    return [(_unwrapped(name, inner), one) for name, one in model.named_modules()]


def _wrappers(model: torch.nn.Module) -> list[str]:
    """Return the paths in a model at which a wrapper holds its module, the innermost first."""
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        if path and private.compiled(module) is not None:
            found.append(f"{path}._orig_mod")
        elif path and isinstance(module, _PARALLEL):
            found.append(f"{path}.module")
    return sorted(found, key=len, reverse=True)


def _unwrapped(name: str, wrappers: list[str]) -> str:
    for path in wrappers:
        if name == path or name.startswith(f"{path}."):
            name = path.rpartition(".")[0] + name[len(path) :]
    return name


def add_tensor(
    snapshot: Snapshot, section: str, name: str, tensor: torch.Tensor, group: str, first: dict[tuple[Any, ...], str]
) -> None:
    """Add one tensor; the same memory under a second name becomes an alias."""
    _refuse_lazy(section, name, tensor)
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


def _refuse_lazy(section: str, name: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise TypeError(
            f"reprokit: {section} tensor {name!r} belongs to a lazy module and has no shape before the model's first "
            "call; call the model once on a batch's shapes before the checkpoints begin: model(torch.zeros(…))"
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
