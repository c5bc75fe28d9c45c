"""From a recipe and the world as it is now to a lock."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reprokit.data import pin_data
from reprokit.environment.capture import Captured, capture, check_requirements
from reprokit.environment.realise import realise
from reprokit.environment.wheelhouse import Vault
from reprokit.errors import EnvironmentMismatchError, NotFoundError, RecipeError, RefusedError, UsageError
from reprokit.lock import CodeIdentity, DataPin, EnvironmentLock, PackageChange, RecipeLock, RunLock
from reprokit.paths import durable_write, os_errors
from reprokit.plain_yaml import load_yaml
from reprokit.progress import SILENT, Progress
from reprokit.recipe import Environment, Recipe, from_plain
from reprokit.registry import Registry
from reprokit.runs import RunStore

__all__ = ["LockChanges", "Ready", "lock_recipe", "lock_run", "parse", "read_recipe", "ready_for", "recipe_lock_path"]

_MAX_RECIPE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LockChanges:
    """What moved between two recipe locks."""

    first: bool
    environment: tuple[PackageChange, ...]
    data: tuple[tuple[str, str | None, str], ...]


def read_recipe(path: Path) -> Recipe:
    """Read and parse a recipe file.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It is too large, or not a recipe.
    """
    with os_errors(f"Reading the recipe {path}"):
        if not path.exists():
            raise NotFoundError(f"No recipe {path}.", hint="`reprokit init SCRIPT` drafts one.")
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name the recipe file in it.")
        with path.open("rb") as handle:
            return parse(handle.read(_MAX_RECIPE + 1), what=str(path))


def parse(data: bytes, *, what: str = "recipe") -> Recipe:
    """Return the recipe that YAML bytes declare.

    Args:
        what: Names the source in errors, usually its path.
    Raises:
        RecipeError: Not YAML, empty, or as `from_plain` raises.
    """
    value = load_yaml(data, what=what)
    if value is None:
        raise RecipeError(f"{what} is empty.", hint="`reprokit init SCRIPT` drafts a recipe.")
    if not isinstance(value, dict):
        raise RecipeError(f"{what} must be a mapping with the keys name and code, not a {_kind(value)}.")
    return from_plain(value, what=what)


def recipe_lock_path(recipe: Path) -> Path:
    """Return where a recipe's lock lies: `recipe.yaml` → `recipe.lock.json`."""
    return recipe.with_name(f"{recipe.stem}.lock.json")


@dataclass(frozen=True, slots=True)
class Ready:
    """A locked environment that can be run in.

    Attributes:
        changed: Files of packages that were edited since they were installed, by package.
    """

    python: Path
    changed: dict[str, list[str]]


def _pinned(recipe: Recipe, environment: EnvironmentLock, *, registry: Registry) -> RecipeLock:
    return RecipeLock(
        declares=RecipeLock.declaration(recipe),
        environment=environment,
        data=pin_data(recipe, registry=registry, runs=RunStore(registry)),
    )


def _environment_here(recipe: Recipe, *, root: Path, cache: Path | None) -> Captured:
    captured = capture(cache)
    _check_declared(recipe, captured.lock, root)
    return captured


def _check_declared(recipe: Recipe, environment: EnvironmentLock, root: Path) -> None:
    """Raise unless an environment is what the recipe's requirements file asks for, if it names one."""
    if isinstance(recipe.environment, Environment) and recipe.environment.pip is not None:
        file = root / recipe.environment.pip
        with os_errors(f"Reading {file}"):
            text = file.read_text(encoding="utf-8")
        check_requirements(text, environment=environment, what=recipe.environment.pip)


def lock_recipe(path: Path, *, registry: Registry, root: Path, cache: Path | None) -> tuple[RecipeLock, LockChanges]:
    """Pin a recipe anew, write the lock beside it, and say what moved since the last one."""
    recipe = read_recipe(path)
    lock = _pinned(recipe, _environment_here(recipe, root=root, cache=cache).lock, registry=registry)
    file = recipe_lock_path(path)
    before = RecipeLock.decode(file.read_bytes(), what=str(file)) if file.exists() else None
    with os_errors(f"Writing {file}"):
        durable_write(file, lock.encode())
    return lock, _changes(before, lock)


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
    path: Path,
    recipe: Recipe,
    *,
    registry: Registry,
    root: Path,
    cache: Path,
    exact: bool,
    progress: Progress = SILENT,
) -> tuple[RecipeLock, Ready]:
    """Return the lock beside a recipe, or a fresh one where there is none, and the environment to run it in.

    Args:
        exact: Make the locked environment where this one differs; otherwise the one found is pinned instead.
    Raises:
        RefusedError: The recipe's data or environment changed since it was locked.
        EnvironmentMismatchError: The locked environment is not this one, and cannot be made.
    """
    file, here = recipe_lock_path(path), Path(sys.executable)
    if not file.exists():
        found = _environment_here(recipe, root=root, cache=cache)
        return _pinned(recipe, found.lock, registry=registry), Ready(here, found.changed)
    lock = RecipeLock.decode(file.read_bytes(), what=str(file))
    if lock.declares != RecipeLock.declaration(recipe):
        raise RefusedError(
            f"{file} is out of date: the recipe's data or environment changed since it was locked.",
            hint=f"Run `reprokit lock {path}`, and commit the lock.",
        )
    if exact:
        _check_declared(recipe, lock.environment, root)  # the file may have changed since
        return lock, ready_for(lock.environment, cache=cache, what=str(file), progress=progress)
    found = _environment_here(recipe, root=root, cache=cache)
    return msgspec.structs.replace(lock, environment=found.lock), Ready(here, found.changed)


def ready_for(
    locked: EnvironmentLock, *, cache: Path, what: str, vault: Vault | None = None, progress: Progress = SILENT
) -> Ready:
    """Return a locked environment to run in: this process's own if that is it, else one that is made.

    Args:
        what: Whose environment it is, for errors.
    Raises:
        EnvironmentMismatchError: It cannot be made; the packages in which this one differs are named too.
    """
    here = capture(cache)
    changes = locked.changes_to(here.lock)
    if not changes:
        return Ready(Path(sys.executable), here.changed)
    try:
        python = realise(locked, cache=cache, vault=vault, progress=progress)
    except EnvironmentMismatchError as error:
        shown = "".join(f"\n  {change}" for change in changes[:20])
        more = f"\n  … and {len(changes) - 20} more" if len(changes) > 20 else ""
        raise EnvironmentMismatchError(
            f"The environment here differs from {what} in {len(changes)} package(s):{shown}{more}\n"
            f"It cannot be made: {error.message}",
            hint=f"{error.hint or ''} Or accept this one: --env current for a run, --with env=current for a "
            "reproduction.".strip(),
        ) from None
    progress.note(f"The environment of {what} differs from this one in {len(changes)} package(s); it was made anew.")
    return Ready(python, {})


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


def _kind(value: object) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "truth value"}.get(
        type(value), type(value).__name__
    )
