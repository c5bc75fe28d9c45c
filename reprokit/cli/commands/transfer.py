"""push, pull; registry info, ls, copy, listing."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import Any

import click

from reprokit.cli.face import Face, absolute_address, common, reference, size
from reprokit.cli.text.table import table
from reprokit.core.config import registries
from reprokit.errors import Error, UsageError
from reprokit.registry import Registry, open_registry, registry_folder
from reprokit.registry.info import info as of_registry
from reprokit.registry.info import write_listing
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.quilt.writer import QuiltTarget, QuiltWriter
from reprokit.runs.transfer import Transfer
from reprokit.runs.transfer import copy as copy_registry
from reprokit.runs.transfer import pull as pull_version
from reprokit.runs.transfer import push as push_version

__all__ = ["pull", "push", "registry"]


def _address(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Make paths absolute before -C changes the folder, as --registry does."""
    if value is None or isinstance(value, tuple):
        return value and tuple(_address(_context, _parameter, one) for one in value)
    return absolute_address(value)


_tags = click.option("--tag", "tags", multiple=True, help="Also point this tag at it there.")
_all = click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Of a run, also the inputs and checkpoints that it names, the verdicts on it, and the records behind those.",
)


@click.command()
@reference("refs", nargs=-1, required=True)
@click.argument("target", callback=_address)
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
@reference("refs", nargs=-1, required=True)
@click.option("--from", "source", required=True, metavar="URL", callback=_address, help="The registry to copy from.")
@click.option(
    "--allow-outside",
    metavar="PLACE",
    multiple=True,
    callback=_address,
    help="Of a Quilt registry: objects may be read below PLACE too, a folder, or s3://BUCKET/PREFIX.",
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
    opened = open_registry(source, outside=allow_outside)
    if allow_outside and not isinstance(opened, QuiltRegistry):
        raise UsageError(f"--allow-outside is for registries of Quilt's, which {source} is not.")
    target = face.registry()
    done: list[Transfer] = []
    for ref in refs:
        done += pull_version(ref, source=opened, target=target, tags=tags, everything=everything, progress=face)
    _tell(face, done)


def _target(address: str, layout: str | None) -> Registry | QuiltTarget:
    if layout == "quilt" and "://" in address and not address.startswith("file://"):
        return _bucket(import_module("reprokit.store.object_storage").open_storage(address))
    if layout == "quilt":
        return QuiltWriter(registry_folder(address))
    opened = open_registry(address)
    if not isinstance(opened, QuiltRegistry):
        return opened
    if layout == "reprokit":
        raise UsageError(
            f"{address} is a Quilt registry, not one of reprokit's.", hint="Name another folder, or --layout quilt."
        )
    storage = getattr(opened, "storage", None)
    return QuiltWriter(opened.root) if storage is None else _bucket(storage)


def _bucket(storage: Any) -> QuiltTarget:
    writer: QuiltTarget = import_module("reprokit.registry.quilt.bucket").QuiltBucketWriter(storage)
    return writer


def _tell(face: Face, done: list[Transfer]) -> None:
    lines = []
    for one in done:
        marks = f" ({', '.join(one.tags)})" if one.tags else ""
        copied = f"{one.new_objects:,} objects copied, {size(one.new_bytes)} new" if one.published else "already there"
        lines.append(f"{one.name}@{one.top_hash} → {one.target}{marks}")
        lines.append(f"  {one.entries:,} entries, {size(one.size)}; {copied}")
    face.result([asdict(one) for one in done], lines)


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
@click.argument("source", callback=_address)
@click.argument("target", callback=_address)
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


@registry.command()
@common
def listing(face: Face) -> None:
    """Write the listing by which the registry can be read as static files, from https://….

    A folder or bucket that a web server serves as it is becomes a registry that everybody can read and reproduce from.
    Write the listing again when something was published.
    """
    opened = face.registry()
    done = write_listing(opened)
    face.result({"file": done.name, "bytes": done.size}, f"{done.name}: {size(done.size)}")
