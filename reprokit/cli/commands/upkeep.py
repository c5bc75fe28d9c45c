"""rollback, rm, gc, purge."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module

import click

from reprokit.cli.face import Face, common, reference, size
from reprokit.core.refs import PackageRef
from reprokit.core.scratch import sweep
from reprokit.core.terminal_text import printable
from reprokit.errors import RegistryError, UsageError
from reprokit.packages.purge import purge as purge_objects
from reprokit.registry import Registry
from reprokit.registry.gc import GRACE, Swept, collect_garbage
from reprokit.registry.local import LocalRegistry
from reprokit.registry.stored import StoredRegistry
from reprokit.registry.uses import find_objects
from reprokit.runs.remove import rm as remove
from reprokit.runs.store import RunStore

__all__ = ["gc", "purge", "rm", "rollback"]


def _local(registry: Registry) -> LocalRegistry:
    if not isinstance(registry, LocalRegistry):
        raise UsageError(
            f"{registry.url} is not a registry in a folder, and this command works on those alone.",
            hint="Pull what is meant into a folder, or ask who looks after that registry.",
        )
    return registry


def _ours(registry: Registry) -> StoredRegistry:
    if not isinstance(registry, StoredRegistry):
        raise UsageError(f"{registry.url} is a Quilt registry, which is only read.", hint="Pull what is meant.")
    return registry


@click.command()
@reference("ref")
@click.option("-m", "--message", help="Why; kept in the package's log.")
@common
def rollback(face: Face, ref: str, message: str | None) -> None:
    """Make version REF (NS/NAME@HASH or NS/NAME:TAG) the latest again. What came after it stays in the history."""
    registry = face.registry()
    parsed = PackageRef.parse(ref)
    top_hash = registry.resolve(parsed)
    registry.rollback(parsed.name, top_hash, note=message)
    plain = {"name": parsed.name, "top_hash": top_hash, "tag": "latest"}
    face.result(plain, f"{parsed.name}:latest → {top_hash[:16]}")


@click.command()
@reference("ref")
@click.option("-m", "--message", help="Why; kept in the package's log.")
@click.option("--force", is_flag=True, help="Even if runs have it as an input or made it.")
@common
def rm(face: Face, ref: str, message: str | None, force: bool) -> None:
    """Delete a package version (NS/NAME@HASH, NS/NAME:TAG) or a run. Its bytes go when `gc` finds them unused."""
    done = remove(ref, registry=face.registry(), message=message, force=force)
    told = f"{len(done.deleted)} version(s) deleted; `reprokit gc` frees what nothing uses"
    face.result(done.plain(), f"{done.name}: {told}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and how much, and remove nothing.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE / 3600,
    show_default=True,
    metavar="HOURS",
    help="Leave alone what is younger: somebody may be about to use it.",
)
@click.option("--thorough", is_flag=True, help="Write every pack anew that holds anything unused.")
@common
def gc(face: Face, dry_run: bool, grace: float, thorough: bool) -> None:
    """Remove from the registry what no version uses, and from this machine the scratch folders of killed runs.

    In an object store, where nobody holds a lock, what is unused is condemned first, and removed by a gc that comes
    after the grace period.
    """
    registry = face.registry()
    if isinstance(registry, StoredRegistry) and not isinstance(registry, LocalRegistry):
        remote = import_module("reprokit.registry.remote.gc")  # an object store's client, which a folder does not need
        swept: Swept = remote.collect_remote_garbage(registry, grace=grace * 3600, dry_run=dry_run, progress=face)
    else:
        local = _local(registry)
        swept = collect_garbage(local, grace=grace * 3600, dry_run=dry_run, thorough=thorough, progress=face)
    count, freed = sweep(dry_run=dry_run)
    verb = "would be freed" if dry_run else "freed"
    lines = [
        f"{size(swept.bytes)} {verb} in {registry.url}",
        f"  {swept.versions:>7,} versions that were deleted or never finished",
        f"  {swept.objects:>7,} objects that nothing uses",
        f"  {swept.packs:>7,} packs removed, {swept.rewritten:,} written anew",
        f"  {swept.temporary:>7,} leftovers of writers that died",
    ]
    if count:
        lines.append(f"  {count:>7,} scratch folders of killed runs on this machine, {size(freed)} {verb}")
    if swept.kept:
        lines.append(f"  {swept.kept:>7,} unused things stay: they are younger than {grace:g} h, or a run is alive")
    plain = {**asdict(swept), "scratch": count, "scratch_bytes": freed}
    face.result(plain, [*lines, *swept.notes])


@click.command()
@click.argument("objects", nargs=-1)
@click.option("--entry", "entries", multiple=True, metavar="REF:KEY", help="The object of one entry, NS/NAME@HASH:KEY.")
@click.option("--reason", required=True, help="Why; kept in the tombstone.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common
def purge(face: Face, objects: tuple[str, ...], entries: tuple[str, ...], reason: str, yes: bool) -> None:
    """Erase OBJECTS (digests, as `ls --json` shows them in hex or their start) from the registry for good.

    Every version that holds them keeps its name and loses the bytes. A tombstone says when, by whom and why.
    """
    registry = _ours(face.registry())
    digests = find_objects(registry, objects, entries)
    if not digests:
        raise UsageError("Name the objects to erase, or entries with --entry.")
    if not yes:
        shown = ", ".join(sorted(digest.hex[:12] for digest in digests)[:6])
        click.confirm(
            f"Erase {len(digests)} object(s) ({shown}) from {registry.url} for good? It cannot be undone.",
            abort=True,
            err=True,
        )
    done = purge_objects(registry, digests, cache=face.config.cache, reason=reason, also=[face.config.home / "runs"])
    running = RunStore(registry).running_with({use.top_hash for use in done.affected})
    plain = {
        "purged": sorted(digest.hex for digest in digests),
        "affected": [asdict(use) for use in done.affected],
        "copies": [str(path) for path in done.copies],
        "left": [{"path": str(path), "why": why} for path, why in done.left],
        "running": running,
    }
    lines = [f"{len(digests)} object(s) erased, from:"]
    lines += [f"  {use.package}@{use.top_hash[:12]}  {use.logical_key}" for use in done.affected]
    lines += [f"  {path}" for path in done.copies]
    lines += [f"Run {run} goes on, and an input of it held what was erased: it is likely to fail." for run in running]
    face.result(plain, lines)
    if done.left:
        shown = "; ".join(f"{path}: {why}" for path, why in done.left[:6])
        raise RegistryError(
            f"{len(done.left)} copies could not be erased: {printable(shown, 2000)}.",
            hint="Erase them by hand, or purge again as who may.",
        )
