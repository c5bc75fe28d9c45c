"""A run's declared inputs, as its script's processes see them: folders that the runner laid out and verified.

Standard library only: the environment of a run need not contain what reprokit itself depends on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterable
from typing import Any

from reprokit.client import context

__all__ = ["FolderLayer", "declared_folder", "in_run", "names_of"]


def in_run() -> bool:
    """True in a process of a run."""
    return bool(os.environ.get("REPROKIT_CONTEXT"))


def declared_folder(ref: str) -> str:
    """Return the folder where a declared input of this run lies, by its package's reference or its name in the recipe.

    Raises:
        LookupError: The run does not declare it, or pins another version than the reference names.
    """
    inputs: list[dict[str, Any]] = context().get("data", [])
    name = ref.partition("@")[0].partition(":")[0]
    for item in inputs:
        if item["name"] == ref or item["package"] == name:
            wanted = ref.partition("@")[2].lower()
            if wanted and not str(item["top_hash"]).startswith(wanted):
                raise LookupError(f"reprokit: this run has {name} at {item['top_hash'][:12]}, not at {wanted}.")
            return str(item["folder"])
    known = ", ".join(str(item["package"]) for item in inputs) or "none"
    _note_refused(ref)
    raise LookupError(
        f"reprokit: {ref} is not a declared input of this run; declared: {known}. "
        "Declare it under `data:` in the recipe."
    )


def _note_refused(name: str) -> None:
    """Have the run's record say that the script asked for what is not declared."""
    report = os.environ.get("REPROKIT_INPUTS_REPORT")
    if report is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b"\1" + os.fsencode(name.replace("\n", " ")) + b"\n")
        finally:
            os.close(descriptor)


def names_of(folder: str) -> list[str]:
    """Return every file below a folder as a relative path, sorted by its parts."""
    found: list[str] = []
    pending = [(folder, "")]
    while pending:
        place, prefix = pending.pop()
        with os.scandir(place) as children:
            for child in children:
                if child.is_dir():
                    pending.append((child.path, f"{prefix}{child.name}/"))
                else:
                    found.append(prefix + child.name)
    return sorted(found, key=lambda key: key.replace("/", "\0"))


class FolderLayer:
    """The files of a real folder, to be laid over another path."""

    def __init__(self, folder: str, below: str = "") -> None:
        self.root = os.path.join(folder, below) if below else folder  # noqa: PTH118
        if not os.path.isdir(self.root):  # noqa: PTH112
            raise NotADirectoryError(errno.ENOTDIR, f"reprokit: the input has no folder {below!r}", self.root)

    def keys(self) -> Iterable[str]:
        return names_of(self.root)

    def size(self, key: str) -> int:
        with self._file(key) as handle:
            return os.fstat(handle.fileno()).st_size

    def read(self, key: str) -> bytes:
        with self._file(key) as handle:
            return handle.readall()

    def _file(self, key: str) -> io.FileIO:
        return io.FileIO(f"{self.root}/{key}")  # which is not hooked: the layer may lie over the folder itself
