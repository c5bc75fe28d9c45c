"""env build."""

from __future__ import annotations

from pathlib import Path

import click

from reprokit.cli.face import Face, common
from reprokit.environment.realise import realise
from reprokit.environment.vault import open_vault
from reprokit.environment.wheelhouse import Vault
from reprokit.lock import EnvironmentLock, RecipeLock
from reprokit.paths import os_errors
from reprokit.runs import RunStore

__all__ = ["env", "locked_environment"]


@click.group()
def env() -> None:
    """Make environments from locks."""


@env.command("build")
@click.argument("ref", metavar="RUN|LOCK")
@common
def build(face: Face, ref: str) -> None:
    """Make the environment of a run, or of a recipe's lock file, and print its interpreter.

    It lies in the cache, under its hash, and is made only once. Packages come from the run's vault, from the cache, or
    from where pip looks; each is checked against the lock before it is installed. Exit code 5 if it cannot be made.
    """
    locked, vault, _ = locked_environment(face, ref)
    python = realise(locked, cache=face.config.cache, vault=vault, progress=face)
    face.result({"python": str(python), "hash": locked.hash, "packages": locked.size}, str(python))


def locked_environment(face: Face, ref: str) -> tuple[EnvironmentLock, Vault, str]:
    """Return an environment, where its archives are, and the name of what it was locked for."""
    if Path(ref).is_file():
        with os_errors(f"Reading {ref}"):
            lock = RecipeLock.decode(Path(ref).read_bytes(), what=ref)
        return lock.environment, Vault(archives=lock.archives), Path(ref).name.partition(".")[0]
    store = face.registry()
    run = RunStore(store).load(ref)
    return RunStore(store).lock(run).environment, open_vault(run.manifest, store), run.record.name
