"""Checkpoints from Keras 3's `model.fit`, and its resume, bit for bit, on the TensorFlow and the torch backend."""

from __future__ import annotations

from typing import Any

import keras

from reprokit.callbacks.keras import private
from reprokit.callbacks.keras.fit import Fit
from reprokit.client import number

__all__ = ["PackageCheckpoint"]


class PackageCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves model, optimiser, data position and random state as a package version, and resumes from one.

        model.fit(x, y, epochs=n, callbacks=[PackageCheckpoint(monitor="val_loss")])

    It saves after all other callbacks, wherever it stands among them. Where a run is resumed, `fit` goes on where the
    run left off.

    Args:
        monitor: The metric that `best` means outside a run; inside one, the recipe decides.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too.

    Attributes:
        state: The user's own: what is put here is saved with each checkpoint, and is here again when a run resumes.
    """

    def __init__(self, *, monitor: str | None = None, package: str | None = None, initial: bool = True) -> None:
        super().__init__()
        self.monitor = monitor
        self.package = package
        self.initial = initial
        self.state: dict[str, Any] = {}
        self._fit: Fit | None = None

    def set_model(self, model: Any) -> None:
        """Take the first and the last place among the callbacks of this `fit`."""
        super().set_model(model)
        container = private.caller("self", keras.callbacks.CallbackList)
        if container is None:
            return
        others = [one for one in container.callbacks if one is not self and not isinstance(one, _First)]
        if any(isinstance(one, PackageCheckpoint) for one in others):
            raise ValueError("reprokit: fit takes one PackageCheckpoint")
        first = _First(self, container)
        first.set_model(model)
        container.callbacks = [first, *others, self]  # a new list: Keras is going through the old one

    def begin(self, container: Any) -> None:
        """Begin a `fit`, before the other callbacks do."""
        iterator = private.epoch_iterator()
        if iterator is None:
            raise RuntimeError(
                f"reprokit: PackageCheckpoint finds no data in this fit of Keras {keras.__version__}; it needs "
                "model.fit itself, of Keras 3.7 or newer"
            )
        self._fit = Fit(self, iterator, container)
        self._fit.begin(int(self.params["epochs"]))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """If a resumed run has no epoch left to train, restore at once: there will be no other occasion."""
        self.fit.restore_if_over(int(self.params["epochs"]))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, if the recipe's policy asks for it."""
        self.fit.end_epoch(epoch, {name: number(name, value) for name, value in (logs or {}).items()})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Wait until everything is stored."""
        self.fit.end()
        self._fit = None

    @property
    def trains(self) -> bool:
        """True while `fit` runs."""
        return self._fit is not None

    @property
    def fit(self) -> Fit:
        if self._fit is None:
            raise RuntimeError("reprokit: PackageCheckpoint saves while model.fit runs")
        return self._fit


class _First(keras.callbacks.Callback):  # type: ignore[misc]
    """Comes before all other callbacks: what these do when an epoch begins, they do to the restored state."""

    def __init__(self, owner: PackageCheckpoint, container: Any) -> None:
        super().__init__()
        self._owner = owner
        self._container = container

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._owner.begin(self._container)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._owner.fit.begin_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._owner.fit.batches_done(batch + 1)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        if self._owner.trains:
            self._owner.fit.begin_validation()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._owner.fit.logs |= set(logs or {})
