"""The record of a run: everything known about one execution of a lock, itself a package version. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from reprokit.core.canonical_json import metric_values, ordered, spelled
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.schema.artefact import check_size
from reprokit.schema.bounds import MAX_RECORD, LeftOut, cut_metrics
from reprokit.schema.facts import CheckpointFacts, Name, RunSummary
from reprokit.schema.machine import Machine
from reprokit.schema.place import BEGINNING, Place, SaveKind
from reprokit.schema.recipe import Execution, OutputMode, Tolerance
from reprokit.schema.verdict import Verdict

__all__ = [
    "Attempt",
    "CheckpointEntry",
    "CodeFacts",
    "DataFacts",
    "EnvironmentFacts",
    "ExecutionFacts",
    "OutputFacts",
    "Program",
    "Record",
    "RepetitionTerms",
    "Status",
    "StrayFile",
    "UndeclaredFile",
    "VariableRead",
]

Status = Literal["running", "finished", "failed", "interrupted"]

_SHORT = 16 * 1024  # bytes of parameters that a header repeats
_NAMED = 8  # of a list of names, in a sentence


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class StrayFile(_Part, frozen=True, kw_only=True):
    """A file that a run in the working tree imported or opened there, and that is not the recorded tree's.

    Attributes:
        how: The tree has none of that name, as where git ignores it; or another, as where git was told not to look.
        size, digest: As it was when the run ended; None where it was gone, or large.
    """

    path: str
    how: Literal["not in the tree", "changed"]
    size: int | None = None
    digest: str | None = None


class CodeFacts(_Part, frozen=True, kw_only=True):
    """Where the code came from; its bytes are the record's entries below `code/`.

    Attributes:
        imported: Files of it that the script's processes had imported at their ends, the script among them.
        opened: Other files of it that they read, as far as that can be seen; None where nothing was watched.
        strays: What was used of the working tree, and is not the tree's, where it was executed in place.
    """

    tree: str
    commit: str | None = None
    dirty: bool = False
    remote: str | None = None
    branch: str | None = None
    imported: list[str] = []
    opened: list[str] | None = None
    strays: list[StrayFile] = []


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
        kind: By whose sign it was saved.
        dropped: Its version was deleted, as `checkpoints.keep` says; what is known of it stays.
        unresumable: Why no run can go on from it with the same bits, as its callback said; empty if one can.
    """

    package: str
    top_hash: str
    state_digest: str
    epoch: int | None = None
    step: int | None = None
    batch: int | None = None
    metrics: dict[str, float] = {}
    kind: SaveKind = "checkpoint"
    dropped: bool = False
    unresumable: list[str] = []

    @classmethod
    def of(cls, facts: CheckpointFacts, *, package: str, top_hash: str) -> CheckpointEntry:
        """Return the entry of a version that says this of itself."""
        return cls(
            package=package,
            top_hash=top_hash,
            state_digest=facts.state_digest,
            epoch=facts.epoch,
            step=facts.step,
            batch=facts.batch,
            metrics=facts.metrics,
            kind=facts.kind,
        )

    @property
    def place(self) -> Place:
        """Where in a run it was saved: no run has two checkpoints at one place that was counted."""
        return Place(kind=self.kind, epoch=self.epoch, step=self.step, batch=self.batch)


class Attempt(_Part, frozen=True, kw_only=True):
    """One execution of a run that was stopped and then resumed.

    Attributes:
        machine: Where it ran.
        resumed: When the next one began.
        resumed_from: The checkpoint that the next one went on from; `the beginning` without one.
        resumed_at: Where the next one went on; None at the beginning.
        restored: The script of the next one put that checkpoint back.
        lost: Variables of the script that did not hold then what they held when it was saved: they are in none.
    """

    started: str
    ended: str | None
    status: Status
    failure: str | None = None
    machine: Machine = Machine()
    resumed: str
    resumed_from: str
    resumed_at: Place | None = None
    restored: bool = True
    lost: Annotated[list[Name], msgspec.Meta(max_length=10_000)] = []

    @property
    def told_at(self) -> str:
        """Where the run went on, in words: `epoch 2`, `epoch 2, batch 5`, `its beginning`."""
        return "its beginning" if self.resumed_at is None or not self.restored else str(self.resumed_at)

    @property
    def not_restored(self) -> str:
        """What is to be said of the variables that were lost."""
        names = ", ".join(f"`{name}`" for name in self.lost[:_NAMED])
        if len(self.lost) > _NAMED:
            names += f" and {len(self.lost) - _NAMED} more"
        return (
            f"Resumed at {self.told_at}, but variables of the script began anew that had moved before: {names}. No "
            "checkpoint holds them; put what training depends on into ckpt.state."
        )

    def __str__(self) -> str:
        lost = "" if self.restored else ", which its script did not restore"
        if self.lost:
            lost += f", without {', '.join(self.lost[:_NAMED])}{', …' if len(self.lost) > _NAMED else ''} of its script"
        saved = "" if self.resumed_from == BEGINNING else f", from {self.resumed_from}{lost}"
        return f"resumed at {self.told_at}{saved}, on {self.resumed}"


class ExecutionFacts(Execution, frozen=True, kw_only=True):
    """How a run was executed: as its lock says, but for `inputs`, which a hermetic run denies unless they are `off`.

    `in_place`: in the working tree itself. `hermetic`: under bubblewrap.
    """

    in_place: bool = False
    hermetic: bool = False


class UndeclaredFile(_Part, frozen=True, kw_only=True):
    """A file that was read and not declared, as it was when the run ended; None where it was gone, or large.

    Attributes:
        path: Where it really lies. A folder, which ends with a slash, is what was listed: its names and their number.
        kind: Whether it was imported, or executed, as code.
    """

    path: str
    kind: Literal["file", "module"] = "file"
    size: int | None = None
    digest: str | None = None


class Program(_Part, frozen=True, kw_only=True):
    """A program that a script started and that is not Python: what it read itself, nobody saw. Its digest, if small."""

    path: str
    size: int | None = None
    digest: str | None = None


class VariableRead(_Part, frozen=True, kw_only=True):
    """A variable of the shell that the script's own code read; never its value.

    Attributes:
        digest: HMAC-SHA256 of name and value, in part, by a key that only this machine has; None where there is none:
            it was `unset`, or its name says that it is a secret.
        unset: It was not there, or `hidden`: it was in the shell, and `inputs: deny` kept it from the script.
        taken: Not by its name: the script took the whole environment, or started a program with it.
        platform: It says where and on what a program runs.
    """

    name: str
    digest: str | None = None
    unset: bool = False
    hidden: bool = False
    taken: bool = False
    platform: bool = False

    @property
    def is_input(self) -> bool:
        """True if it was there, read by its name, and is the user's."""
        return not (self.unset or self.taken or self.platform)


class OutputFacts(_Part, frozen=True, kw_only=True):
    """A declared output; `missing` if the script did not write it. A folder has one of these for each file.

    Attributes:
        unkept: Why it was written, and is not in the record: its name, or what it is, cannot be stored.
    """

    path: str
    compare: OutputMode = "bytes"
    missing: bool = False
    size: int = 0
    digest: str | None = None
    unkept: str | None = None

    @property
    def is_kept(self) -> bool:
        return not self.missing and self.unkept is None


class RepetitionTerms(_Part, frozen=True, kw_only=True):
    """On what terms a repetition was begun, so that one that is resumed is judged on the same.

    Attributes:
        until: The last epoch (from 0) that is executed and compared.
        tolerance: What was given beside the original's recipe.
        command: As it was typed.
    """

    until: int | None = None
    tolerance: Tolerance | None = None
    command: list[str] = []


class Record(_Part, frozen=True, kw_only=True):
    """Everything known about a run. Times are ISO 8601 in UTC.

    Attributes:
        by: Who executed it, as user@host; whoever writes records may write any name.
        unused: Parameters that the script never got, of a run that finished: neither did it ask for them, nor were they
            on its command line, in its variables or its cells. What they say is not what it computed with.
        refused: Files and packages that the script asked for and was refused, for they are not declared.
        variables: What of the shell's environment the script's own code read, without having been declared.
        variables_key: Which key their digests are by; two records can be compared where it is the same.
        changed_inputs: Inputs that were not at the run's end what they were at its beginning, each with a file.
        logged: The digest of each metric's values by step; None where nobody took them.
        execution: None of a run that was not started from a recipe.
        left_out: What is not listed, of lists that are too long for a record.
        terms: Of a repetition, what it was asked for; `relaxed` has the words.
        notebook: The entry with the executed notebook and its outputs, of a run that executes one.
    """

    run_id: str
    name: str
    status: Status
    lock_hash: str | None
    code: CodeFacts | None
    environment: EnvironmentFacts | None
    data: list[DataFacts] = []
    machine: Machine = Machine()
    params: dict[str, Any] = {}
    unused: list[str] = []
    metrics: dict[str, float] = {}
    logged: dict[str, str] | None = None
    execution: ExecutionFacts | None = None
    started: str
    ended: str | None = None
    attempts: list[Attempt] = []
    by: str = ""
    checkpoint_package: str | None = None
    initial: CheckpointEntry | None = None
    checkpoints: list[CheckpointEntry] = []
    outputs: list[OutputFacts] = []
    artifacts: list[str] = []
    undeclared: list[UndeclaredFile] = []
    refused: list[str] = []
    variables: list[VariableRead] = []
    variables_key: str | None = None
    changed_inputs: dict[str, str] = {}
    programs: list[Program] = []
    notebook: str | None = None
    reproduces: str | None = None
    relaxed: list[str] = []
    terms: RepetitionTerms | None = None
    verdicts: list[Verdict] = []
    warnings: list[str] = []
    left_out: list[LeftOut] = []
    failure: str | None = None
    exit_code: int | None = None
    reprokit: str = ""

    @property
    def used_params(self) -> dict[str, Any]:
        """Parameters without those that never reached the script."""
        return {name: value for name, value in self.params.items() if name not in self.unused}

    def encode(self) -> bytes:
        """Return it as it is kept: keys in their order; a metric that is not finite is "nan", "inf" or "-inf".

        Raises:
            UsageError: It is longer than what is read; one that was `bounded` is so only by parameters and inputs.
        """
        data = ordered(spelled(msgspec.to_builtins(self))) + b"\n"
        return check_size(data, what="The record", max_bytes=MAX_RECORD)

    def plain(self) -> dict[str, Any]:
        """Return it as `--json` prints it: as it is kept, with the words of its verdicts."""
        value: dict[str, Any] = spelled(msgspec.to_builtins(self))
        return {**value, "verdicts": [verdict.plain() for verdict in self.verdicts]}

    @property
    def last(self) -> CheckpointEntry | None:
        """The checkpoint that the run is resumed from unless another is named: the initial state if it has no more."""
        usable = [entry for entry in self.checkpoints if entry.kind != "exception" and not entry.dropped]
        return usable[-1] if usable else self.initial

    def _has_short_params(self) -> bool:
        return len(ordered(spelled([self.params, self.unused]))) <= _SHORT

    def summary(self) -> RunSummary:
        """What listings need, small enough for the header of the record's version."""
        return RunSummary(
            run=self.run_id,
            name=self.name,
            status=self.status,
            started=self.started,
            ended=self.ended,
            lock_hash=self.lock_hash,
            checkpoint_package=self.checkpoint_package,
            checkpoints=len(self.checkpoints),
            inputs=[(data.package, data.top_hash) for data in self.data],
            metrics=cut_metrics(self.metrics)[0],
            params=self.used_params if (short := self._has_short_params()) else None,
            unused=self.unused if short else [],
            reproduces=self.reproduces,
            resumed=[attempt.told_at for attempt in self.attempts],
            verdict=self.verdicts[-1].word if self.verdicts else None,
        )

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> Record:
        """Parse an untrusted record.

        Raises:
            DataMismatchError: It does not have the form of a record.
        """
        value = load_json(data, what=what, max_bytes=MAX_RECORD)
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
            have = ", ".join(str(c.place.selector or c.place) for c in self.checkpoints[:12]) or "none"
            raise NotFoundError(
                f"Run {self.run_id} has no checkpoint '{selector or 'last'}'.",
                hint=f"It has {len(self.checkpoints)}: {have}.",
            )
        if found.dropped:
            left = ", ".join(str(c.place.selector or c.place) for c in self.checkpoints if not c.dropped)
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
            fitting = [c for c in self.checkpoints if (c.kind == "exception") == (key == "exception")]
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
