"""Boosters back from XGBoost's checkpoints.

Every byte is compared with its digest first. What XGBoost does with it then is native code on somebody's file: a digest
says whose bytes they are, not that they are harmless. Load boosters of people whom you would let run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xgboost

from reprokit.checkpoint.reader import Checkpoint
from reprokit.errors import DataMismatchError, NotFoundError

__all__ = ["booster_of", "save_json", "save_ubj"]

_FILE = "model.ubj"


def booster_of(checkpoint: Checkpoint) -> Any:
    """Return the `xgboost.Booster` of a checkpoint.

    Raises:
        DataMismatchError: It is corrupt, or no model that this XGBoost reads.
        NotFoundError: The checkpoint holds none.
    """
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(_read(checkpoint)))
    except (xgboost.core.XGBoostError, ValueError) as error:
        said = str(error).partition("Stack trace")[0].strip()
        raise DataMismatchError(
            f"{_FILE} of {checkpoint.package} is no model that XGBoost {xgboost.__version__} reads: {said[:300]}."
        ) from None
    return booster


def save_ubj(checkpoint: Checkpoint, path: Path) -> None:
    """Write the model as it is stored."""
    path.write_bytes(_read(checkpoint))


def save_json(checkpoint: Checkpoint, path: Path) -> None:
    """Write the model as XGBoost's JSON."""
    booster_of(checkpoint).save_model(path)


def _read(checkpoint: Checkpoint) -> bytes:
    if _FILE not in checkpoint.package:
        raise NotFoundError(f"{checkpoint.package} holds no model of XGBoost.", hint="`reprokit ls` lists its files.")
    data: bytes = checkpoint.package.entry(_FILE).read()
    return data
