"""An environment for other tools: conda, pip, uv."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from reprokit.core.progress import SILENT, Progress
from reprokit.environment.local.interpreter import find_interpreter
from reprokit.environment.lock_formats import as_environment_yml, as_explicit, as_pylock, as_requirements
from reprokit.environment.pip.index import find_archives
from reprokit.errors import EnvironmentMismatchError
from reprokit.runs.environment import Pinned

__all__ = ["Exported", "export_environment"]


class Exported(NamedTuple):
    """An environment as text; `hash` is the environment's, `missing` why packages are not in it, by name."""

    text: str
    hash: str
    missing: dict[str, str]


def export_environment(pinned: Pinned, form: str, *, cache: Path, progress: Progress = SILENT) -> Exported:
    """Return an environment in another tool's format.

    Addresses and hashes are those of the lock; where it has none, the indexes that pip is configured to use are asked.

    Args:
        form: `environment.yml`, `explicit`, `pylock` or `requirements`.
    Raises:
        EnvironmentMismatchError: It is an image, which has no packages to list.
    """
    locked, archives = pinned.environment, list(pinned.vault.archives)
    if locked.container is not None:
        raise EnvironmentMismatchError(f"The environment is the image {locked.container}: it has no packages to list.")
    missing: dict[str, str] = {}
    if form == "environment.yml":
        text = as_environment_yml(locked, archives, name=pinned.name)
    elif form == "explicit":
        text, missing = as_explicit(locked, archives)
    else:
        wheels = [one for one in archives if one.kind == "pip" and one.file and one.sha256]
        if {one.name for one in wheels} != {one.name for one in locked.pip}:
            base = find_interpreter(version=locked.python, implementation=locked.implementation, system=locked.platform)
            wheels, missing = find_archives(locked, interpreter=base, cache=cache, progress=progress)
        text = (as_pylock if form == "pylock" else as_requirements)(locked, wheels, missing)
    return Exported(text, locked.hash, missing)
