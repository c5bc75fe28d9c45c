"""What a script's processes read and were refused, as the watch on opened files noted it (`reprokit.client.boot`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reprokit.core.digest import hash_bytes, hash_file
from reprokit.errors import DataMismatchError
from reprokit.schema.record import Program, UndeclaredFile

__all__ = ["InputReport", "digested", "programs_of", "some"]

_MAX_HASHED = 1 << 30  # bytes of all undeclared files
_MAX_DIGESTED = 10_000  # files; of those beyond, the names are noted
_MAX_REPORT, _MAX_PATH = 256 * 1024 * 1024, 8192  # bytes; of a longer line, the parts
_MAX_PROGRAM = 16 << 20  # bytes of one that is hashed
_PLAIN, _OPENED, _REFUSED, _MODULE, _PROGRAM, _MADE, _FOREIGN = (b"", b"\0", b"\1", b"\2", b"\3", b"\4", b"\5")
_MARKS = (_OPENED, _REFUSED, _MODULE, _PROGRAM, _MADE, _FOREIGN)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReport:
    """A line is a path, after a byte that says what it is of; none before an undeclared file.

    Attributes:
        opened: Files of the run's own tree, relative to it.
        undeclared: Other files that nothing declares, and folders that were listed, sorted.
        modules: Those of them that were imported or executed.
        refused: What was asked for in vain: a file, or a package.
        programs: What was started and is not Python.
    """

    opened: frozenset[str]
    undeclared: list[str]
    modules: frozenset[str]
    refused: list[str]
    programs: list[str]

    @classmethod
    def read(cls, report: Path) -> InputReport:
        """Return what a report says; nothing if there is none."""
        marked: dict[bytes, set[str]] = {mark: set() for mark in (_PLAIN, *_MARKS)}
        for line in _lines(report):
            mark = line[:1] if line[:1] in _MARKS else _PLAIN
            marked[mark].add(os.fsdecode(line[len(mark) :]))
        refused = sorted(name.encode("utf-8", "replace").decode() for name in marked[_REFUSED])
        return cls(
            opened=frozenset(marked[_OPENED]),
            undeclared=sorted((marked[_PLAIN] | marked[_MODULE]) - marked[_REFUSED]),  # what was refused was not read
            modules=frozenset(marked[_MODULE]),
            refused=refused,
            programs=sorted(marked[_PROGRAM]),
        )


def _lines(report: Path) -> Iterator[bytes]:
    """Yield what stands in a report; it is the script's to write, so that no more is read than fits into memory."""
    with contextlib.suppress(FileNotFoundError), report.open("rb") as handle:
        left = _MAX_REPORT
        while left > 0 and (line := handle.readline(min(_MAX_PATH, left))):
            left -= len(line)
            if text := line.removesuffix(b"\n"):
                yield text


def digested(report: InputReport) -> list[UndeclaredFile]:
    """Return what is known of undeclared files: the digests that they have now, the smaller ones."""
    found: list[UndeclaredFile] = []
    room = _MAX_HASHED
    for name in report.undeclared:
        path = name.encode("utf-8", "replace").decode()
        facts = UndeclaredFile(path=path, kind="module" if name in report.modules else "file")
        with contextlib.suppress(OSError, DataMismatchError):  # gone, or a pipe
            if name.endswith("/"):
                names = sorted(map(os.fsencode, os.listdir(name)))
                facts = msgspec.structs.replace(facts, size=len(names), digest=hash_bytes(b"\0".join(names)).hex)
                found.append(facts)
                continue
            size = Path(name).stat().st_size
            facts = msgspec.structs.replace(facts, size=size)
            kernels = name.startswith(("/proc/", "/sys/", "/dev/")) and not name.startswith("/dev/shm/")  # noqa: S108
            if len(found) < _MAX_DIGESTED and size <= room and not kernels:
                facts = msgspec.structs.replace(facts, digest=hash_file(Path(name))[0].hex)
                room -= size
        found.append(facts)
    return found


def some(names: list[str]) -> str:
    """Return the first ten of some names, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")


def programs_of(report: InputReport) -> list[Program]:
    """Return the programs that were started, with the digests of the smaller ones."""
    found = []
    for name in report.programs:
        facts = Program(path=name.encode("utf-8", "replace").decode())
        with contextlib.suppress(OSError, DataMismatchError):
            size = Path(name).stat().st_size
            facts = msgspec.structs.replace(facts, size=size)
            if size <= _MAX_PROGRAM:
                facts = msgspec.structs.replace(facts, digest=hash_file(Path(name))[0].hex)
        found.append(facts)
    return found
