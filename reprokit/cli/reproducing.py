"""reproduce."""

from __future__ import annotations

import getpass
import platform
import sys
from pathlib import Path

import click

from reprokit.cli.face import Face, common
from reprokit.cli.running import FaceObserver
from reprokit.cli.text import verdict_text
from reprokit.package import RESERVED
from reprokit.reproduce import Overrides
from reprokit.reproduce import reproduce as reproduce_run
from reprokit.runs import RunStore
from reprokit.verdict import exit_code

__all__ = ["reproduce"]


@click.command()
@click.argument("run")
@click.option(
    "--with",
    "changes",
    multiple=True,
    metavar="WHAT=VALUE",
    help="Change one thing: code=DIR, data.NAME=REF, param.NAME=V, threads=N, seed=N, env=current. Forbids BITWISE.",
)
@click.option("--until", metavar="epoch=N", help="Stop after this epoch (from 0) and compare up to it.")
@click.option(
    "--tolerance", type=click.Path(path_type=Path, exists=True), help="A tolerance given now; listed as relaxed."
)
@click.option("-y", "--yes", is_flag=True, help="Execute a colleague's code without asking.")
@common
def reproduce(
    face: Face, run: str, changes: tuple[str, ...], until: str | None, tolerance: Path | None, yes: bool
) -> None:
    """Repeat RUN from nothing but the registry: fetch, lay out, execute, compare, give a verdict."""
    overrides = Overrides.parse(changes, until=until, tolerance=tolerance)
    registry = face.registry()
    if not yes and sys.stdin.isatty():
        run_id = RunStore(registry).find(run)
        head = registry.head(f"{RESERVED}/{run_id}")
        me = f"{getpass.getuser()}@{platform.node()}"
        if head is not None and head.writer != me:
            click.confirm(
                f"This executes code that {head.writer} put into {registry.url}. Go on?", abort=True, err=True
            )
    with face.epochs():
        verdict = reproduce_run(
            run,
            registry=face.registry_option,
            overrides=overrides,
            progress=face,
            observer=FaceObserver(face),
            echo=face.write,
        )
    face.result(verdict.plain(), lambda: verdict_text(verdict, title="reproduce"))
    sys.exit(exit_code(verdict.verdict))
