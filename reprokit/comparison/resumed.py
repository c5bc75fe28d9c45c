"""That one of two runs was stopped and resumed, as a cause of what differs: what lies outside a checkpoint begins anew.

Reads no files.
"""

from __future__ import annotations

from typing import Literal

from reprokit.schema.place import Place
from reprokit.schema.record import Attempt, Record
from reprokit.schema.verdict import Cause, Divergence

__all__ = ["resumed_cause"]

_WHY = (
    "what a script keeps outside its checkpoints, as lists, counters and files, begins anew where a run is resumed: "
    "`reprokit doctor` names it"
)


def resumed_cause(left: Record, right: Record, where: str | None, first: Divergence | None) -> Cause | None:
    """Return that either run was resumed, weighed by what differs first; None if neither was.

    Args:
        where: In what the first difference is, as `Evidence` has it.
    """
    told = [f"{record.run_id} was {_told(record.attempts)}" for record in (left, right) if record.attempts]
    if not told:
        return None
    places = [attempt.resumed_at if attempt.restored else None for r in (left, right) for attempt in r.attempts]
    weight, why = _judged(places, where, first)
    return Cause(kind="resumed", what="resumed", text=f"resumed: {'; '.join(told)}", weight=weight, why=why)


def _told(attempts: list[Attempt]) -> str:
    last = str(attempts[-1])
    return last if len(attempts) == 1 else last.replace("resumed", f"resumed {len(attempts)} times, last", 1)


def _judged(
    places: list[Place | None], where: str | None, first: Divergence | None
) -> tuple[Literal["likely", "possible", "unlikely"], str]:
    if where == "initial":
        return "unlikely", "the initial state differs, which was saved before"
    if where == "outputs":
        return "likely", _WHY
    if first is not None and first.epoch is not None and all(place is not None for place in places):
        at = (first.epoch, first.batch if first.batch is not None else float("inf"))
        begun = [(place.epoch, place.batch or 0) for place in places if place is not None and place.epoch is not None]
        if len(begun) == len(places) and all(at < start for start in begun):
            return "unlikely", f"{first.what} was saved before"
    return ("possible" if where == "missing" else "likely"), _WHY
