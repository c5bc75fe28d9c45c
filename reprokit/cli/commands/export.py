"""export: a run, or its environment, in the formats of other tools."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from reprokit.cli.face import Face, common, reference, size
from reprokit.core.atomic_files import os_errors
from reprokit.core.own_extras import pip_words
from reprokit.errors import UsageError
from reprokit.export.environment import export_environment
from reprokit.export.image.context import write_image_context
from reprokit.export.notebook import as_notebook
from reprokit.runs.environment import environment_of
from reprokit.runs.store import RunStore

__all__ = ["export"]


class _Asked(NamedTuple):
    """What is exported, as what, and where to; options that only one form takes are None with the others."""

    refs: tuple[str, ...]
    form: str
    target: str | None
    base: str | None
    against: str | None
    experiment: str | None

    @property
    def ref(self) -> str:
        """The run, of a form that takes one alone."""
        return self.refs[0]

    @property
    def output(self) -> Path | None:
        return None if self.target is None else Path(self.target)


class _Form(NamedTuple):
    """One form of export.

    Attributes:
        help: What it is, in a few words.
        write: Makes it, and tells the face.
        option: The option that it takes and not every form does, without its dashes.
        many: It takes several runs.
    """

    help: str
    write: Callable[[Face, _Asked], None]
    option: str | None = None
    many: bool = False


def _tell(face: Face, asked: _Asked, text: str, **plain: object) -> None:
    """Write what was made into the file that was asked for, or to stdout."""
    output = asked.output
    if output is not None:
        with os_errors(f"Writing {output}"):
            output.write_text(text, encoding="utf-8")
    shown = f"wrote {output}" if output is not None else text.rstrip("\n")
    face.result({"as": asked.form, "text": text, **plain}, shown)


def _notebook(face: Face, asked: _Asked) -> None:
    registry = face.registry()
    run = RunStore(registry).load(asked.ref)
    _tell(face, asked, as_notebook(run, registry=registry).decode(), run_id=run.record.run_id)


def _report(face: Face, asked: _Asked) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("jinja2", "matplotlib")):
        raise UsageError(
            "A report is drawn with matplotlib and jinja2, and they are not both installed.",
            hint=f"Install them: `{sys.executable} -m pip install {pip_words('report')}`.",
        )
    # matplotlib is loaded for a report alone
    as_report = importlib.import_module("reprokit.export.report.report").as_report
    made = as_report(asked.ref, registry=face.registry(), against=asked.against, progress=face)
    _tell(face, asked, made.html, run_id=made.run_id, other=made.other, verdict=made.verdict)


def _environment(face: Face, asked: _Asked) -> None:
    made = export_environment(
        environment_of(asked.ref, registry=face.registry()), asked.form, cache=face.config.cache, progress=face
    )
    for package, why in made.missing.items():
        face.note(f"{package} is not in it: {why}.")
    _tell(face, asked, made.text, hash=made.hash, missing=made.missing)


def _image(face: Face, asked: _Asked) -> None:
    if asked.output is None:
        raise UsageError("--as image writes a folder: name it with -o DIR.")
    made = write_image_context(asked.ref, asked.output, context=face.context(), base=asked.base)
    if "@sha256:" not in made.base:
        face.note(f"The base image {made.base} is named by a tag, which may move: --base IMAGE@sha256:… pins it.")
    plain = {
        "as": "image", "run_id": made.run_id, "folder": str(made.folder), "base": made.base, "hash": made.environment,
        "packages": made.packages, "size": made.size,
    }  # fmt: skip
    text = [f"wrote {made.folder}: {made.packages} packages, {size(made.size)}"]
    text.append(f"  podman build --network none -t {made.image} {made.folder}")
    text.append(f"  podman run --rm --network none {made.image}")
    face.result(plain, text)


def _mlflow(face: Face, asked: _Asked) -> None:
    if asked.target is None:
        raise UsageError(
            "--as mlflow writes into a store of MLflow's: name it with -o STORE.",
            hint="A folder mlruns, a file mlflow.db, or an address: sqlite:///FILE, https://HOST.",
        )
    export_to_mlflow = importlib.import_module("reprokit.export.mlflow").export_to_mlflow  # with what it sends
    made = export_to_mlflow(asked.refs, asked.target, context=face.context(), experiment=asked.experiment)
    for note in made.notes:
        face.note(f"note: {note}")
    lines = [f"{run} is {their} in {made.store}" for run, their in made.runs.items()]
    face.result({"as": "mlflow", **made.plain()}, lines)


_FORMS = {
    "environment.yml": _Form("a conda environment", _environment),
    "explicit": _Form("its explicit list", _environment),
    "pylock": _Form("pylock.toml (PEP 751)", _environment),
    "requirements": _Form("a requirements file with hashes", _environment),
    "image": _Form("what an image is built from", _image, option="base"),
    "notebook": _Form("a notebook on the run's data and best checkpoint", _notebook),
    "report": _Form("a page for people", _report, option="against"),
    "mlflow": _Form("runs in a store of MLflow's", _mlflow, option="experiment", many=True),
}


@click.command()
@reference("refs", metavar="RUN…|LOCK", nargs=-1, required=True)
@click.option(
    "--as",
    "form",
    required=True,
    type=click.Choice(list(_FORMS)),
    help="; ".join(f"{name}: {form.help}" for name, form in _FORMS.items()) + ".",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="Write a file, and not to stdout; of an image, a folder; of MLflow, a store: a folder, file or address.",
)
@click.option("--base", metavar="IMAGE", help="Build the image on this one, best named by its digest.")
@click.option("--against", metavar="RUN", help="In the report, compare with this run, and not with a reproduction.")
@click.option(
    "--experiment", metavar="NAME", help="The experiment in MLflow of runs that are new there; the recipe's name."
)
@common
def export(
    face: Face,
    refs: tuple[str, ...],
    form: str,
    output: str | None,
    base: str | None,
    against: str | None,
    experiment: str | None,
) -> None:
    """Write the environment of a run, or of a recipe's lock file, for other tools.

    Addresses and hashes are those of the lock; where it has none, the indexes that pip is configured to use are asked.
    Packages that none of them serves are named in the file, and on stderr.

    image: a folder with a Containerfile and all that it needs, for podman, docker and buildah. The image rebuilds the
    run's environment, code and data without a network, and reproduces the run.

    notebook: one that opens the run's data and best checkpoint, by hash.

    report: a page of HTML on a reproduction and its original: the verdict, where and why they differ, curves, and the
    model layer by layer. Of an original it is on its newest reproduction.

    mlflow: one run or several, with parameters, metrics by step, tags (ID, commit, lock, data, verdict), small outputs.
    Exported again, a run is not there twice, and its verdict is brought up to date.
    """
    if len(refs) > 1 and not _FORMS[form].many:
        raise UsageError(f"--as {form} takes one run, not {len(refs)}.")
    for option, value in (("against", against), ("base", base), ("experiment", experiment)):
        if value is not None and option != _FORMS[form].option:
            takes = next(name for name, other in _FORMS.items() if other.option == option)
            raise UsageError(f"--{option} is for --as {takes}, not for {form}.")
    _FORMS[form].write(face, _Asked(refs, form, output, base, against, experiment))
