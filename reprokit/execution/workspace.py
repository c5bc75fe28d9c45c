"""A run's workspace: the locked code, and nothing else, in a folder of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from reprokit.core.logical_keys import os_errors, safe_join
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError, UsageError
from reprokit.locking.git_tree import identity_of_entries
from reprokit.packages.package import write_entries
from reprokit.registry import Registry
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import CodeIdentity
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Output

__all__ = ["find_outputs", "lay_code", "lay_outputs", "written_files"]

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
        found = identity_of_entries(entries, identity.object_format, folder, notebook=notebook)
    if found.tree != identity.tree:
        raise DataMismatchError(
            f"The code in the record is not the locked tree: expected {identity.tree[:12]}…, found {found.tree[:12]}….",
            hint="The record was altered; fetch it from another copy of the registry.",
        )


def _mode(entry: Entry) -> str:
    facts = entry.meta.get("reprokit")
    return str(facts.get("mode")) if isinstance(facts, dict) else ""


def find_outputs(outputs: list[Output], folder: Path) -> Iterator[tuple[Output, str, Path | None]]:
    """Yield (declaration, relative path, file) of every declared output; the file is None where it is missing."""
    for output in outputs:
        place = folder / output.path
        if place.is_dir():
            for file in sorted(place.rglob("*")):
                if file.is_file() and not _IGNORED & set(file.relative_to(folder).parts):
                    yield output, file.relative_to(folder).as_posix(), _inside(file, folder)
        else:
            yield output, output.path.rstrip("/"), _inside(place, folder) if place.exists() else None


def lay_outputs(outputs: dict[str, bytes], folder: Path) -> None:
    """Write the outputs of a run's earlier attempt, by path: a script that appends to a file goes on with it."""
    for name, data in outputs.items():
        path = safe_join(folder, name)
        if path.exists():
            continue
        with os_errors(f"Writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _inside(file: Path, folder: Path) -> Path:
    real = file.resolve()
    if not real.is_relative_to(folder.resolve()) or not stat.S_ISREG(real.stat().st_mode):
        raise UsageError(f"The output {file} is not a file inside the workspace; it is not kept.")
    return real


def written_files(folder: Path, known: set[str]) -> list[str]:
    """Return the files below `folder` that are not `known`: what a script wrote. Links are not followed."""
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _IGNORED and not (Path(base) / name).is_symlink()]
        for name in files:
            relative = (Path(base) / name).relative_to(folder).as_posix()
            if relative not in known and not (Path(base) / name).is_symlink():
                found.append(relative)
    return sorted(found)
