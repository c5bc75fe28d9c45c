"""Compare two runs. Reads no files; the caller loads what is compared.

The ladder: BITWISE (every state digest and declared output equal, nothing relaxed), TENSOR-TOLERANCE (every tensor
within the recipe's tolerance), METRIC-TOLERANCE (declared metrics within theirs), DIVERGED, INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from reprokit.checkpoint.reader import Checkpoint
from reprokit.difference import first_difference
from reprokit.lock import RunLock
from reprokit.outputs import MAX_OUTPUT, compare_output
from reprokit.recipe import OutputMode, Tolerance
from reprokit.record import CheckpointEntry, OutputFacts, Record
from reprokit.verdict import Comparison, Divergence, Rung, Verdict

__all__ = ["Side", "compare"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs.

    Attributes:
        load: Opens one of its checkpoints.
        output: Returns the verified bytes of one of its outputs by path.
    """

    record: Record
    lock: RunLock | None
    load: Callable[[CheckpointEntry], Checkpoint]
    output: Callable[[str], bytes]


@dataclass
class _Seen:
    """What the comparison found so far."""

    comparisons: list[Comparison] = field(default_factory=list)
    compared: int = 0
    bits_equal: bool = True
    tensors_within: bool = True
    outputs_hold: bool = True
    first: Divergence | None = None

    def say(self, comparison: Comparison) -> None:
        self.comparisons.append(comparison)


def compare(
    left: Side,
    right: Side,
    *,
    tolerance: Tolerance,
    relaxed: list[str],
    causes: list[str],
    until: int | None = None,
) -> Verdict:
    """Return how `right`, a repetition, compares with `left`, the original.

    Args:
        tolerance: What the original's recipe declared.
        relaxed: Every override of the repetition; one is enough to forbid BITWISE.
        causes: Differences between the two locks and machines, most telling first.
        until: The last epoch that the repetition was asked for; later ones are not missed.
    """
    seen = _Seen()
    _compare_locks(left, right, seen)
    _compare_checkpoints(left, right, tolerance, until, seen)
    if until is None:
        _compare_outputs(left, right, tolerance, seen)
    metrics_hold = _compare_metrics(left.record, right.record, tolerance, seen, until)
    rung = _rung(left.record, right.record, seen, metrics_hold, relaxed)
    if rung == "BITWISE":
        causes = []
    elif not causes and rung != "INCONCLUSIVE" and not seen.bits_equal:
        causes = ["unexplained: code, environment, data, params, execution and numeric class are the same"]
    return Verdict(
        run_id=right.record.run_id,
        reproduces=left.record.run_id,
        verdict=rung,
        relaxed=relaxed,
        first_divergence=seen.first,
        causes=causes,
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


def _rung(left: Record, right: Record, seen: _Seen, metrics_hold: bool | None, relaxed: list[str]) -> Rung:
    if right.status != "finished" or left.status == "running" or seen.compared == 0:
        return "INCONCLUSIVE"
    if seen.bits_equal and not relaxed:
        return "BITWISE"
    if seen.tensors_within and seen.outputs_hold:
        return "TENSOR-TOLERANCE"
    return "METRIC-TOLERANCE" if metrics_hold else "DIVERGED"


def _compare_checkpoints(left: Side, right: Side, tolerance: Tolerance, until: int | None, seen: _Seen) -> None:
    pairs = _pairs(left.record, right.record, until)
    equal, place = 0, len(seen.comparisons)
    for name, one, other in pairs:
        seen.compared += 1
        if other is None or one is None:
            seen.bits_equal = seen.tensors_within = False
            missing = "the repetition" if other is None else "the original"
            seen.first = seen.first or Divergence(
                epoch=next((side.epoch for side in (one, other) if side is not None), None),
                what=f"{name} is missing from {missing}",
            )
            seen.say(
                Comparison(
                    what=name, result="missing", detail=f"only {'the original' if one else 'the repetition'} has it"
                )
            )
            continue
        if one.state_digest == other.state_digest:
            equal += 1
            continue
        seen.bits_equal = False
        if one.dropped or other.dropped:
            seen.tensors_within = False
            seen.first = seen.first or Divergence(epoch=one.epoch, step=one.step, what=name)
            seen.say(Comparison(what=name, result="differs", detail="dropped by `keep`: no tensors to compare"))
            continue
        if seen.first is not None and not seen.tensors_within:
            seen.say(Comparison(what=name, result="differs"))
            continue
        found = first_difference(left.load(one), right.load(other), tolerance)
        seen.tensors_within &= found.within
        seen.first = seen.first or msgspec.structs.replace(found.divergence, epoch=one.epoch, step=one.step, what=name)
        seen.say(Comparison(what=name, result="tolerated" if found.within else "differs", detail=str(found)))
    if pairs:
        result: Any = "match" if equal == len(pairs) else "differs"
        if result == "differs" and seen.tensors_within:
            result = "tolerated"
        seen.comparisons.insert(
            place, Comparison(what="checkpoints", result=result, detail=f"{equal} of {len(pairs)} equal in every bit")
        )


def _pairs(
    left: Record, right: Record, until: int | None
) -> list[tuple[str, CheckpointEntry | None, CheckpointEntry | None]]:
    """Pair checkpoints by epoch, those without one by step, then by position."""
    pairs: list[tuple[str, CheckpointEntry | None, CheckpointEntry | None]] = []
    if left.initial is not None and right.initial is not None:
        pairs.append(("initial state", left.initial, right.initial))
    ones, others = _keyed(left, until), _keyed(right, until)
    keys = list(ones)
    if left.status == "finished":  # an interrupted original lacks what it did not live to save
        keys += [key for key in others if key not in ones]
    pairs += [(key, ones.get(key), others.get(key)) for key in keys]
    return pairs


def _keyed(record: Record, until: int | None) -> dict[str, CheckpointEntry]:
    found: dict[str, CheckpointEntry] = {}
    for index, entry in enumerate(record.checkpoints):
        if until is not None and entry.epoch is not None and entry.epoch > until:
            continue
        key = f"checkpoint {index}"
        if entry.reason is not None:  # saved when the run was stopped or failed: where, was chance
            continue
        if entry.epoch is not None:
            key = f"epoch {entry.epoch}" + ("" if entry.batch is None else f", batch {entry.batch}")
        elif entry.step is not None:
            key = f"step {entry.step}"
        while key in found:  # several saves in one epoch
            key += "+"
        found[key] = entry
    return found


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
            seen.first = seen.first or Divergence(what=f"output {path}")


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


def _compare_metrics(left: Record, right: Record, tolerance: Tolerance, seen: _Seen, until: int | None) -> bool | None:
    """Say how final metrics compare; return whether all declared ones are within tolerance, None without any."""
    if until is not None:
        return None
    held: bool | None = None
    for name, allowed in tolerance.limits.items():
        a, b = left.metrics.get(name), right.metrics.get(name)
        if a is None or b is None:
            seen.say(Comparison(what=f"metric {name}", result="missing"))
            held = False
            continue
        inside = a == b or abs(a - b) <= allowed
        held = inside if held is None else held and inside
        result: Any = "match" if a == b else "tolerated" if inside else "differs"
        seen.say(Comparison(what=f"metric {name}", result=result, detail=f"{a:.6g} → {b:.6g}, allowed {allowed:g}"))
    return held
