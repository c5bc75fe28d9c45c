"""env build, export."""

from __future__ import annotations

from pathlib import Path

import click

from reprokit.cli.face import Face, common
from reprokit.environment.archives import find_archives
from reprokit.environment.exports import as_environment_yml, as_pylock, as_requirements
from reprokit.environment.interpreter import find_interpreter
from reprokit.environment.realise import realise
from reprokit.environment.vault import open_vault
from reprokit.environment.wheelhouse import Vault
from reprokit.lock import EnvironmentLock, RecipeLock
from reprokit.paths import os_errors
from reprokit.runs import RunStore

__all__ = ["env", "export"]


@click.group()
def env() -> None:
    """Make environments from locks."""


@env.command("build")
@click.argument("ref", metavar="RUN|LOCK")
@common
def build(face: Face, ref: str) -> None:
    """Make the environment of a run, or of a recipe's lock file, and print its interpreter.

    It lies in the cache, under its hash, and is made only once. Packages come from the run's vault, from the cache, or
    from where pip looks; each is checked against the lock before it is installed. Exit code 5 if it cannot be made.
    """
    locked, vault, _ = _locked(face, ref)
    python = realise(locked, cache=face.config.cache, vault=vault, progress=face)
    face.result({"python": str(python), "hash": locked.hash, "packages": len(locked.pip)}, str(python))


def _locked(face: Face, ref: str) -> tuple[EnvironmentLock, Vault | None, str]:
    """Return an environment, where its archives are kept, and the name of what it was locked for."""
    if Path(ref).is_file():
        with os_errors(f"Reading {ref}"):
            return (
                RecipeLock.decode(Path(ref).read_bytes(), what=ref).environment,
                None,
                Path(ref).name.partition(".")[0],
            )
    store = face.registry()
    run = RunStore(store).load(ref)
    return RunStore(store).lock(run).environment, open_vault(run.manifest, store), run.record.name


@click.command()
@click.argument("ref", metavar="RUN|LOCK")
@click.option(
    "--as",
    "form",
    required=True,
    type=click.Choice(["environment.yml", "pylock", "requirements"]),
    help="pylock.toml (PEP 751), a requirements file with hashes, or a conda environment.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a file, and not to stdout.")
@common
def export(face: Face, ref: str, form: str, output: Path | None) -> None:
    """Write the environment of a run, or of a recipe's lock file, for other tools.

    Addresses and hashes are asked of the indexes that pip is configured to use. Packages that none of them serves are
    named in the file, and on stderr.
    """
    locked, _, name = _locked(face, ref)
    lost: dict[str, str] = {}
    if form == "environment.yml":
        text = as_environment_yml(locked, name=name)
    else:
        base = find_interpreter(version=locked.python, implementation=locked.implementation, system=locked.platform)
        archives, lost = find_archives(locked, interpreter=base, cache=face.config.cache, progress=face)
        text = (as_pylock if form == "pylock" else as_requirements)(locked, archives, lost)
        for package, why in lost.items():
            face.note(f"{package} is not in it: {why}.")
    if output is not None:
        with os_errors(f"Writing {output}"):
            output.write_text(text, encoding="utf-8")
    plain = {"hash": locked.hash, "as": form, "text": text, "missing": lost}
    face.result(plain, f"wrote {output}" if output is not None else text.rstrip("\n"))
