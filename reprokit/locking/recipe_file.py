"""Recipe files: read, parsed, and where their lock lies."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from reprokit.core.atomic_files import os_errors
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import (
    NotFoundError,
    RecipeError,
    UsageError,
)
from reprokit.schema.recipe import Recipe, from_plain

__all__ = ["parse", "read_recipe", "recipe_lock_path"]

_MAX_RECIPE = 1024 * 1024


def read_recipe(path: Path) -> Recipe:
    """Read and parse a recipe file.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It is too large, or not a recipe.
    """
    with os_errors(f"Reading the recipe {path}"):
        if not path.exists():
            raise NotFoundError(f"No recipe {path}.", hint=_nearest(path) or "`reprokit init SCRIPT` drafts one.")
        if path.suffix in (".py", ".ipynb"):
            other = _nearest(path.with_suffix(".yaml"))
            raise UsageError(
                f"{path} is a script, not a recipe.", hint=other or f"`reprokit init {path}` drafts a recipe for it."
            )
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name the recipe file in it.")
        with path.open("rb") as handle:
            return parse(handle.read(_MAX_RECIPE + 1), what=str(path))


def _nearest(path: Path) -> str | None:
    """Return which recipe may be meant: one of that name elsewhere, or of nearly that name."""
    folders = dict.fromkeys([path.parent, path.parent / "recipes"])
    found = {file.stem: file for folder in folders for file in sorted(folder.glob("*.y*ml"))[:200]}
    close = get_close_matches(path.stem, found, n=1, cutoff=0.6)
    return f"Did you mean {found[close[0]]}?" if close else None


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


def _kind(value: object) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "truth value"}.get(
        type(value), type(value).__name__
    )
