"""From a locked environment to an interpreter that runs in it: made once, kept in the cache by its hash."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from reprokit.core.logical_keys import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.capture import capture_environment
from reprokit.environment.conda.archives import gather_conda
from reprokit.environment.conda.rattler import install_conda
from reprokit.environment.local.interpreter import Interpreter, find_interpreter
from reprokit.environment.pip.venv import install_wheels, make_venv, name_the_final_place
from reprokit.environment.pip.wheelhouse import Vault, gather
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import EnvironmentLock

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
        vault: Archives that the registry has, asked before any index, and where others were found.
        offline: Ask no index; by default as REPROKIT_OFFLINE says.
    Raises:
        EnvironmentMismatchError: It cannot be made here: the very package, or the version of Python, is named.
    """
    if lock.container is not None:
        raise EnvironmentMismatchError(f"The environment is the image {lock.container}: there is nothing to make.")
    offline = bool(os.environ.get("REPROKIT_OFFLINE")) if offline is None else offline
    target = cache / "environments" / lock.hash[:16]  # what lies there is compared whole; scripts name it in a line
    with os_errors(f"Making the environment {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # of two that want the same one, one makes it and the other waits
            if not _is_whole(target, lock, cache):
                shutil.rmtree(target, ignore_errors=True)
                building = target.with_name(f"tmp-{target.name}")  # what a killed process left there is removed
                shutil.rmtree(building, ignore_errors=True)
                try:
                    building.mkdir(parents=True)
                    base = _foundation(
                        lock, building, target, cache=cache, vault=vault or Vault(), offline=offline, progress=progress,
                    )  # fmt: skip
                    wheels = gather(
                        lock.pip, interpreter=base, cache=cache, vault=vault, offline=offline, progress=progress
                    )
                    with progress.task("Making the environment", None):
                        _fill(lock, wheels, building, target, base=base)
                    building.rename(target)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
    return target / "bin" / "python"


def _foundation(
    lock: EnvironmentLock,
    building: Path,
    target: Path,
    *,
    cache: Path,
    vault: Vault,
    offline: bool,
    progress: Progress,
) -> Interpreter:
    """Return the interpreter that wheels are chosen for: this machine's, or that of the conda packages, installed."""
    if not lock.conda:
        return find_interpreter(version=lock.python, implementation=lock.implementation, system=lock.platform)
    _check_platform(lock)
    files = gather_conda(
        lock.conda, archives=vault.archives, cache=cache, vault=vault.conda,
        offline=offline, progress=progress,
    )  # fmt: skip
    with progress.task("Installing conda packages", None):
        install_conda(lock.conda, files, archives=vault.archives, prefix=building, final=target)
    return Interpreter.at(building / "bin" / "python")


def _check_platform(lock: EnvironmentLock) -> None:
    here = Interpreter.here().platform
    if lock.platform != here:
        raise EnvironmentMismatchError(
            f"The environment is for {lock.platform}, and this machine is {here}.",
            hint="Reproduce on such a machine, or accept the environment here: --with env=current.",
        )


def _fill(lock: EnvironmentLock, wheels: list[Path], building: Path, target: Path, *, base: Interpreter) -> None:
    if not lock.conda:
        make_venv(base, building)
    if wheels:
        install_wheels(lock, wheels, building)
    name_the_final_place(building, target)
    made = Interpreter.at(building / "bin" / "python")
    changes = lock.changes_to(capture_environment(interpreter=made))
    if changes:
        raise EnvironmentMismatchError(
            f"The environment came out otherwise than its lock: {', '.join(map(str, changes[:10]))}.",
            hint="This is an error of reprokit's or of the installer's; please report it.",
        )


def _is_whole(target: Path, lock: EnvironmentLock, cache: Path) -> bool:
    """True if what lies there is still what the lock says: somebody may have installed into it, or deleted from it."""
    python = target / "bin" / "python"
    if not python.exists():
        return False
    try:
        return capture_environment(cache, interpreter=Interpreter.at(python)) == lock
    except EnvironmentMismatchError:
        return False
