"""push, pull."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from reprokit.cli.face import Face, absolute_address, common, size
from reprokit.errors import UsageError
from reprokit.registry import Registry, open_registry, registry_folder
from reprokit.registry.quilt import QuiltRegistry
from reprokit.registry.quilt_writer import QuiltWriter
from reprokit.runs.transfer import Transfer
from reprokit.runs.transfer import pull as pull_version
from reprokit.runs.transfer import push as push_version

__all__ = ["address", "pull", "push"]


def address(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Make paths absolute before -C changes the folder, as --registry does."""
    if value is None or isinstance(value, tuple):
        return value and tuple(address(_context, _parameter, one) for one in value)
    return absolute_address(value)


_tags = click.option("--tag", "tags", multiple=True, help="Also point this tag at it there.")
_all = click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Of a run, also the inputs and checkpoints that it names, the verdicts on it, and the records behind those.",
)


@click.command()
@click.argument("refs", nargs=-1, required=True)
@click.argument("target", callback=address)
@click.option(
    "--layout",
    type=click.Choice(["reprokit", "quilt"]),
    help="What TARGET is, or becomes: a registry of reprokit's, or one that quilt3 reads. Default: what it is.",
)
@_tags
@_all
@common
def push(
    face: Face, refs: tuple[str, ...], target: str, layout: str | None, tags: tuple[str, ...], everything: bool
) -> None:
    """Copy REFS (package versions or runs) into the registry TARGET, verified; what is there is not copied again."""
    face.recover()
    source = face.registry()
    opened = _target(target, layout)
    done: list[Transfer] = []
    for ref in refs:
        done += push_version(ref, source=source, target=opened, tags=tags, everything=everything, progress=face)
    _tell(face, done)


@click.command()
@click.argument("refs", nargs=-1, required=True)
@click.option("--from", "source", required=True, metavar="URL", callback=address, help="The registry to copy from.")
@click.option(
    "--allow-outside",
    metavar="FOLDER",
    multiple=True,
    callback=address,
    help="Of a Quilt registry: objects may be read below FOLDER too.",
)
@_tags
@_all
@common
def pull(
    face: Face,
    refs: tuple[str, ...],
    source: str,
    allow_outside: tuple[str, ...],
    tags: tuple[str, ...],
    everything: bool,
) -> None:
    """Copy REFS (package versions or runs) from another registry, or one that quilt3 wrote, verified."""
    opened = open_registry(source, outside=[Path(folder) for folder in allow_outside])
    if allow_outside and not isinstance(opened, QuiltRegistry):
        raise UsageError(f"--allow-outside is for registries of Quilt's, which {source} is not.")
    target = face.registry()
    done: list[Transfer] = []
    for ref in refs:
        done += pull_version(ref, source=opened, target=target, tags=tags, everything=everything, progress=face)
    _tell(face, done)


def _target(address: str, layout: str | None) -> Registry | QuiltWriter:
    if layout == "quilt":
        return QuiltWriter(registry_folder(address))
    opened = open_registry(address)
    if not isinstance(opened, QuiltRegistry):
        return opened
    if layout == "reprokit":
        raise UsageError(
            f"{address} is a Quilt registry, not one of reprokit's.", hint="Name another folder, or --layout quilt."
        )
    return QuiltWriter(opened.root)


def _tell(face: Face, done: list[Transfer]) -> None:
    lines = []
    for one in done:
        marks = f" ({', '.join(one.tags)})" if one.tags else ""
        copied = f"{one.new_objects:,} objects copied, {size(one.new_bytes)} new" if one.published else "already there"
        lines.append(f"{one.name}@{one.top_hash} → {one.target}{marks}")
        lines.append(f"  {one.entries:,} entries, {size(one.size)}; {copied}")
    face.result([asdict(one) for one in done], lines)
