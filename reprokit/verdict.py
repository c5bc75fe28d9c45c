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
        elements, differing: How many elements it has, and how many differ in their bits.
        max_abs: Largest |Δ|; None where the two cannot be subtracted, or it is infinite.
        relative: |Δ| / |original| of the element with the largest |Δ|; None where infinite, and for booleans.
        ulp: Largest distance in units in the last place; None for integers and where one of two is NaN or infinite.
        index: Where the largest |Δ| is, from 0.
        how: What else there is to say: `renamed to …`, `missing from …`, another dtype or shape, NaN and infinities.
    """

    epoch: int | None = None
    step: int | None = None
    tensor: str | None = None
    shape: list[int] | None = None
    elements: int | None = None
    differing: int | None = None
    max_abs: float | None = None
    relative: float | None = None
    ulp: int | None = None
    index: list[int] | None = None
    how: str | None = None
    what: str | None = None

    def tensor_text(self) -> str:
        """Return in words how the tensor differs; nothing if it is about none."""
        if self.tensor is None:
            return ""
        parts = [self.tensor if self.shape is None else f"{self.tensor} {self.shape}"]
        if self.differing is not None:
            parts.append(f"{self.differing:,} of {self.elements:,} elements differ")
        at = f" at {self.index}" if self.index else ""
        if self.max_abs is not None:
            parts.append(f"max |Δ| {self.max_abs:.3g}{at}")
        elif self.index is not None:
            parts.append(f"infinite |Δ|{at}")
        if self.ulp is not None:
            parts.append(f"at most {self.ulp:,} ulp")
        if self.how is not None:
            parts.append(self.how)
        return ", ".join(parts)


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
