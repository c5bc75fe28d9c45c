"""init, lock, schema."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from reprokit.cli.face import Face, common
from reprokit.core.canonical_json import canonical
from reprokit.core.config import CONFIG_FILE
from reprokit.errors import NotFoundError, RefusedError
from reprokit.locking.git_tree import Repository
from reprokit.locking.recipe_lock import lock_recipe, recipe_lock_path
from reprokit.schema.recipe import json_schema

__all__ = ["init", "lock", "schema"]

_DRAFT = """\
name: {name}
code: {{{kind}: {script}}}
environment: current
data: {{}}                        # images: {{package: vision/cifar10, path: data/cifar10}}
params: {{}}                      # epochs: 3; the script reads them with reprokit.params()
execution: {{seed: 42, determinism: strict}}
checkpoints: {{package: {name}/model}}
outputs: []                     # files that the script writes, such as metrics.json
"""


@click.command()
@click.argument("script", required=False)
@common
def init(face: Face, script: str | None) -> None:
    """Name the project's registry in .reprokit/config.yaml, and draft a recipe for SCRIPT, which may be a notebook."""
    root = Repository(Path.cwd()).root
    made = []
    config = root / CONFIG_FILE
    if face.registry_option and not config.exists():
        config.parent.mkdir(exist_ok=True)
        config.write_text(f"registry: {json.dumps(face.registry_option)}\n")
        made.append(str(config))
    if script is not None:
        if not Path(script).is_file():
            raise NotFoundError(f"No script {script}.", hint="Name an existing Python file or notebook.")
        relative = Repository(Path.cwd()).relative(Path(script))
        name = Path(script).stem.replace(".", "-")
        recipe = root / "recipes" / f"{name}.yaml"
        if recipe.exists():
            raise RefusedError(f"{recipe} exists; nothing was written.", hint="Edit it, or move it away.")
        recipe.parent.mkdir(exist_ok=True)
        kind = "notebook" if relative.endswith(".ipynb") else "entrypoint"
        recipe.write_text(_DRAFT.format(name=name, kind=kind, script=relative))
        made.append(str(recipe))
    face.result(
        {"made": made}, "\n".join(f"made {path}" for path in made) or "nothing to do: give --registry or SCRIPT"
    )


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
    made, changes = lock_recipe(
        recipe, registry=face.registry(), root=root, cache=face.config.cache, upgrade=upgrade, archives=archives,
        progress=face,
    )  # fmt: skip
    lines = [f"  environment  {made.environment.hash[:8]}  {made.environment.size} packages"]
    lines += [f"    {change}" for change in changes.environment]
    moved = {name: before for name, before, _ in changes.data}
    for pin in made.data:
        before = moved.get(pin.name, pin.top_hash)
        note = "" if pin.name not in moved else " (new)" if before is None else f" (was {before[:8]})"
        lines.append(f"  data.{pin.name}  {pin}{note}")
    file = recipe_lock_path(recipe)
    face.result(json.loads(canonical(msgspec.to_builtins(made))), "\n".join([f"locked {file}", *lines]))


@click.command()
@common
def schema(face: Face) -> None:
    """Print the JSON Schema of recipes."""
    face.result(json_schema(), lambda: json.dumps(json_schema(), indent=1))
