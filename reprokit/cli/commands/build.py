"""package build."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from reprokit.cli.face import Face, common, size
from reprokit.errors import RecipeError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package

__all__ = ["package"]


@click.group()
def package() -> None:
    """Build packages."""


@package.command("build")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.argument("name", required=False)
@click.option("-m", "--message", help="Why this version; part of its hash.")
@click.option(
    "--meta", type=click.Path(path_type=Path, exists=True), help="Metadata of the version: a JSON or YAML file."
)
@click.option(
    "--entry-meta",
    type=click.Path(path_type=Path, exists=True),
    help="Metadata of entries: a JSON or YAML file, logical key → mapping.",
)
@click.option("--tag", "tags", multiple=True, help="Also point this tag at it.")
@click.option("--base", metavar="REF", help="Start from this version: its entries stay unless FOLDER has them too.")
@click.option("--remove", "remove", multiple=True, metavar="KEY", help="With --base: leave out this entry or folder.")
@common
def build_command(
    face: Face,
    folder: Path | None,
    name: str | None,
    message: str | None,
    meta: Path | None,
    entry_meta: Path | None,
    tags: tuple[str, ...],
    base: str | None,
    remove: tuple[str, ...],
) -> None:
    """Store every file of FOLDER as a new version of package NAME; with --base, on top of another version.

    FOLDER may be one file: the package has it as its only entry.

    Files that did not change since FOLDER was last built from are not read again. If the result is the latest version
    already, nothing is published. A `.reprokitignore` in FOLDER leaves files out, in the language of .gitignore.
    With --base and --remove alone, give NAME only.
    """
    source: Path | dict[str, Any] = folder or Path()
    if name is None:
        if folder is None or base is None:
            raise UsageError("Give a FOLDER and a NAME.", hint="`reprokit package build data vision/cifar10`")
        source, name = {}, str(folder)
    registry = face.registry()
    started = Package.open(base, registry=registry) if base is not None else None
    made = build(
        source,
        name,
        registry=registry,
        message=message,
        meta=_mapping(meta),
        entry_meta=_mapping(entry_meta),
        tags=tags,
        base=started,
        remove=remove,
        progress=face,
    )
    files = f"{made.entries:,} file{'s'[: made.entries != 1]}"
    text = f"{made.name}@{made.top_hash}\n  {files}, {size(made.size)}, {size(made.new_bytes)} new"
    face.result(asdict(made), text)


def _mapping(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    if file.suffix == ".json":
        try:
            value = json.loads(file.read_bytes())
        except ValueError as error:
            raise RecipeError(f"{file} is not JSON: {error}.") from None
    else:
        # a build without metadata does not pay
        load_yaml = importlib.import_module("reprokit.core.safe_yaml").load_yaml
        value = load_yaml(file.read_bytes(), what=str(file))
    if not isinstance(value, dict):
        raise RecipeError(f"{file} must be a mapping.")
    return value
