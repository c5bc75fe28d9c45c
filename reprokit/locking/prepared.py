"""A lock with everything that must be in the registry to execute it. Data only."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from reprokit.environment.container import Container
from reprokit.environment.vault import VaultOrder
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry
from reprokit.schema.record import CodeFacts

__all__ = ["Prepared"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A lock and everything that must be in the registry to execute it.

    Attributes:
        tree: The repository as the user has it; None of what is repeated.
        python: The interpreter of the locked environment.
        container: What the script is executed in, where the environment is an image.
        vault: The packages that are stored while it goes on.
    """

    lock: RunLock
    entries: list[Entry]
    code: CodeFacts
    name: str
    warnings: list[str] = field(default_factory=list)
    in_place: Path | None = None
    tree: Path | None = None
    python: Path = Path(sys.executable)
    container: Container | None = None
    vault: VaultOrder | None = None
