"""Gradients that live across a save: which a training goes on with, which it clears first, and how they come back.

A gradient that lives when a checkpoint is saved is part of it, unless all of this holds, since most loops clear theirs
before they are used again: an optimiser has stepped on it since something was last added; after the last checkpoint of
this kind (inside an epoch, at its end) it was cleared before anything was added to any gradient and before any step;
and after no checkpoint was it seen to live on. What is left out comes back as NaN, and a resumed run that does not
clear it is stopped by name.
"""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from reprokit.callbacks.pytorch import private
from reprokit.callbacks.pytorch import state as torch_state
from reprokit.client.restored import Restored, some
from reprokit.client.snapshot import Snapshot

__all__ = ["Gradients", "Now"]


class Now(NamedTuple):
    """The gradients of one moment.

    Attributes:
        kept: Those that a checkpoint needs, by name.
        ranks: The same of each process, where they differ between processes.
        left_out: Those that it does not need.
        learned: What was seen of gradients so far, as values; None if there never were any.
        follow: As what becomes of them is to be counted.
    """

    kept: dict[str, torch.Tensor]
    ranks: list[dict[str, torch.Tensor]] | None
    left_out: list[str]
    learned: dict[str, Any] | None
    follow: str | None


_Named = tuple[str, torch.Tensor]


class _Mark(NamedTuple):
    """A gradient as it was; it is not kept alive."""

    tensor: weakref.ref[torch.Tensor]
    version: int

    @classmethod
    def of(cls, gradient: torch.Tensor) -> _Mark:
        return cls(weakref.ref(gradient), private.version(gradient))

    def is_same(self, gradient: torch.Tensor) -> bool:
        return self.tensor() is gradient

    def is_unchanged(self, gradient: torch.Tensor) -> bool:
        return self.is_same(gradient) and self.version == private.version(gradient)


class Gradients:
    """The gradients of a training's tensors.

    Args:
        leaves: Returns the tensors that may have one, with their names.
        optimizers: Those that step on them; where a step is not seen, no gradient is left out.
    """

    def __init__(
        self, leaves: Callable[[], Iterable[tuple[str, torch.Tensor]]], optimizers: Iterable[Any] = ()
    ) -> None:
        self._leaves_now = leaves
        self._optimizers = list(optimizers)
        self._stepped: dict[int, _Mark] = {}
        self._cleared: dict[str, set[str]] = {}  # by kind of checkpoint
        self._used: set[str] = set()
        self._watched: dict[str, tuple[torch.Tensor, _Mark]] = {}
        self._follow: str | None = None
        self._left_out: set[str] = set()
        self._are_here = True  # though left out: this process saved them, and was not resumed
        self._handles: list[Any] = []
        for optimizer in self._optimizers:
            optimizer.register_step_post_hook(self._note_step)
            optimizer.register_step_pre_hook(self._before_step)

    def now(self, follow: str | None, place: str, gather: Callable[[Any], list[Any]] | None) -> Now:
        """Return the gradients that a checkpoint needs.

        Args:
            follow: As what follows this checkpoint is to be counted, which `place` says too; None if it is not.
            place: `inside` an epoch, or at its `end`.
            gather: Returns what each process gave, where several train one model.
        """
        living = self._living()
        cleared = self._cleared.get(place, set()) - self._used
        left_out = [name for name, one, gradient in living if name in cleared and self._is_stepped(one, gradient)]
        if gather is not None:
            left_out = sorted(set.intersection(*(set(one) for one in gather(left_out))))
        kept = {name: gradient for name, _, gradient in living if name not in left_out}
        ranks = None if gather is None or len(set(gather(_digest(kept)))) == 1 else gather(_on_cpu(kept))
        own = {
            "follow": follow,
            "cleared": {key: sorted(names) for key, names in self._cleared.items()},
            "used": sorted(self._used),
            "stepped": [name for name, one, gradient in living if self._is_stepped(one, gradient)],
        }
        known = bool(living or self._cleared or self._used)
        if gather is None:
            return Now(kept, None, left_out, own if known else None, follow)
        known = any(gather(known))
        return Now(kept, ranks, left_out, {"ranks": gather(own)} if known else None, follow)

    def add(self, snapshot: Snapshot, now: Now) -> None:
        """Add gradients to a snapshot, and see what becomes of them."""
        if now.learned is not None:
            own = now.kept if now.ranks is None else {}
            more = {"sparse": _add(snapshot, own)} if now.ranks is None else {"ranks": now.ranks}
            snapshot.state["gradients"] = {"left_out": now.left_out, "learned": now.learned, **more}
        self.follow(now)

    def follow(self, now: Now) -> None:
        """Watch what becomes of the gradients that live now, until something is added to one, or stepped on."""
        self._watch(now.follow, now.left_out, here=True)

    def _watch(self, follow: str | None, left_out: list[str], *, here: bool) -> None:
        self._forget()
        self._follow, self._left_out, self._are_here = follow, set(left_out), here
        self._watched = {name: (one, _Mark.of(gradient)) for name, one, gradient in self._living()}
        if self._watched:
            leaves = {id(one): one for _, one in self._leaves() if one.requires_grad}
            self._handles = [one.register_hook(self._settle) for one in leaves.values()]

    def restore(self, restored: Restored, own_of: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Put back what a checkpoint kept; what it left out is NaN until the training clears it."""
        told = restored.state("gradients")
        self._forget()
        leaves = dict(self._leaves())
        for tensor in leaves.values():
            tensor.grad = None
        self._cleared, self._used, self._stepped = {}, set(), {}
        if told is None:
            return
        kept = own_of({"ranks": told["ranks"]}) if "ranks" in told else _read(restored, told["sparse"])
        for name in [*kept, *told["left_out"]]:
            if name not in leaves:
                raise RuntimeError(f"reprokit: the checkpoint has a gradient of {name!r}, which is no parameter here")
        for name, value in kept.items():
            laid = torch_state.laid_out(value, leaves[name]) if value.layout == torch.strided else value
            leaves[name].grad = laid.to(leaves[name].device)
        for name in told["left_out"]:
            leaves[name].grad = torch.full_like(leaves[name], float("nan"), requires_grad=False)
        learned = own_of(told["learned"])
        self._cleared = {key: set(names) for key, names in learned["cleared"].items()}
        self._used = set(learned["used"])
        for name in learned["stepped"]:
            if name in leaves and (gradient := leaves[name].grad) is not None:
                self._stepped[id(leaves[name])] = _Mark.of(gradient)
        self._watch(learned["follow"], told["left_out"], here=False)

    def _leaves(self) -> Iterator[_Named]:
        """Yield what may have a gradient, each tensor under its first name."""
        found: set[int] = set()
        for name, tensor in self._leaves_now():
            if tensor.is_leaf and id(tensor) not in found:
                found.add(id(tensor))
                yield name, tensor

    def _living(self) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        return [(name, one, one.grad) for name, one in self._leaves() if one.grad is not None]

    def _is_stepped(self, tensor: torch.Tensor, gradient: torch.Tensor) -> bool:
        mark = self._stepped.get(id(tensor))
        return mark is not None and mark.is_unchanged(gradient)

    def _note_step(self, optimizer: Any, *_: Any) -> None:
        for tensor in torch_state.parameters_of(optimizer):
            gradient = tensor.grad
            if gradient is not None:
                self._stepped[id(tensor)] = _Mark.of(gradient)
            else:
                self._stepped.pop(id(tensor), None)

    def _before_step(self, _optimizer: Any, given: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        if self._watched and not given and options.get("closure") is None:  # a closure clears and adds by itself
            self._settle()

    def _settle(self, *_: Any) -> None:
        """See which gradients were cleared, now that the first one is about to be used."""
        watched, self._watched = self._watched, {}
        self._forget()
        cleared = {name for name, (tensor, before) in watched.items() if _is_cleared(tensor, before)}
        if lost := self._left_out - cleared:
            why = (
                f"the training goes on with the gradients of {some(lost)}, which it had cleared before, and which were "
                "therefore left out. Call zero_grad() before gradients are added up, or resume from an earlier one"
            )
            if not self._are_here:
                raise RuntimeError(f"reprokit: a run cannot be resumed from this checkpoint: {why}")
            warnings.warn(f"reprokit: a run cannot be resumed from the checkpoint just saved: {why}", stacklevel=2)
        if self._follow is not None:
            self._used |= watched.keys() - cleared
            known = self._cleared.setdefault(self._follow, set())
            known |= cleared

    def _forget(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._watched = [], {}


def _is_cleared(tensor: torch.Tensor, before: _Mark) -> bool:
    """True if a gradient that lived is gone, or zero since."""
    now = tensor.grad
    if now is None:
        return True
    if not before.is_same(now) or before.is_unchanged(now):
        return False
    return not bool((private.sparse_parts(now)[1] if now.is_sparse else now).any())


def _digest(kept: Mapping[str, torch.Tensor]) -> str:
    """Return what tells the gradients of one process from another's."""
    found = hashlib.sha256()
    for name, gradient in kept.items():
        for one in private.sparse_parts(gradient) if gradient.is_sparse else (gradient,):
            found.update(f"{name} {one.dtype} {list(one.shape)}".encode())
            found.update(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _on_cpu(kept: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: gradient.detach().cpu() for name, gradient in kept.items()}


def _add(snapshot: Snapshot, kept: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Add gradients; return what their tensors do not say: the shapes of sparse ones."""
    sparse: dict[str, Any] = {}
    for name, gradient in kept.items():
        if gradient.layout == torch.sparse_coo:
            indices, values = private.sparse_parts(gradient)
            torch_state.add_tensor(snapshot, "gradients", f"{name}#indices", indices, "trainable", {})
            torch_state.add_tensor(snapshot, "gradients", f"{name}#values", values, "trainable", {})
            sparse[name] = {"shape": list(gradient.shape), "coalesced": gradient.is_coalesced()}
        else:
            torch_state.add_tensor(snapshot, "gradients", name, gradient, "trainable", {})
    return sparse


def _read(restored: Restored, sparse: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the gradients of a checkpoint, as `_add` added them."""
    stored = {name: torch_state.as_tensor(one) for name, one in restored.section("gradients").items()}
    found = {}
    for name, told in sparse.items():
        indices, values = stored.pop(f"{name}#indices"), stored.pop(f"{name}#values")
        found[name] = torch.sparse_coo_tensor(indices, values, told["shape"], is_coalesced=told["coalesced"])
    return stored | found
