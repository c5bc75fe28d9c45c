"""The state that PyTorch objects carry, whether a checkpoint has it or not. Loads nothing: looks at what is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from reprokit.client.probe.digests import UnreadableError, digest, is_generator, is_plain
from reprokit.client.probe.places import Living, Objects
from reprokit.client.probe.source import Given, Parts, Source, read, state_of, told

__all__ = ["facts", "find", "generators", "rng"]

_GENERATORS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")


def rng() -> Iterator[Source]:
    """Yield torch's global generators."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return
    yield Source("RNG", "torch RNG", None, None, state_of("torch RNG", torch.get_rng_state()))
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = {f"device {i}": told(state) for i, state in enumerate(torch.cuda.get_rng_state_all())}
        yield Source("RNG", "CUDA RNG", None, None, {"CUDA RNG": states})


def find(names: Mapping[int, str], _objects: Objects, given: Given, living: Living) -> Iterator[Source]:
    """Yield models, optimisers, schedulers, scalers and samplers that are alive.

    Args:
        names: Where the user keeps what, by `id()`.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "optim"):
        return
    models = _top_models(torch, living)
    labels: dict[int, str] = {}
    for model in sorted(models, key=lambda model: id(model) not in names):
        for name, parameter in _bare(model).named_parameters(remove_duplicate=False):
            labels.setdefault(id(parameter), name)
    in_checkpoint = {id(t) for thing in given.held if isinstance(thing, torch.nn.Module) for t in _tensors(thing)}
    averaged = getattr(sys.modules.get("torch.optim.swa_utils"), "AveragedModel", None)
    for model in models:
        held = all(id(tensor) in in_checkpoint for tensor in _tensors(model)) if given.explicit else None
        is_average = averaged is not None and isinstance(model, averaged)
        parts = read(_average if is_average else _model, model)
        kind = "EMA" if is_average else "model"
        yield Source(kind, type(_bare(model)).__name__, names.get(id(model)), held, parts)
    for optimizer in living.of(torch.optim.Optimizer):
        parts = read(_optimizer, optimizer, labels)
        yield Source("optimiser", type(optimizer).__name__, names.get(id(optimizer)), given.has(optimizer), parts)
    for kind, type_ in (
        ("scheduler", torch.optim.lr_scheduler.LRScheduler),
        ("GradScaler", torch.amp.grad_scaler.GradScaler),
        ("sampler", torch.utils.data.Sampler),
    ):
        found = living.of(type_)
        inner = {id(one) for thing in found for one in getattr(thing, "_schedulers", ())}
        for thing in found:
            if id(thing) not in inner:
                parts = read(_values, kind, thing)
                held = given.has(thing) if kind != "sampler" else None
                yield Source(kind, type(thing).__name__, names.get(id(thing)), held, parts)


def _loaders(names: Mapping[int, str], living: Living) -> Iterator[tuple[str, Any]]:
    """Yield the DataLoaders that are alive, with the names that the user gave them."""
    data = sys.modules.get("torch.utils.data")
    for loader in living.of(data.DataLoader) if data is not None else ():
        yield names.get(id(loader), "a DataLoader"), loader


def generators(names: Mapping[int, str], living: Living) -> dict[int, tuple[str, Any]]:
    """Return the generators that order batches or seed workers, by `id()`: (name, generator)."""
    found: dict[int, tuple[str, Any]] = {}
    for name, loader in _loaders(names, living):
        for path in _GENERATORS:
            thing = loader
            for part in path.split("."):
                thing = getattr(thing, part, None)
            if thing is not None:
                found.setdefault(id(thing), (f"{name.rstrip('`')}.{path}`" if "`" in name else name, thing))
    return found


def facts(names: Mapping[int, str], objects: Objects, held: list[Any], living: Living) -> dict[str, Any]:
    """Return torch's switches, and the loaders with workers."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "backends"):
        return {}
    switches = {
        "cuda": torch.cuda.is_available(),
        "tf32": [name for name, on in _tf32(torch).items() if on],
        "benchmark": bool(torch.backends.cudnn.benchmark),
        "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
        "precision": str(torch.get_float32_matmul_precision()),
    }
    found = [
        {
            "name": name,
            "workers": int(loader.num_workers),
            "persistent": bool(loader.persistent_workers),
            "held": any(loader is one for one in held),
            "generators": _copied(name, objects),
            "worker_init": loader.worker_init_fn is not None,
        }
        for name, loader in _loaders(names, living)
        if loader.num_workers
    ]
    return {"torch": switches, "loaders": found}


def _tf32(torch: Any) -> dict[str, bool]:
    if not torch.cuda.is_available():
        return {}
    return {
        "torch.backends.cuda.matmul.allow_tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "torch.backends.cudnn.allow_tf32": bool(torch.backends.cudnn.allow_tf32),
    }


def _copied(loader: str, objects: Objects) -> list[str]:
    """Return the generators below a loader's dataset: each worker gets a copy of them, and draws the same from it."""
    inside = loader.rstrip("`") + ".dataset"
    return [name for name, thing in objects if is_generator(thing) and name.startswith(inside)]


def _top_models(torch: Any, living: Living) -> list[Any]:
    """Return the modules that have tensors and are part of no other; Keras's own are looked at as Keras models."""
    found = [one for one in living.of(torch.nn.Module) if "_modules" in vars(one)]
    parts = {id(child) for model in found for child in model._modules.values()}
    return [
        model
        for model in found
        if id(model) not in parts
        and not any(kind.__module__.startswith("keras.") for kind in type(model).__mro__)
        and next(_tensors(model), None) is not None
    ]


def _bare(model: Any) -> Any:
    """Return the model inside torch.compile's, DataParallel's and DDP's wrappers."""
    while True:
        inner = model._modules.get("_orig_mod")
        if type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model._modules.get("module")
        if inner is None:
            return model
        model = inner


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.parameters()
    yield from model.buffers()


def _model(wrapped: Any) -> Parts:
    model = _bare(wrapped)
    parameters = list(model.named_parameters(remove_duplicate=False))
    passing = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    buffers = list(model.named_buffers(remove_duplicate=False))
    evaluating = [name for name, module in model.named_modules() if not module.training]
    frozen = [name for name, parameter in parameters if not parameter.requires_grad]
    return {
        "parameters": {name: "#" + digest(parameter) for name, parameter in parameters},
        "buffers": {name: "#" + digest(buffer) for name, buffer in buffers if name not in passing},
        "non-persistent buffers": {name: "#" + digest(buffer) for name, buffer in buffers if name in passing},
        "gradients": {name: "#" + digest(p.grad) for name, p in parameters if p.grad is not None},
        "training flags": {"evaluating": told(evaluating), "frozen": told(frozen)},
    }


def _average(model: Any) -> Parts:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {"EMA": {name: "#" + digest(tensor) for name, tensor in tensors}}


def _optimizer(optimizer: Any, labels: Mapping[int, str]) -> Parts:
    parts: Parts = {"optimiser moments": {}, "optimiser step": {}, "optimiser groups": {}}
    position = 0
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key != "params":
                parts["optimiser groups"][f"groups[{number}].{key}"] = told(value)
        for parameter in group["params"]:
            label = labels.get(id(parameter), f"parameter {position}")
            position += 1
            for slot, value in optimizer.state.get(parameter, {}).items():
                part = "optimiser step" if slot == "step" else "optimiser moments"
                is_number = part == "optimiser step" and hasattr(value, "item") and value.numel() == 1
                parts[part][f"{label}.{slot}"] = told(value.item() if is_number else value)
    return parts


def _values(part: str, thing: Any) -> Parts:
    """Return what a scheduler or scaler says is its state, or the plain attributes of a sampler."""
    if hasattr(thing, "state_dict"):
        state = thing.state_dict()
    else:
        state = {name: value for name, value in vars(thing).items() if is_plain(value)}
    found: dict[str, str] = {}
    for key, value in state.items():
        if not callable(value):
            try:
                found[str(key)] = told(value)
            except UnreadableError:
                continue
    return {part: found}
