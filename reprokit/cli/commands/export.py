"""export: a run, or its environment, in the formats of other tools."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import click

from reprokit.cli.commands.env import locked_environment
from reprokit.cli.face import Face, common, size
from reprokit.core.logical_keys import os_errors
from reprokit.environment.local.interpreter import find_interpreter
from reprokit.environment.lock_formats import as_environment_yml, as_explicit, as_pylock, as_requirements
from reprokit.environment.pip.index import find_archives
from reprokit.errors import EnvironmentMismatchError, UsageError
from reprokit.export.image.context import write_image_context
from reprokit.export.notebook import as_notebook
from reprokit.runs.store import RunStore

__all__ = ["export"]


@click.command()
@click.argument("ref", metavar="RUN|LOCK")
@click.option(
    "--as",
    "form",
    required=True,
    type=click.Choice(["environment.yml", "explicit", "pylock", "requirements", "image", "notebook", "report"]),
    help="A conda environment, its explicit list, pylock.toml (PEP 751), a requirements file with hashes; what an "
    "image is built from; a notebook; or a report for people.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write a file, and not to stdout; of an image, a folder."
)
@click.option("--base", metavar="IMAGE", help="Build the image on this one, best named by its digest.")
@click.option("--against", metavar="RUN", help="In the report, compare with this run, and not with a reproduction.")
@common
def export(face: Face, ref: str, form: str, output: Path | None, base: str | None, against: str | None) -> None:
    """Write the environment of a run, or of a recipe's lock file, for other tools.

    Addresses and hashes are those of the lock; where it has none, the indexes that pip is configured to use are asked.
    Packages that none of them serves are named in the file, and on stderr.

    image: a folder with a Containerfile and all that it needs, for podman, docker and buildah. The image rebuilds the
    run's environment, code and data without a network, and reproduces the run.

    notebook: one that opens the run's data and best checkpoint, by hash.

    report: a page of HTML on a reproduction and its original: the verdict, where and why they differ, curves, and the
    model layer by layer. Of an original it is on its newest reproduction.
    """
    if against is not None and form != "report":
        raise UsageError(f"--against is for --as report, not for {form}.")
    if form == "image":
        _image(face, ref, output, base)
        return
    if base is not None:
        raise UsageError(f"--base is for --as image, not for {form}.")
    if form == "report":
        text, plain = _report(face, ref, against)
    else:
        text, plain = _notebook(face, ref) if form == "notebook" else _environment(face, ref, form)
    if output is not None:
        with os_errors(f"Writing {output}"):
            output.write_text(text, encoding="utf-8")
    face.result({"as": form, "text": text, **plain}, f"wrote {output}" if output is not None else text.rstrip("\n"))


def _notebook(face: Face, ref: str) -> tuple[str, dict[str, object]]:
    registry = face.registry()
    run = RunStore(registry).load(ref)
    return as_notebook(run, registry=registry).decode(), {"run_id": run.record.run_id}


def _report(face: Face, ref: str, against: str | None) -> tuple[str, dict[str, object]]:
    if any(importlib.util.find_spec(name) is None for name in ("jinja2", "matplotlib")):
        raise UsageError(
            "A report is drawn with matplotlib and jinja2, and they are not both installed.",
            hint=f"Install them: `{sys.executable} -m pip install 'reprokit-runs[report]'`.",
        )
    as_report = importlib.import_module(
        "reprokit.export.report.report"
    ).as_report  # matplotlib is loaded for a report alone
    made = as_report(ref, registry=face.registry(), against=against, progress=face)
    return made.html, {"run_id": made.run_id, "other": made.other, "verdict": made.verdict}


def _environment(face: Face, ref: str, form: str) -> tuple[str, dict[str, object]]:
    """Return an environment's text, and what else is to be said in JSON."""
    locked, vault, name = locked_environment(face, ref)
    if locked.container is not None:
        raise EnvironmentMismatchError(f"The environment is the image {locked.container}: it has no packages to list.")
    archives = list(vault.archives)
    lost: dict[str, str] = {}
    if form == "environment.yml":
        text = as_environment_yml(locked, archives, name=name)
    elif form == "explicit":
        text, lost = as_explicit(locked, archives)
    else:
        wheels = [one for one in archives if one.kind == "pip" and one.file and one.sha256]
        if {one.name for one in wheels} != {one.name for one in locked.pip}:
            base = find_interpreter(version=locked.python, implementation=locked.implementation, system=locked.platform)
            wheels, lost = find_archives(locked, interpreter=base, cache=face.config.cache, progress=face)
        text = (as_pylock if form == "pylock" else as_requirements)(locked, wheels, lost)
    for package, why in lost.items():
        face.note(f"{package} is not in it: {why}.")
    return text, {"hash": locked.hash, "missing": lost}


def _image(face: Face, ref: str, output: Path | None, base: str | None) -> None:
    if output is None:
        raise UsageError("--as image writes a folder: name it with -o DIR.")
    made = write_image_context(ref, output, registry=face.registry(), cache=face.config.cache, base=base, progress=face)
    if "@sha256:" not in made.base:
        face.note(f"The base image {made.base} is named by a tag, which may move: --base IMAGE@sha256:… pins it.")
    plain = {
        "as": "image", "run_id": made.run_id, "folder": str(made.folder), "base": made.base, "hash": made.environment,
        "packages": made.packages, "size": made.size,
    }  # fmt: skip
    text = f"wrote {made.folder}: {made.packages} packages, {size(made.size)}\n"
    text += f"  podman build --network none -t {made.image} {made.folder}\n"
    text += f"  podman run --rm --network none {made.image}"
    face.result(plain, text)
