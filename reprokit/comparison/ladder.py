"""Compare two runs. Reads no files; the caller loads what is compared.

The ladder: BITWISE (every state digest, declared output and metric equal, nothing relaxed), EQUAL-RELAXED (the same,
and something relaxed), TENSOR-TOLERANCE (what differs is within what the recipe tolerates of it), METRIC-TOLERANCE
(checkpoints differ, and the metrics that the recipe declares are within theirs), DIVERGED, INCONCLUSIVE.

What the recipe neither ignores nor tolerates is DIVERGED if it differs: a metric that is not declared, or that one side
lacks, an output beyond its mode, and of a checkpoint whatever is no tensor, unless declared metrics stand for it. So
is a record that contradicts what it points to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.causes import Evidence, Where, weigh
from reprokit.comparison.checkpoint_diff import first_difference
from reprokit.comparison.files.outputs import MAX_OUTPUT, compare_output
from reprokit.comparison.metric_diff import apart, is_inside, logged_differences, numbers
from reprokit.comparison.record_check import unlike
from reprokit.comparison.resumed import resumed_cause
from reprokit.errors import NotFoundError, PurgedError
from reprokit.runs.logged import Series
from reprokit.runs.pairs import Pair, checkpoint_pairs
from reprokit.runs.provisos import provisos, resumptions
from reprokit.schema.lock import RunLock
from reprokit.schema.recipe import OutputMode, Tolerance
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record
from reprokit.schema.verdict import Cause, Comparison, Divergence, Rung, Verdict

__all__ = ["Side", "Terms", "compare"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs.

    Attributes:
        load: Opens one of its checkpoints.
        listed: Returns what two versions of checkpoints have equal that list the same files; by default none have.
        output: Returns the verified bytes of one of its outputs by path.
        logged: Returns what it logged of each metric; asked only if the records do not say that it is equal.
        contradictions: In what its record contradicts what it points to: what, and how.
    """

    record: Record
    lock: RunLock | None
    load: Callable[[CheckpointEntry], Checkpoint]
    output: Callable[[str], bytes]
    listed: Callable[[CheckpointEntry], object] = lambda _: math.nan
    logged: Callable[[], Mapping[str, Series]] = dict
    contradictions: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Seen:
    """What the comparison found so far.

    Attributes:
        checkpoints, outputs: How many were compared.
        equal: Every bit of all that was compared.
        tensors_within: All in which checkpoints differ is tensors within the declared tolerance.
        rest_holds: What else differs, outputs and metrics, is within what is declared of it.
        declared: A metric with a declared tolerance was compared.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    checkpoints: int = 0
    outputs: int = 0
    equal: bool = True
    tensors_within: bool = True
    rest_holds: bool = True
    declared: bool = False
    contradicted: list[Cause] = field(default_factory=list)
    first: Divergence | None = None
    where: Where | None = None

    def say(self, comparison: Comparison) -> None:
        self.comparisons.append(comparison)

    def note(self, where: Where, first: Divergence) -> None:
        """Keep the first thing that differs."""
        if self.first is None:
            self.where, self.first = where, first

    def contradict(self, what: str, how: str) -> None:
        """Note that a run is not what its record says."""
        text = f"record: {what}: {how}"
        self.contradicted.append(Cause(kind="record", what=f"record.{what}", text=text, weight="likely"))
        self.say(Comparison(what=what, result="differs", detail=how))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms two runs are compared.

    Attributes:
        tolerance: What the original's recipe declared.
        relaxed: Every override of the repetition; one is enough to forbid BITWISE. None: all that the locks differ in.
        until: The last epoch that the repetition was asked for; later ones are not missed.
        values: Read the tensors that differ, to say by how much. Without, metadata tells which do; they are read all
            the same where a tolerance for weights is declared, which only values can be held against.
        thorough: Read what the original logged, and compare its record with that too.
    """

    tolerance: Tolerance
    relaxed: list[str] | None = None
    until: int | None = None
    values: bool = True
    thorough: bool = False


def compare(left: Side, right: Side, terms: Terms, *, causes: list[Cause]) -> Verdict:
    """Return how `right`, a repetition, compares with `left`, the original.

    Args:
        causes: Differences between the two locks and machines.
    """
    tolerance, until, relaxed = terms.tolerance, terms.until, terms.relaxed
    if relaxed is None:
        relaxed = [cause.text for cause in causes if cause.kind not in ("machine", "inputs")]
    seen = _Seen()
    _compare_locks(left, right, seen)
    for side, run in (("original", left), ("repetition", right)):
        for what, how in run.contradictions:
            seen.contradict(what, f"{how} (of the {side})")
    values = terms.values or tolerance.weights.atol > 0 or tolerance.weights.rtol > 0
    _compare_checkpoints(left, right, tolerance, until, seen, values=values)
    if until is None:
        _compare_outputs(left, right, tolerance, seen)
    _compare_metrics(left, right, tolerance, seen, until)
    rung = _rung(left.record, right.record, seen, relaxed)
    if (resumed := resumed_cause(left.record, right.record, seen.where, seen.first)) is not None:
        causes = [resumed, *causes]
    if rung == "EQUAL-RELAXED" and seen.where is None:
        _say_idle(causes, seen)
    explanations: list[Cause] = seen.contradicted
    if rung == "INCONCLUSIVE" and seen.where is not None:
        explanations = [*seen.contradicted, *causes]
    elif seen.where is not None:
        unseeded = left.lock is not None and left.lock.execution.determinism == "off"
        evidence = Evidence(where=seen.where, first=seen.first, checkpoints=seen.checkpoints > 0)
        contradicted = sorted(seen.contradicted, key=lambda cause: cause.what == "record.record")  # the whole, last
        pinned = left.lock is not None and right.lock is not None
        explanations = weigh([*contradicted, *causes], evidence, unseeded=unseeded, pinned=pinned)
    return Verdict(
        until=until,
        run_id=right.record.run_id,
        reproduces=left.record.run_id,
        verdict=rung,
        relaxed=relaxed,
        first_divergence=seen.first,
        explanations=explanations,
        comparisons=seen.comparisons,
        provisos=provisos(left.record, right.record),
        resumed=resumptions(left.record, right.record),
    )


def _say_idle(causes: list[Cause], seen: _Seen) -> None:
    """Say of parameters that differ that they change nothing, where every bit that was compared is equal."""
    for cause in causes:
        if cause.kind == "params":
            change = cause.text.removeprefix(cause.what).strip()
            detail = f"{change} changes nothing: every bit is equal{', and ' * bool(cause.why)}{cause.why}"
            seen.say(Comparison(what=cause.what, result="match", detail=detail))


def _compare_locks(left: Side, right: Side, seen: _Seen) -> None:
    """Say which corners of the triangle are the same; they explain a difference, they are not one."""
    if left.lock is None or right.lock is None:
        return
    one, other = left.lock, right.lock
    corners = [
        ("code", one.code == other.code, f"tree {other.code.tree[:8]}"),
        (
            "environment",
            one.environment == other.environment,
            one.environment.container or f"{one.environment.size} packages",
        ),
    ]
    theirs = {pin.name: pin.top_hash for pin in other.data}
    corners += [
        (f"data.{pin.name}", theirs.get(pin.name) == pin.top_hash, f"{pin.package}@{pin.top_hash[:8]}")
        for pin in one.data
    ]
    for what, same, detail in corners:
        seen.say(Comparison(what=what, result="match" if same else "differs", detail=detail))


def _rung(left: Record, right: Record, seen: _Seen, relaxed: list[str]) -> Rung:
    if right.status != "finished" or left.status == "running":
        return "INCONCLUSIVE"
    if seen.contradicted or not seen.rest_holds:
        return "DIVERGED"
    if seen.checkpoints + seen.outputs == 0:  # metrics at most: equal ones do not show that anything else is
        return "INCONCLUSIVE" if seen.equal else "METRIC-TOLERANCE"
    if seen.equal:
        return "EQUAL-RELAXED" if relaxed else "BITWISE"
    if seen.tensors_within:
        return "TENSOR-TOLERANCE"
    return "METRIC-TOLERANCE" if seen.declared else "DIVERGED"


def _compare_checkpoints(
    left: Side, right: Side, tolerance: Tolerance, until: int | None, seen: _Seen, *, values: bool
) -> None:
    pairs = checkpoint_pairs(left.record, right.record, until)
    equal, gone, at = 0, 0, len(seen.comparisons)
    for place, one, other in pairs:
        name = str(place)
        seen.checkpoints += 1
        if other is None or one is None:
            seen.equal = seen.tensors_within = False
            seen.note("missing", Divergence.at(place, missing="repetition" if other is None else "original"))
            seen.say(
                Comparison(
                    what=name, result="missing", detail=f"only {'the original' if one else 'the repetition'} has it"
                )
            )
            continue
        wrong = None
        if one.state_digest == other.state_digest:
            wrong, lost = _stored_unlike(left, one, right, other)
            gone += lost
            if wrong is None:
                equal += 1
                continue
        seen.equal = False
        before = equal - (not place.is_initial and pairs[0].place.is_initial and pairs[0].state == "equal")
        where: Where = "initial" if place.is_initial else "later" if before > 0 else "first"
        if wrong is not None:
            seen.tensors_within = False
            seen.note(where, Divergence.at(place, step=one.step, how=wrong))
            seen.contradict(name, wrong)
            continue
        if seen.first is not None and not seen.tensors_within:
            seen.say(Comparison(what=name, result="differs"))
            continue
        opened, found = _opened(left, one, right, other), None
        try:
            found = first_difference(*opened, tolerance, values=values) if opened is not None else None
        except NotFoundError as error:
            _check_gone(error, one, other)
        if found is None:
            seen.tensors_within = False
            seen.note(where, Divergence.at(place, step=one.step))
            seen.say(Comparison(what=name, result="differs", detail="its version was deleted: no tensors to compare"))
            continue
        seen.tensors_within &= found.within
        seen.note(where, found.divergence.placed(place, step=one.step))
        seen.say(Comparison(what=name, result="tolerated" if found.within else "differs", detail=str(found)))
    _note_lonely(pairs, seen)
    if pairs:
        result: Any = "match" if equal == len(pairs) else "differs"
        if result == "differs" and seen.tensors_within:
            result = "tolerated"
        unseen = f"; {gone} by its digest alone, for its version was deleted" if gone else ""
        detail = f"{equal} of {len(pairs)} equal in every bit{unseen}"
        seen.comparisons.insert(at, Comparison(what="checkpoints", result=result, detail=detail))


def _stored_unlike(left: Side, one: CheckpointEntry, right: Side, other: CheckpointEntry) -> tuple[str | None, bool]:
    """Say how what is stored of two checkpoints of one digest differs, and whether it is gone: then none can tell."""
    try:
        if left.listed(one) == right.listed(other):
            return None, False
    except NotFoundError:
        return None, True
    try:
        return unlike(left.load(one), right.load(other)), False
    except NotFoundError as error:
        _check_gone(error, one, other)
        return None, True


def _opened(
    left: Side, one: CheckpointEntry, right: Side, other: CheckpointEntry
) -> tuple[Checkpoint, Checkpoint] | None:
    """Return both checkpoints; None if one of the versions is gone, whoever deleted it: its digest is left."""
    try:
        return left.load(one), right.load(other)
    except NotFoundError:
        return None


def _check_gone(error: NotFoundError, one: CheckpointEntry, other: CheckpointEntry) -> None:
    """Raise what was not found again, unless it was dropped or purged: then its digest is all there is."""
    if not (one.dropped or other.dropped or isinstance(error, PurgedError)):
        raise error


def _note_lonely(pairs: list[Pair], seen: _Seen) -> None:
    """Say so if what comes after the first checkpoint that differs is equal again: then the training was the same."""
    both = [pair for pair in pairs if pair.state != "missing"]
    differing = [at for at, pair in enumerate(both) if pair.state == "differs"]
    if not differing or len(differing) > 2 or differing[-1] == len(both) - 1 or seen.where == "missing":
        return
    names = ", ".join(str(both[at].place) for at in differing)
    how = (
        "what came after it is equal in every bit, so that the training was the same: what is stored of it is not what "
        "the training had"
    )
    text = f"record: {names} alone differs: {how}"
    seen.contradicted.append(Cause(kind="record", what=f"record.{names}", text=text, weight="likely"))


def _compare_outputs(left: Side, right: Side, tolerance: Tolerance, seen: _Seen) -> None:
    ours = {output.path: output for output in left.record.outputs}
    theirs = {output.path: output for output in right.record.outputs}
    folders = [{above for path in outputs for above in _above(path)} for outputs in (ours, theirs)]
    for path in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(path), theirs.get(path)
        mode = next(side.compare for side in (one, other) if side is not None)
        if mode == "ignore":
            seen.say(Comparison(what=path, result="ignored", detail="as the recipe declares"))
            continue
        if any(side is not None and side.unkept is not None for side in (one, other)):
            seen.say(Comparison(what=path, result="ignored", detail=f"{_whose(one, other)} could not be kept"))
            continue
        absent = one is None or one.missing
        if absent and (other is None or other.missing):
            seen.say(Comparison(what=path, result="missing", detail="declared, and neither run wrote it"))
            continue
        if absent and left.record.status != "finished":
            continue
        seen.outputs += 1
        if one is None or one.missing:
            comparison = _missing(path, "the original", ours, folders[0])
        elif other is None or other.missing:
            comparison = _missing(path, "the repetition", theirs, folders[1])
        else:
            comparison = _compare_output(path, mode, one, other, left, right, tolerance)
        seen.say(comparison)
        if comparison.result != "match":
            seen.equal = False
        if comparison.result not in ("match", "tolerated"):
            seen.rest_holds = False
            seen.note("outputs", Divergence(output=path))


def _whose(one: OutputFacts | None, other: OutputFacts | None) -> str:
    """Say of which sides an output was written and is not in the record."""
    sides = (("the original's", one), ("the repetition's", other))
    return " and ".join(whose for whose, side in sides if side is not None and side.unkept is not None)


def _missing(path: str, side: str, outputs: dict[str, OutputFacts], folders: set[str]) -> Comparison:
    """Say that a side lacks an output, and what it has there instead: a folder, or a file where a folder should be."""
    file = next((above for above in _above(path) if above in outputs and not outputs[above].missing), None)
    has = "has a folder there" if path in folders else f"has a file {file} instead" if file else "does not have it"
    return Comparison(what=path, result="missing", detail=f"{side} {has}")


def _above(path: str) -> list[str]:
    """Return the folders that an output lies in."""
    parts = path.split("/")[:32]
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _compare_output(
    path: str,
    mode: OutputMode,
    one: OutputFacts,
    other: OutputFacts,
    left: Side,
    right: Side,
    tolerance: Tolerance,
) -> Comparison:
    if one.digest is not None and one.digest == other.digest:
        return Comparison(what=path, result="match", detail=f"{one.size:,} bytes")
    if max(one.size, other.size) > MAX_OUTPUT:
        return Comparison(
            what=path, result="differs", detail=f"{one.size:,} and {other.size:,} bytes, too many to read"
        )
    return compare_output(path, mode, left.output(path), right.output(path), tolerance.limits)


def _compare_metrics(one: Side, other: Side, tolerance: Tolerance, seen: _Seen, until: int | None) -> None:
    """Compare what was measured: at each checkpoint, at the end, and as it was logged on the way."""
    left, right, limits = one.record, other.record, tolerance.limits
    _compare_metrics_of_checkpoints(left, right, limits, seen, until)
    if until is not None or not (left.status == right.status == "finished"):
        return
    names = dict.fromkeys([*limits, *left.metrics, *right.metrics])
    differing, equal = set(apart(left.metrics, right.metrics, limits)), 0
    for name in names:
        a, b = left.metrics.get(name), right.metrics.get(name)
        shown = numbers(a, b)
        allowed = limits.get(name)
        if allowed is not None and math.isinf(allowed):
            seen.say(Comparison(what=f"metric {name}", result="ignored", detail="as the recipe declares"))
        elif name not in differing:
            if allowed is not None and a is None:  # it may be meant for a value of an output
                seen.say(Comparison(what=f"metric {name}", result="missing", detail="declared, and neither run has it"))
                continue
            equal += 1
            if allowed is not None:
                seen.declared = True
                seen.say(Comparison(what=f"metric {name}", result="match", detail=f"{shown}, allowed {allowed:g}"))
        else:
            seen.equal = False
            seen.note("metrics", Divergence(metric=name, how=shown))
            inside = is_inside(a, b, allowed)
            seen.declared |= allowed is not None
            seen.rest_holds &= inside
            result: Any = "missing" if a is None or b is None else "tolerated" if inside else "differs"
            note = f", allowed {allowed:g}" if allowed is not None else ""
            seen.say(Comparison(what=f"metric {name}", result=result, detail=shown + note))
    if equal:
        seen.say(Comparison(what="metrics", result="match", detail=f"{equal} of {len(names)} equal"))
    _compare_logged(one, other, limits, seen)


def _compare_logged(left: Side, right: Side, limits: dict[str, float], seen: _Seen) -> None:
    """Say of each metric that differs in what was logged on the way where it does first, unless that was said."""
    said = {one.what.removesuffix(", by checkpoint"): one.result for one in seen.comparisons}
    for found in logged_differences((left.record, right.record), (left.logged, right.logged), limits):
        seen.equal = False
        seen.rest_holds &= found.inside
        before = said.get(f"metric {found.name}")
        if before in ("differs", "missing") or (before == "tolerated" and found.inside):
            continue
        seen.note("metrics", Divergence(metric=found.name, how=found.first))
        more = f" (and at {found.steps - 1} more)" if found.steps > 1 else ""
        result: Any = "tolerated" if found.inside else "differs"
        seen.say(Comparison(what=f"metric {found.name}, as logged", result=result, detail=found.first + more))


def _compare_metrics_of_checkpoints(
    left: Record, right: Record, limits: dict[str, float], seen: _Seen, until: int | None
) -> None:
    """Say of each metric that differs at some checkpoint where it does first, and whether all of it is tolerated."""
    found: dict[str, tuple[str, bool, int]] = {}
    for place, one, other in checkpoint_pairs(left, right, until):
        if one is None or other is None:
            continue
        for metric in apart(one.metrics, other.metrics, limits):
            a, b = one.metrics.get(metric), other.metrics.get(metric)
            shown = numbers(a, b)
            seen.note("metrics", Divergence.at(place, step=one.step, metric=metric, how=shown))
            first, inside, count = found.get(metric, (f"{shown} at {place}", True, 0))
            found[metric] = first, inside and is_inside(a, b, limits.get(metric)), count + 1
    for metric, (first, inside, count) in found.items():
        seen.equal = False
        seen.rest_holds &= inside
        more = f" (and at {count - 1} more)" if count > 1 else ""
        result: Any = "tolerated" if inside else "differs"
        seen.say(Comparison(what=f"metric {metric}, by checkpoint", result=result, detail=first + more))
