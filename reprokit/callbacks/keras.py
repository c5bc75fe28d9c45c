"""Checkpoints from Keras 3's `model.fit`, on any backend."""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
from keras.src.backend.common import global_state  # the global seed generator has no public home

from reprokit.client import connect, context, number
from reprokit.client.policy import Policy
from reprokit.client.rng import rng_state
from reprokit.client.snapshot import Snapshot

__all__ = ["PackageCheckpoint"]


class PackageCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves model, optimiser and random state after each epoch; put it last among the callbacks.

        model.fit(x, y, epochs=n, callbacks=[PackageCheckpoint(monitor="val_loss")])

    Args:
        monitor: The metric that `best` means outside a run; inside one, the recipe decides.
        package: Where to save outside a run; inside one, the recipe decides.
        initial: Save the state before the first epoch too.
    """

    def __init__(self, *, monitor: str | None = None, package: str | None = None, initial: bool = True) -> None:
        super().__init__()
        self.monitor = monitor
        self.package = package
        self._initial = initial

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        until = context().get("until")
        total = self.params.get("epochs")
        self._last = None if total is None else int(total) - 1
        if until is not None:
            self._last = int(until) if self._last is None else min(self._last, int(until))
        if self._last is not None:
            connect().send({"type": "epochs", "total": self._last + 1})
        if self._initial and self.model.built:
            snapshot = self._snapshot(None)
            snapshot.save(epoch=None, step=self._step(), metrics={}, kind="initial", package=self.package)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        metrics = {name: number(name, value) for name, value in (logs or {}).items()}
        if Policy().due_after_epoch(epoch, self._last):
            self._snapshot(epoch).save(epoch=epoch, step=self._step(), metrics=metrics, package=self.package)
        else:
            connect().send({"type": "metrics", "step": self._step(), "values": metrics})
        connect().send({"type": "epoch", "epoch": epoch})
        if context().get("until") is not None and self._last is not None and epoch >= self._last:
            self.model.stop_training = True

    def _step(self) -> int | None:
        optimizer = getattr(self.model, "optimizer", None)
        return None if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _snapshot(self, epoch: int | None) -> Snapshot:
        snapshot = Snapshot(framework="keras")
        trainable = {id(variable) for variable in self.model.trainable_variables}
        weights = {id(variable) for variable in self.model.weights}
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None and not optimizer.built and self.model.trainable_variables:
            optimizer.build(self.model.trainable_variables)
        of_optimizer = {id(variable) for variable in optimizer.variables} if optimizer is not None else set()
        names: dict[str, int] = {}
        for variable in self.model.variables:
            if id(variable) not in of_optimizer:
                group = "trainable" if id(variable) in trainable else "frozen" if id(variable) in weights else "buffer"
                _add(snapshot, "model", variable, group, names)
        names = {}
        for variable in optimizer.variables if optimizer is not None else ():
            _add(snapshot, "optimizer", variable, "trainable", names)
        snapshot.state["epoch"] = epoch
        snapshot.state["step"] = self._step()
        snapshot.state["rng"] = {**rng_state(), "keras": _seed_generator()}
        if keras.config.backend() == "torch":
            snapshot.state["rng"]["torch"] = sys.modules["torch"].get_rng_state().numpy()
        snapshot.config = _architecture(self.model)
        return snapshot


def _add(snapshot: Snapshot, section: str, variable: Any, group: str, names: dict[str, int]) -> None:
    """Add a variable under its path; Keras does not promise that paths are unique, so repeats are numbered."""
    count = names[variable.path] = names.get(variable.path, -1) + 1
    name = variable.path if count == 0 else f"{variable.path}#{count}"
    snapshot.add_array(section, name, keras.ops.convert_to_numpy(variable), group=group)


def _seed_generator() -> Any:
    """Return the state of Keras's global seed generator, None if nothing has drawn from it."""
    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else keras.ops.convert_to_numpy(generator.state)


def _architecture(model: Any) -> Any:
    """Return the model's own description, None where its class has none."""
    try:
        return json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        return None
