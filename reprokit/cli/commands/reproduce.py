"""reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from reprokit.cli.bisection import bisected, bisection_text
from reprokit.cli.commands.run import FaceListener, hermetically
from reprokit.cli.consent import ask_before, confirmed
from reprokit.cli.face import Face, common, reference
from reprokit.cli.text.causes import explanation_text
from reprokit.cli.text.record import verdict_text
from reprokit.cli.text.two_runs import both_text
from reprokit.core.refs import parse_run
from reprokit.errors import RefusedError, UsageError
from reprokit.reproduction.bisect import Bisection
from reprokit.reproduction.overrides import Overrides
from reprokit.reproduction.reproduce import reproduce as reproduce_run
from reprokit.runs.store import RunStore
from reprokit.schema.verdict import exit_code

__all__ = ["reproduce"]


@click.command()
@reference("run")
@click.option(
    "--with",
    "changes",
    multiple=True,
    metavar="WHAT=VALUE",
    help="Change one thing: code=DIR or RUN, data.NAME=REF, param.NAME=V, threads=N, seed=N, variable.NAME=V, "
    "env=current or RUN. Forbids BITWISE.",
)
@click.option("--until", metavar="epoch=N", help="Stop after this epoch (from 0) and compare up to it.")
@click.option(
    "--tolerance", type=click.Path(path_type=Path, exists=True), help="A tolerance given now; listed as relaxed."
)
@click.option("--explain", is_flag=True, help="Of each cause, say why, what it consists of, and how it would be tried.")
@click.option(
    "--bisect",
    "bisects",
    is_flag=True,
    help="Where bits differ, try the causes one at a time, and name the guilty one.",
)
@hermetically
@confirmed
@common
def reproduce(
    face: Face,
    run: str,
    changes: tuple[str, ...],
    until: str | None,
    tolerance: Path | None,
    explain: bool,
    bisects: bool,
    hermetic: bool,
    yes: bool,
) -> None:
    """Repeat RUN from nothing but the registry: fetch, lay out, execute, compare, give a verdict.

    Where somebody else wrote it, that is said, and asked; without a terminal, -y has to answer (else exit code 3).
    With --hermetic it is executed by bubblewrap, without network, home and whatever is not declared.

    The verdict is kept as a version of the package verdicts/RUN, beside the repetition's own record.
    """
    overrides = Overrides.parse(changes, until=until, tolerance=tolerance)
    if bisects and until is not None:
        raise UsageError("--bisect itself stops where the first difference is: leave --until out.")
    ask_before(face, [run, *_taken(overrides)], yes=yes)
    with face.epochs():
        verdict = reproduce_run(
            run,
            registry=face.registry(),
            overrides=overrides,
            command=["reprokit", *sys.argv[1:]],
            hermetic=hermetic,
            progress=face,
            listener=FaceListener(face, tamed=True),
        )
    found: Bisection | None = None
    if bisects and verdict.verdict not in ("BITWISE", "EQUAL-RELAXED", "INCONCLUSIVE"):
        try:
            found = bisected(face, verdict.reproduces, verdict.run_id, hermetic=hermetic)
        except RefusedError as error:
            face.note(f"{error.message} {error.hint or ''}".rstrip())
    plain: dict[str, Any] = {**verdict.plain(), **({"bisection": found.plain()} if found else {})}

    def text() -> str:
        runs = RunStore(face.registry())
        parts = [both_text(runs.load(verdict.reproduces).record, runs.load(verdict.run_id).record)]
        parts += [explanation_text(verdict)] if explain else []
        parts += [bisection_text(found)] if found else []
        return "\n".join([*filter(None, parts), verdict_text(verdict, title="reproduce")])

    face.result(plain, text)
    if verdict.verdict == "INCONCLUSIVE":
        status = RunStore(face.registry()).load(verdict.run_id).record.status
        if status == "interrupted":
            face.note(f"The repetition was interrupted: `reprokit resume {verdict.run_id}` goes on with it.")
    sys.exit(exit_code(verdict.verdict))


def _taken(overrides: Overrides) -> list[str]:
    """Return the other runs whose code or environment a repetition is given."""
    code = overrides.code if overrides.code is None or not Path(overrides.code).is_dir() else None
    environment = overrides.environment if overrides.environment != "current" else None
    return [run for run in (code, environment) if run is not None and _names_run(run)]


def _names_run(text: str) -> bool:
    """True unless a text is no run's name, which is refused where it is used."""
    try:
        parse_run(text)
    except UsageError:
        return False
    return True
