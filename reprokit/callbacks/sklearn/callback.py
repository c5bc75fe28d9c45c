"""Checkpoints of scikit-learn estimators, as files with the same bytes for the same fit, and resume from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from reprokit.callbacks.sklearn.joblib_file import dump_joblib
from reprokit.callbacks.sklearn.skops_file import dump, load
from reprokit.callbacks.sklearn.state import put_back
from reprokit.client import number
from reprokit.client.loop import Loop
from reprokit.client.restored import Restored
from reprokit.client.rng import generator_state, rng_state, set_generator_state, set_rng_state
from reprokit.client.snapshot import Snapshot
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint"]

SKOPS = "model.skops"
JOBLIB = "model.joblib"


class PackageCheckpoint(Loop):
    """Saves an estimator after `fit`, or after each `partial_fit`, and goes on with one where a run is resumed.

        ckpt = PackageCheckpoint(estimator=model)
        for epoch in ckpt.epochs(params["epochs"]):
            model.partial_fit(x, y, classes=classes)
            ckpt.save(accuracy=model.score(x_test, y_test))

    or, where there is nothing to resume, `ckpt = PackageCheckpoint()`, `model.fit(x, y)`, `ckpt.save(model)`.

    A resumed run puts the state back into the estimator that the script made, and into those inside it. The random
    state of Python and NumPy is saved too, so `random_state=None` resumes as well as a seed does.

    Args:
        estimator: One, or several by name.
        generators: Random generators of your own by name: numpy.random.Generator, RandomState, random.Random.
        format: `joblib` for what skops cannot store. Such a file is a pickle: nothing looks into it, no run is resumed
            from it, and it is loaded only with a list of types.
        trusted: Full names of types that a resumed run may construct, beyond those of scikit-learn's own models and
            those that the estimator consists of when the script has made it.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too.
    """

    framework = "sklearn"

    def __init__(
        self,
        *,
        estimator: Any = None,
        generators: dict[str, Any] | None = None,
        format: Literal["skops", "joblib"] = "skops",
        trusted: Iterable[str] = (),
        package: str | None = None,
        initial: bool = True,
    ) -> None:
        super().__init__(package=package, initial=initial)
        if format not in ("skops", "joblib"):
            raise ValueError(f"reprokit: format is {format!r}; it can be 'skops' or 'joblib'")
        self.estimator = estimator
        self.format = format
        self._generators = dict(generators or {})
        self._trusted = list(trusted)
        self._looping = False
        self._saves = 0  # outside a loop

    def epochs(self, total: int) -> Iterator[int]:
        """Yield the epochs to train, from where a resumed run left off; a step is an epoch here.

        Args:
            total: Epochs of the whole training.
        Raises:
            TypeError: No estimator was given, into which a resumed run could put the state.
            RuntimeError: A checkpoint could not be stored, or not be restored.
        """
        if self.estimator is None:
            raise TypeError("reprokit: give the estimator to PackageCheckpoint(estimator=…) before ckpt.epochs(…)")
        self._looping = True
        try:
            yield from super().epochs(total)
        finally:
            self._looping = False

    def save(
        self, estimator: Any = None, *, epoch: int | None = None, state: dict[str, Any] | None = None, **metrics: Any
    ) -> Saving | None:
        """Save the estimator.

        Args:
            estimator: What to save, if not the one that `PackageCheckpoint` was given.
            epoch: From 0, for loops of your own; the saves are counted if not given.
            state: Added to `self.state`: anything of your own that training depends on.
            metrics: Numbers.
        Returns:
            Its way into the registry, or None if no checkpoint was due.
        """
        if self._looping:
            if epoch is not None or not (estimator is None or estimator is self.estimator):
                raise TypeError("reprokit: inside ckpt.epochs(…), ckpt.save takes neither an estimator nor an epoch")
            self._steps = self._steps_before + (self._epoch or 0) + 1
            return super().save(state=state, **metrics)
        if estimator is not None:
            self.estimator = estimator
        if self.estimator is None:
            raise TypeError("reprokit: ckpt.save needs an estimator: ckpt.save(model)")
        values = {name: number(name, value) for name, value in metrics.items()}
        self.state.update(state or {})
        if not self._saves:
            self._count_on()
        self._epoch = self._saves if epoch is None else epoch
        self._saves += 1
        self._steps += 1
        with self._counted_on():
            saving = self._save(values)
        self._tell({"type": "epoch", "epoch": self._epoch})
        return saving

    def _capture(self, snapshot: Snapshot) -> None:
        snapshot.config = {"class": _class_of(self.estimator), "format": self.format}
        if self.format == "skops":
            dumped = dump(self.estimator)
            snapshot.add_file(SKOPS, dumped.data, dumped.tensors)
            snapshot.state["shares_global"] = dumped.shares_global
        else:
            snapshot.add_file(JOBLIB, dump_joblib(self.estimator), [])
            snapshot.unresumable.append("a joblib file runs code when it is read; leave format='joblib' out")
        held = {name: generator_state(one) for name, one in self._generators.items()}
        snapshot.state["rng"] = {**rng_state(), "held": held}

    def _restore(self, restored: Restored) -> None:
        path = restored.folder / SKOPS
        if not path.exists():
            raise RuntimeError(
                f"reprokit: the checkpoint holds its estimator as {JOBLIB}, which is a pickle: no run is resumed from "
                "one. Save with format='skops' to resume"
            )
        data = path.read_bytes()
        stored = load(data, like=self.estimator, trusted=self._trusted)
        if _class_of(stored) != _class_of(self.estimator):
            raise RuntimeError(
                f"reprokit: the checkpoint is of {_class_of(stored)}, the script has {_class_of(self.estimator)}"
            )
        state = restored.state("rng")
        if state["held"].keys() != self._generators.keys():
            raise RuntimeError(
                f"reprokit: the checkpoint has the generators {[*state['held']]}, here are {[*self._generators]}"
            )
        put_back(self.estimator, stored, draws_from=state["numpy"] if restored.state("shares_global") else None)
        if dump(self.estimator).data != data:
            raise RuntimeError(
                f"reprokit: {_class_of(self.estimator)} is not the same after it was restored as when it was saved: "
                "it holds something that skops, or the class itself, does not give back"
            )
        for name, one in self._generators.items():
            set_generator_state(one, state["held"][name])
        set_rng_state(state)


def _class_of(estimator: Any) -> Any:
    if type(estimator) is dict:
        return {name: _class_of(one) for name, one in estimator.items()}
    return f"{type(estimator).__module__}.{type(estimator).__qualname__}"
