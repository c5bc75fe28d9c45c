"""What an execution is given: a lock with everything that it needs, and what is asked of it beyond that. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reprokit.recording.checkpoint_saver import Collected
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import Record

__all__ = ["Continued", "Orders"]


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The run that an execution goes on with, from one of its checkpoints.

    Attributes:
        record: As it was when the run stopped.
        collected: What stays of it: the checkpoints up to that one, metrics, artifacts.
        checkpoint: That checkpoint's version; None to start from the beginning again.
        framework: Whose callback saved it.
        files: Contents that the journal starts with, by name: `log.txt`, `metrics.jsonl`.
        outputs: Files that it had written at declared paths, by path in the workspace.
    """

    record: Record
    collected: Collected
    checkpoint: Manifest | None
    framework: str
    where: str
    files: dict[str, bytes]
    outputs: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What an execution is told beyond its lock.

    Attributes:
        reproduces: The run that this one repeats; its checkpoints then move no tags.
        relaxed: In what it differs from that run, in the words it was given.
        until: Stop after this epoch (from 0).
        at: Save inside epochs after these batches, by epoch, and no others: where the original did by the clock.
        stop_after: Stop after so many checkpoints.
        told: More for the script's process to find in its context.
    """

    reproduces: str | None = None
    relaxed: list[str] = field(default_factory=list)
    until: int | None = None
    at: list[tuple[int, int]] | None = None
    stop_after: int | None = None
    continues: Continued | None = None
    told: dict[str, Any] = field(default_factory=dict)
