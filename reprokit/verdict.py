"""A verdict: how a reproduction compares with the run it repeats."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Comparison", "Divergence", "Rung", "Verdict", "exit_code"]

Rung = Literal["BITWISE", "TENSOR-TOLERANCE", "METRIC-TOLERANCE", "DIVERGED", "INCONCLUSIVE"]


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first point at which two runs differ.

    Attributes:
        epoch: From 0; None for the initial state, and for what belongs to no epoch.
        tensor: Name of the first tensor that differs, or `state.json:PATH`; None if only an output differs.
        shape: Of that tensor.
        max_abs: Largest |Δ|; None where the two cannot be subtracted.
    """

    epoch: int | None = None
    step: int | None = None
    tensor: str | None = None
    shape: list[int] | None = None
    max_abs: float | None = None
    what: str | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the comparison: what, with which result, and what was seen."""

    what: str
    result: Literal["match", "tolerated", "differs", "missing", "ignored"]
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `reproduce`. `relaxed` lists every override; one is enough to forbid BITWISE."""

    run_id: str
    reproduces: str
    verdict: Rung
    relaxed: list[str] = []
    first_divergence: Divergence | None = None
    causes: list[str] = []
    comparisons: list[Comparison] = []

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value


def exit_code(rung: Rung) -> int:
    """0 reproduced, 7 diverged, 8 inconclusive."""
    return {"DIVERGED": 7, "INCONCLUSIVE": 8}.get(rung, 0)
