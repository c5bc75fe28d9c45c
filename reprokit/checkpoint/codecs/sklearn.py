"""Estimators back from skops and joblib files: only types that skops knows, and those that the caller names.

A skops file is looked through before skops sees it: skops reads members whole, and arrays as long as their headers say.
What is loaded can still be wrong, and an estimator's own code does not check it: a tree whose nodes lead astray crashes
when it predicts. Load estimators of people whom you would let run code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib

from reprokit.checkpoint.load import load_checkpoint
from reprokit.checkpoint.reader import Checkpoint
from reprokit.checkpoint.safe_pickle.load import BROKEN, load_pickled, not_named
from reprokit.client.skops_audit import audit
from reprokit.client.skops_import import skops_io
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.registry import Registry

__all__ = ["estimator_of", "load_estimator", "load_skops", "save_joblib"]


def load_estimator(ref: str, *, types: Sequence[str] = (), registry: Registry | str | None = None) -> Any:
    """Return the scikit-learn estimator of a checkpoint.

    Args:
        types: Full names of types beyond those that skops knows, e.g. `["mypackage.MyTransformer"]`. Their code runs.
    Raises:
        RefusedError: It holds further types; they are named.
        DataMismatchError: It is corrupt or malformed.
        NotFoundError: The checkpoint holds no estimator.
    """
    return estimator_of(load_checkpoint(ref, registry=registry), types=types)


def estimator_of(checkpoint: Checkpoint, *, types: Sequence[str] = ()) -> Any:
    """Return the estimator of an open checkpoint; see `load_estimator`."""
    package = checkpoint.package
    if "model.skops" in package:
        return load_skops(package.entry("model.skops").read(), types=types, what=f"model.skops of {package}")
    if "model.joblib" in package:
        return load_pickled(package.entry("model.joblib").read(), types=types)
    raise NotFoundError(f"{package} holds no estimator.", hint="`reprokit ls` lists its files.")


def save_joblib(checkpoint: Checkpoint, path: Path, *, types: Sequence[str] = ()) -> None:
    """Write the estimator as a joblib file, for whoever trusts us: joblib files run code where they are loaded."""
    joblib.dump(estimator_of(checkpoint, types=types), path)


def load_skops(data: bytes, *, types: Sequence[str] = (), what: str = "The skops file") -> Any:
    """Return what a skops file of reprokit's holds; the errors are those of `load_estimator`."""
    try:
        audit(data)
        return skops_io.loads(data, trusted=list(types))
    except skops_io.exceptions.UntrustedTypesFoundException:
        raise not_named(what, set(skops_io.get_untrusted_types(data=data)) - set(types)) from None
    except BROKEN as error:
        raise DataMismatchError(
            f"{what} is not a skops file that reprokit wrote: {type(error).__name__}: {str(error)[:200]}."
        ) from None
