"""Checkpoints from XGBoost's `train` and its scikit-learn estimators, and their resume, bit for bit."""

from __future__ import annotations

from typing import Any

import xgboost

from reprokit.callbacks.xgboost import private
from reprokit.callbacks.xgboost.model import arrays_of, put_back, rounds_of, why_again
from reprokit.callbacks.xgboost.private import History
from reprokit.client.facts.numeric import note_facts, note_parts
from reprokit.client.rounds import Rounds
from reprokit.client.snapshot import Snapshot

__all__ = ["PackageCheckpoint"]


class PackageCheckpoint(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Saves the model as a package version, and resumes from one.

        xgboost.train(params, data, 200, evals=[(test, "test")], callbacks=[PackageCheckpoint(every=10)])
        XGBClassifier(callbacks=[PackageCheckpoint(every=10)]).fit(x, y, eval_set=[(x_test, y_test)])

    A round is saved when all callbacks are done with it. Its metrics are those of `evals`, as `test-logloss`.

    Args:
        every: Rounds from one checkpoint to the next, where the recipe counts in epochs; the last one is always saved.
        package: Where to save outside a run; inside one, the recipe decides.

    Attributes:
        state: The user's own: what is put here is saved with each checkpoint, and is here again when a run resumes.
    """

    def __init__(self, *, every: int = 1, package: str | None = None) -> None:
        super().__init__()
        self.every = every
        self.package = package
        self.state: dict[str, Any] = {}
        self._training: _Training | None = None

    def before_training(self, model: Any) -> Any:
        """Begin to count."""
        if not isinstance(model, xgboost.Booster):
            raise TypeError("reprokit: PackageCheckpoint saves what train(…) trains; cv(…) trains several models")
        if xgboost.collective.get_world_size() > 1:
            raise RuntimeError("reprokit: PackageCheckpoint saves trainings of one process, not distributed ones")
        self._training = _Training(self, model)
        return model

    def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Save the round before; end the training where no more of it is asked for."""
        training = self._training
        if training is None or training.model is not model:
            raise RuntimeError("reprokit: give each training a PackageCheckpoint of its own")
        training.log = evals_log
        training.look()
        if epoch == 0:
            training.come_back()
        else:
            training.end_round(epoch - 1, training.metrics())
        return training.until is not None and epoch > training.until

    def after_training(self, model: Any) -> Any:
        """Save the last round, and wait until everything is stored."""
        training, self._training = self._training, None
        if training is not None:
            training.end_last()
        return model


class _Training(Rounds):
    """One call of `train`."""

    framework = "xgboost"
    trainer = private.TRAINER
    file = "model.ubj"
    advice = (
        "The data, the parameters, the number of threads and XGBoost itself must be the same; "
        "`tree_method='hist'` or 'exact' on a CPU computes the same each time"
    )

    def __init__(self, owner: PackageCheckpoint, model: Any) -> None:
        super().__init__(every=owner.every, package=owner.package, state=owner.state)
        self.model = model
        self.log: Any = {}
        self._begun = 0
        self._before = rounds_of(model)  # those of the model that `xgb_model` gave
        self._told = private.told()
        self.again = self._why_again()
        self.begin(total=self._told.total)

    def _why_again(self) -> list[str]:
        found, facts, parts = why_again(self.model)
        note_facts("xgboost", facts)
        note_parts(parts)
        found += ["its objective is a function of the script's"] if self._told.custom else []
        return found + (["its data are read in parts"] if self._told.in_parts else [])

    def come_back(self) -> None:
        """Before the first round of a resumed run, put the model back if the training can be continued.

        Not earlier: EarlyStopping counts on from the rounds that a model has when training begins.
        """
        if self._restored is None or not self._target:
            return
        restored = self._restored
        why = [*restored.state("again"), *(one for one in self.again if one not in restored.state("again"))]
        if why:
            self.say_trained_again(why)
            return
        history: History = [(data, metric, values) for data, metric, values in restored.state("evals")]
        put_back(self.model, (restored.folder / self.file).read_bytes())
        if rounds_of(self.model) != self._before + self._target:
            raise RuntimeError(
                f"reprokit: the checkpoint's model has {rounds_of(self.model)} rounds; {self._target} were trained, on "
                f"{self._before} that the script begins with"
            )
        private.pass_over(self.model, self._target, history, self.begins)

    def metrics(self) -> dict[str, float]:
        """Return what was measured after the last round, of all sets of data."""
        return {f"{data}-{name}": float(values[-1]) for data, name, values in self._history() if values}

    def _history(self) -> History:
        return [(data, name, list(values)) for data, found in self.log.items() for name, values in found.items()]

    def begins(self, epoch: int) -> bool:
        """Say whether a round of a continued training is to be trained.

        Raises:
            RuntimeError: Callbacks have changed parameters, and only training the rounds before could have brought back
                what this one needs.
        """
        self._begun = epoch + 1
        if epoch < self._target:
            return False
        if why := self._why_again():
            raise RuntimeError(
                f"reprokit: this training cannot be continued from its checkpoint of round {self._target}: "
                f"{'; '.join(why)}, which was not so there. Resume it from a later checkpoint, or run it anew"
            )
        return True

    def end_last(self) -> None:
        """Note that training is over, whoever ended it."""
        over = 0 if self._epoch is None else self._epoch + 1
        done = max((len(values) for _, _, values in self._history()), default=over)
        # a model that is refreshed has no more rounds after each, one that was put back has them all from the start
        self.look()
        done = max(done, self._begun if private.is_continued(self.model) else rounds_of(self.model) - self._before)
        if done > over or self.comes_back:
            self.end_round(max(done - 1, 0), self.metrics(), last=True)
        private.leave(self.model)
        self.end()

    def _model(self) -> bytes:
        return bytes(self.model.save_raw("ubj"))

    def _arrays(self, model: bytes) -> dict[str, Any]:  # noqa: ARG002 - of the same moment
        return arrays_of(self.model)

    def look(self) -> None:
        """Note between two rounds what a next one would draw on: callbacks may have changed parameters for a while."""
        self.again += [why for why in self._why_again() if why not in self.again]

    def _capture(self, snapshot: Snapshot) -> None:
        super()._capture(snapshot)
        snapshot.state["evals"] = [[data, metric, values] for data, metric, values in self._history()]
