"""Compare two runs. Reads no files; the caller loads what is compared.

The ladder: BITWISE (every state digest, declared output and metric equal, nothing relaxed), TENSOR-TOLERANCE (every
tensor within the recipe's tolerance), METRIC-TOLERANCE (declared metrics within theirs), DIVERGED, INCONCLUSIVE.
A declared metric beyond its tolerance, and a record that contradicts what it points to, are DIVERGED in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.causes import Evidence, weigh
from reprokit.comparison.checkpoint_diff import first_difference
from reprokit.comparison.files.outputs import MAX_OUTPUT, compare_output
from reprokit.comparison.record_check import same_number, unlike
from reprokit.errors import NotFoundError
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.schema.lock import RunLock
from reprokit.schema.recipe import OutputMode, Tolerance
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record
from reprokit.schema.verdict import Cause, Comparison, Divergence, Rung, Verdict

__all__ = ["Side", "compare"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs.

    Attributes:
        load: Opens one of its checkpoints.
        output: Returns the verified bytes of one of its outputs by path.
        contradictions: In what its record contradicts what it points to: what, and how.
    """

    record: Record
    lock: RunLock | None
    load: Callable[[CheckpointEntry], Checkpoint]
    output: Callable[[str], bytes]
    contradictions: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Seen:
    """What the comparison found so far."""

    comparisons: list[Comparison] = field(default_factory=list)
    compared: int = 0
    bits_equal: bool = True
    tensors_within: bool = True
    outputs_hold: bool = True
    metrics_equal: bool = True
    metrics_hold: bool | None = None
    contradicted: list[Cause] = field(default_factory=list)
    first: Divergence | None = None
    where: Literal["initial", "first", "later", "missing", "outputs", "metrics"] | None = None

    def say(self, comparison: Comparison) -> None:
        self.comparisons.append(comparison)

    def note(self, where: Any, first: Divergence) -> None:
        """Keep the first thing that differs."""
        if self.first is None:
            self.where, self.first = where, first

    def contradict(self, what: str, how: str) -> None:
        """Note that a run is not what its record says."""
        text = f"record: {what}: {how}"
        self.contradicted.append(Cause(kind="record", what=f"record.{what}", text=text, weight="likely"))
        self.say(Comparison(what=what, result="differs", detail=how))


def compare(
    left: Side,
    right: Side,
    *,
    tolerance: Tolerance,
    relaxed: list[str],
    causes: list[Cause],
    until: int | None = None,
    values: bool = True,
    thorough: bool = False,
) -> Verdict:
    """Return how `right`, a repetition, compares with `left`, the original.

    Args:
        tolerance: What the original's recipe declared.
        relaxed: Every override of the repetition; one is enough to forbid BITWISE.
        causes: Differences between the two locks and machines.
        until: The last epoch that the repetition was asked for; later ones are not missed.
        values: Read the tensors that differ, to say by how much. Without, metadata tells which do; they are read all
            the same where a tolerance for weights is declared, which only values can be held against.
        thorough: Do not take a state digest for what is stored: two checkpoints are equal if their entries are.
    """
    seen = _Seen()
    _compare_locks(left, right, seen)
    for side, run in (("original", left), ("repetition", right)):
        for what, how in run.contradictions:
            seen.contradict(what, f"{how} (of the {side})")
    values = values or tolerance.weights.atol > 0 or tolerance.weights.rtol > 0
    _compare_checkpoints(left, right, tolerance, until, seen, values=values, thorough=thorough)
    if until is None:
        _compare_outputs(left, right, tolerance, seen)
    _compare_metrics(left.record, right.record, tolerance, seen, until)
    rung = _rung(left.record, right.record, seen, relaxed)
    explanations: list[Cause] = []
    if rung == "INCONCLUSIVE":
        explanations = causes
    elif rung != "BITWISE":
        unseeded = left.lock is not None and left.lock.execution.determinism == "off"
        evidence = Evidence(where=seen.where or "nothing", first=seen.first)
        explanations = weigh([*seen.contradicted, *causes], evidence, unseeded=unseeded)
    return Verdict(
        run_id=right.record.run_id,
        reproduces=left.record.run_id,
        verdict=rung,
        relaxed=relaxed,
        first_divergence=seen.first,
        causes=[cause.text for cause in explanations],
        explanations=explanations,
        comparisons=seen.comparisons,
    )


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
    if right.status != "finished" or left.status == "running" or seen.compared == 0:
        return "INCONCLUSIVE"
    if seen.contradicted or seen.metrics_hold is False:
        return "DIVERGED"
    if seen.bits_equal and seen.metrics_equal and not relaxed:
        return "BITWISE"
    if seen.tensors_within and seen.outputs_hold:
        return "TENSOR-TOLERANCE"
    return "METRIC-TOLERANCE" if seen.metrics_hold else "DIVERGED"


def _compare_checkpoints(
    left: Side, right: Side, tolerance: Tolerance, until: int | None, seen: _Seen, *, values: bool, thorough: bool
) -> None:
    pairs = checkpoint_pairs(left.record, right.record, until)
    equal, gone, place = 0, 0, len(seen.comparisons)
    for name, one, other in pairs:
        seen.compared += 1
        if other is None or one is None:
            seen.bits_equal = seen.tensors_within = False
            missing = "the repetition" if other is None else "the original"
            epoch = next((side.epoch for side in (one, other) if side is not None), None)
            seen.note("missing", Divergence(epoch=epoch, what=f"{name} is missing from {missing}"))
            seen.say(
                Comparison(
                    what=name, result="missing", detail=f"only {'the original' if one else 'the repetition'} has it"
                )
            )
            continue
        wrong = None
        if one.state_digest == other.state_digest:
            if thorough:
                opened = _opened(left, one, right, other)
                wrong = unlike(*opened) if opened is not None else None
                gone += opened is None
            if wrong is None:
                equal += 1
                continue
        seen.bits_equal = False
        before = equal - (name != "initial state" and _is_initial(pairs[0]))
        where = "initial" if name == "initial state" else "later" if before > 0 else "first"
        if wrong is not None:
            seen.tensors_within = False
            seen.note(where, Divergence(epoch=one.epoch, step=one.step, what=name, how=wrong))
            seen.contradict(name, wrong)
            continue
        if seen.first is not None and not seen.tensors_within:
            seen.say(Comparison(what=name, result="differs"))
            continue
        opened = _opened(left, one, right, other)
        if opened is None:
            seen.tensors_within = False
            seen.note(where, Divergence(epoch=one.epoch, step=one.step, what=name))
            seen.say(Comparison(what=name, result="differs", detail="its version was deleted: no tensors to compare"))
            continue
        found = first_difference(*opened, tolerance, values=values)
        seen.tensors_within &= found.within
        seen.note(where, msgspec.structs.replace(found.divergence, epoch=one.epoch, step=one.step, what=name))
        seen.say(
            Comparison(
                what=name, result="tolerated" if found.within and found.any_tensor else "differs", detail=str(found)
            )
        )
    _note_lonely(pairs, seen)
    if pairs:
        result: Any = "match" if equal == len(pairs) else "differs"
        declared = tolerance.weights.atol > 0 or tolerance.weights.rtol > 0
        if result == "differs" and seen.tensors_within and declared:
            result = "tolerated"
        lost = f"; {gone} by its digest alone, for its version was deleted" if gone else ""
        detail = f"{equal} of {len(pairs)} equal in every bit{lost}"
        seen.comparisons.insert(place, Comparison(what="checkpoints", result=result, detail=detail))


def _opened(
    left: Side, one: CheckpointEntry, right: Side, other: CheckpointEntry
) -> tuple[Checkpoint, Checkpoint] | None:
    """Return both checkpoints; None if one of the versions was deleted, by `keep` or by hand: its digest is left."""
    if one.dropped or other.dropped:
        return None
    try:
        return left.load(one), right.load(other)
    except NotFoundError:
        return None


def _is_initial(pair: tuple[str, CheckpointEntry | None, CheckpointEntry | None]) -> bool:
    name, one, other = pair
    return name == "initial state" and one is not None and other is not None and one.state_digest == other.state_digest


def _note_lonely(pairs: list[tuple[str, CheckpointEntry | None, CheckpointEntry | None]], seen: _Seen) -> None:
    """Say so if what comes after the first checkpoint that differs is equal again: then the training was the same."""
    both = [(name, one, other) for name, one, other in pairs if one is not None and other is not None]
    differing = [at for at, (_, one, other) in enumerate(both) if one.state_digest != other.state_digest]
    if not differing or len(differing) > 2 or differing[-1] == len(both) - 1 or seen.where == "missing":
        return
    names = ", ".join(both[at][0] for at in differing)
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
        absent = one is None or one.missing
        if absent and (left.record.status != "finished" or other is None or other.missing):
            continue
        seen.compared += 1
        if one is None or one.missing:
            comparison = _missing(path, "the original", ours, folders[0])
        elif other is None or other.missing:
            comparison = _missing(path, "the repetition", theirs, folders[1])
        else:
            comparison = _compare_output(path, mode, one, other, left, right, tolerance)
        seen.say(comparison)
        if comparison.result != "match":
            seen.bits_equal = False
        if comparison.result not in ("match", "tolerated"):
            seen.outputs_hold = False
            seen.note("outputs", Divergence(what=f"output {path}"))


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


def _compare_metrics(left: Record, right: Record, tolerance: Tolerance, seen: _Seen, until: int | None) -> None:
    """Compare what was measured: by epoch, and at the end. One that differs forbids BITWISE, unless it is ignored."""
    limits = tolerance.limits
    for name, one, other in checkpoint_pairs(left, right, until):
        if one is not None and other is not None:
            for metric in _apart(one.metrics, other.metrics, limits):
                seen.metrics_equal = False
                shown = f"{_number(one.metrics.get(metric))} → {_number(other.metrics.get(metric))}"
                what = f"metric {metric} of {name}"
                seen.note("metrics", Divergence(epoch=one.epoch, step=one.step, what=what, how=shown))
    if until is not None:
        return
    whole = left.status == "finished" and right.status == "finished"
    names = dict.fromkeys([*limits, *(left.metrics if whole else []), *(right.metrics if whole else [])])
    apart, equal = set(_apart(left.metrics, right.metrics, limits)), 0
    for name in names:
        a, b = left.metrics.get(name), right.metrics.get(name)
        shown = f"{_number(a)} → {_number(b)}"
        allowed = limits.get(name)
        if allowed is not None and math.isinf(allowed):
            seen.say(Comparison(what=f"metric {name}", result="ignored", detail="as the recipe declares"))
        elif name not in apart:
            equal += 1
            if allowed is not None and a is None:  # it may be meant for a value of an output
                seen.say(Comparison(what=f"metric {name}", result="missing", detail="declared, and neither run has it"))
            elif allowed is not None:
                seen.metrics_hold = seen.metrics_hold is not False
                seen.say(Comparison(what=f"metric {name}", result="match", detail=f"{shown}, allowed {allowed:g}"))
        else:
            seen.metrics_equal = False
            seen.note("metrics", Divergence(what=f"metric {name}", how=shown))
            inside = allowed is not None and a is not None and b is not None and abs(a - b) <= allowed
            if allowed is not None:
                seen.metrics_hold = inside and seen.metrics_hold is not False
            result: Any = "missing" if a is None or b is None else "tolerated" if inside else "differs"
            note = f", allowed {allowed:g}" if allowed is not None else ""
            seen.say(Comparison(what=f"metric {name}", result=result, detail=shown + note))
    if equal and whole:
        seen.say(Comparison(what="metrics", result="match", detail=f"{equal} of {len(names)} equal"))


def _apart(one: dict[str, float], other: dict[str, float], limits: dict[str, float]) -> Iterable[str]:
    """Return the metrics that are not the same, without those that may be anything."""
    return [
        name
        for name in dict.fromkeys([*one, *other])
        if not math.isinf(limits.get(name, 0.0)) and not same_number(one.get(name), other.get(name))
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
