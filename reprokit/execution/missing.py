"""A script that did not find a file which lies in the user's working tree: what to do about it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from reprokit.core.terminal_text import printable

__all__ = ["missing_inputs"]

_MOST = 3
# as Python says it, and what NumPy, pandas, Pillow and others make of it
_SAID = (
    re.compile(r"No such file or directory: b?(['\"])(?P<path>[^'\"\n]{1,400})\1"),
    re.compile(r"(?P<path>[^\s'\"]{1,400}) (?:not found\.|does not exist)"),
    re.compile(r"name = (['\"])(?P<path>[^'\"\n]{1,400})\1, errno = 2"),
    re.compile(r"(['\"])(?P<path>[^'\"\n]{1,400})\1 (?:not found|does not exist)"),
)


def missing_inputs(failure: str, *, root: Path, workspace: Path, workdir: str) -> list[str]:
    """Return a sentence for each file that a failure names as missing, and that the working tree has.

    Args:
        failure: The end of what the script said.
        root: The repository, as the user has it.
        workspace: Where the script ran instead.
        workdir: Of the script, below it.
    """
    named: dict[str, None] = {}
    start = f"{workspace}/"
    for pattern in _SAID:
        for found in pattern.finditer(failure):
            said = found["path"]
            inside = said.removeprefix(start) if said.startswith(start) else posixpath.join(workdir, said)
            path = posixpath.normpath(inside)
            if not path.startswith(("/", "..")) and path not in named and _is_there(root, path):
                named[path] = None
    return [_told(path, is_folder=(root / path).is_dir()) for path in [*named][:_MOST]]


def _is_there(root: Path, path: str) -> bool:
    try:
        return path != "." and (root / path).exists()
    except (OSError, ValueError):
        return False


def _told(path: str, *, is_folder: bool) -> str:
    folder = path if is_folder else posixpath.dirname(path)
    what = f"{printable(path, 400)} lies in the working tree, and a run gets only what is committed or declared."
    if not folder:
        return f"{what} Commit it; or put it into a folder, and declare that as data."
    name, told = printable(posixpath.basename(folder)), printable(folder, 400)
    return (
        f"{what} Make a package of its folder, `reprokit package build {told} NAMESPACE/{name}`, and declare it in the "
        f"recipe: `data: {{{name}: {{package: NAMESPACE/{name}, path: {told}}}}}`. Or commit it, if it is small."
    )
