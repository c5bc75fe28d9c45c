"""Checkpoints from a PyTorch training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from reprokit.client import connect, context, number
from reprokit.client.snapshot import Snapshot, due, rng_state

__all__ = ["PackageCheckpoint"]


class PackageCheckpoint:
    """Saves model, optimiser, scheduler and random state as a package version.

        ckpt = PackageCheckpoint(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
        for epoch in ckpt.epochs(params["epochs"]):
            ...
            ckpt.save(val_loss=loss, accuracy=accuracy)

    Args:
        model: Its parameters and all its buffers are saved, non-persistent ones too.
        optimizer, scheduler: One, or several by name.
        loader: A DataLoader; the state of its own generator is saved, if it has one.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too, so that a divergence can be told from a different start.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | dict[str, torch.optim.Optimizer] | None = None,
        scheduler: Any = None,
        loader: Any = None,
        package: str | None = None,
        initial: bool = True,
    ) -> None:
        self.model = model
        self.optimizers = _named(optimizer)
        self.schedulers = _named(scheduler)
        self.loader = loader
        self.package = package
        self._initial = initial
        self._epoch: int | None = None
        self._total: int | None = None
        self._steps = 0
        if self.optimizers:
            next(iter(self.optimizers.values())).register_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._steps += 1

    def epochs(self, total: int) -> Iterator[int]:
        """Yield 0, 1, … `total` − 1, or fewer where the run is told to stop early."""
        told = context()
        until = told.get("until")
        last = total - 1 if until is None else min(total - 1, int(until))
        self._total = last
        connect().send({"type": "epochs", "total": last + 1})
        if self._initial:
            self._snapshot().save(epoch=None, step=self._steps, metrics={}, kind="initial", package=self.package)
        for epoch in range(last + 1):
            self._epoch = epoch
            yield epoch
            connect().send({"type": "epoch", "epoch": epoch})

    def save(self, *, state: dict[str, Any] | None = None, **metrics: Any) -> dict[str, Any] | None:
        """Save a checkpoint of this moment, if the recipe's policy asks for one after this epoch.

        Args:
            state: Anything of your own that the training depends on: numbers, text, lists, tensors.
            metrics: Numbers, or one-element tensors.
        Returns:
            {"package", "top_hash", "state_digest"}, or None if no checkpoint was due.
        Raises:
            TypeError: Something cannot be stored faithfully; it is named.
        """
        values = {name: number(name, value) for name, value in metrics.items()}
        if self._epoch is not None and not due(self._epoch, self._total):
            connect().send({"type": "metrics", "step": self._steps, "values": values})
            return None
        snapshot = self._snapshot()
        snapshot.state["user"] = state or {}
        return snapshot.save(epoch=self._epoch, step=self._steps, metrics=values, package=self.package)

    def _snapshot(self) -> Snapshot:
        snapshot = Snapshot(framework="torch", array=_as_array)
        names = _add_model(snapshot, self.model)
        for key, optimizer in self.optimizers.items():
            snapshot.state.setdefault("optimizer", {})[key] = _add_optimizer(snapshot, key, optimizer, names)
        if self.schedulers:
            snapshot.state["scheduler"] = {
                key: {name: value for name, value in scheduler.state_dict().items() if not callable(value)}
                for key, scheduler in self.schedulers.items()
            }
        snapshot.state["step"] = self._steps
        snapshot.state["epoch"] = self._epoch
        snapshot.state["rng"] = {**rng_state(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            snapshot.state["rng"]["cuda"] = torch.cuda.get_rng_state_all()
        if (generator := getattr(self.loader, "generator", None)) is not None:
            snapshot.state["rng"]["loader"] = generator.get_state()
        return snapshot


def _named(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    return dict(value) if isinstance(value, dict) else {"0": value}


def _add_model(snapshot: Snapshot, model: torch.nn.Module) -> dict[int, str]:
    """Add parameters, buffers and extra state; return the name of each parameter by identity."""
    names: dict[int, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    known: set[str] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known.add(name)
        names.setdefault(id(parameter), name)
        group = "trainable" if parameter.requires_grad else "frozen"
        _add_tensor(snapshot, "model", name, parameter, group, first)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        known.add(name)
        _add_tensor(snapshot, "model", name, buffer, "buffer", first)
    extra = {key: value for key, value in model.state_dict().items() if key not in known}
    if extra:
        snapshot.state["extra"] = extra
    return names


def _add_optimizer(
    snapshot: Snapshot, key: str, optimizer: torch.optim.Optimizer, names: dict[int, str]
) -> dict[str, Any]:
    """Add an optimiser's tensors as `<parameter>.<slot>`; return the rest of its state_dict as JSON."""
    plain = optimizer.state_dict()
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    prefix = "" if key == "0" else f"{key}:"
    scalars: dict[str, Any] = {}
    for index, slots in plain["state"].items():
        parameter = names.get(id(order[index]), f"#{index}") if isinstance(index, int) else str(index)
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                _add_tensor(snapshot, "optimizer", f"{prefix}{parameter}.{slot}", value, "trainable", {})
            else:
                scalars.setdefault(parameter, {})[slot] = value
    return {"type": type(optimizer).__name__, "groups": plain["param_groups"], "scalars": scalars}


def _add_tensor(
    snapshot: Snapshot, section: str, name: str, tensor: torch.Tensor, group: str, first: dict[tuple[Any, ...], str]
) -> None:
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(f"reprokit: {section} tensor {name!r} is {tensor.layout} or quantised, which is not stored")
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


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else None
