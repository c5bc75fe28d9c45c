"""From a locked environment to an interpreter that runs in it: made once, kept in the cache by its hash."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from reprokit.core.atomic_files import os_errors
from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.capture import capture_environment
from reprokit.environment.conda.archives import gather_conda
from reprokit.environment.conda.rattler import install_conda
from reprokit.environment.local.interpreter import Interpreter, find_interpreter
from reprokit.environment.local.seal import check_private, look, seal, unseal
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
        RefusedError: The cache belongs to somebody else, or others may write it: nothing in it is executed.
    """
    if lock.container is not None:
        raise EnvironmentMismatchError(f"The environment is the image {lock.container}: there is nothing to make.")
    _check_archives(lock)
    offline = Config.is_offline() if offline is None else offline
    target = cache / "environments" / lock.hash[:16]  # what lies there is compared whole; scripts name it in a line
    with os_errors(f"Making the environment {target}"):
        cache.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        check_private(cache, target.parent)
        with target.with_name(f"{target.name}.lock").open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # of two that want the same one, one makes it and the other waits
            changed = _changed(target, lock, progress)
            if changed is not None:
                unseal(target)
                _clear(target)
                try:
                    _make(lock, target, cache, vault or Vault(), offline=offline, progress=progress)
                except EnvironmentMismatchError as error:
                    if not changed:
                        raise
                    raise EnvironmentMismatchError(
                        f"{target} was not what was made there any more ({changed} was changed) and was removed. It "
                        f"cannot be made again: {error.message}",
                        hint=error.hint,
                    ) from None
    return target / "bin" / "python"


def _check_archives(lock: EnvironmentLock) -> None:
    """Raise unless all of an environment could be in archives."""
    loose = [one.path for one in lock.loose]
    trees = [one.name for one in lock.editable if one.sha256 is not None]
    if loose or trees:
        shown = ", ".join([*loose, *(f"{name} (editable)" for name in trees)][:5])
        raise EnvironmentMismatchError(
            f"{len(loose) + len(trees)} thing(s) that it executed are in no archive, for no package brought them: "
            f"{shown}.",
            hint="Have them here as they were, or run again without them.",
        )


def _make(lock: EnvironmentLock, target: Path, cache: Path, vault: Vault, *, offline: bool, progress: Progress) -> None:
    building = target.with_name(f"tmp-{target.name}")  # what a killed process left there is removed
    _clear(building)
    try:
        building.mkdir(mode=0o700)
        base = _foundation(lock, building, target, cache=cache, vault=vault, offline=offline, progress=progress)
        wheels = gather(lock.pip, interpreter=base, cache=cache, vault=vault, offline=offline, progress=progress)
        with progress.task("Making the environment", None):
            _fill(lock, wheels, building, target, base=base)
        building.rename(target)
        seal(target, of=lock.hash)
    finally:
        shutil.rmtree(building, ignore_errors=True)


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


def _changed(target: Path, lock: EnvironmentLock, progress: Progress) -> str | None:
    """Return the first file of an environment that is not what was made there; "" if there is none, None if all are.

    Nothing of it is executed. What somebody put beside it, by installing into it for example, is removed.
    """
    if not os.path.lexists(target):
        return ""
    if target.is_symlink() or not target.is_dir():
        return target.name
    check_private(target)
    seen = look(target, of=lock.hash)
    for path in seen.removed:
        progress.note(f"{path} was removed from {target}: it was not made with it.")
    if seen.changed is not None:
        progress.note(f"{target} is made again: {seen.changed} was changed.")
    return seen.changed


def _clear(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
