"""Folders for what has no name yet: locked while their maker lives, so that what a killed one left can be told.

Locks may end at a machine, where a file system is shared: who made a folder on another one is taken to live, as long as
anything changes there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from reprokit.core.regular_files import open_lock

__all__ = ["ALL", "DOCTOR", "LONG", "OWNER", "abandoned", "scratch", "sweep", "temporary"]

OWNER = "owner"
DOCTOR = "doctor-"
"""What folders below the cache begin with in which a doctor trains: they hold registries and workspaces."""

_TEMPORARY = "reprokit-"  # what folders in the system's temporary folder begin with
LONG = 7 * 24 * 3600.0
ALL = -math.inf
"""For `elsewhere`: the lock alone tells, wherever it was taken."""
_BOOT = "/proc/sys/kernel/random/boot_id"


@contextmanager
def scratch(base: Path, *, prefix: str = "tmp") -> Iterator[Path]:
    """Make a folder, and remove it at the end; until then `abandoned` leaves it out."""
    base.mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        try:
            owner = (folder / OWNER).open("wb", buffering=0)
        except FileNotFoundError:  # a gc without grace was faster
            continue
        fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            owner.write(json.dumps(_here()).encode())
        except OSError:  # a full disk: nothing is left of it
            owner.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if os.fstat(owner.fileno()).st_nlink:
            break
        owner.close()
    with owner:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def abandoned(
    base: Path, *, prefix: str = "", among: Collection[str] | None = None, elsewhere: float | None = LONG
) -> Iterator[Path]:
    """Yield the folders whose maker has died; nobody becomes the owner while the caller has one.

    Args:
        among: Names of those that are looked at; all by default.
        elsewhere: Seconds without a change after which one of another machine counts as such; None: never.
    """
    try:
        names = sorted(os.listdir(base))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if not name.startswith(prefix) or (among is not None and name not in among):
            continue
        folder = base / name
        try:
            owner = open_lock(folder / OWNER)  # made if it is not there: its owner may be about to
        except (FileNotFoundError, NotADirectoryError):
            continue
        with owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # held, or the file system has no locks
                continue
            if _is_of_here(folder / OWNER) or (elsewhere is not None and _age(folder) > elsewhere):
                yield folder


def temporary() -> AbstractContextManager[Path]:
    """Make a folder in the system's temporary folder; `sweep` removes it if we are killed."""
    return scratch(Path(tempfile.gettempdir()), prefix=_TEMPORARY)


def sweep(*, dry_run: bool = False) -> tuple[int, int]:
    """Remove the `temporary` folders of dead makers that are this user's; return how many, and their bytes."""
    base, prefix = Path(tempfile.gettempdir()), _TEMPORARY
    count = freed = 0
    with contextlib.suppress(OSError):
        mine = {child.name for child in base.iterdir() if child.name.startswith(prefix) and _is_mine(child)}
        for folder in abandoned(base, prefix=prefix, among=mine, elsewhere=None):
            count += 1
            freed += sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
    return count, freed


def _is_mine(folder: Path) -> bool:
    seen = folder.lstat()
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and (folder / OWNER).is_file()


def _age(folder: Path) -> float:
    """Return how long ago anything changed directly in a folder."""
    with contextlib.suppress(OSError):
        return time.time() - max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
    return 0.0


def _here() -> dict[str, str]:
    """Return what tells this machine from others, and this start of it from earlier ones."""
    return {"host": platform.node(), "machine": _read("/etc/machine-id"), "boot": _read(_BOOT)}


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _is_of_here(owner: Path) -> bool:
    """True if a lock's file was written on this machine, where locks tell who lives; also if it does not say where."""
    try:
        told = json.loads(owner.read_bytes() or b"null")
    except (OSError, ValueError):
        return False
    here = _here()
    if told is None or told == here:
        return True
    if not isinstance(told, dict):
        return False
    return told.get("boot") == here["boot"] != "" or all(told.get(name) == here[name] for name in ("host", "machine"))
