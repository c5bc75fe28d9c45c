"""Which checkpoint of one run stands against which of another. Reads no files."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from reprokit.schema.place import INITIAL, Place
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["Pair", "checkpoint_pairs"]


class Pair(NamedTuple):
    """A place in two runs, and the checkpoint that each has there; None where it has none."""

    place: Place
    left: CheckpointEntry | None
    right: CheckpointEntry | None

    @property
    def state(self) -> Literal["equal", "differs", "missing"]:
        """Whether their state digests are equal."""
        if self.left is None or self.right is None:
            return "missing"
        return "equal" if self.left.state_digest == self.right.state_digest else "differs"


def checkpoint_pairs(left: Record, right: Record, until: int | None = None) -> list[Pair]:
    """Pair checkpoints by epoch, those without one by step, then by position; several of one place by their order.

    What one run alone has is missing of the other, unless an original that was stopped did not live to save it.

    Args:
        until: The last epoch that counts.
    """
    pairs = []
    began = left.initial is not None or (right.initial is not None and left.status == "finished")
    if began:
        pairs.append(Pair(INITIAL, left.initial, right.initial))
    ones, others = _placed(left, until), _placed(right, until)
    places = list(ones)
    if left.status == "finished":
        places += [place for place in others if place not in ones]
    return pairs + [Pair(place, ones.get(place), others.get(place)) for place in places]


def _placed(record: Record, until: int | None) -> dict[Place, CheckpointEntry]:
    found: dict[Place, CheckpointEntry] = {}
    seen: dict[Place, int] = {}
    for entry in record.checkpoints:
        if entry.place.is_by_chance or (until is not None and entry.epoch is not None and entry.epoch > until):
            continue
        place = entry.place.comparable
        seen[place] = count = seen.get(place, 0) + 1
        found[msgspec.structs.replace(place, save=count)] = entry
    return found
