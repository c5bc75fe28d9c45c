"""checkpoint get."""

from __future__ import annotations

from pathlib import Path

import click

from reprokit.checkpoint.codecs.convert import FORMATS, write_checkpoint
from reprokit.checkpoint.load import load_checkpoint
from reprokit.cli.face import Face, common, reference

__all__ = ["checkpoint"]


@click.group()
def checkpoint() -> None:
    """Fetch checkpoints."""


@checkpoint.command("get")
@reference("ref")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Convert: one safetensors file per section, a .keras or .pt file, or joblib. Default: the files as stored.",
)
@click.option(
    "--type", "types", multiple=True, metavar="NAME", help="With joblib: a type the estimator may hold, in full."
)
@common
def get(face: Face, ref: str, folder: Path | None, form: str | None, types: tuple[str, ...]) -> None:
    """Write checkpoint REF (RUN@best:val_loss, RUN@epoch=2, NS/NAME:TAG) into FOLDER, every byte verified."""
    opened = load_checkpoint(ref, registry=face.registry())
    package = opened.package
    place = folder or Path(f"{package.name.partition('/')[2]}-{package.top_hash[:8]}")
    files = write_checkpoint(opened, place, form=form, types=types, progress=face)
    plain = {"package": package.name, "top_hash": package.top_hash, "folder": str(place), "files": files}
    told = ", ".join(files) if form is not None else f"{len(files)} files"
    face.result(plain, [f"{package.name}@{package.top_hash[:16]} → {place}: {told}, all verified"])
