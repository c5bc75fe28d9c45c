"""Open a checkpoint by what names it: a run and a place in it, or a version of its package."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from reprokit.checkpoint.claims import check_state
from reprokit.checkpoint.framework_function import framework_function
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.frameworks import find
from reprokit.core.config import Config
from reprokit.core.refs import PackageRef, is_package_ref, parse_run
from reprokit.errors import DataMismatchError, UsageError
from reprokit.packages.package import Package
from reprokit.registry import Registry, open_registry
from reprokit.runs.store import RunStore

__all__ = ["LoadedCheckpoint", "load_checkpoint"]


class LoadedCheckpoint(Checkpoint):
    """A checkpoint, and what frameworks make of it; a framework is loaded only where it is asked for."""

    def state_dict(self, section: str = "model", names: Iterable[str] | None = None) -> dict[str, Any]:
        """Return tensors of a section as PyTorch's, in their own dtypes; tied weights share their memory.

        Changing one changes neither the checkpoint nor what another call returns.

        Args:
            names: Only these; of files that hold others too, their bytes alone are read.
        """
        return dict(_torch().state_dict(self, section, names))

    def load_into(self, model: Any, section: str = "model") -> None:
        """Put parameters, buffers, training flags and `requires_grad` of a PyTorch model to what was saved.

        Args:
            section: Whose tensors: `model`, or `ema`.
        Raises:
            DataMismatchError: The model has other tensors.
        """
        _torch().load_into(self, model, section)

    def model(self) -> Any:
        """Return the model as its framework's own object: a Keras model, an estimator, a booster.

        Every byte is compared with its digest before the framework sees it. What the framework's native code makes of a
        stranger's file is not known by that.

        Raises:
            UsageError: The framework makes no model of a checkpoint alone, or is not installed here.
            DataMismatchError: Something is corrupt.
        """
        framework = find(self.facts.framework)
        if framework is None or not framework.stored.model:
            raise UsageError(
                f"A model is not made of {self.package} alone.",
                hint="Build it as the run did, and give it to `load_into`; `tensors()` has the weights.",
            )
        what = f"The model of {self.package}"
        return framework_function(framework.stored.model, extra=framework.extra, what=what)(self)


def _torch() -> ModuleType:
    return importlib.import_module("reprokit.checkpoint.codecs.torch")


def load_checkpoint(ref: str, *, registry: Registry | str | None = None) -> LoadedCheckpoint:
    """Open a checkpoint.

    Args:
        ref: `RUN@best:val_loss`, `RUN@epoch=7`, `RUN@last`, `ns/name:tag` or `ns/name@hash`.
        registry: A registry or its address; the one configured if None.
    Raises:
        NotFoundError: No such run, checkpoint, package or version; or it was dropped.
        DataMismatchError: It is corrupt.
    """
    if registry is None or isinstance(registry, str):
        registry = open_registry(Config.load(registry=registry).registry)
    if is_package_ref(ref):
        named, claimed = PackageRef.parse(ref), None
    else:
        chosen = RunStore(registry).checkpoint(parse_run(ref))
        named, claimed = PackageRef(chosen.package, hash=chosen.top_hash), chosen.state_digest
    found = LoadedCheckpoint(Package.open(named, registry=registry))
    if claimed not in (None, found.facts.state_digest):
        raise DataMismatchError(
            f"{found.package} is not the checkpoint {ref}: its record says state digest {str(claimed)[-12:]}, the "
            f"version {found.facts.state_digest[-12:]}.",
            hint="`reprokit verify RUN` says what else of the run was altered.",
        )
    check_state(found, found.package.entry("state.json").read())
    return found
