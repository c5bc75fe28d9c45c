"""Run a script once, as its author would, and see what it reads and writes. Nothing is recorded."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reprokit.core.atomic_files import os_errors
from reprokit.core.package_root import PACKAGE
from reprokit.core.scratch import temporary
from reprokit.execution.script_process import set_up_child
from reprokit.numerics.script_environ import lay_bootstrap, platform_places
from reprokit.recording.input_report import InputReport

__all__ = ["Observation", "observe"]

_GRACE = 10.0  # seconds that a script has to end after it was asked to
_POLL = 0.05
_MOST = 500_000  # files of a working tree that are looked at
_TAIL = 64 * 1024  # bytes of what it said last
_LEFT_OUT = frozenset(
    {".git", ".hg", ".reprokit", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".mypy_cache", ".ruff_cache",
     "node_modules"}
)  # fmt: skip

_Stat = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a script did, in paths relative to the repository where they are inside it, else absolute.

    Attributes:
        exit_code: None where it was stopped before it ended.
        seconds: How long it ran.
        read: Files that it read and had not written, sorted; code that it imported is not among them.
        listed: Folders that it listed.
        written: Files inside the repository that are new or changed.
        said: The end of what it printed, both streams.
    """

    exit_code: int | None
    seconds: float
    read: tuple[str, ...]
    listed: frozenset[str]
    written: tuple[str, ...]
    said: str


def observe(command: list[str], *, root: Path, folder: Path, limit: float, screen: IO[bytes] | None) -> Observation:
    """Run a command of this interpreter and return what it did; it may change what its author lets it change.

    Args:
        command: What follows the interpreter: a script and its arguments.
        root: The repository.
        folder: Where it runs.
        limit: In seconds; then it is interrupted, as by Ctrl-C. Ctrl-C here does the same, once.
        screen: Where what it prints is shown as well; None for nowhere.
    Raises:
        RegistryError: It could not be started.
    """
    root = Path(os.path.realpath(root))
    with temporary() as scratch:
        before = _stats(root)
        report = scratch / "read.txt"
        variables = _variables(scratch, report)
        began = time.monotonic()
        exit_code, said = _run([sys.executable, *command], folder, variables, limit, screen)
        seconds = time.monotonic() - began
        written = sorted(name for name, stat in _stats(root).items() if before.get(name) != stat)
        found = InputReport.read(report)
    fresh = {str(root / name) for name in written}
    places = [name for name in found.undeclared if name not in found.modules and name not in fresh]
    files = [_inside(name, root) for name in places if not name.endswith("/") and Path(name).is_file()]
    return Observation(
        exit_code=exit_code,
        seconds=seconds,
        read=tuple(sorted(files)),
        listed=frozenset(_inside(name.rstrip("/"), root) for name in places if name.endswith("/")),
        written=tuple(written),
        said=said,
    )


def _variables(scratch: Path, report: Path) -> dict[str, str]:
    """Return the script's variables: this process's own, and what watches which files are opened."""
    boot = lay_bootstrap(scratch)
    path = [str(boot), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # beside modules of the repository, which would not be clean then
        "MPLBACKEND": os.environ.get("MPLBACKEND", "Agg"),
        "REPROKIT_OBSERVED": "1",
        "REPROKIT_REGISTRY": str(scratch / "registry"),  # of a script that saves checkpoints already
        "REPROKIT_INPUTS": "warn",
        "REPROKIT_INPUTS_REPORT": str(report),
        "REPROKIT_OWN": os.pathsep.join(map(str, [scratch, PACKAGE])),
        "REPROKIT_ALLOWED": os.pathsep.join(platform_places(os.environ)),
    }


def _run(
    command: list[str], folder: Path, variables: Mapping[str, str], limit: float, screen: IO[bytes] | None
) -> tuple[int | None, str]:
    """Run a command to its end, or to the limit; return its exit code and the end of what it said."""
    with os_errors(f"Starting {command[1]} in {folder}"):
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, process_group=0, preexec_fn=set_up_child if sys.platform == "linux" else None,
        )  # fmt: skip
    stream = process.stdout
    if stream is None:
        raise AssertionError("a pipe was asked for")
    os.set_blocking(stream.fileno(), False)
    said, ends, stopped = b"", time.monotonic() + limit, False
    with _interrupted() as asked, stream:
        while True:
            piece = stream.read(1 << 16)
            if piece:
                said = (said + piece)[-_TAIL:]
                if screen is not None:
                    screen.write(piece)
                    screen.flush()
                continue
            if process.poll() is not None:
                break
            if asked or time.monotonic() > ends:
                number = signal.SIGKILL if stopped else signal.SIGINT
                asked.clear()
                stopped, ends = True, time.monotonic() + _GRACE
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            time.sleep(_POLL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # children that it left behind
    return None if stopped else process.returncode, said.decode("utf-8", "replace")


@contextlib.contextmanager
def _interrupted() -> Iterator[list[int]]:
    """Yield a list that is not empty once Ctrl-C was pressed."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone may say what signals do
        yield asked
        return
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _stats(root: Path) -> dict[str, _Stat]:
    """Return size, mtime and inode of the files below a folder, without caches, environments and other repositories."""
    found: dict[str, _Stat] = {}
    folders = [""]
    while folders and len(found) < _MOST:
        place = folders.pop()
        with contextlib.suppress(OSError), os.scandir(root / place) as entries:
            listed = list(entries)
            if place and any(entry.name in ("pyvenv.cfg", "conda-meta", ".git") for entry in listed):
                continue
            for entry in listed:
                name = f"{place}/{entry.name}" if place else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _LEFT_OUT:
                        folders.append(name)
                elif entry.is_file(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    found[name] = facts.st_size, facts.st_mtime_ns, facts.st_ino
    return found


def _inside(path: str, root: Path) -> str:
    """Return a path relative to the root where it is inside."""
    start = f"{root}/"
    return "." if path == str(root) else path.removeprefix(start)
