"""run, resume."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reprokit.cli.consent import ask_before, confirmed
from reprokit.cli.face import Face, common, reference
from reprokit.cli.text.record import checkpoint_line, run_text, verdict_text
from reprokit.core.refs import parse_run
from reprokit.core.terminal_text import Tamer
from reprokit.execution.run import brief_failure, raise_for_status
from reprokit.execution.run import run as run_recipe
from reprokit.locking.prepare import Choices, prepare
from reprokit.recording.listener import Listener
from reprokit.registry.context import Context
from reprokit.schema.parameters import parse_params
from reprokit.schema.record import CheckpointEntry
from reprokit.schema.verdict import exit_code

__all__ = ["FaceListener", "hermetically", "resume", "run"]


class FaceListener(Listener):
    """Passes on what the script wrote, says each checkpoint as it is saved, and moves the bar over the epochs.

    Args:
        tamed: The script is a stranger's: nothing that it writes moves a cursor.
    """

    def __init__(self, face: Face, *, output: bool = True, tamed: bool = False) -> None:
        self._face = face
        self._tamers = {"stdout": Tamer(), "stderr": Tamer()} if tamed else None
        self._output = output
        self._saved: list[CheckpointEntry] = []

    def output(self, stream: str, data: bytes) -> None:
        if self._output:
            self._face.write(stream, data if self._tamers is None else self._tamers[stream](data))

    def checkpoint(self, entry: CheckpointEntry) -> None:
        if not entry.place.is_initial:
            self._saved.append(entry)
        self._face.note("  saved " + checkpoint_line(entry, among=self._saved))

    def total_epochs(self, total: int) -> None:
        self._face.total_epochs(total)

    def epoch(self, epoch: int) -> None:
        self._face.epoch_done(epoch)

    def batch(self, epoch: int | None, batch: int, total: int | None) -> None:
        self._face.batch_done(epoch, batch, total)


hermetically = click.option(
    "--hermetic", is_flag=True, help="Execute under bubblewrap: no network, no home, nothing undeclared."
)


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
@hermetically
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
    hermetic: bool,
    dry_run: bool,
) -> None:
    """Run RECIPE in a clean workspace and record code, environment, data, checkpoints and outputs."""
    choices: Choices = {
        "params": parse_params(params),
        "seed": seed,
        "env": env,
        "allow_dirty": allow_dirty,
        "in_place": in_place,
        "name": name,
    }
    if dry_run:
        context = Context.open(face.registry_option, folder=recipe.absolute().parent, progress=face)
        prepared = prepare(recipe, choices, context=context, store=False)
        plain = {"lock_hash": prepared.lock.hash, "code": prepared.lock.code.tree,
                 "environment": prepared.lock.environment.hash,
                 "data": {pin.name: f"{pin.package}@{pin.top_hash}" + (f":{pin.within}" if pin.within else "")
                          for pin in prepared.lock.data},
                 "params": prepared.lock.params}  # fmt: skip
        face.result(plain, [f"  {key:<12} {value}" for key, value in plain.items()])
        return
    with face.epochs():
        record = run_recipe(
            recipe, registry=face.registry_option, reuse=reuse, hermetic=hermetic, progress=face,
            listener=FaceListener(face), **choices,
        )  # fmt: skip
    face.result(record.plain(), lambda: run_text(record, failure=brief_failure(record)))
    raise_for_status(record)


@click.command()
@reference("run_ref", metavar="RUN[@CHECKPOINT]")
@hermetically
@confirmed
@common
def resume(face: Face, run_ref: str, hermetic: bool, yes: bool) -> None:
    """Go on with an interrupted or failed run from its last checkpoint, or from the one named: RUN@epoch=3.

    The run keeps its ID, code, environment and data; what it ends with is what it would have ended with. Files that the
    script wrote at declared output paths are there again; what else it wrote is not. A repetition goes on as one: its
    verdict is given at the end, says that it was resumed, and decides the exit code.
    """
    from reprokit.reproduction.resume import resume as resume_run  # with all that compares, which `run` does not need

    ask_before(face, [parse_run(run_ref).run], yes=yes)
    with face.epochs():
        record = resume_run(
            run_ref,
            registry=face.registry(),
            hermetic=hermetic,
            progress=face,
            listener=FaceListener(face, tamed=True),
        )
    verdict = record.verdicts[-1] if record.verdicts else None
    told = [] if verdict is None else [verdict_text(verdict, title="reproduce")]
    face.result(record.plain(), lambda: "\n".join([run_text(record, failure=brief_failure(record)), *told]))
    raise_for_status(record)
    sys.exit(0 if verdict is None else exit_code(verdict.verdict))
