"""What was found installed, kept on this machine while every file that it was found in stays as it is, by stat.

Looking at each of a hundred thousand files takes a third of what thinking about them takes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from reprokit._version import __version__
from reprokit.core.atomic_files import durable_write
from reprokit.core.canonical_json import sha256_of
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.loose import Walked, startup_files
from reprokit.environment.local.stamp import Folders, Mark, Stamp
from reprokit.schema.lock import Archive, LooseFile, PipPackage

__all__ = ["Installed", "kept_or_found"]

_FORM = "1"
_TICK = 2 * 10**9  # ns: what is younger may be changed again without its time of change telling
_CHECK = 32  # bytes of SHA-256 before what is kept


class Installed(msgspec.Struct, frozen=True, array_like=True):
    """What is installed beside conda's packages.

    Attributes:
        changed: As `Captured.changed`.
        loose: What is executed and belongs to no package, and where it lies.
        owners: Which package a `.pth` file is of.
        projects: Of packages that are imported from where they are written their folder, and their files.
        unrecorded: Modules of packages without a RECORD.
        beside: Files of packages that lie outside the folders that are installed to, behind a link, or nowhere.
    """

    pip: list[PipPackage]
    changed: dict[str, list[str]]
    archives: list[Archive]
    loose: list[tuple[LooseFile, str]]
    owners: dict[str, str]
    projects: dict[str, tuple[str, list[str]]]
    unrecorded: list[str]
    beside: list[str]


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    key: str
    folders: Folders
    digest: str
    installed: Installed


_DECODER = msgspec.msgpack.Decoder(_Kept)


def kept_or_found(
    cache: Path | None, interpreter: Interpreter, beyond: Any, look: Callable[[Walked], Installed]
) -> Installed:
    """Return what is installed: what was found before if no file has changed since, else what is found now.

    Args:
        cache: Where it is kept; None keeps nothing.
        beyond: What else the finding depends on, as JSON has it.
        look: Finds, given all that there is.
    """
    if cache is None:
        return look(_walked(interpreter, Stamp()))
    key = sha256_of([_FORM, __version__, repr(interpreter), beyond])
    file = cache / f"environment-{sha256_of(str(interpreter.prefix))[:16]}"
    kept = _read(file)
    if kept is not None and kept.key == key and _is_as_it_was(kept):
        return kept.installed
    start = time.time_ns()
    stamp = Stamp()
    there = _walked(interpreter, stamp)
    found = look(there)
    others = _others(interpreter, found)
    stamp.add(others)
    if stamp.newest < start - _TICK and not any(Path(path).is_symlink() for _, path in found.loose):
        folders = [one for below in there.folders.values() for one in below]
        _write(file, _Kept(key, [*folders, *others], stamp.digest, found))
    return found


def _walked(interpreter: Interpreter, stamp: Stamp) -> Walked:
    seen: dict[str, Mark] = {}
    return Walked({site: stamp.walk(site, seen) for site in interpreter.sites}, seen)


def _others(interpreter: Interpreter, found: Installed) -> Folders:
    """Return what the finding depends on outside the folders that are installed to."""
    folders: Folders = [startup_files(interpreter), (str(interpreter.prefix), ["pyvenv.cfg"])]
    for path in found.beside:
        folder, _, name = path.rpartition("/")
        folders.append((folder, [name]))
    for place in interpreter.places:  # folders that `.pth` files add may have metadata of packages
        if place not in interpreter.sites:
            folders.append((place, []))
            folders += [
                one for info in sorted(Path(place).glob("*-[iI][nN][fF][oO]")) for one in Stamp().walk(str(info))
            ]
    return folders


def _is_as_it_was(kept: _Kept) -> bool:
    stamp = Stamp()
    stamp.add(kept.folders)
    return stamp.digest == kept.digest


def _read(file: Path) -> _Kept | None:
    """Return what is kept; any trouble with it means doing without."""
    try:
        data = file.read_bytes()
        if hashlib.sha256(memoryview(data)[_CHECK:]).digest() != data[:_CHECK]:
            return None
        return _DECODER.decode(memoryview(data)[_CHECK:])
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def _write(file: Path, kept: _Kept) -> None:
    try:
        data = msgspec.msgpack.encode(kept)
        durable_write(file, hashlib.sha256(data).digest() + data, sync=False)
    except (OSError, UnicodeError):
        pass
