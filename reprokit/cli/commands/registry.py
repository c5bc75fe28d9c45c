"""registry info, registry ls, registry copy."""

from __future__ import annotations

from dataclasses import asdict

import click

from reprokit.cli.commands.transfer import address
from reprokit.cli.face import Face, common, size
from reprokit.cli.text.table import table
from reprokit.core.config import registries
from reprokit.errors import Error
from reprokit.registry import open_registry
from reprokit.registry.info import info as of_registry
from reprokit.runs.transfer import copy as copy_registry

__all__ = ["registry"]


@click.group()
def registry() -> None:
    """Look at registries, and copy one into another."""


@registry.command()
@common
def info(face: Face) -> None:
    """Say where the registry lies, what is in it, and how much that takes."""
    found = of_registry(face.registry(), progress=face)
    rows = [
        ("registry", found.url),
        ("uuid", f"{found.uuid}, format {found.format}"),
        ("runs", f"{found.runs:,}, of which {found.running:,} go on; {found.verdicts:,} with verdicts"),
        ("packages", f"{found.packages:,}; {found.versions:,} versions with those of runs"),
        ("stored", f"{size(found.size)} in {found.files:,} files"),
    ]
    face.result(found.plain(), lambda: table(rows))


@registry.command()
@common
def ls(face: Face) -> None:
    """List the registries that the project's .reprokit/config.yaml names, and the one that is used."""
    used = face.config.registry
    found = [{"name": name, "url": url, "used": url == used} for name, url in sorted(registries().items())]
    if not any(one["used"] for one in found):
        found.append({"name": None, "url": used, "used": True})
    for one in found:
        try:
            opened = open_registry(str(one["url"]))
            one["state"] = "there" if opened.namespaces() else "empty"
        except Error as error:
            one["state"] = error.message
    lines = [f"{'*' if one['used'] else ' '} {one['name'] or '-':<12}  {one['url']}  {one['state']}" for one in found]
    face.result(found, lines)


@registry.command()
@click.argument("source", callback=address)
@click.argument("target", callback=address)
@click.option("--where", metavar="EXPR", help="Only runs of which this is true, each with all that it names.")
@common
def copy(face: Face, source: str, target: str, where: str | None) -> None:
    """Copy registry SOURCE into TARGET, verified: all packages, runs and verdicts, or the runs that EXPR chooses.

    What is there already is not copied again, so an interrupted copy goes on where it was. Runs that go on are left
    out and named. EXPR is that of `ls --where`.
    """
    done = copy_registry(source=open_registry(source), target=open_registry(target), where=where, progress=face)
    new = [one for one in done if one.published]
    face.result(
        [asdict(one) for one in done],
        f"{len(done):,} versions are in {target}: {len(new):,} were copied, "
        f"{sum(one.new_objects for one in new):,} objects, {size(sum(one.new_bytes for one in new))} new",
    )
