"""Two runs over each other in a terminal: which checkpoints are equal, and the course of their metrics."""

from __future__ import annotations

from reprokit.cli.sparks import ends, here, metrics_by_checkpoint, room, spark, strip
from reprokit.compare import checkpoint_pairs
from reprokit.consistency import same_number
from reprokit.record import CheckpointEntry, Record
from reprokit.untrusted import printable

__all__ = ["both_text"]

_MOST = 8  # metrics
_TAIL = 44  # characters of the numbers at a line's end

_Pair = tuple[str, CheckpointEntry | None, CheckpointEntry | None]


def both_text(left: Record, right: Record) -> str:
    """Return the checkpoints of two runs as `====≠≠≠`, and their metrics over each other; nothing if there are none."""
    pairs = checkpoint_pairs(left, right)
    if len(pairs) < 2:
        return ""
    marks = here()
    found = {**metrics_by_checkpoint(left), **metrics_by_checkpoint(right)}
    names = {name: printable(name, 24) for name in list(found)[:_MOST]}
    wide = max(map(len, ["checkpoints", *names.values()]))
    width = room(wide + _TAIL)
    line = strip([_state(pair) for pair in pairs], width, marks)
    rows = [("checkpoints", f"{line}  {_short(pairs[0])} {marks.arrow} {_short(pairs[-1])}")]
    for name, shown in names.items():
        ours, theirs = ([None if side is None else side.metrics.get(name) for side in sides] for sides in _sides(pairs))
        apart = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not same_number(a, b)), None)
        one = f"{spark(ours, width, marks, beside=theirs)}  {ends(ours, marks)}"
        if apart is None:
            rows.append((shown, f"{one}  both"))
            continue
        rows.append((shown, one))
        other = f"{spark(theirs, width, marks, beside=ours)}  {ends(theirs, marks)}"
        rows.append(("", f"{other}  from {_short(pairs[apart])} on"))
    if len(found) > _MOST:
        rows.append(("", f"and {len(found) - _MOST:,} more metrics (--json has all)"))
    return "\n".join(f"  {name:<{wide}}  {value}" for name, value in rows)


def _sides(pairs: list[_Pair]) -> tuple[list[CheckpointEntry | None], list[CheckpointEntry | None]]:
    """Return the checkpoints of each run; initial states have no metrics."""
    return [one for _, one, _ in pairs], [other for _, _, other in pairs]


def _state(pair: _Pair) -> str:
    _, one, other = pair
    if one is None or other is None:
        return "missing"
    return "equal" if one.state_digest == other.state_digest else "differs"


def _short(pair: _Pair) -> str:
    return "start" if pair[0] == "initial state" else pair[0]
