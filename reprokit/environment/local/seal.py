"""What an environment was when it was made: every file by its stat, so that nothing else of it is executed.

An interpreter executes what lies in its folders: a `.pth` file or a `sitecustomize` that somebody put there, a library,
bytecode beside its source. So all that has come since is removed, of what was changed it is said so, and a folder that
others may write is not used. Nothing here starts the interpreter before that is known, and no file is read.
"""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import json
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from reprokit.core.atomic_files import durable_write
from reprokit.core.canonical_json import canonical
from reprokit.errors import RefusedError

__all__ = ["Seen", "check_private", "look", "seal", "unseal"]

_PYTHON = "bin/python"
_BYTECODE = "__pycache__"


class Seen(NamedTuple):
    """What was found in an environment.

    Attributes:
        changed: The first file that is not as it was made; None if all are.
        removed: What was not made with it, and is gone now; bytecode is not told.
    """

    changed: str | None
    removed: list[str]


def check_private(*folders: Path) -> None:
    """Raise a RefusedError unless all of these folders are this user's, or root's, and nobody else may write them."""
    for folder in folders:
        found = folder.stat()
        if found.st_uid not in (0, os.geteuid()):
            raise RefusedError(
                f"{folder} belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}: what lies in it is not "
                "executed.",
                hint="Take a cache of your own: REPROKIT_CACHE=FOLDER. Or, if you trust what is there, `chown` it.",
            )
        if _others_may_write(found):
            raise RefusedError(
                f"{folder} may be written by others ({stat.filemode(found.st_mode)}): what lies in it is not executed.",
                hint=f"`chmod go-w {folder}`; if you do not know who wrote there, `rm -r {folder}`: it is made again.",
            )


def seal(folder: Path, *, of: str) -> None:
    """Note what every file of a folder is now.

    Args:
        of: What was made there: the hash of a lock.
    """
    _write(folder, of, _observe(folder))


def unseal(folder: Path) -> None:
    """Have it that nothing is known of a folder; `look` then says that it was changed."""
    _file(folder).unlink(missing_ok=True)


def look(folder: Path, *, of: str) -> Seen:
    """Compare every file of a folder with what it was when it was sealed, and remove what was not there then.

    Bytecode that an interpreter has written since is not believed: it is removed too, and compiled again from its
    source.
    """
    known = _known(folder, of)
    if known is None:
        return Seen(folder.name, [])
    found = _observe(folder)
    differing = [path for path, row in known.items() if found.get(path) != row]
    if changed := [path for path in differing if not _is_bytecode(path)]:
        return Seen(min(changed), [])
    added = sorted(found.keys() - known.keys())
    stale = sorted({*added, *differing})
    for path in stale:
        _remove(folder / path)
    sources = sorted(_sources(stale) & known.keys())
    if sources:
        _compile(folder, sources)
    if sources or differing:
        made = _observe(folder)
        kept = {path: row for path, row in known.items() if path in made and path not in differing}
        _write(folder, of, kept | {path: made[path] for path in stale if path in made})
    return Seen(None, [path for path in added if not _is_bytecode(path)])


def _is_bytecode(path: str) -> bool:
    return _BYTECODE in path.split("/")


def _others_may_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_private(found.st_gid)


def _is_private(group: int) -> bool:
    """True if a group is one user's own, as many systems have it, where a umask of 002 shares nothing.

    Source: `usergroups` in pam_umask(8).
    """
    try:
        user, named = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and named.gr_name == user.pw_name and set(named.gr_mem) <= {user.pw_name}


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _write(folder: Path, of: str, rows: dict[str, list[Any]]) -> None:
    durable_write(_file(folder), canonical({"of": of, "rows": rows}), sync=False)


def _known(folder: Path, of: str) -> dict[str, list[Any]] | None:
    try:
        stored = json.loads(_file(folder).read_bytes())
        return dict(stored["rows"]) if stored["of"] == of else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _observe(folder: Path) -> dict[str, list[Any]]:
    """Return mode, owner, and of what is no folder size, times and inode of everything below; links say where to.

    The interpreter's row, where its link leads out of the folder, also says which file that is.
    """
    rows: dict[str, list[Any]] = {}
    pending = [("", str(folder))]
    while pending:
        prefix, inner = pending.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(inner) as children:
            for child in children:
                path = prefix + child.name
                with contextlib.suppress(FileNotFoundError):  # an interpreter writes bytecode under another name first
                    rows[path] = _row(child)
                if child.is_dir(follow_symlinks=False):
                    pending.append((f"{path}/", child.path))
    if _PYTHON in rows:
        real = (folder / _PYTHON).resolve()
        with contextlib.suppress(OSError):
            seen = real.stat()
            rows[_PYTHON] += [str(real), seen.st_size, seen.st_mtime_ns, seen.st_ino]
    return rows


def _row(child: os.DirEntry[str]) -> list[Any]:
    seen = child.stat(follow_symlinks=False)
    if stat.S_ISDIR(seen.st_mode):
        return [seen.st_mode, seen.st_uid]
    leads = [os.readlink(child.path)] if stat.S_ISLNK(seen.st_mode) else []  # noqa: PTH115 - of many
    return [seen.st_mode, seen.st_uid, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, *leads]


def _sources(paths: Iterable[str]) -> set[str]:
    """Return what bytecode was compiled from, by the place where Python puts it."""
    found = set()
    for path in paths:
        with contextlib.suppress(ValueError):
            found.add(importlib.util.source_from_cache(path))
    return found


def _compile(folder: Path, sources: Iterable[str]) -> None:
    """Compile sources as the interpreter there does when it imports them; what it cannot compile stays as it is."""
    command = [str(folder / _PYTHON), "-I", "-m", "compileall", "-q", "-i", "-"]
    listed = "".join(f"{folder / source}\n" for source in sources)
    subprocess.run(command, input=listed, text=True, capture_output=True, check=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
