"""init, import, lock, schema."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from reprokit.cli.face import Face, common
from reprokit.cli.text.draft import draft_text
from reprokit.core.canonical_json import canonical
from reprokit.execution.drafting.callback_lines import with_callback_lines
from reprokit.execution.drafting.draft import draft
from reprokit.execution.drafting.dvc import import_dvc
from reprokit.execution.drafting.proposals import Input
from reprokit.locking.git_tree import Repository
from reprokit.locking.recipe_file import recipe_lock_path
from reprokit.locking.recipe_lock import lock_recipe
from reprokit.packages.build import build as build_package
from reprokit.schema.recipe import json_schema

__all__ = ["import_", "init", "lock", "schema"]


@click.command()
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--for",
    "limit",
    metavar="SECONDS",
    type=click.FloatRange(min=1),
    default=120.0,
    help="Stop it after so many seconds; 120.",
)
@click.option("--no-run", is_flag=True, help="Draft from the script's text alone; do not run it.")
@click.option("--build/--no-build", default=None, help="Build the packages that the recipe names; asked on a terminal.")
@click.option("--callback", is_flag=True, help="Write the callback's lines into the script, which are shown otherwise.")
@common
def init(
    face: Face,
    script: str | None,
    arguments: tuple[str, ...],
    limit: float,
    no_run: bool,
    build: bool | None,
    callback: bool,
) -> None:
    """Name the project's registry in .reprokit/config.yaml, and draft a recipe for SCRIPT, which may be a notebook.

    SCRIPT is run once, here, as `python SCRIPT ARGUMENTS…` (put them after `--`), to see what it reads and writes.
    What it reads and git does not have becomes packages and inputs, what it writes outputs, which git is told to
    ignore. Ctrl-C ends that early, and what was seen is drafted.

    If SCRIPT reads a command line (argparse, click, typer, fire, absl, Hydra, Lightning's CLI, HfArgumentParser), its
    options become parameters that it gets as flags.
    """
    observed = script is not None and not no_run and not script.endswith(".ipynb")
    if observed:
        told = shlex.join(["python", str(script), *arguments])
        face.note(f"Running `{told}` here once, to see what it reads and writes: {limit:g} s at most, Ctrl-C ends it.")
    screen = sys.stderr.buffer if observed and not face.quiet else None
    made = draft(
        script, arguments=arguments, registry=face.registry_option, limit=limit if observed else 0, screen=screen,
        callback=callback,
    )  # fmt: skip
    if callback and script is not None and not made.made:
        edited = with_callback_lines(Path(script).read_bytes()) if made.patch is not None else None
        if edited is not None:
            Path(script).write_bytes(edited)
        told = f"{script} saves its checkpoints now: look at `git diff {shlex.quote(script)}`."
        nothing = f"{script} has no loop, fit or trainer that lines are known for, or has them: it is as it was."
        face.result(made.plain(), told if edited is not None else nothing)
        return
    if script is None or not made.made:
        told = "\n".join(f"made {path}" for path in made.made) or "nothing to do: give --registry or SCRIPT"
        face.result(made.plain(), told)
        return
    built = _built(face, made.inputs, build)
    if callback and (edited := with_callback_lines(Path(script).read_bytes())) is not None and made.patch is not None:
        Path(script).write_bytes(edited)
    face.result({**made.plain(), "built": built}, lambda: draft_text(made, script, built=built, applied=callback))


def _built(face: Face, inputs: Sequence[Input], build: bool | None) -> list[str]:
    """Build the packages that a draft names, if that is wanted; return their names."""
    if not inputs or build is False:
        return []
    if build is None:
        if face.as_json or not sys.stdin.isatty():
            return []
        for item in inputs:
            face.note(f"  {item.command}    {item.told} read")
        if not click.confirm("Build these packages now?", default=True, err=True):
            return []
    root = Repository(Path.cwd()).root
    registry = face.registry()
    for item in inputs:
        build_package(root / item.source, item.package, registry=registry, progress=face)
    return [item.package for item in inputs]


@click.group("import")
def import_() -> None:
    """Take over a project of another tool."""


@import_.command("dvc")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path())
@click.option("--namespace", help="Of the packages; the folder's name unless given.")
@common
def import_dvc_command(face: Face, folder: Path, namespace: str | None) -> None:
    """Build a package of what each .dvc file in FOLDER names, and write a recipe for each stage into recipes/.

    Stages are those of dvc.lock, else of dvc.yaml; what one makes for another is an output of a run of its name. Bytes
    come from the working tree or DVC's cache, and have the MD5 that DVC knows. DVC is not needed, and nothing of it is
    changed.
    """
    made = import_dvc(folder, namespace=namespace, context=face.context())
    here = Path.cwd()
    lines = [f"built {name}@{top_hash[:8]}" for name, top_hash in made.packages.items()]
    lines += [f"made {os.path.relpath(path, here)}" for path in made.recipes]
    lines += [f"note: {note}" for note in made.notes]
    if made.recipes:
        lines += ["Look through the recipes and commit them, then, in this order:"]
        lines += [f"  reprokit run {shlex.quote(os.path.relpath(path, here))}" for path in made.recipes]
    face.result(made.plain(), lines)


@import_.command("mlflow")
@click.argument("store", type=click.Path(path_type=Path), default=Path("mlruns"))
@click.option("--experiment", help="Take the runs of this one alone.")
@common
def import_mlflow_command(face: Face, store: Path, experiment: str | None) -> None:
    """Record every run of STORE, a folder mlruns or an SQLite file of MLflow's: parameters, metrics, tags, artifacts.

    They are listed, shown and compared like others, and cannot be reproduced: nothing pins their code and data.
    Importing again takes what is new. MLflow is not needed, and nothing of it is changed.
    """
    _imported(face, "mlflow_store.import_mlflow", store, experiment=experiment)


@import_.command("tensorboard")
@click.argument("logdir", type=click.Path(path_type=Path))
@common
def import_tensorboard_command(face: Face, logdir: Path) -> None:
    """Record every folder with event files at or below LOGDIR as a run: its scalars by step, its hparams.

    They are listed, shown and compared like others, and cannot be reproduced: nothing pins their code and data.
    Importing again takes what is new. TensorBoard is not needed, and nothing in LOGDIR is changed.
    """
    _imported(face, "tensorboard.import_tensorboard", logdir)


@import_.command("wandb")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("wandb"))
@common
def import_wandb_command(face: Face, folder: Path) -> None:
    """Record every run that W&B wrote into FOLDER, `wandb` or one in it: configuration, history, summary, files.

    They are listed, shown and compared like others, and cannot be reproduced: nothing pins their code and data.
    Importing again takes what is new. W&B is not needed, nor an account, and nothing in FOLDER is changed.
    """
    _imported(face, "wandb.import_wandb", folder)


def _imported(face: Face, function: str, place: Path, **options: Any) -> None:
    """Import runs of another tool and say what came over."""
    module, _, name = function.rpartition(".")
    # numpy is loaded for an import alone
    take = getattr(importlib.import_module(f"reprokit.recording.foreign.{module}"), name)
    made = take(place, context=face.context(), **options)
    new = len(made.runs) - len(made.known)
    lines = [f"imported {new} run(s) into {face.registry().url}; {len(made.known)} had come before"]
    lines += [f"note: {note}" for note in made.notes]
    face.result(made.plain(), [*lines, "  reprokit ls --limit 10"])


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
