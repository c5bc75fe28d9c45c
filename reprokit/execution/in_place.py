"""What a run in the working tree itself executed and read that is not what its record holds as its code.

Git says nothing of files that it ignores, nor of changes that it was told not to see (`assume-unchanged`,
`skip-worktree`, a clean filter). So what was used is held, byte by byte, against the entries of the tree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from reprokit.core.digest import hash_file
from reprokit.errors import DataMismatchError
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import StrayFile

__all__ = ["MOST_STRAYS", "stray_files", "stray_warning"]

MOST_STRAYS = 1000
_MAX_HASHED = 1 << 30  # bytes of one file
_SHOWN = 5
_OWN = (".git", ".reprokit", "__pycache__")


def stray_files(used: Iterable[str], lock: RunLock, manifest: Manifest, root: Path, *, python: Path) -> list[StrayFile]:
    """Return the files of a working tree that a run used and that are not the recorded tree's, sorted.

    Args:
        used: What it imported and opened there, relative to the root.
        manifest: The run's record, with the code.
        python: The interpreter; an environment that lies in the working tree is recorded as one.
    """
    code = lock.recipe.code
    environment = Path(os.path.normpath(root.resolve() / python.parent.parent))
    outputs = [output.path.rstrip("/") for output in lock.recipe.declared_outputs]
    data = [pin.path for pin in lock.data]
    found = []
    for name in sorted({*used, *filter(None, (code.entrypoint, code.notebook))}):
        if set(_OWN) & set(name.split("/")) or any(f"{name}/".startswith(f"{place}/") for place in [*outputs, *data]):
            continue
        if (root.resolve() / name).is_relative_to(environment) or "site-packages" in name.split("/"):
            continue
        stray = _held_against(name, manifest.by_key.get(CODE_PREFIX + name), root / name)
        if stray is not None:
            found.append(stray)
    return found[:MOST_STRAYS]


def _held_against(name: str, entry: Entry | None, file: Path) -> StrayFile | None:
    """Return what is to be said of a file that was used; nothing if it is the tree's."""
    digest = size = None
    if not file.is_file():  # asked for in vain, or gone
        return None
    with contextlib.suppress(OSError, DataMismatchError):
        size = file.stat().st_size
        if size <= _MAX_HASHED:
            digest = hash_file(file)[0]
    if entry is None:
        how: Literal["not in the tree", "changed"] = "not in the tree"
    elif digest != entry.digest and not file.is_symlink():
        how = "changed"
    else:
        return None
    told = name.encode("utf-8", "replace").decode()
    return StrayFile(path=told, how=how, size=size, digest=None if digest is None else digest.hex)


def stray_warning(strays: list[StrayFile]) -> str:
    """Say what was executed in the working tree."""
    more = f" and {len(strays) - _SHOWN:,} more" if len(strays) > _SHOWN else ""
    shown = ", ".join(f"{one.path} ({one.how})" for one in strays[:_SHOWN])
    return (
        f"Executed in the working tree, and not what the record has as code: {shown}{more}. Commit these files, or "
        "make them inputs, and run without --in-place."
    )
