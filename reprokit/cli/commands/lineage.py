"""lineage."""

from __future__ import annotations

import click

from reprokit.cli.face import Face, common, reference
from reprokit.cli.text.lineage import lineage_text
from reprokit.runs.lineage import lineage as trace

__all__ = ["lineage"]


@click.command()
@reference("ref")
@click.option("--forward", is_flag=True, help="What was made from it, instead of what it was made from.")
@common
def lineage(face: Face, ref: str, forward: bool) -> None:
    """Show the chain of runs that REF (a run, RUN@best, a package version) was made by, down to the first inputs."""
    face.recover()
    found = trace(ref, registry=face.registry(), forward=forward)
    face.result(found.plain(), lambda: lineage_text(found))
