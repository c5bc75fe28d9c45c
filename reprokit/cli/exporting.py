"""export: a run, or its environment, in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

import click

from reprokit.cli.environments import locked_environment
from reprokit.cli.face import Face, common
from reprokit.environment.archives import find_archives
from reprokit.environment.exports import as_environment_yml, as_explicit, as_pylock, as_requirements
from reprokit.environment.interpreter import find_interpreter
from reprokit.paths import os_errors

__all__ = ["export"]


@click.command()
@click.argument("ref", metavar="RUN|LOCK")
@click.option(
    "--as",
    "form",
    required=True,
    type=click.Choice(["environment.yml", "explicit", "pylock", "requirements"]),
    help="A conda environment, its explicit list, pylock.toml (PEP 751), or a requirements file with hashes.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a file, and not to stdout.")
@common
def export(face: Face, ref: str, form: str, output: Path | None) -> None:
    """Write the environment of a run, or of a recipe's lock file, for other tools.

    Addresses and hashes are those of the lock; where it has none, the indexes that pip is configured to use are asked.
    Packages that none of them serves are named in the file, and on stderr.
    """
    text, plain = _environment(face, ref, form)
    if output is not None:
        with os_errors(f"Writing {output}"):
            output.write_text(text, encoding="utf-8")
    face.result({"as": form, "text": text, **plain}, f"wrote {output}" if output is not None else text.rstrip("\n"))


def _environment(face: Face, ref: str, form: str) -> tuple[str, dict[str, object]]:
    """Return an environment's text, and what else is to be said in JSON."""
    locked, vault, name = locked_environment(face, ref)
    archives = list(vault.archives)
    lost: dict[str, str] = {}
    if form == "environment.yml":
        text = as_environment_yml(locked, archives, name=name)
    elif form == "explicit":
        text, lost = as_explicit(locked, archives)
    else:
        wheels = [one for one in archives if one.kind == "pip"]
        if {one.name for one in wheels} != {one.name for one in locked.pip}:
            base = find_interpreter(version=locked.python, implementation=locked.implementation, system=locked.platform)
            wheels, lost = find_archives(locked, interpreter=base, cache=face.config.cache, progress=face)
        text = (as_pylock if form == "pylock" else as_requirements)(locked, wheels, lost)
    for package, why in lost.items():
        face.note(f"{package} is not in it: {why}.")
    return text, {"hash": locked.hash, "missing": lost}
