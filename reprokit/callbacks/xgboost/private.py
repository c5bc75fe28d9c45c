"""Every private part of XGBoost that its callback uses: what is read or replaced, and why there is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with XGBoost 3.2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import xgboost

__all__ = ["TRAINER", "USED", "History", "Told", "is_continued", "leave", "pass_over", "told"]

USED: tuple[tuple[str, str], ...] = (
    ("xgboost.training.train:obj", "whether the objective is a function of the script's"),
    ("xgboost.training.train:dtrain", "whether the data are read in parts"),
    ("xgboost.training.train:num_boost_round", "how many rounds will be trained"),
    ("xgboost.core.Booster.update", "replaced in a continued training: rounds that are there are not trained"),
    ("xgboost.core.Booster.eval_set", "replaced in a continued training: they are not measured again"),
)

TRAINER = "xgboost.training"
History = list[tuple[str, str, list[float]]]


class Told(NamedTuple):
    """What `train` was told, which callbacks are not."""

    custom: bool
    in_parts: bool
    total: int | None


def told() -> Told:
    """Return what the `train` that calls was told; the worst of it where it cannot be seen."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "train" and frame.f_globals.get("__name__") == TRAINER:
            found = frame.f_locals
            whole = (xgboost.DMatrix, xgboost.QuantileDMatrix)
            total = found.get("num_boost_round")
            return Told(
                custom=found.get("obj") is not None,
                in_parts=type(found.get("dtrain")) not in whole,
                total=total if type(total) is int else None,
            )
        frame = frame.f_back
    return Told(custom=True, in_parts=True, total=None)


class _PassedOver(NamedTuple):
    """The rounds that a continued training does not train.

    Attributes:
        history: By set of data and metric, what was measured after each.
        begins: Called with the number of each round; false for those.
    """

    rounds: int
    history: History
    begins: Callable[[int], bool]


class _Continued(xgboost.Booster):  # type: ignore[misc]
    """A booster whose first rounds are there already: they are passed over, and measured as they were."""

    passed_over: _PassedOver

    def update(self, dtrain: Any, iteration: int, fobj: Any = None) -> None:
        if self.passed_over.begins(iteration):
            super().update(dtrain, iteration, fobj)

    def eval_set(self, evals: Any, iteration: int = 0, *arguments: Any, **named: Any) -> str:
        if iteration >= self.passed_over.rounds:
            return str(super().eval_set(evals, iteration, *arguments, **named))
        told = [f"{data}-{metric}:{values[iteration]!r}" for data, metric, values in self.passed_over.history]
        return "\t".join([f"[{iteration}]", *told])  # as XGBoost says it, with every digit


def pass_over(model: Any, rounds: int, history: History, begins: Callable[[int], bool]) -> None:
    """Have `train` pass over the first rounds; it begins at its first one, whatever the model holds.

    The booster stays the one that `train` and the script hold.
    """
    model.passed_over = _PassedOver(rounds, history, begins)
    model.__class__ = _Continued


def is_continued(model: Any) -> bool:
    return isinstance(model, _Continued)


def leave(model: Any) -> None:
    """Have a booster be as XGBoost made it."""
    if isinstance(model, _Continued):
        model.__class__ = xgboost.Booster
        del model.passed_over
