"""Data in a workspace (lock → world): every pinned version at its path, and unchanged at the end."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from reprokit.core.atomic_files import os_errors
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.locking.inputs import part_of
from reprokit.packages.tree_cache import forget, lay_out, moment, observe, spoilt, was_spoilt_before
from reprokit.registry.context import Context
from reprokit.schema.lock import DataPin
from reprokit.schema.record import DataFacts

__all__ = ["ChangedInput", "Laid", "LaidTree", "check_inputs", "lay_data"]


class LaidTree(NamedTuple):
    """What a workspace was given of an input.

    Attributes:
        tree: Of the cache; or the workspace's own copy.
        since: When it was given, as the file system of the cache counts time.
        own: Of a copy: what its files were when it was laid.
    """

    tree: Path
    inode: int
    since: int = 0
    own: list[list[object]] | None = None


class ChangedInput(NamedTuple):
    """An input that is not what it was.

    Attributes:
        before: It was so already when the run began, which had another input than its lock says.
    """

    file: str
    text: str
    before: bool = False


Laid = Literal["symlink", "copy", "own"]
"""Links into the cache; copies that are the script's to change; copies that it could not be kept from changing."""

_FICLONE = 0x40049409


def lay_data(
    pins: list[DataPin],
    workspace: Path,
    *,
    context: Context,
    layout: Laid,
) -> tuple[list[DataFacts], dict[str, LaidTree]]:
    """Lay every pinned version, or the part of it that is pinned, out at its path in the workspace, verified.

    Returns:
        What the record says of each; and the trees, by the input's name, that `check_inputs` must find unchanged.
    Raises:
        DataMismatchError: An object is corrupt, or a version is not what its hash says.
        NotFoundError: A version or an object is not there any more.
        RefusedError: The code itself has something at that path.
    """
    facts = []
    trees: dict[str, LaidTree] = {}
    since = moment(context.cache) if pins else 0
    for pin in pins:
        try:
            part = part_of(pin, context.registry.read_manifest(pin.top_hash))
            tree = lay_out(
                part.manifest,
                registry=context.registry,
                cache=context.cache,
                what=str(pin),
                look=layout != "symlink",
                progress=context.progress,
            )
        except (DataMismatchError, NotFoundError) as error:
            raise type(error)(f"Input {pin.name!r}: {error.message}", hint=error.hint) from None
        place = workspace / pin.path
        if place.exists() or place.is_symlink():
            raise RefusedError(
                f"Input {pin.name!r} cannot be laid out: the code has {pin.path!r} itself.",
                hint="Take it out of git, or change data.path in the recipe.",
            )
        source = tree / part.file if part.file is not None else tree
        with os_errors(f"Laying out {pin} at {place}"):
            place.parent.mkdir(parents=True, exist_ok=True)
            small = layout == "copy" or part.manifest.size * 2 < shutil.disk_usage(place.parent).free
            if layout == "symlink" or not small:
                place.symlink_to(source, target_is_directory=part.file is None)
                trees[pin.name] = LaidTree(tree, tree.stat().st_ino, since)
            elif part.file is None:
                shutil.copytree(source, place, copy_function=_copy)
            else:
                _copy(str(source), str(place))
            if layout == "own" and small:
                trees[pin.name] = LaidTree(place, 0, own=_observed(place))
        facts.append(
            DataFacts(
                name=pin.name,
                package=pin.package,
                top_hash=pin.top_hash,
                path=pin.path,
                entries=len(part.manifest.entries),
                size=part.manifest.size,
                run=pin.run,
                within=pin.within,
            )
        )
    return facts, trees


def _copy(source: str, target: str) -> None:
    """Copy a file; where the file system can, the two share their bytes until one is written to."""
    with Path(source).open("rb") as one, Path(target).open("wb") as other:
        try:
            fcntl.ioctl(other, _FICLONE, one.fileno())
        except OSError:
            shutil.copyfileobj(one, other, 1 << 20)


def _observed(place: Path) -> list[list[object]]:
    """Return the stats of a folder's files, or of a file; nothing of what is gone."""
    with contextlib.suppress(OSError):
        if place.is_dir():
            return observe(place) or []
        seen = place.lstat()
        return [[place.name, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]]
    return []


def check_inputs(trees: dict[str, LaidTree]) -> dict[str, ChangedInput]:
    """Return the inputs that changed on disk since they were verified; the cache lays its own out anew next time."""
    found = {}
    for name, laid in trees.items():
        if laid.own is not None:
            after = _observed(laid.tree)
            if after != laid.own:
                rows = ({str(row[0]): row for row in some} for some in (laid.own, after))
                one, other = rows
                file = min(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
                text = f"Input {name!r} was changed while the run went on, in the run's own copy: {file}."
                found[name] = ChangedInput(file, text)
            continue
        file = spoilt(laid.tree) or ""
        before = bool(file) and was_spoilt_before(laid.tree, file, laid.since)
        if not file and laid.tree.stat().st_ino != laid.inode:  # found so by somebody else, and laid out anew
            file = laid.tree.name
        elif file:
            forget(laid.tree)
        if file:
            text = (
                f"Input {name!r} was changed on disk before the run ended: {file} in {laid.tree} is not what was "
                "verified."
            )
            found[name] = ChangedInput(file, text, before)
    return found
