"""What an execution is given: a lock with everything that it needs, and what is asked of it beyond that. Data only."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprokit.environment.container import Container
from reprokit.lock import RunLock
from reprokit.manifest import Entry, Manifest
from reprokit.record import CodeFacts, Record
from reprokit.saving import Collected

__all__ = ["Continued", "Orders", "Prepared"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A lock and everything that must be in the registry to execute it.

    Attributes:
        python: The interpreter of the locked environment.
        container: What the script is executed in, where the environment is an image.
    """

    lock: RunLock
    entries: list[Entry]
    code: CodeFacts
    name: str
    warnings: list[str] = field(default_factory=list)
    in_place: Path | None = None
    python: Path = Path(sys.executable)
    container: Container | None = None


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
