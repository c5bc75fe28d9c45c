"""Checkpoints from a PyTorch training loop, and its resume, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
import torch.distributed
import torch.utils.data

from reprokit.callbacks.pytorch import state as torch_state
from reprokit.client.loop import Loop
from reprokit.client.restored import Restored
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint", "remake_workers", "samplers_of"]


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
        self.optimizers: dict[str, torch.optim.Optimizer] = torch_state.named(optimizer)
        self.loaders = torch_state.named(loader)
        self.ema = torch_state.named(ema)
        self._generators = torch_state.generators_of(self.loaders, generators or {})
        self._stateful = {f"scheduler.{key}": one for key, one in torch_state.named(scheduler).items()}
        self._stateful |= {f"scaler.{key}": one for key, one in torch_state.named(scaler).items()}
        self._stateful |= {f"own.{key}": one for key, one in (stateful or {}).items()}
        self._stateful |= {f"sampler.{key}": one for key, one in samplers_of(self.loaders).items()}
        self._skip = skip
        if _ranks() > 1:
            self._policy.agree()
        self._start: dict[str, Any] | None = None
        self._backwards = 0
        self._steps_are_batches = not self.optimizers
        if self.optimizers:
            next(iter(self.optimizers.values())).register_step_post_hook(self._count)
            self._watch_gradients()

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield the batches of an epoch; between them the recipe's policy may save, and a resumed run starts there.

        Raises:
            RuntimeError: The loader ended before the batch that a resumed run was at.
        """
        if self._epoch is None:
            raise RuntimeError("reprokit: ckpt.batches belongs inside `for epoch in ckpt.epochs(n)`")
        remake_workers(loader)
        done, restored = self._resume_batch or 0, None
        if self._resume_batch is not None and self._restored is not None:
            restored, self._resume_batch = self._restored, None
            self._set_random(restored.state("position")["start"])
        self._start = self._random()
        batches = iter(_from(loader, done) if self._skip == "index" else loader)
        if self._skip == "load":
            found = sum(1 for _ in islice(batches, done))
            if found < done:
                raise RuntimeError(f"reprokit: the loader has {found} batches, the run was at batch {done}")
        self._batch = done
        try:
            if restored is not None:
                self._set_random(restored.state("rng"))
            for batch in batches:
                self._batch += 1
                yield batch
                self._between_batches()
        finally:
            self._batch = self._start = None

    def _before_epoch(self) -> None:
        for loader in self.loaders.values():
            remake_workers(loader)

    def _position(self) -> dict[str, Any] | None:
        return None if self._batch is None else {"batch": self._batch, "start": self._start}

    def _capture(self, snapshot: Snapshot) -> None:
        names = torch_state.add_model(snapshot, "model", self.models)
        if self.ema:
            torch_state.add_model(snapshot, "ema", self.ema)
        torch_state.add_optimizer(snapshot, self.optimizers, names)
        if self._backwards and _ranks() > 1:
            raise RuntimeError(
                "reprokit: gradients that each process accumulated for itself are not stored; step first"
            )
        if self._backwards:
            self._add_gradients(snapshot, names)
        snapshot.state["parts"] = {name: torch_state.plain_state(one) for name, one in self._stateful.items()}
        snapshot.state["rng"] = self._random()

    def _restore(self, restored: Restored) -> None:
        restored.converters["torch"] = torch_state.as_tensor
        torch_state.restore_model(restored, "model", self.models)
        if self.ema:
            torch_state.restore_model(restored, "ema", self.ema)
        names = torch_state.names_of(self.models)
        torch_state.restore_optimizer(restored, self.optimizers, names)
        self._restore_gradients(restored)
        parts = restored.state("parts", {})
        if parts.keys() != self._stateful.keys():
            raise RuntimeError(f"reprokit: the checkpoint has the parts {[*parts]}, here are {[*self._stateful]}")
        for name, one in self._stateful.items():
            torch_state.restore_plain(one, parts[name])
        self._set_random(restored.state("rng"))

    def _new_snapshot(self) -> Snapshot:
        return Snapshot(framework=self.framework, tensor=torch_state.add_state_tensor)

    @property
    def _writes(self) -> bool:
        return _ranks() == 1 or torch.distributed.get_rank() == 0

    def _save(self, metrics: dict[str, float], *, kind: str = "checkpoint") -> Saving | None:
        if self._writes:
            return super()._save(metrics, kind=kind)
        self._user()  # rank 0 waits for both
        self._random()
        self._saved(kind)
        return None

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
        self._backwards = 0

    def _watch_gradients(self) -> None:
        """Count backward passes since the last step: gradients that accumulate are part of the state."""
        every = [p for optimizer in self.optimizers.values() for p in torch_state.parameters_of(optimizer)]
        watched = [parameter for parameter in every if parameter.requires_grad and parameter.is_leaf]
        for parameter in {id(one): one for one in (watched[:1] + watched[-1:])}.values():
            parameter.register_post_accumulate_grad_hook(self._accumulated)

    def _accumulated(self, _: torch.Tensor) -> None:
        self._backwards += 1

    def _add_gradients(self, snapshot: Snapshot, names: dict[int, str]) -> None:
        for optimizer in self.optimizers.values():
            for parameter in torch_state.parameters_of(optimizer):
                if parameter.grad is not None:
                    name = names[id(parameter)]
                    torch_state.add_tensor(snapshot, "gradients", name, parameter.grad, "trainable", {})

    def _restore_gradients(self, restored: Restored) -> None:
        stored = restored.section("gradients")
        names = torch_state.names_of(self.models)
        for optimizer in self.optimizers.values():
            for parameter in torch_state.parameters_of(optimizer):
                name = names[id(parameter)]
                parameter.grad = None
                if name in stored:
                    parameter.grad = torch_state.as_tensor(stored[name]).to(parameter.device)
        self._backwards = int(bool(stored))


def remake_workers(loader: Any) -> None:
    """Have the workers of a loader started anew: what persistent ones have drawn is nowhere to be read."""
    if getattr(loader, "persistent_workers", False) and getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def _from(loader: Any, done: int) -> Any:
    """Return the loader without its first batches, which are not loaded. Their indices are still drawn, and in the same
    order between the other draws: when the first batch is asked for.
    """
    attribute = "batch_sampler" if loader.batch_sampler is not None else "sampler"
    if isinstance(loader.dataset, torch.utils.data.IterableDataset):
        raise RuntimeError('reprokit: skip="index" needs a dataset with indices; use skip="load" for this loader')
    shortened = copy.copy(loader)
    object.__setattr__(shortened, attribute, _Later(getattr(loader, attribute), done))
    return shortened


class _Later:
    """A sampler from its n-th element on."""

    def __init__(self, sampler: Any, done: int) -> None:
        self._sampler = sampler
        self._done = done

    def __iter__(self) -> Iterator[Any]:
        return islice(self._sampler, self._done, None)

    def __len__(self) -> int:
        return max(len(self._sampler) - self._done, 0)


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
            if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
                found[f"{key}.{path}".rstrip(".")] = thing
    return found
