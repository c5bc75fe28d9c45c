"""The tree cache: a version laid out once below the cache, read-only, and given to every workspace.

A tree is used again only if every file's stat is what it was when its bytes were verified. A run looks at that when it
ends, which also covers the time while it ran: giving a tree to another workspace then costs nothing per file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

from reprokit.core.canonical_json import canonical
from reprokit.core.logical_keys import durable_write, os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.packages.package import write_entries
from reprokit.registry import Registry
from reprokit.schema.manifest import Manifest

__all__ = ["discard", "forget", "lay_out", "spoilt"]


def lay_out(
    manifest: Manifest,
    *,
    registry: Registry,
    cache: Path,
    what: str,
    look: bool = True,
    progress: Progress = SILENT,
) -> Path:
    """Return a folder that holds exactly the files of `manifest`, verified.

    Args:
        look: Look at every file of a tree that is there already; else the caller does so afterwards, by `spoilt`.
    Raises:
        DataMismatchError: An object in the registry is corrupt.
        RegistryError: Reading the registry or writing the cache failed.
    """
    trees = cache / "trees"
    tree = trees / manifest.top_hash
    with os_errors(f"Laying out {what} in {trees}"):
        if _is_there(tree, look=look):
            return tree
        trees.mkdir(parents=True, exist_ok=True)
        with tree.with_name(f"{tree.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two that want the same tree, one makes it and the other waits
            if not _is_there(tree, look=look):
                _make(tree, manifest, registry, what, progress)
    return tree


def _is_there(tree: Path, *, look: bool) -> bool:
    return spoilt(tree) is None if look else tree.is_dir() and _stats_of(tree).exists()


def _make(tree: Path, manifest: Manifest, registry: Registry, what: str, progress: Progress) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=tree.parent))
    try:
        write_entries(
            registry,
            manifest.entries,
            temporary,
            what=what,
            title=f"Laying out {what}",
            mode=0o444,
            progress=progress,
        )
        temporary.chmod(0o755)
        verified = _observe(temporary)  # renaming the folder changes none of it
        forget(tree)
        if tree.exists():  # changed since it was verified, or left by a kill: set aside, then remove
            condemned = Path(tempfile.mkdtemp(prefix="tmp-", dir=tree.parent))
            tree.rename(condemned / "tree")
            shutil.rmtree(condemned, ignore_errors=True)
        temporary.rename(tree)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    durable_write(_stats_of(tree), canonical(verified), sync=False)


def spoilt(tree: Path) -> str | None:
    """Return the first file of a tree that is not what it was when it was verified; None if all are.

    A tree of which nothing is known, or that is not there, is spoilt by its own name.
    """
    try:
        known = json.loads(_stats_of(tree).read_bytes())
        found = _observe(tree)
    except (OSError, ValueError, RecursionError):
        return tree.name
    if found is None or not isinstance(known, list) or not all(isinstance(row, list) and row for row in known):
        return tree.name
    if known == found:
        return None
    before, after = ({str(row[0]): row for row in rows} for rows in (known, found))
    return min(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def forget(tree: Path) -> None:
    """Have a tree laid out anew the next time."""
    _stats_of(tree).unlink(missing_ok=True)


def discard(cache: Path, top_hash: str) -> None:
    """Remove a tree that nobody will want again."""
    tree = cache / "trees" / top_hash
    forget(tree)
    shutil.rmtree(tree, ignore_errors=True)
    tree.with_name(f"{tree.name}.lock").unlink(missing_ok=True)


def _stats_of(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.json")


def _observe(tree: Path) -> list[list[object]] | None:
    """Return [path, size, mtime, ctime, inode] of every file, sorted; None if there is no tree."""
    if not tree.is_dir():
        return None
    rows: list[list[object]] = []
    pending = [("", str(tree))]
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as children:
            for child in children:
                if child.is_dir(follow_symlinks=False):
                    pending.append((f"{prefix}{child.name}/", child.path))
                else:
                    seen = child.stat(follow_symlinks=False)
                    row = [prefix + child.name, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]
                    rows.append(list[object](row))
    return sorted(rows, key=lambda row: str(row[0]))
