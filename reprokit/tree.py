"""The tree cache: a version laid out once below the cache, read-only, and given to every workspace.

A tree is used again only if every file's stat is what it was when its bytes were verified.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from reprokit.canonical import canonical
from reprokit.manifest import Manifest
from reprokit.package import write_entries
from reprokit.paths import durable_write, os_errors
from reprokit.progress import SILENT, Progress
from reprokit.registry import Registry

__all__ = ["lay_out"]


def lay_out(manifest: Manifest, *, registry: Registry, cache: Path, what: str, progress: Progress = SILENT) -> Path:
    """Return a folder that holds exactly the files of `manifest`, verified.

    Raises:
        DataMismatchError: An object in the registry is corrupt.
        RegistryError: Reading the registry or writing the cache failed.
    """
    trees = cache / "trees"
    tree, stats = trees / manifest.top_hash, trees / f"{manifest.top_hash}.json"
    with os_errors(f"Laying out {what} in {trees}"):
        if _known(stats) == _observe(tree):
            return tree
        trees.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=trees))
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
            stats.unlink(missing_ok=True)
            if tree.exists():  # changed since it was verified, or left by a kill: set aside, then remove
                condemned = Path(tempfile.mkdtemp(prefix="tmp-", dir=trees))
                tree.rename(condemned / "tree")
                shutil.rmtree(condemned, ignore_errors=True)
            try:
                temporary.rename(tree)
            except OSError:
                if _known(stats) == _observe(tree):  # another process laid it out meanwhile
                    return tree
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        durable_write(stats, canonical(_observe(tree)), sync=False)
    return tree


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


def _known(stats: Path) -> object:
    try:
        return json.loads(stats.read_bytes())
    except (OSError, ValueError):
        return "no tree was verified"
