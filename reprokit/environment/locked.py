"""An environment by itself, pinned: the one here, or what a file declares."""

from __future__ import annotations

from pathlib import Path

from reprokit.core.progress import SILENT, Progress
from reprokit.environment.capture import capture
from reprokit.environment.pip.index import with_archives
from reprokit.environment.solve import solve
from reprokit.schema.lock import LockedEnvironment
from reprokit.schema.recipe import Environment, check_environment

__all__ = ["lock_environment"]


def lock_environment(
    declared: Environment | None, *, root: Path, cache: Path, archives: bool = False, progress: Progress = SILENT
) -> tuple[LockedEnvironment, dict[str, list[str]]]:
    """Pin an environment; return also the files that were changed since they were installed, by package.

    Args:
        declared: What is solved; None pins the one here.
        root: The folder that the declaration's paths are relative to.
        archives: Of the one here, ask the indexes where its wheels are.
    Raises:
        RecipeError: The declaration contradicts itself.
        EnvironmentMismatchError: It cannot be solved.
    """
    if declared is not None:
        check_environment(declared)
        return LockedEnvironment(**solve(declared, root=root, cache=cache, progress=progress)._asdict()), {}
    here = capture(cache)
    known = with_archives(here.lock, here.archives, cache=cache, progress=progress) if archives else here.archives
    return LockedEnvironment(environment=here.lock, archives=known), here.changed
