"""The search for the guilty cause, as commands start it and people read it."""

from __future__ import annotations

import sys

import click

from reprokit.cli.commands.run import FaceObserver
from reprokit.cli.face import Face
from reprokit.packages.package import RESERVED
from reprokit.registry.package_log import writer
from reprokit.reproduction.bisect import Bisection, bisect
from reprokit.runs.store import RunStore

__all__ = ["bisected", "bisection_text", "confirm"]

_EQUALS = {
    "original": "bits of the original",
    "other": "bits of the other run",
    "neither": "bits of neither",
    "nothing": "did not get there",
}


def confirm(face: Face, run: str) -> None:
    """Ask before a colleague's code is executed, where somebody can answer."""
    if not sys.stdin.isatty():
        return
    registry = face.registry()
    run_id = RunStore(registry).find(run)
    head = registry.head(f"{RESERVED}/{run_id}")
    if head is not None and head.writer != writer():
        click.confirm(f"This executes code that {head.writer} put into {registry.url}. Go on?", abort=True, err=True)


def bisected(face: Face, original: str, other: str) -> Bisection:
    """Try the causes between two runs one at a time, and say of each what came out as soon as it is known."""
    face.note(f"Which of the causes is it? Run {original} is repeated with one of them at a time:")
    with face.epochs():
        return bisect(
            original,
            other,
            registry=face.registry_option,
            command=["reprokit", *sys.argv[1:]],
            progress=face,
            observer=FaceObserver(face),
        )


def bisection_text(found: Bisection) -> str:
    """Return what was tried, a line each, and what came of it."""
    rows = [
        (", ".join(trial.factors) or "unchanged", f"{_EQUALS[trial.equals]} at {trial.at}", trial.run_id)
        for trial in found.trials
    ]
    widths = [min(max(len(row[column]) for row in rows), 60) for column in (0, 1)]
    width = widths[0]
    lines = [f"  tried on {found.original}, against {found.other}:"]
    lines += [f"    {factors:<{width}}  {equals:<{widths[1]}}  {run}" for factors, equals, run in rows]
    lines += [f"    {'(not tried)':<{width}}  {text}" for text in found.untried]
    return "\n".join([*lines, f"  bisect: {found.conclusion}"])
