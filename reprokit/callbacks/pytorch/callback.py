"""Checkpoints from a PyTorch training loop, and its resume, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed

from reprokit.callbacks.pytorch import gradients, replicas
from reprokit.callbacks.pytorch import state as torch_state
from reprokit.callbacks.pytorch.batches import LoopParts, Reading, Readings, remake_workers
from reprokit.callbacks.pytorch.held import HELD
from reprokit.callbacks.pytorch.optimizers import Strangers, add_optimizer, groups_of, restore_optimizer, unwrapped
from reprokit.client.loop import Loop
from reprokit.client.restored import Restored
from reprokit.client.rng import same
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint", "samplers_of"]

_CARRIED = (
    "an iterator over a DataLoader goes on from one epoch to the next, and its place is in no checkpoint; take the "
    "batches of each epoch from ckpt.batches(loader), or ckpt.batches(loader, endless=True) to go round"
)
_LATE = (
    "after ckpt.save the epoch's body steps or draws random numbers, which a resumed run leaves out; save last in the "
    "body"
)


class PackageCheckpoint(Loop):
    """Saves model, optimiser, scheduler, loader and random state as a package version, and resumes from one.

        ckpt = PackageCheckpoint(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
        for epoch in ckpt.epochs(params["epochs"]):
            for batch in ckpt.batches(loader):
                ...
            ckpt.save(val_loss=loss, accuracy=accuracy)

    Where a run is resumed, `epochs` restores everything when it is entered. Under `torch.distributed` every process
    makes one and calls the same methods: rank 0 writes, and each rank's random state is kept.

    Args:
        model: One, or several by name. Parameters and all buffers are saved, non-persistent ones too.
        optimizer, scheduler: One, several in a list, or by name.
        loader: The DataLoaders whose state matters, at least the one that is trained on. The state of their generators
            and samplers is saved. Workers of `persistent_workers=True` are made anew each epoch: what they have drawn
            could not be restored.
        scaler: A GradScaler.
        ema: Averaged models, such as `torch.optim.swa_utils.AveragedModel`.
        generators: Generators of your own by name: torch.Generator, numpy.random.Generator, random.Random.
        stateful: Anything else with `state_dict` and `load_state_dict`, by name.
        skip: How a resumed run comes back to the middle of an epoch: `load` loads the batches that were done and drops
            them, which is right for any data; `index` skips them unread, for items that draw no random numbers, or
            draw them by index.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too, so that a divergence can be told from a different start.
    """

    framework = "torch"
    counts_epochs = True

    def __init__(
        self,
        *,
        model: torch.nn.Module | dict[str, torch.nn.Module],
        optimizer: Any = None,
        scheduler: Any = None,
        loader: Any = None,
        scaler: Any = None,
        ema: Any = None,
        generators: dict[str, Any] | None = None,
        stateful: dict[str, Any] | None = None,
        skip: Literal["load", "index"] = "load",
        package: str | None = None,
        initial: bool = True,
    ) -> None:
        super().__init__(package=package, initial=initial)
        self.models = torch_state.named(model)
        self.optimizers = {key: unwrapped(one) for key, one in torch_state.named(optimizer).items()}
        self.loaders = torch_state.named(loader)
        self.ema = torch_state.named(ema)
        self._generators = torch_state.generators_of(self.loaders, generators or {})
        self._stateful = {f"scheduler.{key}": one for key, one in torch_state.named(scheduler).items()}
        self._stateful |= {f"scaler.{key}": one for key, one in torch_state.named(scaler).items()}
        self._stateful |= {f"own.{key}": one for key, one in (stateful or {}).items()}
        self._stateful |= {f"sampler.{key}": one for key, one in samplers_of(self.loaders).items()}
        if _ranks() > 1:
            self._policy.agree()
        parts = LoopParts(self._random, self._set_random, self._between, self._stands_at, self._reached)
        self._readings = Readings(parts, skip)
        self._gradients = gradients.Gradients(self._tensors, self.optimizers.values())
        self._groups = groups_of(self.optimizers)  # when the epoch began
        self._strangers = Strangers(self.optimizers.values())
        self._random_saved: dict[str, Any] | None = None  # when this epoch's end was saved
        self._late: list[str] = []
        self._kind = "checkpoint"
        self._comes_back = False  # what is restored for the second time, where the middle of an epoch was reached
        self._steps_are_batches = not self.optimizers
        if self.optimizers:
            next(iter(self.optimizers.values())).register_step_post_hook(self._count)

    def batches(self, loader: Any, *, endless: bool = False) -> Reading:
        """Return an iterator over the batches of an epoch; between them the recipe's policy may save, and a resumed run
        starts there.

        Take them in a `for` loop. `enumerate` around it counts on in a resumed run, and several loaders are read in
        step: `for i, (a, b) in enumerate(zip(ckpt.batches(one), ckpt.batches(other, endless=True)))`. Where batches are
        taken by `next(…)`, runs can be resumed from the ends of epochs alone, and checkpoints inside them say so.

        Args:
            endless: Begin again, in a new order, when the loader ends.
        Raises:
            RuntimeError: The loader ended before the batch that a resumed run was at; batches follow upon the save at
                an epoch's end; or they are of an epoch that is over.
        """
        self._check_epoch()
        return self._readings.make(loader, endless=endless)

    def _between(self, batch: int, last: bool) -> None:
        """Save between two batches, if the policy or a signal asks for it; after the last, at the epoch's end."""
        self._batch = batch
        self._between_batches(last=last)

    def _stands_at(self, batch: int | None) -> None:
        """Note how many batches of the epoch were given; None outside a loop over them."""
        self._batch = batch
        if batch is not None:
            self._report(batch, self._readings.count)

    def _reached(self) -> None:
        """Put everything back once more: what the epoch's body does before its batches was done already."""
        if self._restored is not None:
            self._resume_batch, self._comes_back = None, True
            self._restore(self._restored)
            self._put_state(self._user_of(self._restored.state("user", {})))

    def save(self, *, state: dict[str, Any] | None = None, **metrics: Any) -> Saving | None:
        if self._epoch is not None and not self._readings.is_inside():
            self._batch = None  # batches that a variable still holds are those of an epoch that is over
            self._readings.saved_end = True
        return super().save(state=state, **metrics)

    def _before_epoch(self) -> None:
        for loader in self.loaders.values():
            remake_workers(loader)
        resumes = self._resume_batch is not None and self._restored is not None
        HELD.begin_epoch()
        self._random_saved = None
        self._readings.begin_epoch(self._restored.state("position") if resumes and self._restored else None)
        self._groups = groups_of(self.optimizers)

    def _position(self) -> dict[str, Any] | None:
        return None if self._batch is None else self._readings.position()

    def _capture(self, snapshot: Snapshot) -> None:
        names = torch_state.add_model(snapshot, "model", self.models)
        if self.ema:
            torch_state.add_model(snapshot, "ema", self.ema)
        add_optimizer(snapshot, self.optimizers, names, None if self._batch is None else self._groups)
        self._gradients.add(snapshot, self._gradients_now())
        snapshot.state["parts"] = {name: torch_state.plain_state(one) for name, one in self._stateful.items()}
        snapshot.state["rng"] = self._random()
        self._random_saved = self._own_random() if self._kind == "checkpoint" and self._batch is None else None
        self._refuse(snapshot.state, [*self._obstacles(), *self._apart()])

    def _restore(self, restored: Restored) -> None:
        self._check_resumable(restored)
        again = self._comes_back
        restored.converters["torch"] = torch_state.as_tensor
        torch_state.restore_model(restored, "model", self.models)
        if self.ema:
            torch_state.restore_model(restored, "ema", self.ema)
        begins = restored.batch is not None and not again
        restore_optimizer(restored, self.optimizers, torch_state.parameters_by_name(self.models), begins=begins)
        self._gradients.restore(restored, self._own_of)
        parts = restored.state("parts", {})
        if parts.keys() != self._stateful.keys():
            raise RuntimeError(f"reprokit: the checkpoint has the parts {[*parts]}, here are {[*self._stateful]}")
        for name, one in self._stateful.items():
            if not (again and name.startswith("sampler.")):  # their place in the epoch was found by reading
                torch_state.restore_plain(one, parts[name])
        self._set_random(restored.state("rng"))

    def _obstacles(self) -> list[str]:
        """Return why a run could not go on from this checkpoint with the same bits."""
        if self._kind == "initial" or self._epoch is None:
            return []
        inside = self._readings.obstacle() if self._batch is not None else None
        found = [] if inside is None else [f"inside an epoch, {inside}"]
        if HELD.carried or (self._batch is None and HELD.is_open(self.loaders.values())):
            found.append(_CARRIED)
        return [*found, *self._strangers.found(torch_state.names_of(self.models)), *self._late]

    def _after_body(self) -> None:
        """See whether an epoch's body went on after its end was saved, in a way that changes bits."""
        if self._random_saved is None or self._late:
            return
        if self._saved_at != (self._epoch, None, self._steps) or not same(self._own_random(), self._random_saved):
            self._late = [_LATE]
            warnings.warn(f"reprokit: no run can go on with the same bits: {_LATE}", stacklevel=2)

    def _leave_if_told(self) -> None:
        if self._batch is None or self._readings.obstacle() is None:  # else at the end of the epoch
            super()._leave_if_told()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for section, models in (("", self.models), ("ema:", self.ema)):
            for name, tensor in torch_state.tensors_in(models):
                yield section + name, tensor

    def _gradients_now(self) -> gradients.Now:
        """Return the gradients to save, which all processes that train one model agree on; each must call this."""
        place = "end" if self._batch is None else "inside"
        follow = place if self._kind == "checkpoint" else None  # others are not there in a run that was left alone
        return self._gradients.now(follow, place, _gather if _ranks() > 1 else None)

    def _begin(self) -> int:
        HELD.begin()
        return super()._begin()

    def close(self) -> None:
        HELD.end()
        super().close()

    def _new_snapshot(self) -> Snapshot:
        return Snapshot(framework=self.framework, tensor=torch_state.add_state_tensor)

    @property
    def _writes(self) -> bool:
        return _ranks() == 1 or torch.distributed.get_rank() == 0

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        self._kind = kind
        if self._writes:
            return super()._save(metrics, kind=kind)
        self._user()  # rank 0 waits for all four
        self._gradients.follow(self._gradients_now())
        self._random()
        self._apart()
        self._saved(kind)
        return None

    def _apart(self) -> list[str]:
        """Return where processes that train one model differ; each of them must call this."""
        if _ranks() == 1 or self._kind == "initial":  # before DDP makes them one
            return []
        return replicas.apart(_gather(replicas.mark_of(self._tensors(), self.optimizers)))

    def _user(self) -> dict[str, Any]:
        return {"ranks": _gather(self.state)} if _ranks() > 1 else self.state

    def _user_of(self, stored: dict[str, Any]) -> dict[str, Any]:
        return dict(stored["ranks"][torch.distributed.get_rank()]) if _ranks() > 1 else stored

    def _random(self) -> dict[str, Any]:
        return self._of_all(self._own_random())

    def _own_random(self) -> dict[str, Any]:
        held = {name: torch_state.state_of_generator(one) for name, one in self._generators.items()}
        return {**torch_state.capture_rng(), "held": held}

    def _of_all(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return what each process gave, where several train one model; each of them must call this."""
        return {"ranks": _gather(own)} if _ranks() > 1 else own

    def _own_of(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return this process's part of what `_of_all` returned.

        Raises:
            RuntimeError: The checkpoint is of another number of processes.
        """
        ranks = state.get("ranks", [state])
        if len(ranks) != _ranks():
            raise RuntimeError(f"reprokit: the checkpoint is of {len(ranks)} processes, here are {_ranks()}")
        own: dict[str, Any] = ranks[torch.distributed.get_rank() if _ranks() > 1 else 0]
        return own

    def _set_random(self, state: dict[str, Any]) -> None:
        self._set_own_random(self._own_of(state))

    def _set_own_random(self, own: dict[str, Any]) -> None:
        if own["held"].keys() != self._generators.keys():
            raise RuntimeError(
                f"reprokit: the checkpoint has the generators {[*own['held']]}, here are {[*self._generators]}"
            )
        for name, one in self._generators.items():
            torch_state.set_state_of_generator(one, own["held"][name])
        torch_state.restore_rng(own)

    def _count(self, *_: Any) -> None:
        self._steps += 1


def _ranks() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return 1


def _gather(own: Any) -> list[Any]:
    """Return what every rank gave, on every rank."""
    found: list[Any] = [None] * _ranks()
    torch.distributed.all_gather_object(found, own)
    return found


def samplers_of(loaders: dict[str, Any]) -> dict[str, Any]:
    """Return the samplers, and loaders, that say what their state is."""
    found: dict[str, Any] = {}
    for key, loader in loaders.items():
        for path in ("", "sampler", "batch_sampler"):
            thing = getattr(loader, path, None) if path else loader
            if hasattr(thing, "load_state_dict") and _has_state(thing):
                found[f"{key}.{path}".rstrip(".")] = thing
    return found


def _has_state(thing: Any) -> bool:
    """True if it says what its state is; Accelerate's loaders all have the method, and few of them a state."""
    return hasattr(thing, "state_dict") and getattr(thing, "use_stateful_dataloader", True) is not False
