"""doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reprokit.cli.commands.run import parse_params
from reprokit.cli.face import Face, common
from reprokit.doctor.ablation import PARTS
from reprokit.doctor.doctor import ALL
from reprokit.doctor.doctor import doctor as examine
from reprokit.doctor.findings import Diagnosis, Omission

__all__ = ["doctor"]


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="Override a parameter.")
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Steps between checkpoints.")
@click.option(
    "--omit",
    multiple=True,
    metavar="PART",
    type=click.Choice([*PARTS, ALL]),
    help=f"Leave a part of the state out of the restore, to see that it is noticed: {', '.join(PARTS)}; {ALL}.",
)
@common
def doctor(face: Face, recipe: Path, params: tuple[str, ...], steps: int, omit: tuple[str, ...]) -> None:
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
        echo=face.write if face.verbose else None,
    )
    face.result(diagnosis.plain(), lambda: diagnosis_text(diagnosis))
    sys.exit(diagnosis.exit_code)


_RESULTS = {
    "BITWISE": "BITWISE: a fresh process went on to the very same bits, and everything found came back",
    "INCOMPLETE": "INCOMPLETE: equal bits so far, but something that training depends on is not in the checkpoint",
    "DIVERGED": "DIVERGED: a resumed run does not go on as this one would have",
    "INCONCLUSIVE": "INCONCLUSIVE: it could not be seen whether a run of this script resumes",
}


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Return what `doctor` prints; the last line is the result."""
    rows: list[tuple[str, str]] = []
    if diagnosis.restored is not None:
        rows.append(("restored", f"{diagnosis.restored}, in a fresh process"))
    if diagnosis.compared is not None and diagnosis.reason is None:
        how = f"first difference {diagnosis.first_difference}" if diagnosis.first_difference else "equal in every bit"
        rows.append(("compared", f"{diagnosis.compared}: {diagnosis.tensors} tensors and state.json, {how}"))
        rows.append(("looked at", f"{diagnosis.sources} sources of state in the process"))
    rows += [("lost" if one.certain else "note", str(one)) for one in diagnosis.findings]
    rows += [("left out", _omission(one)) for one in diagnosis.omitted]
    rows += [("numeric", text) for text in diagnosis.numeric]
    rows += [("not checked", text) for text in diagnosis.unchecked]
    rows.append(
        ("result", f"{diagnosis.result}: {diagnosis.reason}" if diagnosis.reason else _RESULTS[diagnosis.result])
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _omission(omission: Omission) -> str:
    if omission.unchanged:
        return f"{omission.part:<22} not tried: it is still as it was before training"
    if omission.caught:
        named = next(str(one) for one in omission.findings if one.part == omission.part)
        return f"{omission.part:<22} noticed: {named}" + ("" if omission.diverged else " (it changed no bits so far)")
    after = "differs" if omission.diverged else "is equal"
    more = f": {omission.first_difference}" if omission.first_difference else ""
    return f"{omission.part:<22} NOT NOTICED, and the next checkpoint {after}{more}"
