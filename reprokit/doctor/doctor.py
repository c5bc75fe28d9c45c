"""Whether a recipe's training resumes bit for bit, seen by doing it: train, save, go on here and in a fresh process.

Nothing of it is kept: it is recorded into a registry of its own, which goes when it ends. Data comes from the real one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.frameworks import find
from reprokit.comparison.checkpoint_diff import first_difference
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef
from reprokit.core.scratch import DOCTOR, abandoned, scratch
from reprokit.doctor.ablation import PARTS, without
from reprokit.doctor.findings import Diagnosis, Finding, Look, Looks, Omission, Result, find_lost
from reprokit.doctor.variables import moved_variables, without_clocks
from reprokit.errors import InterruptedRunError, NotFoundError, UsageError, UserCodeError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Continued, Orders
from reprokit.execution.resume import continued_from
from reprokit.locking.prepare import Choices, prepare
from reprokit.locking.prepared import Prepared
from reprokit.numerics.lint import lint
from reprokit.packages.package import Package
from reprokit.packages.tree_cache import discard
from reprokit.recording.listener import DEAF, Listener
from reprokit.recording.recorder import Recording
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import StoredRun
from reprokit.schema.recipe import Tolerance
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["ALL", "doctor"]

ALL = "all"
_STEPS = 5
_MOST_SAVES = 8  # of a script that saves by itself
_PATIENCE = 60  # seconds that an epoch's end is waited for
_METRIC = "keep sums and counts in ckpt.state, or measure over a whole epoch"
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
    steps: int | None = None,
    omit: tuple[str, ...] = (),
    progress: Progress = SILENT,
    listener: Listener = DEAF,
) -> Diagnosis:
    """Train a few steps, save, train on; restore in a fresh process, train on; compare, and say what was lost.

    The script is executed as `run` would, with the files as they are now, committed or not.

    Args:
        steps: Between checkpoints, 5 by default; scripts that save only at the end of an epoch train that long
            instead, and at least so many steps if they are given. The training goes on beyond an epoch's end, if one
            comes within a minute.
        omit: Parts of the state to leave out of a restore, one after the other, to see that it is noticed: keys of
            `PARTS`, or `all` for every one that the checkpoints have.
    Raises:
        UserCodeError: The script failed before it was restored.
        UsageError: No such part.
        Error: The recipe, its code, environment or data is not in order.
    """
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps are too few; at least 1.")
    unknown = [part for part in omit if part not in PARTS and part != ALL]
    if unknown:
        raise UsageError(f"No part of the state is called {unknown[0]!r}.", hint=f"Known: {', '.join(PARTS)}, {ALL}.")
    path = Path(recipe)
    context = Context.open(registry, folder=path.absolute().parent, progress=progress)
    context.cache.mkdir(parents=True, exist_ok=True)
    choices: Choices = {"params": params or {}, "env": "current", "allow_dirty": True}
    for left in abandoned(context.cache, prefix=DOCTOR):
        shutil.rmtree(left, ignore_errors=True)
    with scratch(context.cache, prefix=DOCTOR) as folder:
        bench = _Bench(folder, context, steps=steps or _STEPS, least=steps or 0, listener=listener)
        bench.prepared = _without_limits(prepare(path, choices, context=context, into=bench.registry))
        return _examine(bench, omit)


def _without_limits(prepared: Prepared) -> Prepared:
    """Return the run with every checkpoint kept, none of them called the best, and no package stored."""
    lock = prepared.lock
    checkpoints = msgspec.structs.replace(lock.recipe.checkpoints, keep=None, best={})
    recipe = msgspec.structs.replace(lock.recipe, checkpoints=checkpoints)
    return replace(prepared, lock=msgspec.structs.replace(lock, recipe=recipe), vault=None)


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
    context: Context
    steps: int
    least: int
    listener: Listener
    prepared: Prepared = field(init=False)
    processes: int = 0
    again: _Trained | None = None

    def __post_init__(self) -> None:
        self.registry: Registry = LocalRegistry(self.folder / "registry")
        self.scratch = replace(self.context, home=self.folder / "home", registry=self.registry)

    def train(self, title: str, *, like: _Trained | None = None, continues: Continued | None = None) -> _Trained:
        """Execute the script until it has saved beyond an epoch's end.

        Args:
            like: Save where this training did, and no longer.
            continues: Go on from one of its checkpoints: what it saved until then is in it.
        """
        done = len(continues.collected.checkpoints) if continues is not None else 0
        places = [] if like is None else like.record.checkpoints[done:]
        self.processes += 1
        seen = self.folder / f"looks-{self.processes}"
        seen.mkdir()
        told: dict[str, Any] = {
            "every": {"unit": "step", "n": self.steps},
            "on": [],
            "probe": {"folder": str(seen), "most": len(places) or _MOST_SAVES},
        }
        if like is None:
            told["cross"] = {"seconds": _PATIENCE, "least": self.least}
        else:
            told |= {"at": [(place.epoch, place.batch) for place in places], "stop_after": len(places)}
        orders = Orders(continues=continues, told=told)
        try:
            with self.context.progress.task(title, None):
                recording = execute(
                    self.prepared, orders, context=self.scratch, inputs=self.context.registry, listener=self.listener
                )
        finally:
            if continues is not None and continues.checkpoint is not None:
                discard(self.context.cache, continues.checkpoint.top_hash)
        if recording.record.status == "interrupted":
            raise InterruptedRunError(f"The script was stopped. {recording.record.failure or ''}".strip())
        looks: dict[str, list[Look]] = {}
        for file in sorted(seen.iterdir()):
            look = json.loads(file.read_bytes())
            looks.setdefault(look["moment"], []).append(look)
        return _Trained(recording, looks)

    def open(self, entry: CheckpointEntry) -> Checkpoint:
        return Checkpoint(Package.open(PackageRef(entry.package, hash=entry.top_hash), registry=self.registry))

    def continued(self, trained: _Trained, number: int = 0) -> Continued:
        """Return what a fresh process needs to go on from the first checkpoint, or a later one."""
        run = StoredRun(trained.record, trained.recording.manifest)
        return continued_from(run, trained.record.checkpoints[number], registry=self.registry)

    def once_more(self, like: _Trained) -> _Trained:
        """Return another training from the beginning."""
        if self.again is None:
            self.again = self.train("Training once more, from the beginning", like=like)
        return self.again


def _examine(bench: _Bench, omit: tuple[str, ...]) -> Diagnosis:
    here = bench.train("Training beyond an epoch's end")
    record = here.record
    if record.status == "failed" and len(record.checkpoints) < 2:
        raise UserCodeError(f"The script failed. {record.failure or ''}".strip(), hint="`-v` shows what it wrote.")
    first = here.look("saved")
    numeric = lint(bench.prepared.lock, first["numerics"] if first else {})
    if not record.checkpoints:
        return Diagnosis(result="INCONCLUSIVE", reason=_NO_CALLBACK, numeric=numeric)
    if len(record.checkpoints) < 2:
        reason = (
            f"the training ended after one checkpoint, at {record.checkpoints[0].place.exact}: nothing is left to go "
            "on to. Give it more epochs (-p), or less --steps; a model that is fitted at once has none to go on with"
        )
        return Diagnosis(result="INCONCLUSIVE", reason=reason, numeric=numeric)
    there = bench.train("Going on in a fresh process", like=here, continues=bench.continued(here))
    diagnosis = msgspec.structs.replace(_compare(bench, here, there), numeric=numeric)
    if len(record.checkpoints) > 2 and record.checkpoints[0].batch is not None and diagnosis.result != "DIVERGED":
        later = bench.train("Going on from the epoch's end", like=here, continues=bench.continued(here, 1))
        diagnosis = _with(diagnosis, _compare(bench, here, later, start=1))
    if omit and diagnosis.result != "INCONCLUSIVE":
        diagnosis = msgspec.structs.replace(diagnosis, omitted=_leave_out(bench, here, omit, diagnosis))
    return diagnosis


def _with(one: Diagnosis, later: Diagnosis) -> Diagnosis:
    """Return what was found, with what going on from a later checkpoint showed beside."""
    if later.result == "INCONCLUSIVE" or one.result == "INCONCLUSIVE":
        return one
    known = {(finding.part, finding.where) for finding in one.findings if finding.certain}
    new = [finding for finding in later.findings if (finding.part, finding.where) not in known]
    noted = {(finding.part, finding.where) for finding in new}
    kept = [finding for finding in one.findings if (finding.part, finding.where) not in noted]
    findings = sorted([*kept, *new], key=lambda finding: not finding.certain)
    if later.result == "DIVERGED":
        return msgspec.structs.replace(later, findings=findings, numeric=one.numeric, unchecked=one.unchecked)
    result: Result = "INCOMPLETE" if "INCOMPLETE" in (one.result, later.result) else "BITWISE"
    return msgspec.structs.replace(
        one, result=result, findings=findings, restored=f"{one.restored}, and then {later.restored}"
    )


def _compare(bench: _Bench, here: _Trained, there: _Trained, *, start: int = 0) -> Diagnosis:
    """Compare what came of a training with what a fresh process made of one of its checkpoints: of which, `start`."""
    one, *others = here.record.checkpoints[start:]
    unchecked: list[str] = []
    known = Diagnosis(result="INCONCLUSIVE", restored=one.place.exact, unchecked=unchecked)
    unchecked += _unseen(bench, here.record.checkpoints)
    after = there.record.checkpoints[start + 1 :]
    if there.record.status == "failed" and not after:
        failed = Finding(part="restore", where="", problem=_failure(there.record.failure or ""))
        return msgspec.structs.replace(known, result="DIVERGED", findings=[failed])
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
    compared = [_difference(bench, *pair) for pair in zip(others, after, strict=False)]
    at = next((number for number, found in enumerate(compared) if found is not None), len(compared) - 1)
    differs = compared[at]
    findings = _find(bench, here, there, at, start=start, equal=differs is None)
    if differs is None:
        findings = [*_metrics(others, after), *findings]
    if any(one.part in ("own variable", "metric") for one in findings) or (differs and not _certain(findings)):
        again = bench.once_more(here)
        unlike = _unlike_itself(bench, here, again) if differs else []
        timed = {one.where for one in _metrics(others, again.record.checkpoints[start + 1 :])}
        findings = [one for one in findings if one.part != "metric" or one.where not in timed]
        looks = (training.look("saved", start + at + 1) for training in (here, again))
        findings = [*unlike, *without_clocks(findings, *looks)]
    first = here.look("saved", start)
    return msgspec.structs.replace(
        known,
        result="DIVERGED" if differs else "INCOMPLETE" if _certain(findings) else "BITWISE",
        compared=others[at].place.exact,
        tensors=len(bench.open(others[at]).all_stored()),
        first_difference=differs,
        sources=len(first["sources"]) if first else 0,
        findings=findings,
    )


def _failure(told: str) -> str:
    """Return why a restore failed, in one line: what a callback said if it refused, else how the process ended."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    refused = next((line.partition(": reprokit: ")[2] for line in reversed(lines) if ": reprokit: " in line), None)
    return (
        f"refused: {refused}"
        if refused
        else f"the fresh process failed. {' … '.join(dict.fromkeys([*lines[:1], *lines[-1:]]))}".rstrip()
    )


def _certain(findings: list[Finding]) -> bool:
    return any(finding.certain for finding in findings)


def _unseen(bench: _Bench, saved: list[CheckpointEntry]) -> list[str]:
    """Return what the places of these checkpoints leave out."""
    checkpoint = bench.open(saved[0])
    framework = find(checkpoint.facts.framework)
    if framework is None or not framework.stored.within_epochs:
        return []
    if checkpoint.raw_state.get("position") is None:
        return [
            "Going on in the middle of an epoch: this checkpoint is of an epoch's end. Loops that take their batches "
            "from ckpt.batches(…) save between them too."
        ]
    if all(entry.epoch == saved[0].epoch and entry.batch is not None for entry in saved):
        return [f"An epoch's end: none came within {_PATIENCE} s. A smaller epoch, by -p, would have one."]
    return []


def _metrics(ours: list[CheckpointEntry], theirs: list[CheckpointEntry]) -> list[Finding]:
    """Return the metrics that a resumed run saves otherwise, though all state is equal."""
    found: dict[str, Finding] = {}
    for one, other in zip(ours, theirs, strict=False):
        for name in dict.fromkeys([*one.metrics, *other.metrics]):
            a, b = one.metrics.get(name), other.metrics.get(name)
            if a != b and not (a is not None and b is not None and math.isnan(a) and math.isnan(b)):
                problem = f"differs at {one.place.exact}: {a} → {b}; what it is computed from is not in the checkpoint"
                found.setdefault(name, Finding(part="metric", where=name, problem=problem, hint=_METRIC))
    return list(found.values())


def _find(bench: _Bench, here: _Trained, there: _Trained, at: int, *, start: int, equal: bool) -> list[Finding]:
    first, second, after = here.look("saved", start), here.look("saved", start + at + 1), there.look("saved", at)
    if first is None or second is None or after is None:
        return []
    entry = here.record.checkpoints[start]
    sections = {section for section, _ in bench.open(entry).all_stored()}
    between = ((here.look("saved", start + number + 1), there.look("saved", number)) for number in range(at))
    looks = Looks(
        initial=here.look("initial"),
        first=first,
        second=second,
        start=there.look("start"),
        restored=there.look("restored"),
        next=after,
        equal=equal,
        accumulates="gradients" in sections,
        done=entry.batch or 0,
        passing=[(one, other) for one, other in between if one is not None and other is not None],
    )
    return find_lost(looks, moved_variables(looks))


def _difference(bench: _Bench, one: CheckpointEntry, other: CheckpointEntry) -> str | None:
    """Return in what two checkpoints differ first, None if their state digests are equal."""
    if one.place != other.place:
        return f"the next checkpoint was saved at {other.place.exact}"
    if one.state_digest == other.state_digest:
        return None
    return str(first_difference(bench.open(one), bench.open(other), Tolerance()))


def _unlike_itself(bench: _Bench, here: _Trained, again: _Trained) -> list[Finding]:
    """Return that a script differs from itself, if it does: then no resumed run of it can have equal bits."""
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
        there = bench.train(f"Restoring without {part}", like=here, continues=continued)
        seen = _compare(bench, here, there)
        known = {(one.part, one.where) for one in healthy.findings}
        new = [one for one in seen.findings if (one.part, one.where) not in known]
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
