"""What a Lightning trainer remembers beside model, optimisers and schedulers: as plain values and tensors, and back."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torchmetrics import Metric

from reprokit.callbacks.pytorch import state as torch_state
from reprokit.client.restored import Restored

__all__ = ["as_checkpoint", "held_by_hooks", "load_hooks", "local", "progress", "set_local", "set_progress"]

_MODEL = "$state_dict"  # stands for the module's own tensors where a hook stored them once more
_REDUCTIONS = {"mean": torch.mean, "sum": torch.sum, "min": torch.min, "max": torch.max}
_REDUCTIONS |= {"builtin sum": sum, "builtin min": min, "builtin max": max}
_META = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx",
         "dataloader_idx", "metric_attribute")  # fmt: skip


def held_by_hooks(trainer: Any) -> dict[str, Any]:
    """Return what callbacks, datamodule, precision and the hooks `on_save_checkpoint` want to have kept.

    Not that of Lightning's own checkpoint callbacks, which is about files, nor of its timer, which is about clocks.
    """
    module, datamodule, precision = trainer.lightning_module, trainer.datamodule, trainer.precision_plugin
    weights = module.state_dict()
    ours = {"state_dict": weights, "callbacks": {}, **_heading(trainer)}
    kept = [one for one in trainer.callbacks if not isinstance(one, (Checkpoint, Timer))]
    ours["callbacks"] = {one.state_key: state for one in kept if (state := one.state_dict())}
    checkpoint = dict(ours)
    precision.on_save_checkpoint(checkpoint)
    call._call_callbacks_on_save_checkpoint(trainer, checkpoint)
    call._call_lightning_module_hook(trainer, "on_save_checkpoint", checkpoint)
    added = {key: value for key, value in checkpoint.items() if key not in ours or value is not ours[key]}
    return {
        "callbacks": ours["callbacks"],
        "precision": precision.state_dict(),
        "datamodule": call._call_lightning_datamodule_hook(trainer, "state_dict") if datamodule is not None else {},
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


def load_hooks(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Have Lightning restore from such a checkpoint, hooks and all."""
    connector = trainer._checkpoint_connector
    connector._loaded_checkpoint = checkpoint
    connector.restore_model()
    connector.restore_datamodule()
    connector.restore_callbacks()
    connector.restore_precision_plugin_state()
    connector._loaded_checkpoint = {}


def progress(trainer: Any) -> dict[str, Any]:
    """Return where the loops are."""
    loop = trainer.fit_loop
    loops = loop.state_dict()
    loops["state_dict"] = {key: value for key, value in loops["state_dict"].items() if key != "combined_loader"}
    connector = trainer._logger_connector
    # only those metrics that something waits for: any other may be a clock, which no two runs read alike
    monitored = {config.monitor for config in trainer.lr_scheduler_configs}
    monitored |= {getattr(one, "monitor", None) for one in trainer.callbacks}
    return {
        "loops": loops,
        "reloaded": _reloaded(trainer),
        "stopping": trainer.should_stop,
        "accumulate": trainer.accumulate_grad_batches,
        "metrics": {name: value for name, value in connector._callback_metrics.items() if name in monitored},
        "first": connector._first_loop_iter,
        "function": connector._current_fx,
    }


def _reloaded(trainer: Any) -> list[int | None]:
    """Return the epochs in which the loaders were last made; [] where they are made but once."""
    if not trainer.reload_dataloaders_every_n_epochs:
        return []
    epochs = (
        trainer.fit_loop._last_train_dl_reload_epoch,
        trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch,
    )
    return [None if epoch == float("-inf") else int(epoch) for epoch in epochs]


def set_progress(trainer: Any, state: dict[str, Any]) -> None:
    """Put the loops back to where `progress` found them."""
    loop, connector = trainer.fit_loop, trainer._logger_connector
    _load(loop, copy.deepcopy(state["loops"]), "")
    if state["reloaded"]:
        train, val = (float("-inf") if epoch is None else epoch for epoch in state["reloaded"])
        loop._last_train_dl_reload_epoch, loop.epoch_loop.val_loop._last_val_dl_reload_epoch = train, val
    trainer.should_stop = state["stopping"]
    trainer.accumulate_grad_batches = state["accumulate"]
    connector._callback_metrics.update(state["metrics"])
    connector._first_loop_iter, connector._current_fx = state["first"], state["function"]


def _load(loop: Any, state: dict[str, Any], prefix: str) -> None:
    """Do as the loops' `load_state_dict`, without having them believe that they restart: they would skip hooks."""
    loop._load_from_state_dict(state, prefix)
    for name, child in vars(loop).items():
        if isinstance(child, _Loop):
            _load(child, state, f"{prefix}{name}.")


def local(trainer: Any) -> dict[str, Any]:
    """Return what each process has for itself: metrics that have seen a part of the epoch.

    Raises:
        TypeError: A metric is synchronised within a group of processes.
    """
    metrics = {
        name: {
            "states": {key: getattr(metric, key) for key in metric._defaults},
            "updates": metric._update_count,
        }
        for name, metric in trainer.lightning_module.named_modules()
        if isinstance(metric, Metric)
    }
    results = trainer.fit_loop.epoch_loop._results
    return {"metrics": metrics, "results": {key: _result(one) for key, one in results.items()}}


def _result(one: Any) -> dict[str, Any]:
    meta = one.meta
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
        "last": one._forward_cache,
        "reset": one.has_reset,
        "updates": one._update_count,
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
        for key in metric._defaults:
            setattr(metric, key, _at(state["metrics"][name]["states"][key], metric.device))
        metric._update_count, metric._computed = state["metrics"][name]["updates"], None
    results = trainer.fit_loop.epoch_loop._results
    results.clear()
    for key, told in state["results"].items():
        results[key] = _remade(trainer, module, told, device)


def _remade(trainer: Any, module: Any, told: dict[str, Any], device: torch.device) -> Any:
    meta = _Metadata(**told["meta"], reduce_fx=_REDUCTIONS[told["reduce"]])
    sync = told["sync"]
    meta.sync = _Sync(
        fn=trainer.strategy.reduce, _should=sync["should"], rank_zero_only=sync["rank_zero_only"], _op=sync["op"]
    )
    one = _ResultMetric(meta, told["tensor"]).to(device)
    if told["tensor"]:
        one.value = _at(told["value"], device)
        if told["size"] is not None:
            one.cumulated_batch_size = _at(told["size"], device)
    else:
        one.value = dict(module.named_modules())[meta.metric_attribute or ""]
    one._forward_cache = _at(told["last"], device)
    one.has_reset, one._update_count = told["reset"], told["updates"]
    return one


def _at(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_at(one, device) for one in value] if isinstance(value, list) else value
