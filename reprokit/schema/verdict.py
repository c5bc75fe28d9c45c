"""A verdict: how a reproduction compares with the run it repeats, and the record that is kept of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from reprokit.core.canonical_json import canonical
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError

__all__ = [
    "Cause",
    "CauseKind",
    "Comparison",
    "Divergence",
    "RunLink",
    "Rung",
    "Verdict",
    "VerdictRecord",
    "exit_code",
]

Rung = Literal["BITWISE", "TENSOR-TOLERANCE", "METRIC-TOLERANCE", "DIVERGED", "INCONCLUSIVE"]


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first point at which two runs differ.

    Attributes:
        epoch: From 0; None for the initial state, and for what belongs to no epoch.
        tensor: Name of the first tensor that differs, or `state.json:PATH`; None if only an output differs.
        shard: The file that it is stored in, of the first of the two that has it.
        shape: Of that tensor.
        elements, differing: How many elements it has, and how many differ in their bits.
        max_abs: Largest |Δ|; None where the two cannot be subtracted, or it is infinite.
        relative: |Δ| / |original| of the element with the largest |Δ|; None where infinite, and for booleans.
        ulp: Largest distance in units in the last place; None for integers and where one of two is NaN or infinite.
        index: Where the largest |Δ| is, from 0.
        how: What else there is to say: `renamed to …`, `missing from …`, another dtype or shape, NaN and infinities.
        state: Paths of `state.json` that differ there, besides tensors: at most eight.
    """

    epoch: int | None = None
    step: int | None = None
    tensor: str | None = None
    shard: str | None = None
    shape: list[int] | None = None
    elements: int | None = None
    differing: int | None = None
    max_abs: float | None = None
    relative: float | None = None
    ulp: int | None = None
    index: list[int] | None = None
    how: str | None = None
    state: list[str] = []
    what: str | None = None

    def tensor_text(self) -> str:
        """Return in words how the tensor differs; nothing if it is about none."""
        if self.tensor is None:
            return self.how or ""
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


CauseKind = Literal["code", "data", "params", "execution", "environment", "machine", "inputs", "record", "unexplained"]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two runs, and whether it could explain the first thing that differs.

    Attributes:
        what: Which one: `params.rate`, `data.images`, `code`, `environment.numpy`, `execution.threads`.
        text: A line that says it, as in `Verdict.causes`.
        weight: How well it would explain what was seen first.
        why: What was seen that makes it so.
        lines: What it consists of: a code's differences line by line, the entries of data that changed.
        factor: Option of `reproduce --with` that gives the original this one thing of the other run; None if none can.
    """

    kind: CauseKind
    what: str
    text: str
    weight: Literal["likely", "possible", "unlikely"] = "possible"
    why: str = ""
    lines: list[str] = []
    factor: str | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the comparison: what, with which result, and what was seen."""

    what: str
    result: Literal["match", "tolerated", "differs", "missing", "ignored"]
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `reproduce`. `relaxed` lists every override; one is enough to forbid BITWISE.

    Attributes:
        causes: What differs between the two runs and could explain it, most telling first.
        explanations: The same, in the same order, with what each consists of.
    """

    run_id: str
    reproduces: str
    verdict: Rung
    relaxed: list[str] = []
    first_divergence: Divergence | None = None
    causes: list[str] = []
    explanations: list[Cause] = []
    comparisons: list[Comparison] = []

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value


class RunLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the runs that a verdict is about: its ID, the version of its record that was compared, its lock."""

    run_id: str
    top_hash: str
    lock_hash: str | None


class VerdictRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verdict as it is kept: a version of the package `verdicts/<original run id>`, never changed afterwards.

    Attributes:
        by: user@host of who asked for it.
        at: When it was given: ISO 8601 in UTC.
        machine: Where the reproduction ran, in a few words by name; its record has the rest.
        command: As it was typed; empty where the library was called.
        tolerance: The tolerance that was applied, as a recipe writes it.
        compared: How many checkpoints, outputs and metrics were compared.
        reprokit: The release that gave it.
    """

    format: Literal[1] = 1
    verdict: Verdict
    original: RunLink
    reproduction: RunLink
    by: str
    at: str
    machine: dict[str, str] = {}
    command: list[str] = []
    tolerance: dict[str, Any] = {}
    compared: dict[str, int] = {}
    reprokit: str = ""

    def encode(self) -> bytes:
        return canonical(msgspec.to_builtins(self)) + b"\n"

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value

    def summary(self) -> dict[str, Any]:
        """What listings need, small enough for the header of its version."""
        return {
            "kind": "verdict",
            "verdict": self.verdict.verdict,
            "original": self.original.run_id,
            "reproduction": self.reproduction.run_id,
            "relaxed": self.verdict.relaxed,
            "by": self.by,
            "at": self.at,
        }

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> VerdictRecord:
        """Parse an untrusted one.

        Raises:
            DataMismatchError: It does not have the form of a verdict.
        """
        value = load_json(data, what=what)
        if isinstance(value, dict) and value.get("format") != 1:
            raise DataMismatchError(
                f"{what} has format {value.get('format')!r}; this reprokit reads format 1.", hint="Update reprokit."
            )
        try:
            return msgspec.convert(value, cls, strict=True)
        except msgspec.ValidationError as error:
            raise DataMismatchError(f"{what} is malformed: {error}.") from None


def exit_code(rung: Rung) -> int:
    """0 reproduced, 7 diverged, 8 inconclusive."""
    return {"DIVERGED": 7, "INCONCLUSIVE": 8}.get(rung, 0)
