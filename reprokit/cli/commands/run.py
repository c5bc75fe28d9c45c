"""run, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reprokit.cli.face import Face, common
from reprokit.cli.text.record import checkpoint_line, run_text
from reprokit.core.config import Config
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import InterruptedRunError, RefusedError, UsageError, UserCodeError
from reprokit.execution.resume import resume as resume_run
from reprokit.execution.run import run as run_recipe
from reprokit.locking.prepare import prepare
from reprokit.recording.checkpoint_saver import Observer
from reprokit.registry import open_registry
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["FaceObserver", "parse_params", "resume", "run"]


class FaceObserver(Observer):
    """Says each checkpoint as it is saved, and moves the bar over the epochs."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._saved: list[CheckpointEntry] = []

    def checkpoint(self, entry: CheckpointEntry, kind: str) -> None:
        if kind != "initial":
            self._saved.append(entry)
        self._face.note("  saved " + checkpoint_line(entry, kind, among=self._saved))

    def total_epochs(self, total: int) -> None:
        self._face.total_epochs(total)

    def epoch(self, epoch: int) -> None:  # noqa: ARG002 - the bar counts
        self._face.epoch_done()


def parse_params(items: tuple[str, ...]) -> dict[str, Any]:
    """Parse KEY=VALUE pairs; values are YAML scalars, lists or mappings."""
    found: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"-p {item}: write KEY=VALUE.")
        found[key] = load_yaml(value.encode(), what=f"-p {item}")
    return found


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="Override a parameter.")
@click.option("--seed", type=int, help="Override execution.seed.")
@click.option(
    "--env",
    type=click.Choice(["exact", "current"]),
    default="exact",
    show_default=True,
    help="With a lock file: refuse another environment, or take the one found.",
)
@click.option("--allow-dirty", is_flag=True, help="Capture uncommitted changes in the record.")
@click.option("--in-place", is_flag=True, help="Execute in the working tree, not in a clean workspace.")
@click.option("--name", help="Name the run.")
@click.option("--reuse", is_flag=True, help="Return a finished run of the same lock instead of repeating it.")
@click.option("--dry-run", is_flag=True, help="Lock, print the lock, run nothing.")
@common
def run(
    face: Face,
    recipe: Path,
    params: tuple[str, ...],
    seed: int | None,
    env: str,
    allow_dirty: bool,
    in_place: bool,
    name: str | None,
    reuse: bool,
    dry_run: bool,
) -> None:
    """Run RECIPE in a clean workspace and record code, environment, data, checkpoints and outputs."""
    if dry_run:
        config = Config.load(registry=face.registry_option, folder=recipe.absolute().parent)
        prepared = prepare(
            recipe, config=config, registry=open_registry(config.registry), params=parse_params(params), seed=seed,
            exact=env == "exact", allow_dirty=allow_dirty, in_place=in_place, name=name, progress=face, store=False,
        )  # fmt: skip
        plain = {"lock_hash": prepared.lock.hash, "code": prepared.lock.code.tree,
                 "environment": prepared.lock.environment.hash,
                 "data": {pin.name: f"{pin.package}@{pin.top_hash}" + (f":{pin.within}" if pin.within else "")
                          for pin in prepared.lock.data},
                 "params": prepared.lock.params}  # fmt: skip
        face.result(plain, lambda: "\n".join(f"  {key:<12} {value}" for key, value in plain.items()))
        return
    with face.epochs():
        record = run_recipe(
            recipe,
            registry=face.registry_option,
            params=parse_params(params),
            seed=seed,
            env=env,
            allow_dirty=allow_dirty,
            in_place=in_place,
            name=name,
            reuse=reuse,
            progress=face,
            observer=FaceObserver(face),
            echo=face.write,
        )
    face.result(record.plain(), lambda: run_text(record))
    raise_for_status(record)


@click.command()
@click.argument("run_ref", metavar="RUN[@CHECKPOINT]")
@common
def resume(face: Face, run_ref: str) -> None:
    """Go on with an interrupted or failed run from its last checkpoint, or from the one named: RUN@epoch=3.

    The run keeps its ID, code, environment and data; what it ends with is what it would have ended with. Files that the
    script wrote at declared output paths are there again; what else it wrote is not.
    """
    with face.epochs():
        record = resume_run(
            run_ref, registry=face.registry_option, progress=face, observer=FaceObserver(face), echo=face.write
        )
    face.result(record.plain(), lambda: run_text(record))
    raise_for_status(record)


def raise_for_status(record: Record) -> None:
    """Raise the error whose exit code tells what became of a run; nothing if it finished."""
    if record.status == "finished":
        return
    hint = f"The record is kept: `reprokit show {record.run_id}`, `reprokit logs {record.run_id}`."
    if record.lock_hash and record.reproduces is None and (record.checkpoints or record.initial):
        hint += f" `reprokit resume {record.run_id}` goes on from its last checkpoint."
    if record.status == "interrupted":
        raise InterruptedRunError(f"Run {record.run_id} was interrupted. {record.failure or ''}".strip(), hint=hint)
    if record.execution.get("inputs") == "deny" and "not a declared input" in (record.failure or ""):
        raise RefusedError(f"Run {record.run_id} read an undeclared file. {record.failure}", hint=hint)
    raise UserCodeError(f"Run {record.run_id} failed. {record.failure or ''}".strip(), hint=hint)
