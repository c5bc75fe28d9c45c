"""install, log, tag, verify."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from reprokit.cli.face import Face, common
from reprokit.core.refs import PackageRef, check_package_name, is_package_ref
from reprokit.errors import NotFoundError, UsageError
from reprokit.packages.package import RESERVED, Package, Problem, verify_registry
from reprokit.registry import Registry
from reprokit.registry.gc import uses as find_uses
from reprokit.registry.local import LocalRegistry
from reprokit.registry.repair import set_aside_damaged
from reprokit.runs.store import RunStore

__all__ = ["install", "log", "tag", "verify"]


@click.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@common
def install(face: Face, ref: str, folder: Path | None) -> None:
    """Write package version REF into FOLDER (default: the package's own name), every byte verified."""
    opened = Package.open(ref, registry=face.registry())
    place = folder or Path(opened.name.partition("/")[2])
    opened.install(place, progress=face)
    plain = {"name": opened.name, "top_hash": opened.top_hash, "folder": str(place), "entries": len(opened)}
    face.result(plain, f"{opened.name}@{opened.top_hash[:16]} → {place}: {len(opened):,} files, all verified")


@click.command()
@click.argument("name")
@common
def log(face: Face, name: str) -> None:
    """Show the history of package NAME, newest first, its chain of hashes verified."""
    registry = face.registry()
    entries = registry.log(check_package_name(name))
    if not entries:
        raise NotFoundError(f"No package {name} in {registry.url}.", hint="`reprokit ls` lists the packages.")
    rows, lines = [], []
    for entry in reversed(entries):
        message = _message(registry, entry.top_hash)
        pointing = sorted(tag for tag, hash_ in entries[-1].tags.items() if hash_ == entry.top_hash)
        time = datetime.fromtimestamp(entry.time / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        rows.append({"seq": entry.seq, "action": entry.action, "top_hash": entry.top_hash, "time": entry.time,
                     "writer": entry.writer, "message": message, "note": entry.note, "tags": pointing,
                     "permanent": [tag for tag in entries[-1].permanent if tag in pointing]})  # fmt: skip
        marks = f" ({', '.join(tag + '!' * (tag in entries[-1].permanent) for tag in pointing)})" if pointing else ""
        said = entry.note if entry.action != "publish" and entry.note else message
        doing = "" if entry.action == "publish" else f"  {entry.action}"
        lines.append(f"{entry.top_hash[:16]}  {time}  {entry.writer}{doing}{marks}  {said or ''}".rstrip())
    face.result(rows, "\n".join(lines))


def _message(registry: Registry, top_hash: str) -> object:
    try:
        return registry.read_header(top_hash).get("message")
    except NotFoundError:  # deleted, and swept by gc
        return None


@click.command()
@click.argument("ref")
@click.argument("name")
@click.option("--permanent", is_flag=True, help="It never moves again, and its version cannot be deleted.")
@click.option("--delete", "take_away", is_flag=True, help="Take the tag away instead.")
@common
def tag(face: Face, ref: str, name: str, permanent: bool, take_away: bool) -> None:
    """Point tag NAME at package version REF."""
    registry = face.registry()
    parsed = PackageRef.parse(ref)
    if take_away:
        if permanent:
            raise UsageError("--permanent and --delete contradict each other.")
        entry = registry.untag(parsed.name, name)
        face.result({"name": parsed.name, "top_hash": entry.top_hash, "tag": None}, f"{parsed.name}:{name} is gone")
        return
    top_hash = registry.resolve(parsed)
    registry.tag(parsed.name, top_hash, (name,), permanent=permanent)
    plain = {"name": parsed.name, "top_hash": top_hash, "tag": name, "permanent": permanent}
    face.result(plain, f"{parsed.name}:{name} → {top_hash[:16]}{', for good' if permanent else ''}")


@click.command()
@click.argument("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every version of every package, and all packs.")
@click.option(
    "--repair", is_flag=True, help="With --all: set damaged files aside, so that building or pulling restores."
)
@click.option("--uses", metavar="DIGEST", help="List what holds an object (hex, or its start) instead.")
@common
def verify(face: Face, refs: tuple[str, ...], everything: bool, repair: bool, uses: str | None) -> None:
    """Read every byte of REFS (package versions or runs) and compare it with its hash. Exit 4 if something is wrong.

    The record of a run is also held against the checkpoints, outputs and metrics that it names.
    """
    registry = face.registry()
    if uses is not None:
        if refs or everything or repair:
            raise UsageError("--uses goes with no REF and not with --all or --repair.")
        _print_uses(face, registry, uses)
        return
    if bool(refs) == everything:
        raise UsageError("Name what to verify, or give --all.")
    if repair and not (everything and isinstance(registry, LocalRegistry)):
        raise UsageError("--repair goes with --all, and with a registry of reprokit's in a folder.")
    problems: list[Problem] = []
    versions = 0
    moved = set_aside_damaged(registry, progress=face) if repair and isinstance(registry, LocalRegistry) else []
    if everything:
        versions, problems = verify_registry(registry, progress=face)
    for ref in refs:
        name = ref if is_package_ref(ref) else f"{RESERVED}/{RunStore(registry).find(ref)}"
        package = Package.open(name, registry=registry)
        found = package.verify(progress=face)
        if not is_package_ref(ref) and not found:
            check = importlib.import_module(
                "reprokit.comparison.record_check"
            ).contradictions  # loads what reads checkpoints
            told = check(RunStore(registry).load(ref), registry)
            found = [
                Problem(
                    package=package.name,
                    top_hash=package.top_hash,
                    logical_key="record.json",
                    message=f"record.json: {what}: {how}",
                )
                for what, how in told
            ]
        problems += found
        versions += 1
    wrong = [problem for problem in problems if not problem.purged]
    plain = {"versions": versions, "problems": [asdict(problem) for problem in problems]}
    lines = [
        f"  set aside  {aside.file} → {aside.moved_to}" + (f", {aside.kept:,} sound objects kept" if aside.kept else "")
        for aside in moved
    ]
    if repair:
        plain["set_aside"] = [asdict(aside) for aside in moved]
    for problem in problems:
        where = f"{problem.package}@{problem.top_hash[:8]}  " if problem.package else ""
        lines.append(f"  {where}{problem.message}")
    purged = len(problems) - len(wrong)
    lines.append(
        f"{versions} version(s) verified, {len(wrong)} problem(s)" + (f", {purged} purged entries" if purged else "")
    )
    face.result(plain, "\n".join(lines))
    sys.exit(4 if wrong else 0)


def _print_uses(face: Face, registry: Registry, prefix: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{6,64}", prefix):
        raise UsageError(f"Not a digest: {prefix!r}.", hint="Give 6 to 64 hexadecimal digits.")
    found = find_uses(registry, prefix)
    lines = [f"{use.package}@{use.top_hash[:16]}  {use.logical_key}" for use in found]
    face.result([asdict(use) for use in found], "\n".join(lines) or f"no version in {registry.url} holds {prefix}")
