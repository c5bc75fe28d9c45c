"""The environment that a run, or a lock file, names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from reprokit.core.atomic_files import os_errors
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.vault import open_vault
from reprokit.registry import Registry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import EnvironmentLock, LockedEnvironment

__all__ = ["Pinned", "environment_of"]


class Pinned(NamedTuple):
    """An environment, where its archives are, and the name of what it was locked for."""

    environment: EnvironmentLock
    vault: Vault
    name: str


def environment_of(ref: str, *, registry: Registry) -> Pinned:
    """Return the environment of a run, or of a lock file.

    Raises:
        NotFoundError: No such run.
        RefusedError: The run has no lock.
        DataMismatchError: The file is none, or the run's lock is corrupt.
    """
    if Path(ref).is_file():
        with os_errors(f"Reading {ref}"):
            lock = LockedEnvironment.decode(Path(ref).read_bytes(), what=ref)
        return Pinned(lock.environment, Vault(archives=lock.archives), Path(ref).name.partition(".")[0])
    runs = RunStore(registry)
    run = runs.load(ref)
    return Pinned(runs.lock(run).environment, open_vault(run.manifest, registry), run.record.name)
