"""Whether a recipe's training resumes bit for bit, seen by doing it: train, save, go on here and in a fresh process.

Nothing of it is kept: it is recorded into a registry of its own, which goes when it ends. Data comes from the real one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.checkpoint_diff import first_difference
from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef
from reprokit.doctor.ablation import PARTS, without
from reprokit.doctor.findings import Diagnosis, Finding, Look, Looks, Omission, find_lost
from reprokit.errors import InterruptedRunError, NotFoundError, UsageError, UserCodeError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Continued, Orders
from reprokit.execution.resume import continued_from
from reprokit.execution.script_process import Echo
from reprokit.locking.prepare import prepare
from reprokit.locking.prepared import Prepared
from reprokit.numerics.lint import lint
from reprokit.packages.package import Package
from reprokit.packages.tree_cache import discard
from reprokit.recording.recorder import Recording
from reprokit.registry import Registry, open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import StoredRun
from reprokit.schema.recipe import Tolerance
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["ALL", "doctor"]

ALL = "all"
_NO_CALLBACK = (
    "resume cannot work: the script saved no checkpoint. Give it a callback of reprokit.callbacks, which saves and "
    "restores"
)
_NO_RESTORE = (
    "resume cannot work: the script saves checkpoints and restores none, so that a resumed run starts from its "
    "beginning. `reprokit.save_checkpoint` only saves; the callbacks of reprokit.callbacks restore too"
)


def doctor(
    recipe: str | Path,
    *,
    registry: str | None = None,
    params: Mapping[str, Any] | None = None,
    steps: int = 5,
    omit: tuple[str, ...] = (),
    progress: Progress = SILENT,
    echo: Echo | None = None,
) -> Diagnosis:
    """Train a few steps, save, train on; restore in a fresh process, train on; compare, and say what was lost.

    The script is executed as `run` would, with the files as they are now, committed or not.

    Args:
        steps: Between checkpoints; scripts that save only at the end of an epoch train that long instead.
        omit: Parts of the state to leave out of a restore, one after the other, to see that it is noticed: keys of
            `PARTS`, or `all` for every one that the checkpoints have.
    Raises:
        UserCodeError: The script failed before it was restored.
        UsageError: No such part.
        Error: The recipe, its code, environment or data is not in order.
    """
    if steps < 1:
        raise UsageError(f"{steps} steps are too few; at least 1.")
    unknown = [part for part in omit if part not in PARTS and part != ALL]
    if unknown:
        raise UsageError(f"No part of the state is called {unknown[0]!r}.", hint=f"Known: {', '.join(PARTS)}, {ALL}.")
    path = Path(recipe)
    config = Config.load(registry=registry, folder=path.absolute().parent)
    config.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=config.cache) as name:
        bench = _Bench(Path(name), config, steps=steps, progress=progress, echo=echo)
        bench.prepared = _without_limits(
            prepare(
                path, config=config, registry=bench.inputs, params=params or {}, seed=None, exact=False,
                allow_dirty=True, in_place=False, name=None, progress=progress, into=bench.registry,
            )
        )  # fmt: skip
        return _examine(bench, omit)


def _without_limits(prepared: Prepared) -> Prepared:
    """Return the run with every checkpoint kept, and none of them called the best."""
    lock = prepared.lock
    checkpoints = msgspec.structs.replace(lock.recipe.checkpoints, keep=None, best={})
    recipe = msgspec.structs.replace(lock.recipe, checkpoints=checkpoints)
    return replace(prepared, lock=msgspec.structs.replace(lock, recipe=recipe))


@dataclass
class _Trained:
    """One process's training: what it recorded, and what was seen in it, by moment."""

    recording: Recording
    looks: dict[str, list[Look]]

    @property
    def record(self) -> Record:
        return self.recording.record

    def look(self, moment: str, number: int = 0) -> Look | None:
        found = self.looks.get(moment, [])
        return found[number] if number < len(found) else None


@dataclass
class _Bench:
    """A folder where processes are trained and looked into."""

    folder: Path
    config: Config
    steps: int
    progress: Progress
    echo: Echo | None
    prepared: Prepared = field(init=False)
    processes: int = 0

    def __post_init__(self) -> None:
        self.inputs: Registry = open_registry(self.config.registry)
        self.registry: Registry = LocalRegistry(self.folder / "registry")
        self.scratch = Config(
            home=self.folder / "home", cache=self.config.cache, registry=str(self.folder / "registry")
        )

    def train(self, title: str, *, saves: int, continues: Continued | None = None) -> _Trained:
        """Execute the script until it has saved so many checkpoints."""
        self.processes += 1
        seen = self.folder / f"looks-{self.processes}"
        seen.mkdir()
        told = {
            "every": {"unit": "step", "n": self.steps},
            "on": [],
            "probe": {"folder": str(seen), "most": saves},
        }
        orders = Orders(stop_after=saves, continues=continues, told=told)
        try:
            with self.progress.task(title, None):
                recording = execute(
                    self.prepared, orders, config=self.scratch, registry=self.registry, inputs=self.inputs,
                    progress=self.progress, echo=self.echo,
                )  # fmt: skip
        finally:
            if continues is not None and continues.checkpoint is not None:
                discard(self.config.cache, continues.checkpoint.top_hash)
        if recording.record.status == "interrupted":
            raise InterruptedRunError(f"The script was stopped. {recording.record.failure or ''}".strip())
        looks: dict[str, list[Look]] = {}
        for file in sorted(seen.iterdir()):
            look = json.loads(file.read_bytes())
            looks.setdefault(look["moment"], []).append(look)
        return _Trained(recording, looks)

    def open(self, entry: CheckpointEntry) -> Checkpoint:
        return Checkpoint(Package.open(PackageRef(entry.package, hash=entry.top_hash), registry=self.registry))

    def continued(self, trained: _Trained) -> Continued:
        """Return what a fresh process needs to go on from the first checkpoint."""
        run = StoredRun(trained.record, trained.recording.manifest)
        return continued_from(run, trained.record.checkpoints[0], registry=self.registry)


def _examine(bench: _Bench, omit: tuple[str, ...]) -> Diagnosis:
    here = bench.train("Training, with two checkpoints", saves=2)
    record = here.record
    if record.status == "failed" and len(record.checkpoints) < 2:
        raise UserCodeError(f"The script failed. {record.failure or ''}".strip(), hint="`-v` shows what it wrote.")
    first = here.look("saved")
    numeric = lint(bench.prepared.lock, first["numerics"] if first else {})
    if not record.checkpoints:
        return Diagnosis(result="INCONCLUSIVE", reason=_NO_CALLBACK, numeric=numeric)
    if len(record.checkpoints) < 2:
        reason = (
            f"the training ended after one checkpoint, at {_place(record.checkpoints[0])}: nothing is left to go on "
            "to. Give it more epochs (-p), or less --steps"
        )
        return Diagnosis(result="INCONCLUSIVE", reason=reason, numeric=numeric)
    there = bench.train("Going on in a fresh process", saves=1, continues=bench.continued(here))
    diagnosis = msgspec.structs.replace(_compare(bench, here, there), numeric=numeric)
    if omit and diagnosis.result != "INCONCLUSIVE":
        diagnosis = msgspec.structs.replace(diagnosis, omitted=_leave_out(bench, here, omit, diagnosis))
    return diagnosis


def _compare(bench: _Bench, here: _Trained, there: _Trained) -> Diagnosis:
    one, other = here.record.checkpoints[:2]
    unchecked: list[str] = []
    known = Diagnosis(result="INCONCLUSIVE", restored=_place(one), compared=_place(other), unchecked=unchecked)
    saved = bench.open(one)
    if saved.facts.get("framework") in ("torch", "tensorflow") and saved.raw_state.get("position") is None:
        unchecked.append(
            "Going on in the middle of an epoch: this checkpoint is of an epoch's end. Loops that take their batches "
            "from ckpt.batches(…) save between them too."
        )
    after = there.record.checkpoints[1:]
    if there.record.status == "failed" and not after:
        failed = Finding(part="restore", where="", problem=f"the fresh process failed. {there.record.failure or ''}")
        return msgspec.structs.replace(known, result="DIVERGED", compared=None, findings=[failed])
    if there.look("start") is None:
        return msgspec.structs.replace(known, reason=_NO_RESTORE)
    if not after:
        return msgspec.structs.replace(known, reason="the fresh process ended without another checkpoint")
    if "failed" in (here.record.status, there.record.status):  # as when one of several processes leaves before another
        unchecked.append("How the script ends: it failed after its last checkpoint; `-v` shows what it wrote.")
    if there.look("restored") is None:
        unchecked.append(
            "The moment after the restore: this callback does not tell it. What it brought back was compared at the "
            "next checkpoint."
        )
    differs = _difference(bench, other, after[0])
    findings = _find(bench, here, there, equal=differs is None)
    if differs is not None and not any(finding.certain for finding in findings):
        findings = [*_repeatable(bench, here), *findings]
    certain = any(finding.certain for finding in findings)
    first = here.look("saved")
    return msgspec.structs.replace(
        known,
        result="DIVERGED" if differs else "INCOMPLETE" if certain else "BITWISE",
        tensors=len(bench.open(other).all_stored()),
        first_difference=differs,
        sources=len(first["sources"]) if first else 0,
        findings=findings,
    )


def _find(bench: _Bench, here: _Trained, there: _Trained, *, equal: bool) -> list[Finding]:
    first, second, after = here.look("saved"), here.look("saved", 1), there.look("saved")
    if first is None or second is None or after is None:
        return []
    sections = {section for section, _ in bench.open(here.record.checkpoints[0]).all_stored()}
    return find_lost(
        Looks(
            initial=here.look("initial"),
            first=first,
            second=second,
            start=there.look("start"),
            restored=there.look("restored"),
            next=after,
            equal=equal,
            accumulates="gradients" in sections,
        )
    )


def _difference(bench: _Bench, one: CheckpointEntry, other: CheckpointEntry) -> str | None:
    """Return in what two checkpoints differ first, None if their state digests are equal."""
    if (one.epoch, one.step) != (other.epoch, other.step):
        return f"the next checkpoint was saved at {_place(other)}"
    if one.state_digest == other.state_digest:
        return None
    return str(first_difference(bench.open(one), bench.open(other), Tolerance()))


def _repeatable(bench: _Bench, here: _Trained) -> list[Finding]:
    """Train once more from the beginning: a script that differs from itself cannot be resumed to equal bits."""
    again = bench.train("Training once more, from the beginning", saves=2)
    pairs = zip(here.record.checkpoints, again.record.checkpoints, strict=False)
    differs = next((found for one, other in pairs if (found := _difference(bench, one, other))), None)
    if differs is None:
        return []
    problem = f"two trainings from the beginning differ: {differs}"
    hint = "something is drawn from the clock, from the system, or from an unseeded generator"
    return [Finding(part="script", where="", problem=problem, hint=hint)]


def _leave_out(bench: _Bench, here: _Trained, omit: tuple[str, ...], healthy: Diagnosis) -> list[Omission]:
    record, first = here.record, here.look("saved")
    if record.initial is None or first is None:
        raise UsageError(
            "Nothing can be left out: the script does not save its initial state, which a part would be taken from.",
            hint="Make the callback without initial=False.",
        )
    checkpoint, initial = bench.open(record.checkpoints[0]), bench.open(record.initial)
    every = list(PARTS) if ALL in omit else list(omit)
    found = []
    for key in every:
        part = PARTS[key]
        try:
            manifest = without(part, checkpoint, initial, first["sources"], registry=bench.registry)
        except NotFoundError:
            if ALL not in omit:
                raise
            continue
        if (before := here.look("initial")) is not None and _state_of(part, before) == _state_of(part, first):
            found.append(Omission(part=part, unchanged=True))
            continue
        continued = replace(bench.continued(here), checkpoint=manifest)
        there = bench.train(f"Restoring without {part}", saves=1, continues=continued)
        seen = _compare(bench, here, there)
        new = [one for one in seen.findings if one not in healthy.findings]
        found.append(
            Omission(
                part=part,
                caught=any(finding.part == part for finding in new),
                diverged=seen.result == "DIVERGED",
                first_difference=seen.first_difference,
                findings=new,
            )
        )
    return found


def _state_of(part: str, look: Look) -> list[Any]:
    return sorted(sorted(source["parts"][part].items()) for source in look["sources"] if part in source["parts"])


def _place(entry: CheckpointEntry) -> str:
    parts = [f"epoch {entry.epoch}"] if entry.epoch is not None else []
    return ", ".join([*parts, *([f"step {entry.step}"] if entry.step is not None else [])]) or "a checkpoint"
