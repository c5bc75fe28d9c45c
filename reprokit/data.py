"""Data: which version an input names (world → lock), and that version's files in a workspace (lock → world)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from reprokit.errors import DataMismatchError, RefusedError
from reprokit.lock import DataPin
from reprokit.manifest import Manifest
from reprokit.paths import os_errors
from reprokit.progress import SILENT, Progress
from reprokit.recipe import Recipe
from reprokit.record import DataFacts
from reprokit.refs import PackageRef, parse_run
from reprokit.registry import Registry
from reprokit.runs import RunStore
from reprokit.tree import forget, lay_out, spoilt

__all__ = ["Laid", "LaidTree", "check_inputs", "lay_data", "pin_data"]


class LaidTree(NamedTuple):
    """A tree of the cache as a workspace was given it."""

    tree: Path
    inode: int


Laid = Literal["symlink", "copy"]


def pin_data(recipe: Recipe, *, registry: Registry, runs: RunStore) -> list[DataPin]:
    """Return the version of every input, as the registry stands now.

    Raises:
        NotFoundError: No such package, version, run or checkpoint.
    """
    pins = []
    for name, item in recipe.data.items():
        if item.package is not None:
            ref = PackageRef.parse(item.package)
            pins.append(DataPin(name=name, package=ref.name, top_hash=registry.resolve(ref), path=item.path))
        elif item.run is not None:
            chosen = runs.checkpoint(parse_run(item.run))
            pins.append(
                DataPin(name=name, package=chosen.package, top_hash=chosen.top_hash, path=item.path, run=item.run)
            )
    return pins


def lay_data(
    pins: list[DataPin],
    workspace: Path,
    *,
    registry: Registry,
    cache: Path,
    layout: Laid,
    progress: Progress = SILENT,
) -> tuple[list[DataFacts], dict[str, LaidTree]]:
    """Lay every pinned version out at its path in the workspace, verified.

    Returns:
        What the record says of each; and the trees, by the input's name, that `check_inputs` must find unchanged.
    Raises:
        DataMismatchError: An object is corrupt, or a version is not what its hash says.
        RefusedError: The code itself has something at that path.
    """
    facts = []
    trees: dict[str, LaidTree] = {}
    for pin in pins:
        try:
            manifest: Manifest = registry.read_manifest(pin.top_hash)
            what = f"{pin.package}@{pin.top_hash[:8]}"
            tree = lay_out(
                manifest, registry=registry, cache=cache, what=what, look=layout == "copy", progress=progress
            )
        except DataMismatchError as error:
            raise DataMismatchError(f"Input {pin.name!r}: {error.message}", hint=error.hint) from None
        place = workspace / pin.path
        if place.exists() or place.is_symlink():
            raise RefusedError(
                f"Input {pin.name!r} cannot be laid out: the code has {pin.path!r} itself.",
                hint="Take it out of git, or change data.path in the recipe.",
            )
        with os_errors(f"Laying out {what} at {place}"):
            place.parent.mkdir(parents=True, exist_ok=True)
            if layout == "copy":
                shutil.copytree(tree, place, copy_function=shutil.copyfile)
            else:
                place.symlink_to(tree, target_is_directory=True)
                trees[pin.name] = LaidTree(tree, tree.stat().st_ino)
        facts.append(
            DataFacts(
                name=pin.name,
                package=pin.package,
                top_hash=pin.top_hash,
                path=pin.path,
                entries=len(manifest.entries),
                size=manifest.size,
                run=pin.run,
            )
        )
    return facts, trees


def check_inputs(trees: dict[str, LaidTree]) -> str | None:
    """Return what is wrong if an input changed on disk since it was verified, and have it laid out anew next time."""
    for name, (tree, inode) in trees.items():
        file = spoilt(tree)
        if file is None and tree.stat().st_ino != inode:  # found spoilt by somebody else, and laid out anew meanwhile
            file = tree.name
        elif file is not None:
            forget(tree)
        if file is not None:
            return (
                f"Input {name!r} was changed on disk before the run ended: {file} in {tree} is not what was verified."
            )
    return None
