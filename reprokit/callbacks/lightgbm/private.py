"""Every private part of LightGBM that its callback uses: what is read or replaced, and why there is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with LightGBM 4.7.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import lightgbm

__all__ = ["TRAINER", "USED", "callbacks_after_rounds", "is_distributed"]

USED: tuple[tuple[str, str], ...] = (
    ("lightgbm.engine.train:callbacks_after_iter", "changed: ours comes last, and hears of the end of training"),
    ("lightgbm.basic.Booster._network", "whether several processes train one model"),
)

TRAINER = "lightgbm.engine"


def callbacks_after_rounds() -> list[Any]:
    """Return the list that the `train` that calls goes through after each round; callbacks are told no end of training.

    Raises:
        RuntimeError: No `train` of LightGBM calls, or it has another form.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("callbacks_after_iter")
        if frame.f_globals.get("__name__") == TRAINER and isinstance(found, list):
            return found
        frame = frame.f_back
    raise RuntimeError(
        f"reprokit: PackageCheckpoint finds no training in LightGBM {lightgbm.__version__}; it needs lightgbm.train "
        "itself, of LightGBM 4"
    )


def is_distributed(model: lightgbm.Booster) -> bool:
    return bool(model._network)
