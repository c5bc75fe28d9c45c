"""Checkpoints from Lightning's `Trainer.fit`, and its resume, bit for bit.

Lightning's hooks are called before a batch or an epoch is quite over: plateau schedulers, early stopping and its own
counters follow. So the loops of a trainer are wrapped, while they run, where they are between two batches or epochs.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader

from reprokit.callbacks.lightning import private
from reprokit.callbacks.lightning import state as lightning_state
from reprokit.callbacks.pytorch.batches import remake_workers
from reprokit.callbacks.pytorch.callback import samplers_of
from reprokit.callbacks.pytorch.driven import DrivenLoop, next_training, random_state, regroups, to_resume
from reprokit.client.restored import Restored
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint"]

FRAMEWORK = "lightning"
_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")


class PackageCheckpoint(Callback):  # type: ignore[misc]
    """Saves everything that a training's future depends on as a package version, and resumes from one.

        trainer = L.Trainer(max_epochs=n, callbacks=[PackageCheckpoint(monitor="val_loss")])
        trainer.fit(model, loader)

    Where a run is resumed, `fit` restores by itself. What callbacks, the datamodule and `on_save_checkpoint` keep is
    kept, but for Lightning's own `ModelCheckpoint`, which is about files.

    Args:
        monitor: A metric that must have been logged when the first epoch with a validation ends.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too, so that a divergence can be told from a different start.
    """

    def __init__(self, *, monitor: str | None = None, package: str | None = None, initial: bool = True) -> None:
        super().__init__()
        self.monitor = monitor
        self.package = package
        self.initial = initial
        self._fit: _Fit | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Follow the loops of a fit from here.

        Raises:
            RuntimeError: A strategy that spreads the state over processes.
        """
        if stage != "fit" or trainer.fast_dev_run:
            return
        name = type(trainer.strategy).__name__
        if name not in _STRATEGIES:
            raise RuntimeError(
                f"reprokit: checkpoints under Lightning's {name} are not supported, which may spread the state over "
                f"processes; {' and '.join(_STRATEGIES)} are"
            )
        self._fit = _Fit(trainer, self)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if self._fit is not None:
            self._fit.validated()

    on_sanity_check_end = on_validation_end

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        if self._fit is not None:
            self._fit.leave(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        if self._fit is not None:
            self._fit.leave(None)


class _Fit:
    """One call of `fit`: follows the trainer's loops, and tells the loop that saves where they are."""

    def __init__(self, trainer: Any, callback: PackageCheckpoint) -> None:
        self._trainer = trainer
        self._callback = callback
        self._training = next_training()
        self._restored = to_resume(FRAMEWORK, self._training)
        self._ahead = self._restored.batch if self._restored is not None else None
        self._made: _Loop | None = None
        self._metrics: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        self._unhandled = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        self._stack = ExitStack()
        moments = private.moments(trainer)
        self._wrap(*moments.resumes, self._resume_start)
        self._wrap(*moments.opens_data, self._before_iter)
        self._wrap(*moments.resets, self._reset)
        self._wrap(*moments.begins, self._run_start)
        self._wrap(*moments.epoch_begins, self._epoch_start)
        self._wrap(*moments.batch_ends, self._batch_end)
        self._wrap(*moments.epoch_ends, self._epoch_end)
        self._wrap(*moments.ends, self._run_end)

    def _wrap(self, thing: Any, name: str, around: Callable[..., None]) -> None:
        original = getattr(thing, name)

        def wrapped(*arguments: Any, **options: Any) -> None:
            if self._callback in self._trainer.callbacks:  # not so while Lightning searches a learning rate
                around(lambda: original(*arguments, **options), *arguments)
            else:
                original(*arguments, **options)

        setattr(thing, name, wrapped)
        self._stack.callback(delattr, thing, name)

    @property
    def _loop(self) -> _Loop:
        """The loop that saves; there is one as soon as the trainer has its optimisers."""
        if self._made is None:
            self._made = _Loop(self._trainer, self._callback, self._training)
        return self._made

    def leave(self, exception: BaseException | None) -> None:
        """Stop following."""
        if exception is not None and self._made is not None and not isinstance(exception, SystemExit):
            self._made.save_on_exception()
        self._stack.close()

    def validated(self) -> None:
        """Have the workers for validation started anew each time: what they have drawn is nowhere to be read."""
        if not self._trainer.sanity_checking:
            self._loop.validated = True
        for loader in private.flattened(self._trainer.fit_loop.epoch_loop.val_loop):
            remake_workers(loader)

    def _resume_start(self, original: Callable[[], None], *_: Any) -> None:
        original()
        if self._restored is not None:  # and not what the script may have asked for by `ckpt_path`
            private.set_checkpoint(self._trainer, lightning_state.as_checkpoint(self._trainer, self._restored))

    def _before_iter(self, original: Callable[[], None]) -> None:
        original()
        self._start = random_state(_named("train", self._trainer.fit_loop))

    def _reset(self, original: Callable[[], None]) -> None:
        original()
        if self._restored is not None:  # now, so that all hooks see where the training is
            accumulates = self._trainer.accumulate_grad_batches
            self._loop.go_back(self._restored)
            self._trainer.accumulate_grad_batches = accumulates  # GradientAccumulationScheduler wants to find it so

    def _run_start(self, original: Callable[[], None]) -> None:
        original()
        # Lightning's own handler would stop in the middle of a validation, and without a checkpoint
        if self._unhandled and self._loop.handles_signals and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._stack.enter_context(self._loop.watching())
        total = self._trainer.max_epochs
        self._loop.marks = {"start": self._start}
        self._loop.begin(total if total is not None and total >= 0 else None, self._restored)

    def _epoch_start(self, original: Callable[[], None], fetcher: Any) -> None:
        loop = self._loop
        self._remake_workers()
        iterator, before = private.iterator_of(fetcher), loop.own_random()
        original()
        if private.iterator_of(fetcher) is not iterator:  # not so in the first epoch, which `setup_data` began
            self._start = before
        loop.marks = {"start": self._start, "first": loop.own_random()}
        if self._ahead is not None and self._restored is not None:
            self._come_back(fetcher, self._ahead, self._restored)
            self._ahead = None

    def _remake_workers(self) -> None:
        for loader in private.flattened(self._trainer.fit_loop):
            remake_workers(loader)

    def _come_back(self, fetcher: Any, batch: int, restored: Restored) -> None:
        """Draw the epoch's order again, and drop the batches that were done."""
        loop, now = self._loop, self._loop.own_random()
        # the state before the first epoch has no first batch yet, and hooks have drawn since
        loop.marks = {"start": loop.mark("start"), "first": loop.mark("first") if batch else now}
        loop.set_own_random(loop.marks["start"])
        self._remake_workers()  # those of the iterator that Lightning has just made
        iter(fetcher)
        loop.set_own_random(loop.marks["first"])
        for done in range(batch):
            try:
                next(fetcher)
            except StopIteration:
                raise RuntimeError(f"reprokit: the loader has {done} batches, the run was at batch {batch}") from None
        if batch:
            loop.come_back(restored)

    def _batch_end(self, original: Callable[[], None], _: Any) -> None:
        original()
        trainer, fit = self._trainer, self._trainer.fit_loop
        if not private.between_batches(trainer):
            return
        batch = fit.epoch_loop.batch_progress.current.ready
        self._loop.after_batch(
            trainer.current_epoch,
            batch,
            trainer.global_step,
            self._fresh_metrics(),
            batches=lambda: trainer.num_training_batches,
        )

    def _epoch_end(self, original: Callable[[], None]) -> None:
        epoch = self._trainer.current_epoch
        original()
        self._loop.after_epoch(epoch, self._trainer.global_step, self._fresh_metrics())
        self._check_monitor()
        if self._loop.last_epoch_done:
            raise StopIteration  # which Lightning takes for the end of the training

    def _run_end(self, original: Callable[[], None]) -> None:
        self._loop.finish()
        original()

    def _fresh_metrics(self) -> dict[str, Any]:
        """Return the metrics that were logged since this was last called."""
        before, self._metrics = self._metrics, dict(private.logged(self._trainer))
        return {name: value for name, value in self._metrics.items() if value is not before.get(name)}

    def _check_monitor(self) -> None:
        monitor, known = self._callback.monitor, self._trainer.callback_metrics
        waits = self._trainer.enable_validation and not self._loop.validated
        if monitor is not None and monitor not in known and not waits:
            raise ValueError(
                f"reprokit: the metric {monitor!r} was not logged; there are: {', '.join(sorted(known)) or 'none'}. "
                "Correct `monitor=`, or log it with `self.log`"
            )


class _Loop(DrivenLoop):
    """What a Lightning trainer's state is.

    Attributes:
        validated: The loaders for validation have been used, in earnest; until then they are as they were made.
    """

    framework = FRAMEWORK

    def __init__(self, trainer: Any, callback: PackageCheckpoint, training: int) -> None:
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, ZeroRedundancyOptimizer):
                raise RuntimeError("reprokit: ZeroRedundancyOptimizer spreads its state over processes; not supported")
        super().__init__(
            training=training,
            endings=_endings(trainer),
            unresumable=_unresumable(trainer),
            model=trainer.lightning_module,
            optimizer=list(trainer.optimizers),
            scheduler=[config.scheduler for config in trainer.lr_scheduler_configs],
            # its own state lacks the buffers that are not persistent, which it swaps with the module's all the same
            ema=[private.averaged(one) for one in trainer.callbacks if isinstance(one, WeightAveraging)],
            package=callback.package,
            initial=callback.initial,
        )
        self.validated = False
        self._trainer = trainer
        self._local: Any = None

    def _driven(self) -> Iterable[Any]:
        trainer = self._trainer
        return [*trainer.callbacks, trainer.lightning_module, trainer.datamodule]

    def loaders_now(self) -> dict[str, Any]:
        fit = self._trainer.fit_loop
        return _named("train", fit) | (_named("val", fit.epoch_loop.val_loop) if self.validated else {})

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        self._local = self._of_all(lightning_state.local(self._trainer))
        return super()._save(metrics, kind=kind)

    def _capture(self, snapshot: Snapshot) -> None:
        super()._capture(snapshot)
        snapshot.config = _description(self._trainer.lightning_module)
        snapshot.state["lightning"] = {
            "hooks": lightning_state.held_by_hooks(self._trainer),
            "progress": lightning_state.progress(self._trainer),
            "samplers": {name: one.state_dict() for name, one in self._samplers().items()},
            "validated": self.validated,
            "local": self._local,
        }

    def _restore(self, restored: Restored) -> None:
        self._make_val_loaders(restored)
        private.restore_hooks(self._trainer, lightning_state.as_checkpoint(self._trainer, restored))
        super()._restore(restored)
        state = restored.state("lightning")
        lightning_state.set_progress(self._trainer, state["progress"])
        lightning_state.set_local(self._trainer, self._own_of(state["local"]))
        for name, one in self._samplers().items():
            if name in state["samplers"]:
                one.load_state_dict(state["samplers"][name])

    def _make_val_loaders(self, restored: Restored) -> None:
        """Have the loaders for validation made, if the checkpoint has the state of generators of theirs."""
        self.validated = bool(restored.state("lightning")["validated"])
        if self.validated:
            private.have_loaders(self._trainer)

    def _samplers(self) -> dict[str, Any]:
        return {name: one for name, one in samplers_of(self.loaders_now()).items() if name.endswith("sampler")}


def _named(prefix: str, loop: Any) -> dict[str, Any]:
    return {f"{prefix}.{i}": one for i, one in enumerate(private.flattened(loop))}


def _endings(trainer: Any) -> str | None:
    """Return why a training can be resumed at epochs' ends alone; None if inside an epoch too."""
    loaders = _named("train", trainer.fit_loop)
    if private.takes_batches_itself(trainer):
        return "training_step takes its batches by itself, from an iterator"
    if private.training_length(trainer) is None:
        return "the training data has no length, and is read ahead"
    if len(loaders) > 1 and private.cycles(trainer):
        return "several loaders are cycled, which draw a new order at any time"
    for loader in loaders.values():
        if not isinstance(loader, DataLoader):
            return f"the training data comes from a {type(loader).__qualname__}, which is not a DataLoader"
    if stateful := samplers_of(loaders):
        return f"{type(next(iter(stateful.values()))).__qualname__} has a position of its own"
    return None


def _unresumable(trainer: Any) -> str | None:
    """Return why a training cannot be resumed bit for bit; None if it can."""
    if private.validates_by_clock(trainer):
        return "it validates by the clock (val_check_interval)"
    if any(isinstance(one, StochasticWeightAveraging) for one in trainer.callbacks):
        return "StochasticWeightAveraging makes its scheduler anew; use WeightAveraging"
    if private.communication_state(trainer) is not None:
        return "the state of its DDP communication hook is not stored"
    if private.averages_between(trainer):
        return "the processes' models differ between two averagings"
    return regroups(trainer.strategy.model)


def _description(module: Any) -> dict[str, Any]:
    """Return the module's class, and its hyperparameters if they are plain."""
    described: dict[str, Any] = {"class": f"{type(module).__module__}.{type(module).__qualname__}"}
    try:
        described["hparams"] = json.loads(json.dumps(dict(module.hparams), allow_nan=False))
    except (TypeError, ValueError):
        pass
    return described
