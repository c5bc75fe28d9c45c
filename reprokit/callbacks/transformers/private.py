"""Every private part of transformers and accelerate that the callback uses: what is read, set or wrapped, and why there
is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with transformers 5.24, accelerate
1.15.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
import transformers
from transformers import Trainer

__all__ = [
    "COUNTERS",
    "USED",
    "Moments",
    "base_loader",
    "check",
    "counters",
    "evaluation_loaders",
    "loss",
    "moments",
    "set_loss",
    "trainer_that_calls",
]

_TRAINER = "transformers.trainer.Trainer"

USED: tuple[tuple[str, str], ...] = (
    (f"{_TRAINER}._run_epoch", "wrapped: has a resumed run skip the batches that were done"),
    (f"{_TRAINER}._init_training_state", "wrapped: the epoch and batch to begin with"),
    (f"{_TRAINER}._load_rng_state", "wrapped: the random state is restored elsewhere"),
    (f"{_TRAINER}._maybe_log_save_evaluate", "wrapped: what is between two steps or two epochs"),
    (f"{_TRAINER}.get_batch_samples", "wrapped: the batches of an epoch"),
    (f"{_TRAINER}._eval_dataloaders", "loaders of the evaluation, whose workers start anew"),
    (f"{_TRAINER}._tr_loss", "the loss since it was last logged"),
    (f"{_TRAINER}._total_loss_scalar", "the loss so far"),
    (f"{_TRAINER}._globalstep_last_logged", "the step at which it was last logged"),
    (f"{_TRAINER}._initial_global_step", "the step with which this training began"),
    ("accelerate.data_loader.SeedableRandomSampler.initial_seed", "what an order hangs on, with the epoch"),
    ("accelerate.data_loader.DataLoaderShard.base_dataloader", "the DataLoader inside accelerate's"),
)

COUNTERS = ("_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step")
"""What a trainer counts and its `TrainerState` does not have; not every training has each of them."""


class Moments(NamedTuple):
    """The methods of a trainer that can be wrapped between two steps or epochs; its events come too early."""

    batches: str = "get_batch_samples"
    between: str = "_maybe_log_save_evaluate"
    begins: str = "_init_training_state"
    epoch: str = "_run_epoch"
    random: str = "_load_rng_state"


moments = Moments()


def check() -> None:
    """Raise a RuntimeError if this release cannot be followed."""
    if not hasattr(Trainer, moments.epoch):
        raise RuntimeError(
            f"reprokit: transformers {transformers.__version__} cannot be followed; 5.23 or newer is needed"
        )


def trainer_that_calls() -> Any:
    """Return the trainer that an event comes from, which events are not told."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if isinstance(caller := frame.f_locals.get("self"), Trainer):
            return caller
    raise RuntimeError("reprokit: PackageCheckpoint is a callback of transformers.Trainer")


def evaluation_loaders(trainer: Any) -> list[Any]:
    """Return the loaders that a trainer keeps for evaluations to come; it keeps them if their workers persist."""
    return list(getattr(trainer, "_eval_dataloaders", {}).values())


def loss(trainer: Any) -> torch.Tensor:
    """Return the loss since it was last logged, which a trainer saves nowhere."""
    found: torch.Tensor = trainer._tr_loss
    return found


def set_loss(trainer: Any, value: torch.Tensor) -> None:
    """Put back what `loss` returned."""
    trainer._tr_loss = value.to(trainer.args.device)


def counters(trainer: Any) -> dict[str, Any]:
    """Return those of `COUNTERS` that a trainer has."""
    return {name: getattr(trainer, name) for name in COUNTERS if hasattr(trainer, name)}


def base_loader(loader: Any) -> Any:
    """Return the DataLoader inside accelerate's, whose attributes it does not pass on when they are set."""
    return getattr(loader, "base_dataloader", loader)
