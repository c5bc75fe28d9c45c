"""The search for the guilty cause, as commands start it and people read it."""

from __future__ import annotations

import sys

from reprokit.cli.commands.run import FaceListener
from reprokit.cli.face import Face
from reprokit.core.terminal_text import one_line
from reprokit.reproduction.bisect import Bisection, bisect

__all__ = ["bisected", "bisection_text"]

_EQUALS = {
    "original": "bits of the original",
    "other": "bits of the other run",
    "neither": "bits of neither",
    "nothing": "did not get there",
}


def bisected(face: Face, original: str, other: str, *, hermetic: bool = False) -> Bisection:
    """Try the causes between two runs one at a time, and say of each what came out as soon as it is known."""
    face.note(f"Which of the causes is it? Run {original} is repeated with one of them at a time:")
    with face.epochs():
        return bisect(
            original,
            other,
            registry=face.registry_option,
            command=["reprokit", *sys.argv[1:]],
            hermetic=hermetic,
            progress=face,
            listener=FaceListener(face, output=False),
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
    return "\n".join(map(one_line, [*lines, f"  bisect: {found.conclusion}"]))
