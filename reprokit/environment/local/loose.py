"""What an interpreter would execute of its own folders and no installed package answers for.

Modules, extension modules and `.pth` files that nobody installed, bytecode that is not what its source says, commands
that were edited: each by its digest, as what is imported is what computes. Data beside packages is none of it, and
neither is what pip leaves of a package that it could not remove (`~name`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from reprokit.core.canonical_json import sha256_of
from reprokit.environment.local.bytecode import edited, source_of
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.stamp import Folders, Mark
from reprokit.environment.local.stat_cache import Memory
from reprokit.schema.lock import LooseFile

__all__ = ["Loose", "Walked", "code_files", "loose_commands", "loose_files", "startup_files", "tree_digest"]

_CODE = (".py", ".so", ".pyd", ".pyc")
_MOST = 100  # files told one by one among those of a package
_NO_CODE = (".dist-info", ".egg-info", ".egg")  # an egg is a folder that a `.pth` file adds
_OLD = 10_000_000_000  # ns: what `venv`, uv and virtualenv write into a new environment they write at once
# Debian's Python has it, for a crash reporter that a script does not need
_APPORT = """\
# install the apport exception handler if available
try:
    import apport_python_hook
except ImportError:
    pass
else:
    apport_python_hook.install()
"""


class Loose(NamedTuple):
    """One of them: as a lock has it, and where it lies."""

    file: LooseFile
    path: Path


class _Seen(NamedTuple):
    unowned: dict[str, list[str]]  # by the name at the top of the folder
    bytecode: list[str]
    packages: set[str]  # names at the top that packages have files in


class Walked(NamedTuple):
    """What there is in the folders that an interpreter installs to: by folder, and by file."""

    folders: Mapping[str, Folders]
    seen: Mapping[str, Mark]


def loose_files(interpreter: Interpreter, owned: Mapping[str, int], memory: Memory, there: Walked) -> Iterator[Loose]:
    """Yield what lies in the folders that an interpreter installs to and is not owned.

    Args:
        owned: Files of packages, and when each was installed: bytecode that is older is the installer's.
        there: All that there is in them.
    """
    named: set[str] = set()
    for site in interpreter.sites:
        label = ("" if Path(site).is_relative_to(interpreter.prefix) else "user/") + Path(site).name
        for one in _of_folder(site, owned, interpreter, memory, there):
            if (path := f"{label}/{one[0]}") not in named:
                named.add(path)
                yield Loose(LooseFile(path=path, sha256=one[1]), Path(site, one[0]))
    yield from _customisation(interpreter, memory)


def loose_commands(paths: Mapping[str, bool], prefix: Path, memory: Memory) -> Iterator[Loose]:
    """Yield what packages have beside their folder (commands, mostly) and is not what they brought.

    Args:
        paths: Whether any package that names the file has it as it is.
    """
    for path, good in sorted(paths.items()):
        if not good and (digest := _digest(path, memory, command=True)) is not None:
            place = Path(path)
            label = place.relative_to(prefix) if place.is_relative_to(prefix) else Path(*place.parts[-2:])
            yield Loose(LooseFile(path=label.as_posix(), sha256=digest), place)


def code_files(folder: str) -> Iterator[str]:
    """Yield what can be imported from a folder, by its path in it; no hidden folder, no environment, no bytecode."""
    pending = [""]
    while pending:
        inner = pending.pop()
        with contextlib.suppress(OSError), os.scandir(f"{folder}/{inner}") as children:
            found = list(children)
            if inner and any(child.name == "pyvenv.cfg" for child in found):
                continue
            for child in found:
                name = child.name
                if child.is_dir(follow_symlinks=False):
                    if name.isidentifier() and name not in ("__pycache__", "node_modules"):
                        pending.append(f"{inner}{name}/")
                elif _is_code(name):
                    yield inner + name


def tree_digest(place: str, memory: Memory) -> str:
    """Return a digest of a file, or of the names and content of all that can be imported from a folder."""
    if not Path(place).is_dir():
        return _digest(place, memory) or "0" * 64
    return sha256_of({_text(path): _digest(f"{place}/{path}", memory) for path in code_files(place)})


def _of_folder(
    site: str, owned: Mapping[str, int], interpreter: Interpreter, memory: Memory, there: Walked
) -> Iterator[tuple[str, str]]:
    seen = _look(site, owned, interpreter, there)
    start = len(site) + 1
    for top, files in sorted(seen.unowned.items()):
        if (top in seen.packages and len(files) <= _MOST) or files == [f"{site}/{top}"]:
            for file in files:
                yield _text(file[start:]), tree_digest(file, memory)
        else:
            yield _text(top), sha256_of({_text(file[start:]): _digest(file, memory) for file in files})
    for file in sorted(edited(seen.bytecode, interpreter, memory)):
        yield _text(file[start:]), _digest(file, memory) or "0" * 64


def _look(site: str, owned: Mapping[str, int], interpreter: Interpreter, there: Walked) -> _Seen:
    found = _Seen(defaultdict(list), [], set())
    start = len(site) + 1
    for folder, names in there.folders[site]:
        top = folder[start:].partition("/")[0]
        if top.startswith(("~", ".")) or top.endswith(_NO_CODE):
            continue
        if folder.endswith("/__pycache__"):
            for name in names:
                path = f"{folder}/{name}"
                told, mark = source_of(path, interpreter.tag), there.seen.get(path)
                if told is not None and mark is not None and mark[2] >= owned.get(told[0], 0):
                    found.bytecode.append(path)
            continue
        for name in names:
            path = f"{folder}/{name}"
            if path in owned:
                found.packages.add(top)
            elif _is_loose(path, name, top, interpreter):
                found.unowned[top or name].append(path)
    for files in found.unowned.values():
        files.sort()
    return found


def _is_loose(path: str, name: str, top: str, interpreter: Interpreter) -> bool:
    if not _is_code(name) and (top or not name.endswith(".pth")):
        return name.isidentifier() and Path(path).is_symlink() and Path(path).is_dir()
    return bool(top) or not (name.startswith("~") or _is_plain(path, interpreter))


def _is_code(name: str) -> bool:
    return name.endswith(_CODE) or ".so." in name


def _is_plain(path: str, interpreter: Interpreter) -> bool:
    """True of files at the top that execute nothing of their own.

    `.pth` files that only add folders count by what lies there. `_virtualenv.py` and its `.pth`, which uv and
    virtualenv put into each environment that they make, are let pass where nobody has touched them since.
    """
    name = path.rpartition("/")[2]
    if name in ("_virtualenv.py", "_virtualenv.pth"):
        made = interpreter.prefix / "pyvenv.cfg"
        with contextlib.suppress(OSError):
            return abs(Path(path).stat().st_ctime_ns - made.stat().st_ctime_ns) < _OLD
    if not name.endswith(".pth"):
        return False
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True  # nor can the interpreter read it
    return not any(line.startswith(("import ", "import\t")) for line in lines)


def startup_files(interpreter: Interpreter) -> tuple[str, list[str]]:
    """Return what Python executes at its start from beside its own library: a folder, and the names in it."""
    return interpreter.library, ["sitecustomize.py", "usercustomize.py"]


def _customisation(interpreter: Interpreter, memory: Memory) -> Iterator[Loose]:
    library, names = startup_files(interpreter)
    for name in names:
        path = Path(library, name)
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8", errors="replace").strip() != _APPORT.strip():
                yield Loose(LooseFile(path=f"library/{name}", sha256=tree_digest(str(path), memory)), path)


def _digest(path: str, memory: Memory, *, command: bool = False) -> str | None:
    """Return SHA-256 of a file in hex; of a command, without the lines that name the interpreter."""
    try:
        seen = os.stat(path)  # noqa: PTH116 - of many
        known = memory.get(f"loose:{path}", seen)
        if known is None:
            data = Path(path).read_bytes()
            known = hashlib.sha256(_body(data) if command else data).hexdigest()
            memory.put(f"loose:{path}", seen, known)
    except OSError:
        return None
    return str(known)


def _body(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if not data.startswith(b"#!"):
        return data
    long = len(lines) > 2 and lines[1].startswith(b"'''exec'")  # how installers write an interpreter's long path
    return b"".join(lines[3 if long else 1 :])


def _text(path: str) -> str:
    """Return a path as a lock may have it: one that is not UTF-8, or is not one line, by its escapes."""
    told = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in told)
