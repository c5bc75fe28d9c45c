"""From a locked environment to an interpreter that runs in it: made once, kept in the cache by its hash."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from reprokit.environment.capture import capture_environment
from reprokit.environment.interpreter import Interpreter, find_interpreter
from reprokit.environment.venv import build_venv
from reprokit.environment.wheelhouse import Vault, gather
from reprokit.errors import EnvironmentMismatchError
from reprokit.lock import EnvironmentLock
from reprokit.paths import os_errors
from reprokit.progress import SILENT, Progress

__all__ = ["realise"]


def realise(
    lock: EnvironmentLock,
    *,
    cache: Path,
    vault: Vault | None = None,
    offline: bool | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Return the interpreter of an environment that is exactly the locked one, made if it is not in the cache.

    Args:
        vault: Archives that the registry has; asked before any index.
        offline: Ask no index; by default as REPROKIT_OFFLINE says.
    Raises:
        EnvironmentMismatchError: It cannot be made here: the very package, or the version of Python, is named.
    """
    offline = bool(os.environ.get("REPROKIT_OFFLINE")) if offline is None else offline
    if lock.conda:
        raise EnvironmentMismatchError(
            f"This environment has {len(lock.conda)} conda packages, which this release does not rebuild.",
            hint="Make it with conda and activate it, or accept this one: --env current, --with env=current.",
        )
    target = cache / "environments" / lock.hash[:16]  # what lies there is compared whole; scripts name it in a line
    with os_errors(f"Making the environment {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # of two that want the same one, one makes it and the other waits
            if not _is_whole(target, lock, cache):
                shutil.rmtree(target, ignore_errors=True)
                base = find_interpreter(version=lock.python, implementation=lock.implementation, system=lock.platform)
                wheels = gather(
                    lock.pip, interpreter=base, cache=cache, vault=vault, offline=offline, progress=progress
                )
                with progress.task("Making the environment", None):
                    build_venv(lock, wheels, base=base, target=target)
    return target / "bin" / "python"


def _is_whole(target: Path, lock: EnvironmentLock, cache: Path) -> bool:
    """True if what lies there is still what the lock says: somebody may have installed into it, or deleted from it."""
    python = target / "bin" / "python"
    if not python.exists():
        return False
    try:
        return capture_environment(cache, interpreter=Interpreter.at(python)) == lock
    except EnvironmentMismatchError:
        return False
