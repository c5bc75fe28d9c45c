"""package build, install, log, tag, verify, checkpoint get."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from reprokit.building import build
from reprokit.cli.face import Face, common, size
from reprokit.errors import NotFoundError, RecipeError, UsageError
from reprokit.package import Package, Problem, verify_registry
from reprokit.plain_yaml import load_yaml
from reprokit.refs import PackageRef, check_package_name, is_package_ref, parse_run
from reprokit.runs import RunStore

__all__ = ["checkpoint", "install", "log", "package", "tag", "verify"]


@click.group()
def package() -> None:
    """Build packages."""


@package.command("build")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("-m", "--message", help="Why this version; part of its hash.")
@click.option(
    "--meta", type=click.Path(path_type=Path, exists=True), help="Metadata of the version: a JSON or YAML file."
)
@click.option("--tag", "tags", multiple=True, help="Also point this tag at it.")
@common
def build_command(
    face: Face, folder: Path, name: str, message: str | None, meta: Path | None, tags: tuple[str, ...]
) -> None:
    """Store every file of FOLDER as a new version of package NAME."""
    user_meta: dict[str, Any] | None = None
    if meta is not None:
        user_meta = load_yaml(meta.read_bytes(), what=str(meta))
        if not isinstance(user_meta, dict):
            raise RecipeError(f"{meta} must be a mapping.")
    made = build(folder, name, registry=face.registry(), message=message, meta=user_meta, tags=tags, progress=face)
    text = f"{made.name}@{made.top_hash}\n  {made.entries:,} files, {size(made.size)}, {size(made.new_bytes)} new"
    face.result(asdict(made), text)


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
        message = registry.read_header(entry.top_hash).get("message")
        pointing = sorted(tag for tag, hash_ in entries[-1].tags.items() if hash_ == entry.top_hash)
        time = datetime.fromtimestamp(entry.time / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        rows.append({"seq": entry.seq, "top_hash": entry.top_hash, "time": entry.time, "writer": entry.writer,
                     "message": message, "tags": pointing})  # fmt: skip
        marks = f" ({', '.join(pointing)})" if pointing else ""
        lines.append(f"{entry.top_hash[:16]}  {time}  {entry.writer}{marks}  {message or ''}".rstrip())
    face.result(rows, "\n".join(lines))


@click.command()
@click.argument("ref")
@click.argument("name")
@common
def tag(face: Face, ref: str, name: str) -> None:
    """Point tag NAME at package version REF."""
    registry = face.registry()
    parsed = PackageRef.parse(ref)
    top_hash = registry.resolve(parsed)
    registry.tag(parsed.name, top_hash, (name,))
    plain = {"name": parsed.name, "top_hash": top_hash, "tag": name}
    face.result(plain, f"{parsed.name}:{name} → {top_hash[:16]}")


@click.command()
@click.argument("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every version of every package.")
@common
def verify(face: Face, refs: tuple[str, ...], everything: bool) -> None:
    """Read every byte of REFS (package versions or runs) and compare it with its hash. Exit 4 if something is wrong."""
    if bool(refs) == everything:
        raise UsageError("Name what to verify, or give --all.")
    registry = face.registry()
    problems: list[Problem] = []
    versions = 0
    if everything:
        versions, problems = verify_registry(registry, progress=face)
    for ref in refs:
        name = ref if is_package_ref(ref) else f"runs/{RunStore(registry).find(ref)}"
        problems += Package.open(name, registry=registry).verify(progress=face)
        versions += 1
    plain = {"versions": versions, "problems": [asdict(problem) for problem in problems]}
    lines = [f"  {problem.package}@{problem.top_hash[:8]}  {problem.message}" for problem in problems]
    lines.append(f"{versions} version(s) verified, {len(problems)} problem(s)")
    face.result(plain, "\n".join(lines))
    sys.exit(4 if problems else 0)


@click.group()
def checkpoint() -> None:
    """Fetch checkpoints."""


@checkpoint.command("get")
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@common
def get(face: Face, ref: str, folder: Path | None) -> None:
    """Write the files of checkpoint REF (RUN@best:val_loss, RUN@epoch=2, RUN@last) into FOLDER, verified."""
    registry = face.registry()
    parsed = parse_run(ref)
    chosen = RunStore(registry).checkpoint(parsed)
    opened = Package.open(PackageRef(chosen.package, hash=chosen.top_hash), registry=registry)
    place = folder or Path(f"{chosen.package.partition('/')[2]}-{chosen.top_hash[:8]}")
    opened.install(place, progress=face)
    plain = {"package": chosen.package, "top_hash": chosen.top_hash, "folder": str(place)}
    face.result(plain, f"{chosen.package}@{chosen.top_hash[:16]} → {place}: {len(opened)} files, all verified")
