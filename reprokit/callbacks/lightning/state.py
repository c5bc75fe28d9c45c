"""What a Lightning trainer remembers beside model, optimisers and schedulers: as plain values and tensors, and back."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, Timer
from torchmetrics import Metric

from reprokit.callbacks.lightning import private
from reprokit.callbacks.pytorch import state as torch_state
from reprokit.client.restored import Restored

__all__ = ["as_checkpoint", "held_by_hooks", "local", "progress", "set_local", "set_progress"]

_MODEL = "$state_dict"  # stands for the module's own tensors where a hook stored them once more
_REDUCTIONS = {"mean": torch.mean, "sum": torch.sum, "min": torch.min, "max": torch.max}
_REDUCTIONS |= {"builtin sum": sum, "builtin min": min, "builtin max": max}
_META = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx",
         "dataloader_idx", "metric_attribute")  # fmt: skip


def held_by_hooks(trainer: Any) -> dict[str, Any]:
    """Return what callbacks, datamodule, precision and the hooks `on_save_checkpoint` want to have kept.

    Not that of Lightning's own checkpoint callbacks, which is about files, nor of its timer, which is about clocks.
    """
    module, precision = trainer.lightning_module, trainer.precision_plugin
    weights = module.state_dict()
    ours = {"state_dict": weights, "callbacks": {}, **_heading(trainer)}
    kept = [one for one in trainer.callbacks if not isinstance(one, (Checkpoint, Timer))]
    ours["callbacks"] = {one.state_key: state for one in kept if (state := one.state_dict())}
    checkpoint = dict(ours)
    precision.on_save_checkpoint(checkpoint)
    private.call_on_save_checkpoint(trainer, checkpoint)
    added = {key: value for key, value in checkpoint.items() if key not in ours or value is not ours[key]}
    return {
        "callbacks": ours["callbacks"],
        "precision": precision.state_dict(),
        "datamodule": private.datamodule_state(trainer),
        "added": {key: _MODEL if value is weights else value for key, value in added.items()},
    }


def _heading(trainer: Any) -> dict[str, Any]:
    version = {"pytorch-lightning_version": pl.__version__}
    return {"epoch": trainer.current_epoch, "global_step": trainer.global_step, **version}


def as_checkpoint(trainer: Any, restored: Restored) -> dict[str, Any]:
    """Return a checkpoint as Lightning knows it, without optimisers, schedulers and loops: those we restore."""
    held = restored.state("lightning")["hooks"]
    module, stored = trainer.lightning_module, restored.section("model")
    weights = module.state_dict()
    weights |= {name: torch_state.as_tensor(stored[name]) for name in weights if name in stored}
    found = {"state_dict": weights, **_heading(trainer), "callbacks": held["callbacks"]}
    found |= {"optimizer_states": [], "lr_schedulers": []}
    if held["precision"]:
        found[type(trainer.precision_plugin).__qualname__] = held["precision"]
    if held["datamodule"]:
        found[type(trainer.datamodule).__qualname__] = held["datamodule"]
    return found | {key: weights if value == _MODEL else value for key, value in held["added"].items()}


def progress(trainer: Any) -> dict[str, Any]:
    """Return where the loops are."""
    loop = trainer.fit_loop
    loops = loop.state_dict()
    loops["state_dict"] = {key: value for key, value in loops["state_dict"].items() if key != "combined_loader"}
    first, function = private.logging_place(trainer)
    # only those metrics that something waits for: any other may be a clock, which no two runs read alike
    monitored = {config.monitor for config in trainer.lr_scheduler_configs}
    monitored |= {getattr(one, "monitor", None) for one in trainer.callbacks}
    return {
        "loops": loops,
        "reloaded": _reloaded(trainer),
        "stopping": trainer.should_stop,
        "accumulate": trainer.accumulate_grad_batches,
        "metrics": {name: value for name, value in private.logged(trainer).items() if name in monitored},
        "first": first,
        "function": function,
    }


def _reloaded(trainer: Any) -> list[int | None]:
    """Return the epochs in which the loaders were last made; [] where they are made but once."""
    if not trainer.reload_dataloaders_every_n_epochs:
        return []
    return [None if epoch == float("-inf") else int(epoch) for epoch in private.reload_epochs(trainer)]


def set_progress(trainer: Any, state: dict[str, Any]) -> None:
    """Put the loops back to where `progress` found them."""
    private.load_loop(trainer.fit_loop, copy.deepcopy(state["loops"]))
    if state["reloaded"]:
        train, val = (float("-inf") if epoch is None else epoch for epoch in state["reloaded"])
        private.set_reload_epochs(trainer, train, val)
    trainer.should_stop = state["stopping"]
    trainer.accumulate_grad_batches = state["accumulate"]
    private.logged(trainer).update(state["metrics"])
    private.set_logging_place(trainer, state["first"], state["function"])


def local(trainer: Any) -> dict[str, Any]:
    """Return what each process has for itself: metrics that have seen a part of the epoch.

    Raises:
        TypeError: A metric is synchronised within a group of processes.
    """
    metrics = {
        name: private.metric_state(metric)
        for name, metric in trainer.lightning_module.named_modules()
        if isinstance(metric, Metric)
    }
    return {"metrics": metrics, "results": {key: _result(one) for key, one in private.results(trainer).items()}}


def _result(one: Any) -> dict[str, Any]:
    meta, (last, updates) = one.meta, private.result_counts(one)
    if meta.sync.group is not None:
        raise TypeError(
            f"reprokit: the metric {meta.name!r} is synchronised in a group of processes, which is not stored"
        )
    return {
        "meta": {name: getattr(meta, name) for name in _META},
        "reduce": next(name for name, function in _REDUCTIONS.items() if function is meta.reduce_fx),
        "sync": {"should": meta.sync.should, "op": meta.sync.op, "rank_zero_only": meta.sync.rank_zero_only},
        "tensor": one.is_tensor,
        "value": one.value if one.is_tensor else None,
        "size": getattr(one, "cumulated_batch_size", None),
        "last": last,
        "reset": one.has_reset,
        "updates": updates,
    }


def set_local(trainer: Any, state: dict[str, Any]) -> None:
    """Put metrics back to where `local` found them.

    Raises:
        RuntimeError: The module has other metrics than the checkpoint.
    """
    module, device = trainer.lightning_module, trainer.strategy.root_device
    here = {name: one for name, one in module.named_modules() if isinstance(one, Metric)}
    if here.keys() != state["metrics"].keys():
        raise RuntimeError(f"reprokit: the checkpoint has the metrics {[*state['metrics']]}, here are {[*here]}")
    for name, metric in here.items():
        told = state["metrics"][name]
        states = {key: _at(value, metric.device) for key, value in told["states"].items()}
        private.set_metric_state(metric, states, told["updates"])
    results = private.results(trainer)
    results.clear()
    for key, told in state["results"].items():
        results[key] = _remade(trainer, module, told, device)


def _remade(trainer: Any, module: Any, told: dict[str, Any], device: torch.device) -> Any:
    reduce, last = _REDUCTIONS[told["reduce"]], _at(told["last"], device)
    one = private.made_result(trainer, told, reduce=reduce, last=last, device=device)
    if told["tensor"]:
        one.value = _at(told["value"], device)
        if told["size"] is not None:
            one.cumulated_batch_size = _at(told["size"], device)
    else:
        one.value = dict(module.named_modules())[told["meta"]["metric_attribute"] or ""]
    one.has_reset = told["reset"]
    return one


def _at(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_at(one, device) for one in value] if isinstance(value, list) else value
