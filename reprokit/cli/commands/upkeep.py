"""rollback, rm, gc, purge."""

from __future__ import annotations

from dataclasses import asdict

import click

from reprokit.cli.face import Face, common, size
from reprokit.core.refs import PackageRef, is_package_ref
from reprokit.errors import RefusedError, UsageError
from reprokit.packages.package import RESERVED, VERDICTS
from reprokit.registry import Registry
from reprokit.registry.gc import GRACE, collect_garbage, find_object
from reprokit.registry.gc import purge as purge_objects
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore

__all__ = ["gc", "purge", "rm", "rollback"]


def _local(registry: Registry) -> LocalRegistry:
    if not isinstance(registry, LocalRegistry):
        raise UsageError(f"{registry.url} is not a registry in a folder; its owner looks after it.")
    return registry


@click.command()
@click.argument("ref")
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
@click.argument("ref")
@click.option("-m", "--message", help="Why; kept in the package's log.")
@click.option("--force", is_flag=True, help="Even if runs have it as an input or made it.")
@common
def rm(face: Face, ref: str, message: str | None, force: bool) -> None:
    """Delete a package version (NS/NAME@HASH, NS/NAME:TAG) or a run. Its bytes go when `gc` finds them unused."""
    registry = face.registry()
    runs = RunStore(registry)
    if not is_package_ref(ref):
        run = runs.load(ref)
        if run.record.status == "running":
            raise RefusedError(f"Run {run.record.run_id} is running.", hint="Stop it first.")
        name = f"{RESERVED}/{run.record.run_id}"
        hashes = registry.top_hashes(name)
        users = runs.needing(run.record.run_id)
    else:
        parsed = PackageRef.parse(ref)
        if parsed.tag is None and parsed.hash is None:
            raise UsageError(
                f"{ref} names all versions of a package.", hint=f"Name one: {ref}@HASH, as `reprokit log {ref}` lists."
            )
        if parsed.name.partition("/")[0] == VERDICTS:
            raise RefusedError(f"{ref} is a verdict: they are only ever added to.")
        name, hashes = parsed.name, [registry.resolve(parsed)]
        users = runs.users(name, hashes[0])
    if users and not force:
        shown = ", ".join(users[:4]) + (f" and {len(users) - 4} more" if len(users) > 4 else "")
        raise RefusedError(
            f"{ref} is used by {shown}, which could not be reproduced without it.",
            hint="Give --force to delete it all the same.",
        )
    for top_hash in hashes:
        registry.delete(name, top_hash, note=message)
    plain = {"name": name, "deleted": hashes, "used_by": users}
    face.result(plain, f"{name}: {len(hashes)} version(s) deleted; `reprokit gc` frees what nothing uses")


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
    """Remove from the registry what no version uses."""
    registry = _local(face.registry())
    swept = collect_garbage(registry, grace=grace * 3600, dry_run=dry_run, thorough=thorough, progress=face)
    verb = "would be freed" if dry_run else "freed"
    lines = [
        f"{size(swept.bytes)} {verb} in {registry.url}",
        f"  {swept.versions:>7,} versions that were deleted or never finished",
        f"  {swept.objects:>7,} objects that nothing uses",
        f"  {swept.packs:>7,} packs removed, {swept.rewritten:,} written anew",
        f"  {swept.temporary:>7,} leftovers of writers that died",
    ]
    if swept.kept:
        lines.append(f"  {swept.kept:>7,} unused things stay: they are younger than {grace:g} h, or a run is alive")
    face.result(asdict(swept), "\n".join([*lines, *swept.notes]))


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
    registry = _local(face.registry())
    digests = {find_object(registry, prefix) for prefix in objects}
    for place in entries:
        ref, separator, key = _split_entry(place)
        if not separator:
            raise UsageError(f"Not an entry: {place!r}.", hint="Write NS/NAME@HASH:KEY.")
        digests.add(registry.read_manifest(registry.resolve(PackageRef.parse(ref)))[key].digest)
    if not digests:
        raise UsageError("Name the objects to erase, or entries with --entry.")
    if not yes:
        shown = ", ".join(sorted(digest.hex[:12] for digest in digests)[:6])
        click.confirm(
            f"Erase {len(digests)} object(s) ({shown}) from {registry.url} for good? It cannot be undone.",
            abort=True,
            err=True,
        )
    affected = purge_objects(registry, digests, cache=face.config.cache, reason=reason)
    plain = {"purged": sorted(digest.hex for digest in digests), "affected": [asdict(use) for use in affected]}
    lines = [f"{len(digests)} object(s) erased, from:"]
    lines += [f"  {use.package}@{use.top_hash[:12]}  {use.logical_key}" for use in affected]
    face.result(plain, "\n".join(lines))


def _split_entry(place: str) -> tuple[str, str, str]:
    """Split NS/NAME@HASH:KEY, NS/NAME:TAG:KEY or NS/NAME:KEY."""
    ref, separator, rest = place.partition(":")
    if "@" not in ref and ":" in rest:
        tag, _, rest = rest.partition(":")
        ref = f"{ref}:{tag}"
    return ref, separator, rest
