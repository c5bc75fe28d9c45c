"""From a recipe and the world as it is now to a lock."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.environment.capture import Captured, capture
from reprokit.environment.container import Container, open_container
from reprokit.environment.declared import declared_files
from reprokit.environment.pip.index import with_archives
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.realise import realise
from reprokit.errors import (
    DataMismatchError,
    EnvironmentMismatchError,
    RefusedError,
)
from reprokit.locking.inputs import pin_data
from reprokit.locking.recipe_file import read_recipe, recipe_lock_path
from reprokit.locking.secret_check import SecretCheck
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.runs.store import RunStore
from reprokit.schema.lock import (
    Archive,
    CodeIdentity,
    DataPin,
    Declares,
    EnvironmentLock,
    PackageChange,
    RecipeLock,
    RunLock,
)
from reprokit.schema.recipe import Environment, Recipe

__all__ = ["LockChanges", "Ready", "lock_recipe", "lock_run", "ready_for"]

_PYTHON = Path("python")  # of an image: whatever it has on its PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class LockChanges:
    """What moved between two recipe locks."""

    first: bool
    environment: tuple[PackageChange, ...]
    data: tuple[tuple[str, str | None, str], ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """A locked environment that can be run in.

    Attributes:
        changed: Files of packages that were edited since they were installed, by package.
        archives: Where its packages were found.
        container: What it is executed in; `python` is then a program of that.
        remarks: What of it no archive has, and what to do.
    """

    python: Path
    changed: dict[str, list[str]]
    archives: Sequence[Archive]
    container: Container | None = None
    remarks: Sequence[str] = ()


def lock_recipe(
    path: Path, *, context: Context, root: Path, upgrade: bool = False, archives: bool = False
) -> tuple[RecipeLock, LockChanges]:
    """Pin a recipe, write the lock beside it, and say what moved since the last one.

    Args:
        upgrade: Solve a declared environment anew also where the files that declare it are unchanged.
        archives: Ask the indexes where the wheels of an environment that was not solved are.
    """
    recipe = read_recipe(path)
    SecretCheck(recipe).refuse()
    file = recipe_lock_path(path)
    before = RecipeLock.decode(file.read_bytes(), what=str(file)) if file.exists() else None
    declares = _declares(recipe, root)
    unchanged = (
        before is not None and declares.environment is not None and before.declares.environment == declares.environment
    )
    if before is not None and unchanged and not upgrade:
        environment, known = before.environment, before.archives
    else:
        environment, known, ready = _environment(recipe, root, context)
        if archives and ready is not None and ready.container is None:
            known = with_archives(environment, known, cache=context.cache, progress=context.progress)
    lock = _pinned(recipe, declares, environment, known, registry=context.registry)
    with os_errors(f"Writing {file}"):
        durable_write(file, lock.encode())
    return lock, _changes(before, lock)


def _declares(recipe: Recipe, root: Path) -> Declares:
    files = declared_files(recipe.environment, root) if isinstance(recipe.environment, Environment) else {}
    return Declares.of(recipe, files)


def _environment(recipe: Recipe, root: Path, context: Context) -> tuple[EnvironmentLock, list[Archive], Ready | None]:
    """Return the environment that a recipe declares, solved now, or the one here, which can be run in as it is."""
    if isinstance(recipe.environment, Environment) and recipe.environment.declared:
        from reprokit.environment.solve import solve  # with two resolvers

        solved = solve(recipe.environment, root=root, cache=context.cache, progress=context.progress)
        return solved.environment, solved.archives, None
    if recipe.image is not None:
        container = open_container(recipe.image, progress=context.progress)
        return container.environment(), [], Ready(_PYTHON, {}, (), container)
    here = capture(context.cache, code=root)
    return here.lock, here.archives, _as_it_is(here)


def _as_it_is(here: Captured, *, archives: Sequence[Archive] = ()) -> Ready:
    return Ready(Path(sys.executable), here.changed, archives or here.archives, remarks=here.remarks())


def _pinned(
    recipe: Recipe,
    declares: Declares,
    environment: EnvironmentLock,
    archives: list[Archive],
    *,
    registry: Registry,
) -> RecipeLock:
    return RecipeLock(
        declares=declares,
        environment=environment,
        data=pin_data(recipe, registry=registry, runs=RunStore(registry)),
        archives=archives,
    )


def _changes(before: RecipeLock | None, after: RecipeLock) -> LockChanges:
    known: dict[str, DataPin] = {pin.name: pin for pin in before.data} if before else {}
    moved = [
        (pin.name, known[pin.name].top_hash if pin.name in known else None, pin.top_hash)
        for pin in after.data
        if pin.name not in known or known[pin.name].top_hash != pin.top_hash
    ]
    environment = before.environment.changes_to(after.environment) if before else []
    return LockChanges(first=before is None, environment=tuple(environment), data=tuple(moved))


def recipe_lock_for(
    path: Path, recipe: Recipe, *, context: Context, root: Path, exact: bool
) -> tuple[RecipeLock, Ready]:
    """Return the lock beside a recipe, or a fresh one where there is none, and the environment to run it in.

    Args:
        exact: Make the locked environment where this one differs; otherwise the one found is pinned instead.
    Raises:
        RefusedError: The recipe's data or environment changed since it was locked.
        EnvironmentMismatchError: The locked environment is not this one, and cannot be made.
    """
    file = recipe_lock_path(path)
    if not file.exists():
        lock = None
    else:
        lock = RecipeLock.decode(file.read_bytes(), what=str(file))
        if lock.declares != _declares(recipe, root):
            raise RefusedError(
                f"{file} is out of date: the recipe's data or environment changed since it was locked.",
                hint=f"Run `reprokit lock {path}`, and commit the lock.",
            )
    if not exact:
        here = capture(context.cache, code=root)
        found = _as_it_is(here)
        if lock is None:
            return _pinned(recipe, _declares(recipe, root), here.lock, here.archives, registry=context.registry), found
        return msgspec.structs.replace(lock, environment=here.lock, archives=here.archives), found
    ready = None
    if lock is None:
        environment, archives, ready = _environment(recipe, root, context)
        if ready is None:
            context.progress.note(f"The environment was solved anew; `reprokit lock {path}` keeps what was chosen.")
        lock = _pinned(recipe, _declares(recipe, root), environment, archives, registry=context.registry)
    if ready is None:
        vault = Vault(archives=lock.archives)
        ready = ready_for(lock.environment, context=context, what=str(file), vault=vault, image=recipe.image)
    return lock, ready


def ready_for(
    locked: EnvironmentLock,
    *,
    context: Context,
    what: str,
    vault: Vault | None = None,
    image: str | None = None,
) -> Ready:
    """Return a locked environment to run in: this process's own if that is it, else one that is made.

    Args:
        what: Whose environment it is, for errors.
        image: Where it is a container, how its recipe names that.
    Raises:
        DataMismatchError: The recipe names another image than was locked.
        EnvironmentMismatchError: It cannot be made; the packages in which this one differs are named too.
    """
    if locked.container is not None:
        if image is None or image.partition("@")[2] != locked.container:
            raise DataMismatchError(f"The environment of {what} is {locked.container}, and its recipe names {image}.")
        return Ready(_PYTHON, {}, (), open_container(image, progress=context.progress))
    here = capture(context.cache)
    changes = locked.changes_to(here.lock)
    if not changes:
        return _as_it_is(here, archives=vault.archives if vault else ())
    shown = ", ".join(str(change) for change in changes[:3]) + (", …" if len(changes) > 3 else "")
    differ = "package differs" if len(changes) == 1 else "packages differ"
    context.progress.note(
        f"The environment of {what} is not this one: {len(changes)} {differ} ({shown}). The locked one, of "
        f"{locked.size}, is used; for the one here: --env current of a run, --with env=current of "
        "a reproduction."
    )
    try:
        python = realise(locked, cache=context.cache, vault=vault, progress=context.progress)
    except EnvironmentMismatchError as error:
        shown = "".join(f"\n  {change}" for change in changes[:10])
        more = f"\n  … and {len(changes) - 10} more" if len(changes) > 10 else ""
        raise EnvironmentMismatchError(
            f"The environment of {what} cannot be made: {error.message}\n"
            f"The one here differs in {len(changes)} package(s):{shown}{more}",
            hint=f"{error.hint or ''} Or accept the one here: --env current for a run, --with env=current for a "
            "reproduction.".strip(),
        ) from None
    return Ready(python, {}, vault.archives if vault else ())


def lock_run(recipe: Recipe, code: CodeIdentity, pins: RecipeLock) -> RunLock:
    """Return the whole declared experiment; threads that the recipe leaves open become this process's cores."""
    execution = recipe.execution
    if execution.threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        execution = msgspec.structs.replace(execution, threads=cores)
    return RunLock(
        recipe=recipe,
        code=code,
        environment=pins.environment,
        data=pins.data,
        params=dict(recipe.params),
        execution=execution,
    )
