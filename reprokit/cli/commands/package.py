"""install, log, tag, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reprokit.runs.listing import log as history

if TYPE_CHECKING:
    from reprokit.comparison.verify import Verification


import importlib
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from reprokit.cli.face import Face, common, reference
from reprokit.core.refs import RESERVED, PackageRef, RunRef, is_package_ref, parse_run
from reprokit.errors import UsageError
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.registry.uses import uses as find_uses

__all__ = ["install", "log", "tag", "verify"]


@click.command()
@reference("ref")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@common
def install(face: Face, ref: str, folder: Path | None) -> None:
    """Write package version REF into FOLDER (default: the package's own name), every byte verified.

    REF may be a run: `reprokit install latest` writes its record with its code, outputs and log.
    """
    registry = face.registry()
    if not is_package_ref(ref):
        runs = importlib.import_module("reprokit.runs.store").RunStore(registry)  # a package does without
        ref = f"{RESERVED}/{runs.find(ref)}"
    opened = Package.open(ref, registry=registry)
    place = folder or Path(opened.name.partition("/")[2])
    opened.install(place, progress=face)
    plain = {"name": opened.name, "top_hash": opened.top_hash, "folder": str(place), "entries": len(opened)}
    face.result(plain, f"{opened.name}@{opened.top_hash[:16]} → {place}: {len(opened):,} files, all verified")


@click.command()
@reference("name")
@common
def log(face: Face, name: str) -> None:
    """Show the history of package NAME, newest first, its chain of hashes verified."""
    lines = []
    rows = history(name, registry=face.registry())
    for row in rows:
        time = datetime.fromtimestamp(row.time / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        marks = f" ({', '.join(tag + '!' * (tag in row.permanent) for tag in row.tags)})" if row.tags else ""
        said = row.note if row.action != "publish" and row.note else row.message
        doing = "" if row.action == "publish" else f"  {row.action}"
        lines.append(f"{row.top_hash[:16]}  {time}  {row.writer}{doing}{marks}  {said or ''}".rstrip())
    face.result([row.plain() for row in rows], lines)


@click.command()
@reference("ref")
@click.argument("name")
@click.option("--permanent", is_flag=True, help="It never moves again, and its version cannot be deleted.")
@click.option("--delete", "take_away", is_flag=True, help="Take the tag away instead.")
@common
def tag(face: Face, ref: str, name: str, permanent: bool, take_away: bool) -> None:
    """Point tag NAME at a package version, a run (RUN), or the version that a checkpoint is (RUN@best).

    A run's tag is a name of that run alone: given to another, it moves.
    """
    registry = face.registry()
    if take_away and permanent:
        raise UsageError("--permanent and --delete contradict each other.")
    if not is_package_ref(ref):
        _tag_run(face, parse_run(ref), name, permanent=permanent, take_away=take_away)
        return
    parsed = PackageRef.parse(ref)
    if take_away:
        entry = registry.untag(parsed.name, name)
        face.result({"name": parsed.name, "top_hash": entry.top_hash, "tag": None}, f"{parsed.name}:{name} is gone")
        return
    top_hash = registry.resolve(parsed)
    registry.tag(parsed.name, top_hash, (name,), permanent=permanent)
    plain = {"name": parsed.name, "top_hash": top_hash, "tag": name, "permanent": permanent}
    face.result(plain, f"{parsed.name}:{name} → {top_hash[:16]}{', for good' if permanent else ''}")


def _tag_run(face: Face, ref: RunRef, name: str, *, permanent: bool, take_away: bool) -> None:
    registry = face.registry()
    runs = importlib.import_module("reprokit.runs.store").RunStore(registry)  # a package's tag does without
    if take_away and ref.selector is None:
        run_id = runs.find(ref.run)
        registry.untag(f"{RESERVED}/{run_id}", name)
        face.result({"run_id": run_id, "tag": None}, f"run {run_id} is not tagged {name} any more")
        return
    if take_away:
        entry = runs.checkpoint(ref)
        registry.untag(entry.package, name)
        face.result({"name": entry.package, "top_hash": entry.top_hash, "tag": None}, f"{entry.package}:{name} is gone")
        return
    package, top_hash = runs.tag(ref, name, permanent=permanent)
    plain = {"name": package, "top_hash": top_hash, "tag": name, "permanent": permanent}
    good = ", for good" if permanent else ""
    if ref.selector is None:
        run_id = package.partition("/")[2]
        face.result({"run_id": run_id, **plain}, f"{name} → run {run_id}{good}")
    else:
        face.result(plain, f"{package}:{name} → {top_hash[:16]}{good}")


@click.command()
@reference("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every version of every package, and all packs.")
@click.option(
    "--repair", is_flag=True, help="With --all: set damaged files aside, so that building or pulling restores."
)
@click.option("--uses", metavar="DIGEST", help="List what holds an object (hex, or its start) instead.")
@common
def verify(face: Face, refs: tuple[str, ...], everything: bool, repair: bool, uses: str | None) -> None:
    """Read every byte of REFS (package versions or runs) and compare it with its hash. Exit 4 if something is wrong.

    Of a run its checkpoints are read too, and tensors and states digested again. Its record is held against its lock,
    the checkpoints, outputs and metrics that it names and what was published of it before; the verdicts on it against
    both records. With --all, histories that got shorter since this machine saw them are named.
    """
    context = face.context()
    if uses is not None:
        if refs or everything or repair:
            raise UsageError("--uses goes with no REF and not with --all or --repair.")
        _print_uses(face, context.registry, uses)
        return
    check = importlib.import_module("reprokit.comparison.verify").verify  # loads what reads checkpoints
    found: Verification = check(refs, context=context, everything=everything, repair=repair)
    lines = [
        f"  set aside  {aside.file} → {aside.moved_to}" + (f", {aside.kept:,} sound objects kept" if aside.kept else "")
        for aside in found.set_aside or ()
    ]
    for problem in found.problems:
        where = f"{problem.package}@{problem.top_hash[:8]}  " if problem.package else ""
        lines.append(f"  {where}{problem.message}")
    purged = len(found.problems) - len(found.wrong)
    lines.append(
        f"{found.versions} version(s) verified, {len(found.wrong)} problem(s)"
        + (f", {purged} purged entries" if purged else "")
    )
    face.result(found.plain(), lines)
    sys.exit(4 if found.wrong else 0)


def _print_uses(face: Face, registry: Registry, prefix: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{6,64}", prefix):
        raise UsageError(f"Not a digest: {prefix!r}.", hint="Give 6 to 64 hexadecimal digits.")
    found = find_uses(registry, prefix)
    lines = [f"{use.package}@{use.top_hash[:16]}  {use.logical_key}" for use in found]
    face.result([asdict(use) for use in found], lines or [f"no version in {registry.url} holds {prefix}"])
