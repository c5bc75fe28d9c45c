"""Lock a recipe as it stands, and store its code: everything that an execution needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from reprokit.core.package_root import IMPORT_ROOT
from reprokit.environment.capture import importable_folders
from reprokit.environment.declared import own_projects
from reprokit.environment.vault import VaultOrder, store_archives
from reprokit.errors import NotFoundError, RecipeError
from reprokit.locking.code_entries import code_entries
from reprokit.locking.git_tree import Repository
from reprokit.locking.prepared import Prepared
from reprokit.locking.recipe_file import read_recipe, recipe_lock_path
from reprokit.locking.recipe_lock import Ready, lock_run, recipe_lock_for
from reprokit.locking.secret_check import SecretCheck
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.schema import recipe as recipes
from reprokit.schema.lock import RecipeLock
from reprokit.schema.manifest import Entry
from reprokit.schema.notebook import Notebook
from reprokit.schema.recipe import Environment, Recipe

__all__ = ["Choices", "check_entrypoint", "ignored_python_path", "prepare", "shared_environment", "with_params"]


class Choices(TypedDict, total=False):
    """What is chosen about a run beside its recipe.

    `params` overrides parameters that the recipe declares, `seed` its seed, `name` the run's name. `env`: `exact` makes
    or refuses an environment that differs from the recipe's lock file, `current` pins the one found. `allow_dirty`
    captures uncommitted changes in the record; `in_place` executes in the working tree itself, which is marked.
    """

    params: Mapping[str, Any]
    seed: int | None
    env: str
    allow_dirty: bool
    in_place: bool
    name: str | None


def prepare(
    path: Path, choices: Choices, *, context: Context, into: Registry | None = None, store: bool = True
) -> Prepared:
    """Lock a recipe as it stands, and store its code (with `store`).

    Args:
        context: Its registry is what the data is pinned from.
        into: Where the code goes; the same registry by default.
    Raises:
        TypeError: There is no such choice.
    """
    for choice in choices.keys() - Choices.__annotations__.keys():
        raise TypeError(f"There is no choice {choice!r}; there are {', '.join(Choices.__annotations__)}.")
    registry, progress = context.registry, context.progress
    in_place = choices.get("in_place", False)
    dirty = in_place or choices.get("allow_dirty", False)
    recipe = with_params(read_recipe(path), choices.get("params", {}), choices.get("seed"))
    repository = Repository(path.absolute().parent)
    check = SecretCheck(recipe, file=repository.relative(path.absolute()))
    check.refuse()
    ignore = repository.relative(recipe_lock_path(path.absolute()))
    notebook = recipe.code.notebook
    with repository.capture(allow_dirty=dirty, ignore=(ignore,), notebook=notebook) as capture:
        check_entrypoint(recipe, {blob.path for blob in capture.blobs}, repository.root)
        with progress.task("Capturing the environment", None):
            exact = choices.get("env", "exact") == "exact"
            pins, ready = recipe_lock_for(path, recipe, context=context, root=repository.root, exact=exact)
        own = own_projects(recipe.environment, repository.root) if isinstance(recipe.environment, Environment) else []
        folders = dict.fromkeys([*importable_folders(repository.root), *own])
        code = msgspec.structs.replace(capture.identity, python_path=[*folders])
        lock = lock_run(recipe, code, pins)
        entries: list[Entry] = []
        warnings: list[str] = []
        if store:
            with progress.task("Storing the code", None), (into or registry).staging() as sink:
                written = path.read_bytes()
                check.file(repository.relative(path.absolute()), written, where="recipe.yaml")
                entries, warnings = code_entries(repository, capture, sink, check=check)
                for key, data in (("recipe.yaml", written), ("code.patch", capture.patch)):
                    if data:
                        digest, size = sink.put_bytes(data)
                        entries.append(Entry(key, size, digest))
                entries += store_archives(ready.archives, sink)
                warnings += _changed_packages(ready)
        facts = capture.facts
    if not recipe_lock_path(path).exists():
        warnings += shared_environment()
    warnings += ignored_python_path(repository.root)
    if notebook is not None and capture.notebook is not None:
        warnings += Notebook.parse(capture.notebook, what=notebook).warnings(notebook)
    return Prepared(
        lock=lock,
        entries=entries,
        code=facts,
        name=choices.get("name") or recipe.name,
        warnings=warnings,
        in_place=repository.root if in_place else None,
        tree=repository.root,
        python=ready.python,
        container=ready.container,
        vault=_vault_order(recipe, pins, ready, context.cache) if store else None,
    )


def _changed_packages(ready: Ready) -> list[str]:
    """Return what is to be said of packages that are not as they were installed."""
    return [
        f"{name} was changed since it was installed: {', '.join(files[:3])}"
        + (f" and {len(files) - 3} more files" if len(files) > 3 else "")
        for name, files in sorted(ready.changed.items())
    ] + [*ready.remarks]


def _vault_order(recipe: Recipe, pins: RecipeLock, ready: Ready, cache: Path) -> VaultOrder | None:
    """Return which packages the recipe wants kept; None if there are none to keep."""
    which = recipe.environment.vault if isinstance(recipe.environment, Environment) else "unserved"
    if which == "none" or ready.container is not None:
        return None
    return VaultOrder(lock=pins.environment, which=which, changed=ready.changed, python=ready.python, cache=cache)


def shared_environment() -> list[str]:
    """Return a warning if reprokit runs in a system's Python, or in conda's base environment."""
    if (Path(sys.prefix) / "conda-meta").is_dir():
        base = (Path(sys.prefix) / "condabin").is_dir()
        return [f"This is conda's base environment, {sys.prefix}: it changes as conda does."] if base else []
    if sys.prefix == sys.base_prefix:
        return [f"This is not a virtual environment: {sys.prefix} is shared with other work."]
    return []


def ignored_python_path(root: Path) -> list[str]:
    """Return a warning for folders on PYTHONPATH that are neither code of this repository nor environment."""
    places = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    dropped = [str(place) for place in places if place != IMPORT_ROOT and not place.is_relative_to(root.resolve())]
    if not dropped:
        return []
    return [f"PYTHONPATH is not part of the locked environment; the script does not get {', '.join(dropped)}."]


def with_params(recipe: Recipe, params: Mapping[str, Any], seed: int | None) -> Recipe:
    """Return the recipe with parameters and seed replaced; a parameter that it does not declare is refused."""
    for key in params:
        if key not in recipe.params:
            close = get_close_matches(key, recipe.params, n=1)
            guess = f"Did you mean {close[0]!r}? " if close else ""
            raise RecipeError(
                f"The recipe declares no parameter {key!r}.",
                hint=f"{guess}Declared: {', '.join(recipe.params) or 'none'}.",
            )
    plain = recipes.to_plain(recipe)
    if params:
        plain["params"] = {**recipe.params, **params}
    if seed is not None:
        plain["execution"] = {**plain.get("execution", {}), "seed": seed}
    return recipes.from_plain(plain)


def check_entrypoint(recipe: Recipe, files: set[str], root: Path) -> None:
    """Raise unless git tracks the script or notebook of a recipe."""
    field = "entrypoint" if recipe.code.notebook is None else "notebook"
    executed = getattr(recipe.code, field)
    if executed is None or executed in files:
        return
    if (root / executed).exists():
        raise NotFoundError(f"code.{field}: {executed} is not tracked by git.", hint=f"Run `git add {executed}`.")
    close = get_close_matches(executed, files, n=1)
    guess = f"Did you mean {close[0]}?" if close else "Paths are relative to the repository root."
    raise NotFoundError(f"code.{field}: {executed} is not in the repository {root}.", hint=guess)
