"""Checkpoints from the `Trainer` of Hugging Face's transformers, and its resume, bit for bit.

The events of a callback come before a step is quite over: logging, evaluation and what hangs on it follow. So some
methods of the trainer are wrapped while it trains, where it is between two steps or two epochs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils import DistributedType
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length

from reprokit.callbacks.pytorch.batches import remake_workers
from reprokit.callbacks.pytorch.callback import samplers_of
from reprokit.callbacks.pytorch.driven import DrivenLoop, next_training, regroups, set_attributes, to_resume
from reprokit.callbacks.transformers import private
from reprokit.client.restored import Restored
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint"]

_NO_DESCRIPTION = ("_name_or_path", "transformers_version")
FRAMEWORK = "transformers"
_KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_CLOCKS = ("_runtime", "_per_second", "_time")
# of the trainer's state: where its files are and which process this is; callbacks are kept by themselves
_ELSEWHERE = ("best_model_checkpoint", "is_local_process_zero", "is_world_process_zero", "stateful_callbacks")


class PackageCheckpoint(TrainerCallback):  # type: ignore[misc]
    """Saves everything that a training's future depends on as a package version, and resumes from one.

        trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[PackageCheckpoint()])
        trainer.train()

    Where a run is resumed, `train` restores by itself. The recipe says when to save; `save_strategy="no"` spares the
    trainer's own files. State of callbacks is kept if they are `ExportableState`, as the trainer's own are.

    Args:
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too, so that a divergence can be told from a different start.
    """

    def __init__(self, *, package: str | None = None, initial: bool = True) -> None:
        self.package = package
        self.initial = initial
        self._run: _Run | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the event's signature
        trainer = private.trainer_that_calls()
        train = trainer.train

        def training(resume_from_checkpoint: Any = None, *given: Any, **options: Any) -> Any:
            with ExitStack() as stack:
                run = self._run = _Run(trainer, self, stack)
                result = train(resume_from_checkpoint if run.restored is None else None, *given, **options)
                run.finish()
            return result

        trainer.train = training

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._running().train_begins()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._running().epoch_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._running().ends = "step"

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._running().ends = "epoch"

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG002
        if self._run is not None:
            self._run.logged(logs or {})

    def _running(self) -> _Run:
        if self._run is None:
            raise RuntimeError(
                "reprokit: give PackageCheckpoint to the trainer when it is made: Trainer(…, callbacks=[…])"
            )
        return self._run


class _Run:
    """One call of `train`: follows the trainer, and tells the loop that saves where it is.

    Attributes:
        ends: What has just ended: `step` or `epoch`.
        restored: The checkpoint that this goes on from, or None.
    """

    def __init__(self, trainer: Any, callback: PackageCheckpoint, stack: ExitStack) -> None:
        _refuse(trainer)
        self.ends = ""
        self._trainer = trainer
        self._callback = callback
        self._stack = stack
        self._training = next_training()
        self.restored = to_resume(FRAMEWORK, self._training)
        self._ahead = self.restored.batch if self.restored is not None else None
        self._made: _Loop | None = None
        self._epoch: int | None = None
        self._given: Any = None
        self._batches: _Batches | None = None
        self._metrics: dict[str, Any] = {}
        # first of all callbacks: what others draw when an epoch begins belongs to that epoch
        trainer.callback_handler.callbacks.sort(key=lambda one: one is not callback)
        self._wrap(private.moments.batches, self._get_batches)
        self._wrap(private.moments.between, self._log_save_evaluate)
        if self.restored is not None:
            self._wrap(private.moments.begins, self._init_state)
            resumes = {"resume_from_checkpoint": FRAMEWORK}  # so that it skips the batches that were done
            self._wrap(private.moments.epoch, lambda run_epoch, **given: run_epoch(**given | resumes))
            self._wrap(private.moments.random, lambda *_: None)

    def _wrap(self, name: str, around: Callable[..., Any]) -> None:
        original = getattr(self._trainer, name)
        setattr(self._trainer, name, lambda *given, **options: around(original, *given, **options))
        self._stack.callback(delattr, self._trainer, name)

    @property
    def _loop(self) -> _Loop:
        """The loop that saves; there is one as soon as the trainer has its optimiser."""
        if self._made is None:
            self._made = _Loop(self._trainer, self._callback, self._training)
        return self._made

    def _init_state(self, original: Callable[..., Any], *given: Any) -> tuple[int, int]:
        """Return the epoch to begin with, and how many of its batches were done."""
        original(*given)
        restored = self.restored
        if restored is None or restored.epoch is None:
            return 0, 0
        if restored.batch is not None:
            return restored.epoch, restored.batch
        if restored.state(FRAMEWORK)["control"]["should_training_stop"]:
            _, _, epochs, *_ = given
            return epochs, 0
        return restored.epoch + 1, 0

    def train_begins(self) -> None:
        if self.restored is not None:
            self._loop.go_back(self.restored)  # so that all callbacks see where the training is

    def epoch_begins(self) -> None:
        remake_workers(private.base_loader(self._trainer.callback_handler.train_dataloader))
        if self._epoch is not None:
            self._epoch += 1
            return
        self._epoch, restored = 0, self.restored
        if restored is not None and restored.epoch is not None:
            self._epoch = restored.epoch + (restored.batch is None)
        self._stack.enter_context(self._loop.watching())
        known = has_length(self._trainer.callback_handler.train_dataloader)
        self._loop.begin(self._trainer.state.num_train_epochs if known else None, restored)

    def logged(self, logs: dict[str, Any]) -> None:
        for name, value in logs.items():
            if name != "epoch" and not name.endswith(_CLOCKS) and isinstance(value, (int, float)):
                self._metrics[name] = value

    def finish(self) -> None:
        """Wait until everything is stored."""
        if self._made is not None:
            self._made.finish()

    def _get_batches(self, original: Callable[..., Any], iterator: Any, *given: Any, **options: Any) -> Any:
        if iterator is not self._given:
            self._given = iterator
            self._batches = self._open(iterator)
        return original(self._batches, *given, **options)

    def _open(self, iterator: Any) -> _Batches:
        """Return an epoch's batches, without those that were done of the epoch that a resumed run goes on with."""
        loop, restored, batch = self._loop, self.restored, self._ahead
        self._ahead = None
        if restored is None or not batch:
            loop.marks = {"start": loop.own_random()}
            return _Batches(iterator, loop)
        loop.marks = {"start": loop.mark("start")}
        loop.set_own_random(loop.marks["start"])
        loader = self._trainer.callback_handler.train_dataloader
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(self._epoch)
        batches = _Batches(iter(loader), loop)
        for _ in islice(batches, batch - 1):
            pass
        loop.set_own_random(loop.mark("ahead"))  # with the last of them, the loader reads the next one ahead
        for _ in islice(batches, 1):
            pass
        if batches.done < batch:
            raise RuntimeError(f"reprokit: the loader has {batches.done} batches, the run was at batch {batch}")
        loop.come_back(restored)
        return batches

    def _log_save_evaluate(self, original: Callable[..., Any], *given: Any, **options: Any) -> None:
        for loader in private.evaluation_loaders(self._trainer):
            remake_workers(private.base_loader(loader))
        original(*given, **options)
        ends, self.ends = self.ends, ""
        state, control = self._trainer.state, self._trainer.control
        epoch, batches = self._epoch, self._batches
        if epoch is None or batches is None:
            return
        if ends == "epoch":
            self._loop.after_epoch(epoch, state.global_step, self._take_metrics())
            if self._loop.last_epoch_done:
                control.should_training_stop = True
        elif not (control.should_epoch_stop or control.should_training_stop or state.epoch >= epoch + 1):
            loader = self._trainer.callback_handler.train_dataloader
            self._loop.after_batch(
                epoch, batches.done, state.global_step, self._take_metrics(), batches=lambda: len(loader)
            )

    def _take_metrics(self) -> dict[str, Any]:
        taken, self._metrics = self._metrics, {}
        return taken


class _Batches:
    """The batches of an epoch, counted; `marks["ahead"]` is the random state before the last one was asked for."""

    def __init__(self, batches: Iterator[Any], loop: _Loop) -> None:
        self.done = 0
        self._batches = batches
        self._loop = loop

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        marks = self._loop.marks
        ahead = self._loop.own_random() if self._loop.reads_itself or "ahead" not in marks else marks["ahead"]
        batch = next(self._batches)
        marks["ahead"] = ahead
        self.done += 1
        return batch


class _Loop(DrivenLoop):
    """What a trainer's state is."""

    framework = FRAMEWORK

    def __init__(self, trainer: Any, callback: PackageCheckpoint, training: int) -> None:
        self._trainer = trainer
        loader = trainer.callback_handler.train_dataloader
        self.reads_itself = not getattr(loader, "num_workers", 0)
        for sampler in _seedable(loader):
            if sampler.generator is None:  # as it does itself when it is first used
                sampler.generator = torch.Generator().manual_seed(sampler.initial_seed)
        super().__init__(
            training=training,
            endings=_endings(trainer),
            unresumable=_unresumable(trainer),
            model=trainer.model,
            optimizer=getattr(trainer.optimizer, "optimizer", trainer.optimizer),
            scheduler=trainer.lr_scheduler,
            scaler=trainer.accelerator.scaler,
            package=callback.package,
            initial=callback.initial,
        )
        self._local: Any = None

    def _driven(self) -> Iterable[Any]:
        return [*self._trainer.callback_handler.callbacks, self._trainer, self._trainer.model]

    def loaders_now(self) -> dict[str, Any]:
        return {"train": self._trainer.callback_handler.train_dataloader}

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        trainer = self._trainer
        self._local = self._of_all({"loss": private.loss(trainer), "flos": float(trainer.current_flos)})
        return super()._save(metrics, kind=kind)

    def _capture(self, snapshot: Snapshot) -> None:
        super()._capture(snapshot)
        trainer = self._trainer
        config = getattr(trainer.model, "config", None)
        snapshot.config = _description(config) if config is not None else None
        snapshot.state[FRAMEWORK] = {
            "state": _state(trainer.state),
            "control": dict(vars(trainer.control)),
            "callbacks": {name: one.state()["attributes"] for name, one in _exportable(trainer).items()},
            "samplers": [sampler.initial_seed for sampler in _seedable(self.loaders_now()["train"])],
            "counters": private.counters(trainer),
            "local": self._local,
        }

    def _restore(self, restored: Restored) -> None:
        super()._restore(restored)
        trainer, state = self._trainer, restored.state(FRAMEWORK)
        set_attributes(
            trainer.state, state["state"], {field.name for field in dataclasses.fields(trainer.state)} - {*_ELSEWHERE}
        )
        set_attributes(trainer.control, state["control"], vars(trainer.control).keys())
        if restored.batch is None:
            trainer.control.should_epoch_stop = False  # an epoch that was stopped is over
        callbacks = _exportable(trainer)
        if callbacks.keys() != state["callbacks"].keys():
            raise RuntimeError(
                f"reprokit: the checkpoint has the callbacks {[*state['callbacks']]}, here are {[*callbacks]}"
            )
        for name, one in callbacks.items():
            set_attributes(one, state["callbacks"][name], one.state()["attributes"].keys())
        for sampler, seed in zip(_seedable(self.loaders_now()["train"]), state["samplers"], strict=True):
            sampler.initial_seed = seed
        set_attributes(trainer, state["counters"], private.COUNTERS)
        own = self._own_of(state["local"])
        private.set_loss(trainer, own["loss"])
        trainer.current_flos = own["flos"]


def _refuse(trainer: Any) -> None:
    """Refuse what cannot be saved, or not be repeated, by name."""
    private.check()
    kind = trainer.accelerator.distributed_type
    sharded = getattr(trainer, "is_distributed_loading_by_transformers", False)
    if kind not in _KINDS or sharded:
        name = "tensor parallelism" if sharded else kind.value
        raise RuntimeError(
            f"reprokit: checkpoints under {name} are not supported, which spreads the state over processes; those of "
            "one process and of data parallelism (DDP) are"
        )
    if trainer.args.auto_find_batch_size:
        raise RuntimeError(
            "reprokit: auto_find_batch_size=True lets free memory decide the batch size, which no other run could "
            "repeat; give per_device_train_batch_size"
        )


def _endings(trainer: Any) -> str | None:
    """Return why a training can be resumed at epochs' ends alone; None if inside an epoch too."""
    if trainer.args.ignore_data_skip:
        return "ignore_data_skip=True has it begin with other batches"
    if getattr(trainer.accelerator, "use_stateful_dataloader", False):
        return "its stateful loader has a position of its own"
    loader = trainer.callback_handler.train_dataloader
    stateful = {name: one for name, one in samplers_of({"train": loader}).items() if name.endswith("sampler")}
    if stateful:
        return f"{type(next(iter(stateful.values()))).__qualname__} has a position of its own"
    return None


def _unresumable(trainer: Any) -> str | None:
    """Return why a training cannot be resumed bit for bit; None if it can."""
    if trainer.args.load_best_model_at_end:
        return (
            "load_best_model_at_end=True needs checkpoint folders of the trainer's own, which a resumed run begins "
            "without; take RUN@best instead"
        )
    return regroups(trainer.model_wrapped)


def _description(config: Any) -> Any:
    """Return a model's configuration, without where it was read from, and by which release."""

    def told(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: told(one) for key, one in value.items() if key not in _NO_DESCRIPTION}

    return told(json.loads(config.to_json_string(use_diff=False)))


def _state(state: Any) -> dict[str, Any]:
    """Return a TrainerState as values, without places and clocks."""
    found = {key: value for key, value in dataclasses.asdict(state).items() if key not in _ELSEWHERE}
    found["log_history"] = [
        {name: value for name, value in entry.items() if not name.endswith(_CLOCKS)} for entry in state.log_history
    ]
    return found


def _exportable(trainer: Any) -> dict[str, Any]:
    """Return the callbacks that say what their state is, by class and number."""
    found = [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]
    return {f"{type(one).__name__}.{i}": one for i, one in enumerate(found)}


def _seedable(loader: Any) -> list[Any]:
    """Return the samplers whose order hangs on a seed and the epoch alone."""
    batches = getattr(loader, "batch_sampler", None)
    places = (loader, batches, getattr(batches, "batch_sampler", None))
    found = {id(one): one for place in places if (one := getattr(place, "sampler", None)) is not None}
    return [one for one in found.values() if isinstance(one, SeedableRandomSampler)]
