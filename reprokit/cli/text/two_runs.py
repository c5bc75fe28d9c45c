"""Two runs over each other in a terminal: which checkpoints are equal, and the course of their metrics."""

from __future__ import annotations

from reprokit.cli.text.sparks import columns, ends, here, metrics_by_checkpoint, short, spark, strip
from reprokit.cli.text.table import table
from reprokit.comparison.record_check import same_number
from reprokit.runs.pairs import Pair, checkpoint_pairs
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["both_text"]

_MOST = 8  # metrics


def both_text(left: Record, right: Record) -> str:
    """Return the checkpoints of two runs as `====≠≠≠`, and their metrics over each other; nothing if there are none."""
    pairs = checkpoint_pairs(left, right)
    if len(pairs) < 2:
        return ""
    marks = here()
    found = {**metrics_by_checkpoint(left), **metrics_by_checkpoint(right)}
    rows: list[tuple[str, list[float | None], list[float | None], str]] = []
    for name in list(found)[:_MOST]:
        one, other = ([None if side is None else side.metrics.get(name) for side in sides] for sides in _sides(pairs))
        apart = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if not same_number(a, b)), None)
        if apart is None:
            rows.append((short(name), one, other, f"{ends(one, marks)}  both"))
        else:
            rows.append((short(name), one, other, ends(one, marks)))
            rows.append(("", other, one, f"{ends(other, marks)}  from {_named(pairs[apart])} on"))
    span = f"{_named(pairs[0])} {marks.arrow} {_named(pairs[-1])}"
    wide = max(map(len, ["checkpoints", *(name for name, *_ in rows)]))
    width = columns() - wide - max(map(len, [span, *(tail for *_, tail in rows)])) - 6
    lines = [("checkpoints", f"{strip([pair.state for pair in pairs], width, marks)}  {span}")]
    lines += [(name, f"{spark(one, width, marks, beside=other)}  {tail}") for name, one, other, tail in rows]
    if len(found) > _MOST:
        lines.append(("", f"and {len(found) - _MOST:,} more metrics (--json has all)"))
    return table(lines, width=wide)


def _sides(pairs: list[Pair]) -> tuple[list[CheckpointEntry | None], list[CheckpointEntry | None]]:
    """Return the checkpoints of each run; initial states have no metrics."""
    return [one for _, one, _ in pairs], [other for _, _, other in pairs]


def _named(pair: Pair) -> str:
    return "start" if pair.place.is_initial else str(pair.place)
