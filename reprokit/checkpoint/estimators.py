"""Estimators back from skops files. skops constructs only types it knows, and those that the caller names."""

from __future__ import annotations

from typing import Any

import skops.io

from reprokit.checkpoint.reader import load_checkpoint
from reprokit.registry import Registry

__all__ = ["load_estimator"]


def load_estimator(ref: str, *, trusted: list[str], registry: Registry | str | None = None) -> Any:
    """Return the scikit-learn estimator of a checkpoint.

    Args:
        trusted: Full names of types beyond those that skops trusts, e.g. `["mypackage.MyTransformer"]`.
    Raises:
        skops.io.exceptions.UntrustedTypesFoundException: Naming the types that `trusted` lacks.
    """
    return skops.io.loads(load_checkpoint(ref, registry=registry).package.entry("model.skops").read(), trusted=trusted)
