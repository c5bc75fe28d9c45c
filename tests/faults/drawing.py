"""The form of a fault: what is wrong with one of two runs, how it is drawn, and what the verdict on them must say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.reproducing import Bench, Verdict

__all__ = ["KINDS", "Apply", "Drawn", "Expected", "Fault", "kind"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a verdict must say.

    Attributes:
        cause: Kind and name of the cause that must come first; the name may have `*`.
        where: Where the first divergence is: `initial state`, `epoch 1`, `output metrics.json`; may have `*`.
        tensor: Name of the first tensor that differs; may have `*`.
        first: Other facts of the first divergence.
        lines: Parts of the lines of the first cause.
        unlikely: Kinds of causes that must not be called likely: the fault left a trail that leads elsewhere.
        differing: All checkpoints that differ, where these are not those from the first on.
    """

    cause: tuple[str, str]
    where: str
    tensor: str | None = "*"
    first: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    unlikely: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    rung: str = "DIVERGED"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong on one side of two runs.

    Attributes:
        detail: What was drawn, in words.
        apply: Commits it, and returns the verdict and what was to come out.
    """

    kind: str
    seed: int
    training: str
    detail: str
    apply: Callable[[Bench], tuple[Verdict, Expected]]

    @property
    def name(self) -> str:
        return f"{self.kind} ({self.seed})"


Apply = Callable[[Bench], tuple[Verdict, Expected]]
Drawn = tuple[str, Apply]
_Make = Callable[[random.Random], Drawn]
KINDS: dict[str, tuple[str, _Make]] = {}
"""By name, the training and what draws a fault of this kind."""


def kind(training: str, name: str) -> Callable[[_Make], _Make]:
    """Add what it decorates as a kind of faults: it draws words, and what commits the fault."""

    def keep(make: _Make) -> _Make:
        KINDS[f"{training}: {name}"] = (training, make)
        return make

    return keep
