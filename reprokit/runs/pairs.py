"""Which checkpoint of one run stands against which of another. Reads no files."""

from __future__ import annotations

from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["checkpoint_pairs"]


def checkpoint_pairs(
    left: Record, right: Record, until: int | None = None
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
    seen: dict[str, int] = {}
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
        seen[key] = count = seen.get(key, 0) + 1
        found[key if count == 1 else f"{key}, save {count}"] = entry  # several saves in one epoch
    return found
