"""A run as a build context: an image that rebuilds its environment, code and data offline, and reproduces it.

What is written needs reprokit no more, and no network but for the base image. Nothing is built here.
"""

from __future__ import annotations

import calendar
import contextlib
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from reprokit.core.atomic_files import os_errors
from reprokit.core.canonical_json import sha256_of
from reprokit.core.config import Config
from reprokit.core.refs import is_run_id
from reprokit.environment.conda.archives import gather_conda
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.wheelhouse import Vault, gather
from reprokit.environment.vault import open_vault
from reprokit.errors import DataMismatchError, EnvironmentMismatchError, RefusedError, UsageError
from reprokit.export.image.containerfile import ImageContext, containerfile, readme
from reprokit.export.image.tool_wheels import installed_wheels, tool_wheels
from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.registry.package_log import Stamp
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.transfer import push
from reprokit.schema.lock import Declares, EnvironmentLock, RecipeLock, RunLock

__all__ = ["ImageContext", "write_image_context"]

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}(@sha256:[0-9a-f]{64})?", re.ASCII)
_MOMENT = 315532800  # 1980: what wheels, which are zips, can say
_NAMESPACE = uuid.UUID("0b8f1c56-9f0e-4d55-8f57-6f1a8a0b3d2c")


def write_image_context(ref: str, folder: Path, *, context: Context, base: str | None = None) -> ImageContext:
    """Write a build context whose image reproduces a run; equal runs give equal files.

    Wheels come from the cache, the run's vault, what is installed here, or where pip looks, in this order.

    Args:
        ref: The run: its ID, a unique part of it, `latest`.
        folder: Where it goes: absent, or empty. It appears whole, or not at all.
        base: The image to build on, with exactly the run's version of Python unless that is conda's; by default
            Docker's official one.
    Raises:
        NotFoundError: No such run; or something that it needs is gone.
        RefusedError: The run has not ended or no lock; the folder is not empty.
        EnvironmentMismatchError: A package of its environment cannot be had; or this Python's minor version is another.
        UsageError: `base` is not the name of an image.
    """
    target = folder.resolve()
    with os_errors(f"Looking at {target}"):
        _check_free(target)
    runs = RunStore(context.registry)
    run = runs.load(ref)
    lock = _lock_of(run, runs)
    base = _base(lock.environment, base)
    made = ImageContext(
        folder=target, run_id=run.record.run_id, base=base, needs=_needs(lock.environment),
        environment=lock.environment.hash, packages=lock.environment.size, size=0,
    )  # fmt: skip
    with os_errors(f"Writing the build context {target}"), _beside(target) as building:
        _put_wheels(run, lock.environment, building, context)
        _put_registry(run.record.run_id, building / "registry", context)
        (building / "Containerfile").write_text(containerfile(made))
        (building / "README.txt").write_text(readme(made))
        size = _settle(building)
        building.rename(target)
    return replace(made, size=size)


def _check_free(target: Path) -> None:
    if (target.exists() and not target.is_dir()) or (target.is_dir() and any(target.iterdir())):
        raise RefusedError(f"{target} is there already, and not an empty folder.", hint="Name another one with -o.")


def _lock_of(run: StoredRun, runs: RunStore) -> RunLock:
    run_id = run.record.run_id
    if not is_run_id(run_id):  # it goes into files that others execute
        raise DataMismatchError(f"runs/{run_id} is not the name of a run.")
    if run.record.status == "running":
        raise RefusedError(f"Run {run_id} is still running.", hint="Wait for its end.")
    lock = runs.lock(run)
    _check_fits(lock.environment)
    return lock


def _check_fits(environment: EnvironmentLock) -> None:
    """Raise unless what reprokit needs here would work in the image, beside the run's environment."""
    here = Interpreter.here()
    if environment.container is not None:
        raise EnvironmentMismatchError(
            f"The run's environment is the image {environment.container} itself: no other is written of it."
        )
    wanted = f"{environment.implementation} {_minor(_python(environment))} on {environment.platform}"
    found = f"{here.implementation} {_minor(here.version)} on {here.platform}"
    if wanted != found or not environment.platform.startswith("linux-"):
        raise EnvironmentMismatchError(
            f"The image would have {wanted}, and reprokit is installed here for {found}: its packages would not fit.",
            hint=f"Call a reprokit that is installed for {wanted}; images are of Linux alone.",
        )


def _python(environment: EnvironmentLock) -> str:
    """Return the version of Python that the base must have: the run's, or where that is conda's, one for reprokit."""
    return Interpreter.here().version if environment.conda else environment.python


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _base(environment: EnvironmentLock, base: str | None) -> str:
    if base is None and environment.implementation != "CPython":
        raise UsageError(f"No base image is known for {environment.implementation}.", hint="Name one with --base.")
    base = f"docker.io/library/python:{_python(environment)}-slim-bookworm" if base is None else base
    if not _REFERENCE.fullmatch(base):
        raise UsageError(
            f"{base!r} is not the name of an image.",
            hint="Name one with --base, such as docker.io/library/python@sha256:….",
        )
    return base


def _needs(environment: EnvironmentLock) -> str:
    version = _python(environment)
    return f"Python {_minor(version)}, for reprokit" if environment.conda else f"Python {version}, the run's"


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give a new folder beside the target; what is left of it at the end, or was left by a killed export, is removed.

    Raises:
        RefusedError: Another export is writing it now.
    """
    building = target.with_name(f".{target.name}.reprokit-building")
    building.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(f"Another export is writing {target} now.", hint="Wait for it.") from None
        try:
            for left in building.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield building
        finally:
            with contextlib.suppress(FileNotFoundError):
                if building.stat().st_ino == os.fstat(descriptor).st_ino:  # it was not moved to its place
                    shutil.rmtree(building, ignore_errors=True)
    finally:
        os.close(descriptor)


def _put_wheels(run: StoredRun, environment: EnvironmentLock, building: Path, context: Context) -> None:
    """Write the environment's lock, its wheels, and those of reprokit."""
    cache, progress = context.cache, context.progress
    vault = open_vault(run.manifest, context.registry)
    vault = vault._replace(wheels={**installed_wheels(environment.pip, cache=cache), **vault.wheels})
    offline = Config.is_offline()
    with progress.task("Gathering packages", environment.size, unit="packages") as advance:
        wheels = gather(
            environment.pip, interpreter=Interpreter.here(), cache=cache, vault=vault, offline=offline,
            progress=progress,
        )  # fmt: skip
        archives = _conda_archives(environment, vault, context, offline=offline)
        for folder in ("wheels", "conda", "reprokit"):
            (building / folder).mkdir()
        for wheel in wheels:
            shutil.copyfile(wheel, building / "wheels" / wheel.name)
            advance()
        for sha256, archive in archives.items():
            (building / "conda" / sha256).mkdir()
            shutil.copyfile(archive, building / "conda" / sha256 / archive.name)
            advance()
    declares = Declares(environment=environment.hash, data=sha256_of(None))
    pins = RecipeLock(declares=declares, environment=environment, data=[])
    (building / "environment.lock.json").write_bytes(pins.encode())
    tool = building / "reprokit"
    with progress.task("Packing reprokit", None):
        for wheel in tool_wheels(*(["py-rattler"] if archives else []), cache=cache, own=tool):
            if wheel.parent != tool:
                shutil.copyfile(wheel, tool / wheel.name)
    names = sorted(wheel.name.split("-")[:2] for wheel in tool.iterdir())
    (tool / "requirements.txt").write_text("".join(f"{name}=={version}\n" for name, version in names))


def _conda_archives(environment: EnvironmentLock, vault: Vault, context: Context, *, offline: bool) -> dict[str, Path]:
    """Return the archives of an environment's conda packages by their SHA-256, as the cache keeps them."""
    if not environment.conda:
        return {}
    files = gather_conda(
        environment.conda, archives=vault.archives, cache=context.cache, vault=vault.conda, offline=offline,
        progress=context.progress,
    )  # fmt: skip
    return {str(package.sha256): files[package.name] for package in environment.conda}


def _put_registry(run_id: str, folder: Path, context: Context) -> None:
    """Copy the run, its inputs and its checkpoints, verified, into a registry of their own."""
    stamp = Stamp(uuid=str(uuid.uuid5(_NAMESPACE, run_id)), time=_began(run_id) * 10**9, writer="reprokit export")
    target = LocalRegistry(folder, stamp=stamp)
    push(f"runs/{run_id}", source=context.registry, target=target, everything=True, progress=context.progress)
    for name in ("tmp", "running"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _began(run_id: str) -> int:
    """Return when a run began, in seconds since 1970: its ID says so."""
    return calendar.timegm(time.strptime(run_id[:15], "%Y%m%d-%H%M%S"))


def _settle(building: Path) -> int:
    """Give all files one time and plain modes: equal files then make equal layers. Return how many bytes they have."""
    total = 0
    for place, _, files in os.walk(building, topdown=False):
        for name in files:
            file = Path(place) / name
            file.chmod(0o644)
            os.utime(file, (_MOMENT, _MOMENT))
            total += file.stat().st_size
        Path(place).chmod(0o755)
        os.utime(place, (_MOMENT, _MOMENT))
    return total
