"""The record of a run: everything known about one execution of a lock, itself a package version. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from reprokit.core.canonical_json import canonical, metric_values, spelled
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.schema.recipe import OutputMode
from reprokit.schema.verdict import Verdict

__all__ = [
    "Attempt",
    "CheckpointEntry",
    "CodeFacts",
    "DataFacts",
    "EnvironmentFacts",
    "OutputFacts",
    "Record",
    "Status",
    "UndeclaredFile",
]

Status = Literal["running", "finished", "failed", "interrupted"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CodeFacts(_Part, frozen=True, kw_only=True):
    """Where the code came from; its bytes are the record's entries below `code/`.

    Attributes:
        imported: Files of it that the script's processes had imported at their ends, the script among them.
        opened: Other files of it that they read, as far as that can be seen; None where nothing was watched.
    """

    tree: str
    commit: str | None = None
    dirty: bool = False
    remote: str | None = None
    branch: str | None = None
    imported: list[str] = []
    opened: list[str] | None = None


class EnvironmentFacts(_Part, frozen=True, kw_only=True):
    hash: str
    packages: int
    python: str


class DataFacts(_Part, frozen=True, kw_only=True):
    """An input as it was laid out; `run` and `within` as in the lock's pin."""

    name: str
    package: str
    top_hash: str
    path: str
    entries: int = 0
    size: int = 0
    run: str | None = None
    within: str | None = None

    def __str__(self) -> str:
        return f"{self.package}@{self.top_hash[:8]}" + (f":{self.within}" if self.within else "")


class CheckpointEntry(_Part, frozen=True, kw_only=True):
    """One checkpoint. `epoch` counts from 0; `step` counts optimiser steps done.

    Attributes:
        batch: Batches done of the epoch, where it was saved in the middle of one; None at its end.
        reason: Why it was saved though no policy asked for it: `signal` or `exception`.
        dropped: Its version was deleted, as `checkpoints.keep` says; what is known of it stays.
    """

    package: str
    top_hash: str
    state_digest: str
    epoch: int | None = None
    step: int | None = None
    batch: int | None = None
    metrics: dict[str, float] = {}
    reason: str | None = None
    dropped: bool = False

    @property
    def place(self) -> tuple[int | None, int | None, int | None, str | None]:
        """Where in a run it was saved: no run has two checkpoints at one place."""
        return self.epoch, self.step, self.batch, self.reason


class Attempt(_Part, frozen=True, kw_only=True):
    """One execution of a run that was stopped and then resumed.

    Attributes:
        machine: Where it ran.
        resumed: When the next one began.
        resumed_from: The checkpoint that the next one went on from; `the beginning` without one.
    """

    started: str
    ended: str | None
    status: Status
    failure: str | None = None
    machine: dict[str, Any] = {}
    resumed: str
    resumed_from: str


class UndeclaredFile(_Part, frozen=True, kw_only=True):
    """A file that was read and not declared, as it was when the run ended; None where it was gone, or large."""

    path: str
    size: int | None = None
    digest: str | None = None


class OutputFacts(_Part, frozen=True, kw_only=True):
    """A declared output; `missing` if the script did not write it. A folder has one of these for each file."""

    path: str
    compare: OutputMode = "bytes"
    missing: bool = False
    size: int = 0
    digest: str | None = None


class Record(_Part, frozen=True, kw_only=True):
    """Everything known about a run. Times are ISO 8601 in UTC.

    Attributes:
        notebook: The entry with the executed notebook and its outputs, of a run that executes one.
    """

    run_id: str
    name: str
    status: Status
    lock_hash: str | None
    code: CodeFacts | None
    environment: EnvironmentFacts | None
    data: list[DataFacts] = []
    machine: dict[str, Any] = {}
    params: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    execution: dict[str, Any] = {}
    started: str
    ended: str | None = None
    attempts: list[Attempt] = []
    checkpoint_package: str | None = None
    initial: CheckpointEntry | None = None
    checkpoints: list[CheckpointEntry] = []
    outputs: list[OutputFacts] = []
    artifacts: list[str] = []
    undeclared: list[UndeclaredFile] = []
    notebook: str | None = None
    reproduces: str | None = None
    relaxed: list[str] = []
    verdicts: list[Verdict] = []
    warnings: list[str] = []
    failure: str | None = None
    exit_code: int | None = None
    reprokit: str = ""

    def encode(self) -> bytes:
        return canonical(self.plain()) + b"\n"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it: a metric that is not finite is "nan", "inf" or "-inf"."""
        value: dict[str, Any] = spelled(msgspec.to_builtins(self))
        return value

    def summary(self) -> dict[str, Any]:
        """What listings need, small enough for the header of the record's version."""
        return {
            "kind": "run",
            "run": self.run_id,
            "name": self.name,
            "status": self.status,
            "started": self.started,
            "ended": self.ended,
            "lock_hash": self.lock_hash,
            "checkpoint_package": self.checkpoint_package,
            "checkpoints": len(self.checkpoints),
            "inputs": [[data.package, data.top_hash] for data in self.data],
            "metrics": spelled(self.metrics),
            "reproduces": self.reproduces,
            "verdict": self.verdicts[-1].verdict if self.verdicts else None,
        }

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> Record:
        """Parse an untrusted record.

        Raises:
            DataMismatchError: It does not have the form of a record.
        """
        value = load_json(data, what=what)
        if isinstance(value, dict):
            entries = [*(found if isinstance(found := value.get("checkpoints"), list) else []), value.get("initial")]
            for part in [value, *entries]:
                if isinstance(part, dict) and "metrics" in part:
                    part["metrics"] = metric_values(part["metrics"])
        try:
            return msgspec.convert(value, cls, strict=True)
        except msgspec.ValidationError as error:
            raise DataMismatchError(
                f"{what} is malformed: {error}.", hint="It may be of a newer reprokit; update, or verify the registry."
            ) from None

    def select(self, selector: str | None, *, best: Mapping[str, Literal["min", "max"]]) -> CheckpointEntry:
        """Return the checkpoint that `last`, `initial`, `epoch=7`, `step=1200`, `best` or `best:metric` names.

        `last` leaves out what was saved when the script failed; that is `exception`. Of several of one epoch,
        that of its end is meant.

        Args:
            best: The recipe's own sense of best: metric → min or max.
        Raises:
            NotFoundError: There is none, or its version was dropped.
        """
        found = self._find(selector, best)
        if found is None:
            have = ", ".join(f"epoch={c.epoch}" for c in self.checkpoints[:12]) or "none"
            raise NotFoundError(
                f"Run {self.run_id} has no checkpoint '{selector or 'last'}'.",
                hint=f"It has {len(self.checkpoints)}: {have}.",
            )
        if found.dropped:
            left = ", ".join(f"epoch={c.epoch}" for c in self.checkpoints if not c.dropped)
            raise NotFoundError(
                f"The checkpoint '{selector or 'last'}' of run {self.run_id} was dropped, as `checkpoints.keep` says.",
                hint=f"Those that are left: {left}.",
            )
        return found

    def _find(self, selector: str | None, best: Mapping[str, Literal["min", "max"]]) -> CheckpointEntry | None:
        key, _, value = (selector or "last").replace(":", "=", 1).partition("=")
        if key == "initial":
            return self.initial
        if key == "best":
            return self._best(value or next(iter(best), ""), best)
        if key in ("last", "exception"):
            fitting = [c for c in self.checkpoints if (c.reason == "exception") == (key == "exception")]
            return fitting[-1] if fitting else None
        fitting = [c for c in self.checkpoints if getattr(c, key) == int(value)]
        return next((c for c in reversed(fitting) if c.batch is None), fitting[-1] if fitting else None)

    def selector_of(self, checkpoint: CheckpointEntry) -> str | None:
        """Return what names this checkpoint of the run and no other: `epoch=7`, `step=1200` or `initial`."""
        if self.initial is not None and self.initial.top_hash == checkpoint.top_hash:
            return "initial"
        for key in ("epoch", "step"):
            number = getattr(checkpoint, key)
            found = self._find(f"{key}={number}", {}) if number is not None else None
            if found is not None and found.top_hash == checkpoint.top_hash:
                return f"{key}={number}"
        return None

    def _best(self, metric: str, best: Mapping[str, Literal["min", "max"]]) -> CheckpointEntry | None:
        having = [c for c in self.checkpoints if not math.isnan(c.metrics.get(metric, math.nan))]
        if not having:
            return None
        sense = best.get(metric) or ("min" if "loss" in metric or "error" in metric else "max")
        return (min if sense == "min" else max)(having, key=lambda c: c.metrics[metric])
