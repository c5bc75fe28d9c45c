"""doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reprokit.cli.face import Face, common
from reprokit.cli.text.diagnosis import diagnosis_text
from reprokit.doctor.ablation import PARTS
from reprokit.doctor.doctor import ALL
from reprokit.doctor.doctor import doctor as examine
from reprokit.recording.listener import DEAF, Listener
from reprokit.schema.parameters import parse_params

__all__ = ["doctor"]


class _Loud(Listener):
    """Passes on what the script wrote."""

    def __init__(self, face: Face) -> None:
        self._face = face

    def output(self, stream: str, data: bytes) -> None:
        self._face.write(stream, data)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="Override a parameter.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps between checkpoints.  [default: 5]")
@click.option(
    "--omit",
    multiple=True,
    metavar="PART",
    type=click.Choice([*PARTS, ALL]),
    help=f"Leave a part of the state out of the restore, to see that it is noticed: {', '.join(PARTS)}; {ALL}.",
)
@common
def doctor(face: Face, recipe: Path, params: tuple[str, ...], steps: int | None, omit: tuple[str, ...]) -> None:
    """See whether RECIPE's training resumes bit for bit: train, save, go on here and in a fresh process, compare.

    What does not come back is named, with what to pass to the callback; what gives other bits on other machines too.
    Files are taken as they are, committed or not, and nothing is recorded. Exit code 0 if all is well, 7 if something
    is lost, 8 if it could not be seen or a part left out by --omit was not noticed, 6 if the script failed.
    """
    diagnosis = examine(
        recipe,
        registry=face.registry_option,
        params=parse_params(params),
        steps=steps,
        omit=omit,
        progress=face,
        listener=_Loud(face) if face.verbose else DEAF,
    )
    face.result(diagnosis.plain(), lambda: diagnosis_text(diagnosis))
    sys.exit(diagnosis.exit_code)
