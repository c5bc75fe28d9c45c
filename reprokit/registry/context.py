"""What a command works with: this machine's folders, a registry, and where progress is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.registry import Registry, open_registry

__all__ = ["Context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a command works with, and gives to what it calls.

    Attributes:
        home: Data that must not be lost: journals of runs.
        cache: Anything here can be deleted.
        registry: What is read from, and recorded into.
        progress: Where long work is shown.
    """

    home: Path
    cache: Path
    registry: Registry
    progress: Progress = SILENT

    @classmethod
    def open(
        cls, registry: str | Registry | None = None, *, folder: Path | None = None, progress: Progress = SILENT
    ) -> Context:
        """Return what is in force: argument, then variable, then project file, then default.

        Args:
            registry: An address; or one that is open.
            folder: Where the search for a project file begins; by default the current one.
        Raises:
            RegistryError: There is nothing that can be opened at the address.
        """
        address = registry.url if isinstance(registry, Registry) else registry
        config = Config.load(registry=address, folder=folder)
        opened = registry if isinstance(registry, Registry) else open_registry(config.registry)
        return cls(home=config.home, cache=config.cache, registry=opened, progress=progress)
