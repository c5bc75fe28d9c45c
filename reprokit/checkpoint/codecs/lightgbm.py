"""Boosters back from LightGBM's checkpoints.

Every byte is compared with its digest first. What LightGBM does with it then is native code on somebody's text: a
digest says whose bytes they are, not that they are harmless. Load boosters of people whom you would let run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm

from reprokit.checkpoint.reader import Checkpoint
from reprokit.errors import DataMismatchError, NotFoundError

__all__ = ["booster_of", "save_text"]

_FILE = "model.txt"


def booster_of(checkpoint: Checkpoint) -> Any:
    """Return the `lightgbm.Booster` of a checkpoint.

    Raises:
        DataMismatchError: It is corrupt, or no model that this LightGBM reads.
        NotFoundError: The checkpoint holds none.
    """
    try:
        return lightgbm.Booster(model_str=_read(checkpoint).decode())
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise DataMismatchError(
            f"{_FILE} of {checkpoint.package} is no model that LightGBM {lightgbm.__version__} reads: "
            f"{str(error).strip()[:300]}."
        ) from None


def save_text(checkpoint: Checkpoint, path: Path) -> None:
    """Write the model as it is stored."""
    path.write_bytes(_read(checkpoint))


def _read(checkpoint: Checkpoint) -> bytes:
    if _FILE not in checkpoint.package:
        raise NotFoundError(f"{checkpoint.package} holds no model of LightGBM.", hint="`reprokit ls` lists its files.")
    data: bytes = checkpoint.package.entry(_FILE).read()
    return data
