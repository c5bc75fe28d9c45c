"""A run's workspace: the locked code, and nothing else, in a folder of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from reprokit.core.atomic_files import os_errors
from reprokit.core.logical_keys import inside, key_fault, safe_join
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError
from reprokit.locking.git_hash import identity_of_entries
from reprokit.packages.install import write_entries
from reprokit.registry import Registry
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import CodeIdentity, RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Output

__all__ = ["Found", "check_jail", "find_outputs", "lay_code", "lay_outputs", "written_files"]

_IGNORED = {"__pycache__", ".ipynb_checkpoints"}


def lay_code(
    manifest: Manifest,
    identity: CodeIdentity,
    folder: Path,
    *,
    registry: Registry,
    notebook: str | None = None,
    progress: Progress = SILENT,
) -> None:
    """Write the `code/…` entries of a run's record into `folder` and check that they are the locked git tree.

    Args:
        notebook: The one that is executed; the locked tree has its cells alone.
    Raises:
        DataMismatchError: The bytes give another tree hash than the lock names.
    """
    entries = manifest.below("code")
    modes = {entry.logical_key: _mode(entry) for entry in entries}
    own = next((key for key in modes if ".git" in key.casefold().split("/")), None)
    if own is not None:
        raise DataMismatchError(f"The code in the record has {own!r}, which no git tree has.")
    with os_errors(f"Writing the code to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        files = [entry for entry in entries if modes[entry.logical_key] != "160000"]
        write_entries(
            registry,
            files,
            folder,
            what="the run's code",
            title="Laying out code",
            strip=CODE_PREFIX,
            progress=progress,
        )
        for entry in entries:  # links last, so that nothing is ever written through one
            path = safe_join(folder, entry.logical_key.removeprefix(CODE_PREFIX))
            mode = modes[entry.logical_key]
            if mode == "160000":
                path.mkdir(parents=True)
            elif mode == "100755":
                path.chmod(0o755)
            elif mode == "120000":
                target = path.read_bytes()
                path.unlink()
                path.symlink_to(os.fsdecode(target))
        found = identity_of_entries(
            entries, identity.object_format, lambda entry: _laid(entry, folder), notebook=notebook
        )
    if found.tree != identity.tree:
        raise DataMismatchError(
            f"The code in the record is not the locked tree: expected {identity.tree[:12]}…, found {found.tree[:12]}….",
            hint="The record was altered; fetch it from another copy of the registry.",
        )


def _laid(entry: Entry, folder: Path) -> bytes:
    """Return the bytes of an entry of the code as it lies in a folder; of a link, its target."""
    file = folder / entry.logical_key.removeprefix(CODE_PREFIX)
    return os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()


def check_jail(lock: RunLock, folder: Path, *, laid: bool) -> None:
    """Raise unless all that reprokit itself reads, writes or starts by a lock's paths is inside a workspace.

    What the code is, a stranger chose: a folder of it may be a link to somewhere else.

    Args:
        laid: The data are laid out: links of ours lead to them, and what is imported or started is no data.
    Raises:
        RefusedError: A link leads out of it.
    """
    code = lock.recipe.code
    for what, path in (("code.entrypoint", code.entrypoint), ("code.notebook", code.notebook)):
        if path is not None:
            inside(folder, path, what=what)
    for path in lock.code.python_path:
        inside(folder, path, what="code.python_path")
    if laid:
        return
    inside(folder, code.workdir, what="code.workdir")
    for pin in lock.data:
        inside(folder, str(PurePosixPath(pin.path).parent), what=f"data.{pin.name}.path")
    for output in lock.recipe.declared_outputs:
        inside(folder, output.path, what="outputs")


def _mode(entry: Entry) -> str:
    facts = entry.meta.get("reprokit")
    return str(facts.get("mode")) if isinstance(facts, dict) else ""


class Found(NamedTuple):
    """A declared output as it lies in a workspace.

    Attributes:
        path: Relative to the workspace; what is not UTF-8 in it is spelled.
        file: To be read; None of one that is not there, or cannot be kept.
        unkept: Why not.
    """

    declared: Output
    path: str
    file: Path | None = None
    unkept: str | None = None


def find_outputs(outputs: list[Output], folder: Path) -> list[Found]:
    """Return every declared output, each once: the files of a folder, and what in it is none.

    Of two whose names differ only in their case, the first counts; nothing here fails for one name.
    """
    found: dict[str, Found] = {}
    for output in outputs:
        place = folder / output.path
        if place.is_dir() and place.resolve().is_relative_to(folder.resolve()):
            for path in _below(place):
                one = _found(output, path, folder)
                if one is not None:
                    found[one.path] = one
        elif os.path.lexists(place):
            one = _found(output, place, folder)
            if one is not None:
                found[one.path] = one
        else:
            found.setdefault(output.path.rstrip("/"), Found(output, output.path.rstrip("/")))
    return _without_clashes(list(found.values()))


def _below(folder: Path) -> Iterator[Path]:
    """Yield all that is in a folder but folders, sorted; and those folders that cannot be read."""
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as children:
                names = sorted((child.name, child.is_dir(follow_symlinks=False)) for child in children)
        except OSError:
            yield current
            continue
        yield from (current / name for name, is_folder in names if not is_folder)
        pending += [current / name for name, is_folder in reversed(names) if is_folder and name not in _IGNORED]


def _found(output: Output, path: Path, folder: Path) -> Found | None:
    """Return what lies at a path; None for a link to a folder of the workspace: its files are found where they are."""
    key, shown = path.relative_to(folder).as_posix(), _shown(path, folder)
    is_link = os.path.islink(path)  # noqa: PTH114 - of a path too long to be looked at, False
    try:
        real = path.resolve()
        if is_link and not real.is_relative_to(folder.resolve()):
            return Found(output, shown, unkept="it is a symbolic link that leads out of the workspace")
        mode = path.stat().st_mode
        if is_link and stat.S_ISDIR(mode):
            return None
        if not real.is_relative_to(folder.resolve()):
            return Found(output, shown, unkept="a symbolic link above it leads out of the workspace")
        if stat.S_ISDIR(mode):
            return Found(output, shown, unkept="the folder cannot be read")
        if not stat.S_ISREG(mode):
            return Found(output, shown, unkept="it is a pipe, a socket or a device, and no file")
    except (OSError, RuntimeError) as error:
        dead = is_link and isinstance(error, FileNotFoundError)
        why = "it is a symbolic link to nothing" if dead else f"it cannot be read: {_words(error)}"
        return Found(output, shown, unkept=why)
    fault = key_fault(f"outputs/{key}")
    return Found(output, shown, None if fault else real, fault)


def _shown(path: Path, folder: Path) -> str:
    """Return a path below a folder as text; what is not UTF-8 in it is spelled."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def _words(error: OSError | RuntimeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _without_clashes(found: list[Found]) -> list[Found]:
    """Have the later of two names marked that cannot stand side by side."""
    taken: dict[str, str] = {}
    above: dict[str, str] = {}
    done = []
    for one in found:
        folded = one.path.casefold()
        other = taken.get(folded) or above.get(folded)
        folders = [folded[:at] for at, letter in enumerate(folded) if letter == "/"]
        other = other or next((taken[name] for name in folders if name in taken), None)
        if one.file is not None and other is not None:
            done.append(one._replace(file=None, unkept=f"beside {other!r}, its name differs in case alone"))
            continue
        if one.file is not None:
            taken[folded] = one.path
            above.update(dict.fromkeys(folders, one.path))
        done.append(one)
    return done


def lay_outputs(outputs: dict[str, bytes], folder: Path) -> None:
    """Write the outputs of a run's earlier attempt, by path: a script that appends to a file goes on with it."""
    for name, data in outputs.items():
        safe_join(folder, name)
        path = inside(folder, name, what="outputs")
        if path.exists() or path.is_symlink():
            continue
        with os_errors(f"Writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def written_files(folder: Path, known: set[str]) -> list[str]:
    """Return the files below `folder` that are not `known`: what a script wrote. Links are not followed."""
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _IGNORED and not os.path.islink(f"{base}/{name}")]  # noqa: PTH114
        for name in files:
            relative = _shown(Path(base) / name, folder)
            if relative not in known and not os.path.islink(f"{base}/{name}"):  # noqa: PTH114 - however long it is
                found.append(relative)
    return sorted(found)
