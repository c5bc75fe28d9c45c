"""Checkpoints from LightGBM's `train` and its scikit-learn estimators, and their resume, bit for bit."""

from __future__ import annotations

from typing import Any

import lightgbm
from lightgbm.callback import EarlyStopException

from reprokit.callbacks.lightgbm import private
from reprokit.callbacks.lightgbm.model import arrays_of, facts_of
from reprokit.client.facts.numeric import note_facts, note_parts
from reprokit.client.rounds import Rounds

__all__ = ["PackageCheckpoint"]


class PackageCheckpoint:
    """Saves the model as a package version, and resumes from one.

        lightgbm.train(params, data, 200, valid_sets=[test], callbacks=[PackageCheckpoint(every=10)])
        LGBMClassifier().fit(x, y, eval_set=[(x_test, y_test)], callbacks=[PackageCheckpoint(every=10)])

    A round is saved when all callbacks are done with it. Its metrics are those of `valid_sets`, as
    `valid_0-binary_logloss`. A resumed run trains its rounds again, and compares them with the checkpoint.

    Args:
        every: Rounds from one checkpoint to the next, where the recipe counts in epochs; the last one is always saved.
        package: Where to save outside a run; inside one, the recipe decides.

    Attributes:
        state: The user's own: what is put here is saved with each checkpoint, and is here again when a run resumes.
    """

    before_iteration = True  # the only calls that come in any case: early stopping ends the others
    order = -1

    def __init__(self, *, every: int = 1, package: str | None = None) -> None:
        self.every = every
        self.package = package
        self.state: dict[str, Any] = {}
        self._training: _Training | None = None

    def __call__(self, env: Any) -> None:
        """Begin before the first round: from then on each is watched to its end."""
        if not isinstance(env.model, lightgbm.Booster):
            raise TypeError("reprokit: PackageCheckpoint saves what train(…) trains; cv(…) trains several models")
        if env.iteration == env.begin_iteration:
            self._training = _Training(self, env)
            self._training.watch(private.callbacks_after_rounds())
        elif self._training is None or self._training.model is not env.model:
            raise RuntimeError("reprokit: give each training a PackageCheckpoint of its own")


class _Training(Rounds):
    """One call of `train`."""

    framework = "lightgbm"
    trainer = private.TRAINER
    file = "model.txt"
    advice = (
        "The data, the parameters, the number of threads and LightGBM itself must be the same; give "
        "deterministic=True and force_row_wise=True (or force_col_wise), else LightGBM chooses by the clock how it adds"
    )

    def __init__(self, owner: PackageCheckpoint, env: Any) -> None:
        super().__init__(every=owner.every, package=owner.package, state=owner.state)
        if private.is_distributed(env.model):
            raise RuntimeError("reprokit: PackageCheckpoint saves trainings of one process, not distributed ones")
        self.model = env.model
        facts, parts = facts_of(env.params)
        note_facts("lightgbm", facts)
        note_parts(parts)
        restored = self.begin(total=env.end_iteration - env.begin_iteration)
        if restored is not None and self._target:
            self.say_trained_again([])

    def watch(self, callbacks: list[Any]) -> None:
        """Be the last of the callbacks after each round, and hear of it if one before ends the training."""
        callbacks[:] = [*(_Heard(self, one) for one in callbacks), self.after]

    def after(self, env: Any) -> None:
        """Take note of a round that all other callbacks are done with."""
        self._end(env, last=env.iteration + 1 == env.end_iteration)
        if self.until is not None and env.iteration - env.begin_iteration >= self.until:
            self.end()
            raise EarlyStopException(env.iteration, env.evaluation_result_list)

    def stopped(self, env: Any) -> None:
        """Take note of the last round, after which a callback ended the training."""
        self._end(env, last=True)

    def _end(self, env: Any, *, last: bool) -> None:
        measured = {f"{one[0]}-{one[1]}": float(one[2]) for one in env.evaluation_result_list}
        self.end_round(env.iteration - env.begin_iteration, measured, last=last)
        if last:
            self.end()

    def _model(self) -> bytes:
        return str(self.model.model_to_string(num_iteration=-1)).encode()

    def _arrays(self, model: bytes) -> dict[str, Any]:
        return arrays_of(model.decode())


class _Heard:
    """A callback of the user's, or LightGBM's own, whose word that training ends is heard."""

    def __init__(self, training: _Training, callback: Any) -> None:
        self._training = training
        self._callback = callback

    def __call__(self, env: Any) -> None:
        try:
            self._callback(env)
        except EarlyStopException:
            self._training.stopped(env)
            raise
