"""init, lock, schema."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click
import msgspec

from reprokit.cli.face import Face, common
from reprokit.core.canonical_json import canonical
from reprokit.locking.draft import draft
from reprokit.locking.git_tree import Repository
from reprokit.locking.recipe_file import recipe_lock_path
from reprokit.locking.recipe_lock import lock_recipe
from reprokit.schema.recipe import json_schema

__all__ = ["init", "lock", "schema"]


@click.command()
@click.argument("script", required=False)
@common
def init(face: Face, script: str | None) -> None:
    """Name the project's registry in .reprokit/config.yaml, and draft a recipe for SCRIPT, which may be a notebook.

    If SCRIPT reads a command line (argparse, click, typer, fire, absl, Hydra, Lightning's CLI, HfArgumentParser), its
    options become parameters that it gets as flags. It is read for that, not executed.
    """
    made = draft(script, registry=face.registry_option)
    names = [str(path) for path in made]
    told = "\n".join(f"made {name}" for name in names) or "nothing to do: give --registry or SCRIPT"
    if script is not None and made:  # the recipe comes last
        told += f"\nLook through it, commit it with the script, then: reprokit run {shlex.quote(names[-1])}"
    face.result({"made": names}, told)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--upgrade", is_flag=True, help="Solve a declared environment anew, though its files are unchanged.")
@click.option("--archives", is_flag=True, help="Ask the indexes where installed wheels are, with their hashes.")
@common
def lock(face: Face, recipe: Path, upgrade: bool, archives: bool) -> None:
    """Pin RECIPE's environment and data in a lock beside it, and say what moved.

    `environment: current` takes what is installed. A declared environment is solved: an environment.yml by conda's
    solver, a requirements file or pyproject.toml by pip, from what channels and indexes offer now.
    """
    root = Repository(recipe.absolute().parent).root
    made, changes = lock_recipe(recipe, context=face.context(), root=root, upgrade=upgrade, archives=archives)
    lines = [f"  environment  {made.environment.hash[:8]}  {made.environment.size} packages"]
    lines += [f"    {change}" for change in changes.environment]
    moved = {name: before for name, before, _ in changes.data}
    for pin in made.data:
        before = moved.get(pin.name, pin.top_hash)
        note = "" if pin.name not in moved else " (new)" if before is None else f" (was {before[:8]})"
        lines.append(f"  data.{pin.name}  {pin}{note}")
    file = recipe_lock_path(recipe)
    face.result(json.loads(canonical(msgspec.to_builtins(made))), [f"locked {file}", *lines])


@click.command()
@common
def schema(face: Face) -> None:
    """Print the JSON Schema of recipes."""
    face.result(json_schema(), lambda: json.dumps(json_schema(), indent=1))
