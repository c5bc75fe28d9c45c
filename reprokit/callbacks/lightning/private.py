"""Every private part of Lightning and torchmetrics that the callback uses: what is read, set or wrapped, and why there
is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with Lightning 2.6, torchmetrics
1.9. All of Lightning's loops and connectors are private, their methods without an underscore too: its public way to
save and load is a checkpoint file between epochs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync

__all__ = [
    "USED",
    "Moments",
    "averaged",
    "averages_between",
    "between_batches",
    "call_on_save_checkpoint",
    "communication_state",
    "cycles",
    "datamodule_state",
    "flattened",
    "have_loaders",
    "iterator_of",
    "load_loop",
    "logged",
    "logging_place",
    "made_result",
    "metric_state",
    "moments",
    "reload_epochs",
    "restore_hooks",
    "result_counts",
    "results",
    "set_checkpoint",
    "set_logging_place",
    "set_metric_state",
    "set_reload_epochs",
    "takes_batches_itself",
    "training_length",
    "validates_by_clock",
]

_TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
_FIT = "lightning.pytorch.loops.fit_loop._FitLoop"
_EPOCH = "lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop"
_EVALUATION = "lightning.pytorch.loops.evaluation_loop._EvaluationLoop"
_CONNECTORS = "lightning.pytorch.trainer.connectors"
_CHECKPOINTS = f"{_CONNECTORS}.checkpoint_connector._CheckpointConnector"
_LOGGER = f"{_CONNECTORS}.logger_connector.logger_connector._LoggerConnector"
_RESULT = f"{_CONNECTORS}.logger_connector.result"
_DDP = "lightning.pytorch.strategies.ddp.DDPStrategy"
_METRIC = "torchmetrics.metric.Metric"

USED: tuple[tuple[str, str], ...] = (
    (f"{_TRAINER}._checkpoint_connector", "restores what callbacks and hooks have saved"),
    (f"{_TRAINER}._logger_connector", "what was logged"),
    ("lightning.pytorch.trainer.setup._init_debugging_flags._val_check_time_interval", "validation by the clock"),
    (f"{_CHECKPOINTS}._loaded_checkpoint", "set: the checkpoint that hooks are given"),
    (f"{_CHECKPOINTS}.resume_start", "wrapped: where a fit decides what to resume from"),
    (f"{_CHECKPOINTS}.restore_model", "has hooks restore"),
    (f"{_CHECKPOINTS}.restore_datamodule", "has hooks restore"),
    (f"{_CHECKPOINTS}.restore_callbacks", "has hooks restore"),
    (f"{_CHECKPOINTS}.restore_precision_plugin_state", "has hooks restore"),
    (f"{_FIT}._load_combined_loader_states", "wrapped: before the training data are opened"),
    (f"{_FIT}.reset", "wrapped: before any hook of a fit"),
    (f"{_FIT}.on_run_start", "wrapped: the fit begins"),
    (f"{_FIT}.on_advance_end", "wrapped: an epoch is over"),
    (f"{_FIT}.on_run_end", "wrapped: the fit is over"),
    (f"{_FIT}._can_stop_early", "whether the epoch ends here"),
    (f"{_FIT}._data_fetcher", "what reads the training data"),
    (f"{_FIT}._combined_loader", "the loaders of the training data"),
    (f"{_FIT}._last_train_dl_reload_epoch", "when the loaders were last made"),
    (f"{_FIT}.epoch_loop", "the loop over batches"),
    (f"{_EPOCH}.on_run_start", "wrapped: an epoch begins"),
    (f"{_EPOCH}.on_advance_end", "wrapped: a batch is over"),
    (f"{_EPOCH}._is_training_done", "whether the epoch ends here"),
    (f"{_EPOCH}._should_accumulate", "whether the optimiser has not stepped"),
    (f"{_EPOCH}._results", "metrics that have seen a part of the epoch"),
    (f"{_EPOCH}.batch_progress", "how many batches are done"),
    (f"{_EPOCH}.val_loop", "the loop of the validation"),
    (f"{_EVALUATION}._combined_loader", "the loaders of the validation data"),
    (f"{_EVALUATION}._last_val_dl_reload_epoch", "when the loaders were last made"),
    (f"{_EVALUATION}.setup_data", "makes the loaders"),
    ("lightning.pytorch.loops.loop._Loop._load_from_state_dict", "puts one loop back"),
    ("lightning.pytorch.loops.fetchers._DataLoaderIterDataFetcher", "training_step takes batches by itself"),
    ("lightning.pytorch.loops.fetchers._DataFetcher.combined_loader", "what a fetcher reads"),
    ("lightning.pytorch.loops.fetchers._DataFetcher.length", "whether it knows how many batches come"),
    ("lightning.pytorch.utilities.combined_loader.CombinedLoader._iterator", "the iterator that is open"),
    ("lightning.pytorch.utilities.combined_loader.CombinedLoader._mode", "how several loaders are read"),
    (f"{_LOGGER}._callback_metrics", "metrics that callbacks and schedulers wait for"),
    (f"{_LOGGER}._first_loop_iter", "where logging is"),
    (f"{_LOGGER}._current_fx", "where logging is"),
    ("lightning.pytorch.trainer.call._call_callbacks_on_save_checkpoint", "asks callbacks what to save"),
    ("lightning.pytorch.trainer.call._call_lightning_module_hook", "asks the module what to save"),
    ("lightning.pytorch.trainer.call._call_lightning_datamodule_hook", "asks the datamodule what to save"),
    (f"{_RESULT}._Metadata", "a logged metric, made anew"),
    (f"{_RESULT}._ResultMetric", "a logged metric, made anew"),
    (f"{_RESULT}._Sync", "a logged metric, made anew"),
    ("lightning.pytorch.callbacks.weight_averaging.WeightAveraging._average_model", "the averaged model"),
    (f"{_DDP}._ddp_comm_state", "whether a communication hook has a state"),
    (f"{_DDP}._model_averaging_period", "whether processes average now and then"),
    (f"{_METRIC}._defaults", "the names of a metric's states"),
    (f"{_METRIC}._update_count", "how often a metric was updated"),
    (f"{_METRIC}._computed", "its value so far, forgotten"),
    (f"{_METRIC}._forward_cache", "its value of the last batch"),
)


class Moments(NamedTuple):
    """Where a fit is between two batches or epochs: an object, and the method of it that can be wrapped there.

    Lightning's hooks come before plateau schedulers, early stopping and its own counters have done their part.
    """

    resumes: tuple[Any, str]
    opens_data: tuple[Any, str]
    resets: tuple[Any, str]
    begins: tuple[Any, str]
    epoch_begins: tuple[Any, str]
    batch_ends: tuple[Any, str]
    epoch_ends: tuple[Any, str]
    ends: tuple[Any, str]


def moments(trainer: Any) -> Moments:
    """Return the moments of a trainer's fit."""
    fit = trainer.fit_loop
    return Moments(
        resumes=(trainer._checkpoint_connector, "resume_start"),
        opens_data=(fit, "_load_combined_loader_states"),
        resets=(fit, "reset"),
        begins=(fit, "on_run_start"),
        epoch_begins=(fit.epoch_loop, "on_run_start"),
        batch_ends=(fit.epoch_loop, "on_advance_end"),
        epoch_ends=(fit, "on_advance_end"),
        ends=(fit, "on_run_end"),
    )


def set_checkpoint(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Have Lightning resume from a checkpoint that is in no file, which is all that `ckpt_path` takes."""
    trainer._checkpoint_connector._loaded_checkpoint = checkpoint


def restore_hooks(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Have Lightning restore module, datamodule, callbacks and precision from a checkpoint that is in no file."""
    connector = trainer._checkpoint_connector
    connector._loaded_checkpoint = checkpoint
    connector.restore_model()
    connector.restore_datamodule()
    connector.restore_callbacks()
    connector.restore_precision_plugin_state()
    connector._loaded_checkpoint = {}


def call_on_save_checkpoint(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Have callbacks and module add to a checkpoint what they want to have kept, by their own hooks.

    `trainer.save_checkpoint` would call them too, and write all of the state to a file.
    """
    call._call_callbacks_on_save_checkpoint(trainer, checkpoint)
    call._call_lightning_module_hook(trainer, "on_save_checkpoint", checkpoint)


def datamodule_state(trainer: Any) -> dict[str, Any]:
    """Return the `state_dict` of the datamodule, {} without one, called as Lightning calls it."""
    if trainer.datamodule is None:
        return {}
    state: dict[str, Any] = call._call_lightning_datamodule_hook(trainer, "state_dict")
    return state


def between_batches(trainer: Any) -> bool:
    """True after a batch if the optimiser has stepped, and the epoch goes on."""
    fit = trainer.fit_loop
    stops = trainer.should_stop and fit._can_stop_early
    return not (fit.epoch_loop._is_training_done or stops or fit.epoch_loop._should_accumulate())


def flattened(loop: Any) -> list[Any]:
    """Return the loaders that a loop reads, [] before they were made; public is what they were given as, nested."""
    return list(loop._combined_loader.flattened) if loop._combined_loader is not None else []


def have_loaders(trainer: Any) -> None:
    """Have the loaders for validation made if they were not yet; Lightning makes them with the first validation."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    if loop._combined_loader is None:
        trainer.validating = True
        loop.setup_data()
        trainer.training = True


def cycles(trainer: Any) -> bool:
    """True if the shorter ones of several training loaders begin anew until the longest is through."""
    return bool(trainer.fit_loop._combined_loader._mode == "max_size_cycle")


def iterator_of(fetcher: Any) -> Any:
    """Return the iterator that a fetcher reads from: another one once the data were opened anew."""
    return fetcher.combined_loader._iterator


def takes_batches_itself(trainer: Any) -> bool:
    """True if `training_step` is given the iterator; Lightning tells by the name of its argument."""
    return isinstance(trainer.fit_loop._data_fetcher, _DataLoaderIterDataFetcher)


def training_length(trainer: Any) -> Any:
    """Return the length of the training data, None if it is not known and they are read ahead."""
    return trainer.fit_loop._data_fetcher.length


def validates_by_clock(trainer: Any) -> bool:
    """True if `val_check_interval` is a time; the argument is not kept as it was given."""
    return getattr(trainer, "_val_check_time_interval", None) is not None


def communication_state(trainer: Any) -> Any:
    """Return the state of DDP's communication hook, None without; strategies keep their arguments for themselves."""
    return getattr(trainer.strategy, "_ddp_comm_state", None)


def averages_between(trainer: Any) -> bool:
    """True if processes average their models now and then; strategies keep their arguments for themselves."""
    return getattr(trainer.strategy, "_model_averaging_period", None) is not None


def averaged(callback: Any) -> Any:
    """Return the averaged model of a `WeightAveraging`; its own state lacks the buffers that are not persistent."""
    return callback._average_model


def logged(trainer: Any) -> dict[str, Any]:
    """Return Lightning's own mapping of what was logged; `callback_metrics` is a copy, and computes what it returns."""
    found: dict[str, Any] = trainer._logger_connector._callback_metrics
    return found


def logging_place(trainer: Any) -> tuple[Any, Any]:
    """Return where logging is: whether this is an epoch's first batch, and in which hook."""
    connector = trainer._logger_connector
    return connector._first_loop_iter, connector._current_fx


def set_logging_place(trainer: Any, first: Any, function: Any) -> None:
    """Put back what `logging_place` returned."""
    connector = trainer._logger_connector
    connector._first_loop_iter, connector._current_fx = first, function


def reload_epochs(trainer: Any) -> tuple[Any, Any]:
    """Return the epochs in which the loaders for training and validation were last made; -inf is never."""
    loop = trainer.fit_loop
    return loop._last_train_dl_reload_epoch, loop.epoch_loop.val_loop._last_val_dl_reload_epoch


def set_reload_epochs(trainer: Any, train: Any, val: Any) -> None:
    """Put back what `reload_epochs` returned."""
    loop = trainer.fit_loop
    loop._last_train_dl_reload_epoch, loop.epoch_loop.val_loop._last_val_dl_reload_epoch = train, val


def load_loop(loop: Any, state: dict[str, Any], prefix: str = "") -> None:
    """Do as the loops' `load_state_dict`, without having them believe that they restart: they would skip hooks."""
    loop._load_from_state_dict(state, prefix)
    for name, child in vars(loop).items():
        if isinstance(child, _Loop):
            load_loop(child, state, f"{prefix}{name}.")


def metric_state(metric: Any) -> dict[str, Any]:
    """Return what a metric has accumulated; its `state_dict` has only states that were declared persistent."""
    return {"states": {key: getattr(metric, key) for key in metric._defaults}, "updates": metric._update_count}


def set_metric_state(metric: Any, states: dict[str, Any], updates: int) -> None:
    """Put back what `metric_state` returned, on the metric's device.

    Args:
        states: By name; others than the metric's own are left.
    """
    for key in metric._defaults:
        setattr(metric, key, states[key])
    metric._update_count, metric._computed = updates, None


def results(trainer: Any) -> Any:
    """Return Lightning's own mapping of metrics that have seen a part of the epoch; it saves none of them."""
    return trainer.fit_loop.epoch_loop._results


def result_counts(one: Any) -> tuple[Any, int]:
    """Return the value of the last batch, and how many there were, of an entry of `results`."""
    return one._forward_cache, one._update_count


def made_result(trainer: Any, told: dict[str, Any], *, reduce: Any, last: Any, device: torch.device) -> Any:
    """Return an entry of `results`, made anew; Lightning makes them when something is logged for the first time.

    Args:
        told: `meta` and `sync`, as Lightning describes what was logged and how processes bring theirs together;
            `tensor`, true for a number and false for a metric of the module; `updates`, as of `result_counts`.
        reduce: The function that sums up an epoch.
        last: As of `result_counts`, on the device.
    """
    meta, sync = _Metadata(**told["meta"], reduce_fx=reduce), told["sync"]
    meta.sync = _Sync(
        fn=trainer.strategy.reduce, _should=sync["should"], rank_zero_only=sync["rank_zero_only"], _op=sync["op"]
    )
    one = _ResultMetric(meta, told["tensor"]).to(device)
    one._forward_cache, one._update_count = last, told["updates"]
    return one
