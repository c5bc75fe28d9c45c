"""What an execution is given: a lock with everything that it needs, and what is asked of it beyond that. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reprokit.recording.checkpoint_saver import Collected
from reprokit.schema.manifest import Manifest
from reprokit.schema.place import BEGINNING, Place
from reprokit.schema.record import Record, RepetitionTerms

__all__ = ["Continued", "Orders"]


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The run that an execution goes on with, from one of its checkpoints.

    Attributes:
        record: As it was when the run stopped.
        collected: What stays of it: the checkpoints up to that one, metrics, artifacts.
        checkpoint: That checkpoint's version; None to start from the beginning again.
        framework: Whose callback saved it.
        carried: What variables of its script held beside it.
        place: Where in the run it was saved; None without one.
        files: Contents that the journal starts with, by name: `log.txt`, `metrics.jsonl`.
        outputs: Files that it had written at declared paths, by path in the workspace.
    """

    record: Record
    collected: Collected
    checkpoint: Manifest | None
    framework: str
    carried: dict[str, str]
    place: Place | None
    files: dict[str, bytes]
    outputs: dict[str, bytes]

    @property
    def where(self) -> str:
        return BEGINNING if self.place is None else self.place.exact


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What an execution is told beyond its lock.

    Attributes:
        reproduces: The run that this one repeats; its checkpoints then move no tags.
        relaxed: In what it differs from that run, in the words it was given.
        terms: What its verdict will be given on, for the record.
        until: Stop after this epoch (from 0).
        at: Save inside epochs after these batches, by epoch, and no others: where the original did by the clock. None
            for a batch is the epoch's end, if the script does not save it itself.
        stop_after: Stop after so many checkpoints.
        hermetic: Under bubblewrap: no network, no home, nothing but what is declared.
        mlflow: The store of MLflow's that it is sent to while it goes on.
        told: More for the script's process to find in its context.
    """

    reproduces: str | None = None
    relaxed: list[str] = field(default_factory=list)
    terms: RepetitionTerms | None = None
    until: int | None = None
    at: list[tuple[int, int | None]] | None = None
    stop_after: int | None = None
    continues: Continued | None = None
    hermetic: bool = False
    mlflow: str | None = None
    told: dict[str, Any] = field(default_factory=dict)
