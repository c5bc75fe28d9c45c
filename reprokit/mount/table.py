"""The package versions that are mounted on this machine, and how a mount ends. Reads the kernel's own table."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from reprokit.errors import RefusedError, RegistryError, UsageError

__all__ = ["MADE", "TYPE", "absolute", "mounts", "unmount"]

TYPE = "fuse.reprokit"
MADE = "+folder"  # ends the source of a mount whose folder we made, for whoever unmounts it
_TABLE = Path("/proc/self/mountinfo")
_SECONDS_TO_END = 5.0


def unmount(folder: Path, *, lazy: bool = False) -> str:
    """End the mount at `folder`, also one whose process was killed. Returns the version that was mounted.

    Args:
        lazy: Detach a mount that is in use; who has a file open there reads on.
    Raises:
        UsageError: No version is mounted there.
        RefusedError: It is in use.
        RegistryError: The system does not unmount it.
    """
    folder = absolute(folder)
    source = mounts().get(str(folder))
    if source is None:
        raise UsageError(f"No package version is mounted on {folder}.", hint=_hint_mounts())
    stale = _is_stale(folder)
    said = _fusermount(folder, lazy=lazy)
    if said and stale:
        said = _fusermount(folder, lazy=True)
    if said:
        if "busy" in said:
            raise RefusedError(
                f"{folder} is in use by a process; it stays mounted.",
                hint=f"`fuser -vm {folder}` lists them; `reprokit unmount --lazy {folder}` detaches it nevertheless.",
            )
        raise RegistryError(f"Unmounting {folder} failed: {said}.")
    if source.endswith(MADE):
        _await_removal(folder, 0.0 if stale or lazy else _SECONDS_TO_END)
    return source.removesuffix(MADE)


def absolute(folder: Path) -> Path:
    """Return the folder as the mount table names it; a stale mount, which answers with errors, does not hinder."""
    return folder.resolve()


def mounts() -> dict[str, str]:
    """Return our mounts of this machine, folder → source."""
    found = {}
    for line in _TABLE.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        type_, source = after.split(" ")[:2]
        if type_ == TYPE:
            found[_unescape(before.split(" ")[4])] = _unescape(source)
    return found


def _unescape(field: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(field))
    return os.fsdecode(raw)


def _hint_mounts() -> str:
    found = mounts()
    if not found:
        return "None is mounted on this machine."
    return "Mounted are: " + ", ".join(f"{source.removesuffix(MADE)} on {place}" for place, source in found.items())


def _is_stale(folder: Path) -> bool:
    """Tell whether nobody serves the mount any more. A stat would not: the kernel answers it from what it has kept."""
    try:
        os.statvfs(folder)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _fusermount(folder: Path, *, lazy: bool) -> str:
    """Unmount; return what the tool says against it, empty if it is done."""
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    command = [tool, "-u", *(["-z"] if lazy else [])] if tool else ["umount", *(["-l"] if lazy else [])]
    done = subprocess.run([*command, "--", str(folder)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def _await_removal(folder: Path, seconds: float) -> None:
    """Wait for the process of a mount to remove the folder that it made; remove it if that process is no more."""
    end = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        folder.rmdir()
