"""A verdict: how a reproduction compares with the run it repeats, and the record that is kept of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from reprokit.core.canonical_json import canonical
from reprokit.schema.artefact import check_size, decode
from reprokit.schema.factor import Factor
from reprokit.schema.facts import VerdictSummary
from reprokit.schema.place import Place, SaveKind, Spot

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
    "rung_of",
]

Rung = Literal["BITWISE", "EQUAL-RELAXED", "TENSOR-TOLERANCE", "METRIC-TOLERANCE", "DIVERGED", "INCONCLUSIVE"]

_WITH_PROVISOS = ", with provisos"


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first point at which two runs differ.

    Attributes:
        saved: By whose sign the checkpoint was saved in which they differ; None if they differ in no checkpoint.
        epoch: From 0; None for the initial state, and for what belongs to no epoch.
        batch, save: As of a `Place`.
        output, metric: The declared output or the metric that differs, where it is one.
        missing: The side that does not have the checkpoint.
        tensor: Name of the first tensor that differs, or `FILE:PATH` of what else does, in `state.json`, `config.json`
            or a file that is kept whole; None if only an output differs.
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

    saved: SaveKind | None = None
    epoch: int | None = None
    step: int | None = None
    batch: int | None = None
    save: int = 1
    output: str | None = None
    metric: str | None = None
    missing: Literal["original", "repetition"] | None = None
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

    @classmethod
    def at(cls, place: Place, *, step: int | None = None, **more: Any) -> Divergence:
        """Return one in the checkpoint of a place.

        Args:
            step: Steps done there, where the place does not say.
            more: What else is known of it.
        """
        step = place.step if step is None else step
        return cls(saved=place.kind, epoch=place.epoch, step=step, batch=place.batch, save=place.save, **more)

    def placed(self, place: Place, *, step: int | None = None) -> Divergence:
        """Return the same, in the checkpoint of a place."""
        told = Divergence.at(place, step=step)
        return msgspec.structs.replace(
            self, saved=told.saved, epoch=told.epoch, step=told.step, batch=told.batch, save=told.save
        )

    @property
    def spot(self) -> Spot:
        """What of the runs differs."""
        place = None
        if self.saved is not None:
            step = self.step if self.epoch is None and self.saved != "initial" else None
            place = Place(kind=self.saved, epoch=self.epoch, step=step, batch=self.batch, save=self.save)
        return Spot(place=place, output=self.output, metric=self.metric)

    @property
    def what(self) -> str:
        """The same in words: `epoch 2`, `epoch 2 is missing from the repetition`, `output metrics.json`."""
        return str(self.spot) + (f" is missing from the {self.missing}" if self.missing else "")

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it, with `what` it is in words."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return {**value, "what": self.what}

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


CauseKind = Literal[
    "code", "data", "params", "execution", "environment", "machine", "inputs", "resumed", "record", "unexplained"
]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two runs, and whether it could explain the first thing that differs.

    Attributes:
        what: Which one: `params.rate`, `data.images`, `code`, `environment.numpy`, `execution.threads`.
        text: A line that says it.
        weight: How well it would explain what was seen first.
        why: What was seen that makes it so.
        lines: What it consists of: a code's differences line by line, the entries of data that changed.
        factor: What `reproduce --with` can give to the original so that it has this one thing of the other run.
    """

    kind: CauseKind
    what: str
    text: str
    weight: Literal["likely", "possible", "unlikely"] = "possible"
    why: str = ""
    lines: list[str] = []
    factor: Factor | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it, its factor with the `option` of `--with` that says it."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        if self.factor is not None:
            value["factor"]["option"] = self.factor.option
        return value


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the comparison: what, with which result, and what was seen."""

    what: str
    result: Literal["match", "tolerated", "differs", "missing", "ignored"]
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `reproduce`. `relaxed` lists every override; one is enough to forbid BITWISE.

    Attributes:
        until: The last epoch that was compared, from 0; None if all were.
        explanations: What differs between the two runs and could explain the first divergence, most telling first;
            empty where there is none.
        provisos: What else a reader has to know of the two runs, a sentence each, before the verdict means what its
            word says (`reprokit.runs.provisos`).
        resumed: How either run was stopped and resumed, a sentence each.
    """

    run_id: str
    reproduces: str
    verdict: Rung
    relaxed: list[str] = []
    until: int | None = None
    first_divergence: Divergence | None = None
    explanations: list[Cause] = []
    comparisons: list[Comparison] = []
    provisos: list[str] = []
    resumed: list[str] = []

    @property
    def word(self) -> str:
        """Its rung as it is printed: one that affirms something is never bare beside a proviso."""
        affirms = exit_code(self.verdict) == 0
        return self.verdict + (_WITH_PROVISOS if affirms and self.provisos else "")

    def plain(self) -> dict[str, Any]:
        """Return it as `--json` prints it: `verdict` is its word, `rung` the same without a mention of provisos."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        value |= {"verdict": self.word, "rung": self.verdict}
        value["first_divergence"] = None if self.first_divergence is None else self.first_divergence.plain()
        value["causes"] = [cause.text for cause in self.explanations]
        value["explanations"] = [cause.plain() for cause in self.explanations]
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
        return check_size(canonical(msgspec.to_builtins(self)) + b"\n", what="The verdict")

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return {**value, "verdict": self.verdict.plain()}

    def summary(self) -> VerdictSummary:
        """What listings need, small enough for the header of its version."""
        return VerdictSummary(
            verdict=self.verdict.word,
            original=self.original.run_id,
            reproduction=self.reproduction.run_id,
            relaxed=self.verdict.relaxed,
            provisos=self.verdict.provisos,
            by=self.by,
            at=self.at,
        )

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> VerdictRecord:
        """Parse an untrusted one.

        Raises:
            DataMismatchError: It does not have the form of a verdict.
        """
        return decode(data, cls, what=what)


def exit_code(rung: Rung) -> int:
    """0 reproduced, 7 diverged, 8 inconclusive."""
    return {"DIVERGED": 7, "INCONCLUSIVE": 8}.get(rung, 0)


def rung_of(word: str) -> str:
    """Return the rung that the word of a verdict names."""
    return word.removesuffix(_WITH_PROVISOS)
