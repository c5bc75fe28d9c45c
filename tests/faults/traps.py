"""Forgeries by which a stranger's code would be executed, or a file outside of the workspace written; each has a trap.

What lies in a trap leaves a mark if it is executed. These kinds are consistent down to the headers of the checkpoints.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from reprokit.client.plain import to_json
from reprokit.core.canonical_json import canonical
from reprokit.errors import Error
from reprokit.locking.git_hash import identity_of_entries
from reprokit.schema.facts import InputLink
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry
from tests.faults.forgeries import Forgery, kind

__all__ = ["PATHS", "born", "executed", "surroundings", "trap"]

_replace = msgspec.structs.replace
_UP = "../../../.."
PATHS = [f"{_UP}/trap", "../trap", "/tmp", "a/../../trap", "lib"]  # noqa: S108 - none is written to


def trap(base: Path) -> Path:
    """Return a folder of code that leaves a mark beside it when it is executed, whatever executes it."""
    folder, marks = base / "trap", base / "marks"
    if folder.is_dir():
        return folder
    folder.mkdir()
    marks.mkdir()
    for name in ("sitecustomize", "usercustomize", "evil", "numpy", "reprokit_trap"):
        (folder / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'a').close()\n")
    (folder / "evil.pth").write_text(f"import os; open({str(marks / 'pth')!r}, 'a').close()\n")
    for name in ("evil.sh", "python", "python3", "git", "bwrap"):
        (folder / name).write_text(f"#!/bin/sh\n: > '{marks}/{name}'\n")
        (folder / name).chmod(0o755)
    source = f'#include <fcntl.h>\n__attribute__((constructor)) void f(void) {{ open("{marks}/so", O_CREAT, 0644); }}\n'
    compiler = shutil.which("cc")
    if compiler is not None:
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-x", "c", "-o", folder / "evil.so", "-"],
            input=source,
            text=True,
            check=True,
        )
    return folder


def executed(base: Path) -> list[str]:
    """Return which traps were sprung."""
    return sorted(mark.name for mark in (base / "marks").glob("*"))


def surroundings(base: Path, *apart: str) -> dict[str, str]:
    """Return what is below a folder, by path: kind, mode and digest. Nothing of it may change.

    Args:
        apart: Names in it that are somebody's to write to.
    """
    found = {}
    for path in sorted(base.rglob("*")):
        inside = path.relative_to(base)
        if inside.parts[0] in apart:
            continue
        content = path.readlink().as_posix().encode() if path.is_symlink() else b""
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
        found[inside.as_posix()] = f"{path.lstat().st_mode:o} {hashlib.sha256(content).hexdigest()}"
    return found


def born(forged: Forgery) -> None:
    """Make the forged record the only one that there ever was."""
    folder = forged.place / "log" / "runs" / forged.honest.run
    last = sorted(folder.iterdir())[-1]
    first = {**json.loads(last.read_bytes().partition(b"\n")[0]), "seq": 1, "prev": None}
    shutil.rmtree(folder)
    folder.mkdir()
    body = json.dumps(first, sort_keys=True).encode()
    (folder / f"{1:010d}").write_bytes(b"%s\n%s\n" % (body, hashlib.sha256(body).hexdigest().encode()))


def _whole(f: Forgery, lock: RunLock, files: dict[str, bytes | Entry] | None = None, **changes: Any) -> None:
    """Publish the run with another lock, in the headers of its checkpoints too, and with what its record says of it."""
    entries = []
    links = [InputLink(name=p.name, package=p.package, top_hash=p.top_hash, within=p.within) for p in lock.data]
    inputs = msgspec.to_builtins(links)
    for at in range(len(f.run.record.checkpoints)):
        f.at = at
        entries.append(f.version(lock_hash=lock.hash, **({"inputs": inputs} if "data" in changes else {})))
    f.relock(lock, files, checkpoints=entries, **changes)


def _code(f: Forgery, **changes: Any) -> RunLock:
    return f.recipe(code=_replace(f.lock.recipe.code, **changes))


_VARIABLES: dict[str, Callable[[Path], str]] = {
    "LD_PRELOAD": lambda at: f"{at}/evil.so",
    "LD_AUDIT": lambda at: f"{at}/evil.so",
    "LD_LIBRARY_PATH": str,
    "PYTHONPATH": str,
    "PYTHONHOME": str,
    "PYTHONSTARTUP": lambda at: f"{at}/evil.py",
    "PYTHONINSPECT": lambda at: "1",  # noqa: ARG005
    "BASH_ENV": lambda at: f"{at}/evil.sh",
    "ENV": lambda at: f"{at}/evil.sh",
    "PATH": str,
    "HOME": str,
    "XDG_CONFIG_HOME": str,
    "GIT_SSH_COMMAND": lambda at: f"{at}/evil.sh",
    "GIT_CONFIG_GLOBAL": lambda at: f"{at}/gitconfig",
    "OMP_TOOL_LIBRARIES": lambda at: f"{at}/evil.so",
    "NCCL_NET_PLUGIN": lambda at: f"{at}/evil.so",
    "REPROKIT_HOME": str,
    "REPROKIT_REGISTRY": str,
}


@kind("traps", "a variable that loads code")
def _(f: Forgery) -> None:
    name = f.draw.choice(sorted(_VARIABLES))
    variables = {**f.lock.execution.variables, name: _VARIABLES[name](trap(f.place.parent))}
    how = f.run.record.execution
    assert how is not None
    execution = _replace(f.lock.execution, variables=variables)
    lock = _replace(f.recipe(execution=_replace(f.lock.recipe.execution, variables=variables)), execution=execution)
    _whole(f, lock, execution=_replace(how, variables=variables))


@kind("traps", "a variable that loads code, in the record alone")
def _(f: Forgery) -> None:
    name = f.draw.choice(sorted(_VARIABLES))
    how = f.run.record.execution
    assert how is not None
    f.say(execution=_replace(how, variables={name: _VARIABLES[name](trap(f.place.parent))}))


@kind("traps", "a variable that loads code, of the machine")
def _(f: Forgery) -> None:
    names = f.draw.sample(sorted(_VARIABLES), 3)
    machine = f.run.record.machine
    given = {name: _VARIABLES[name](trap(f.place.parent)) for name in names}
    f.say(machine=_replace(machine, numeric=_replace(machine.numeric, variables=given)))


@kind("traps", "modules from outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    _whole(f, _replace(f.lock, code=_replace(f.lock.code, python_path=[f.draw.choice(PATHS)])))


@kind("traps", "a working directory outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    _whole(f, _code(f, workdir=f.draw.choice(PATHS)))


@kind("traps", "an entrypoint outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    _whole(f, _code(f, entrypoint=f"{f.draw.choice(PATHS)}/evil.py"))


@kind("traps", "a notebook outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    _whole(f, _code(f, entrypoint=None, notebook=f"{f.draw.choice(PATHS)}/evil.ipynb"))


@kind("traps", "an input laid outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    path = f"{f.draw.choice(PATHS[:-1])}/in"  # in a folder of the workspace it may lie
    told = [_replace(one, path=path) for one in f.run.record.data]
    _whole(f, _replace(f.lock, data=[_replace(pin, path=path) for pin in f.lock.data]), data=told)


@kind("traps", "a part of an input from outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    within = f.draw.choice(PATHS)
    told = [_replace(one, within=within) for one in f.run.record.data]
    _whole(f, _replace(f.lock, data=[_replace(pin, within=within) for pin in f.lock.data]), data=told)


@kind("traps", "an output outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    path = f"{f.draw.choice(PATHS)}/evil.py"
    told = [_replace(one, path=path) for one in f.run.record.outputs]
    _whole(f, f.recipe(outputs=[path]), {f"outputs/{path}": b"{}"} if ".." not in path and path[0] != "/" else {},
           outputs=told)  # fmt: skip


@kind("traps", "a package of checkpoints outside")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    package = f.draw.choice(["../trap", "t/../../trap", "/tmp/x", "runs/x", "t/model:latest"])  # noqa: S108
    _whole(f, f.recipe(checkpoints=_replace(f.lock.recipe.checkpoints, package=package)), checkpoint_package=package)


@kind("traps", "another command")
def _(f: Forgery) -> None:
    folder = trap(f.place.parent)
    _whole(f, _code(f, entrypoint=None, command=[str(folder / "evil.sh")]))


def _tree(f: Forgery, more: dict[str, bytes], mode: str = "100644", **code: Any) -> None:
    """Publish the run with other code, and the tree that it is."""
    with f.registry.staging() as sink:
        made = {
            f"code/{name}": Entry(f"code/{name}", len(data), sink.put_bytes(data)[0], {"reprokit": {"mode": mode}})
            for name, data in more.items()
        }
    kept = [entry for entry in f.run.manifest.below("code") if entry.logical_key not in made]
    entries = sorted([*kept, *made.values()], key=lambda entry: entry.logical_key)
    form = f.lock.code.object_format

    def content(entry: Entry) -> bytes:
        return f.registry.read_object(entry, what=entry.logical_key)

    tree = identity_of_entries(entries, form, content).tree
    told = f.run.record.code
    assert told is not None
    lock = _replace(f.lock, code=_replace(f.lock.code, tree=tree, **code))
    _whole(f, lock, dict(made), code=_replace(told, tree=tree))


def _marks(f: Forgery, name: str) -> bytes:
    return f"open({str(trap(f.place.parent).parent / 'marks' / name)!r}, 'a').close()\n".encode()


@kind("traps", "another script in its tree")
def _(f: Forgery) -> None:
    _tree(f, {"train.py": _marks(f, "script") + f.read("code/train.py", f.run.manifest)})


@kind("traps", "a sitecustomize in its tree")
def _(f: Forgery) -> None:
    _tree(f, {"lib/sitecustomize.py": _marks(f, "own sitecustomize")}, python_path=["lib"])


@kind("traps", "a module in its tree that hides one of the library")
def _(f: Forgery) -> None:
    _tree(f, {f"{f.draw.choice(['json', 'numpy', 'reprokit', 'pathlib'])}.py": _marks(f, "hiding")})


@kind("traps", "a link in its tree to modules outside")
def _(f: Forgery) -> None:
    _tree(f, {"lib": str(trap(f.place.parent)).encode()}, "120000", python_path=["lib"])


@kind("traps", "a link in its tree where outputs lie")
def _(f: Forgery) -> None:
    _tree(f, {"metrics.json": str(trap(f.place.parent) / "evil.py").encode()}, "120000")


@kind("traps", "hooks of git in its tree")
def _(f: Forgery) -> None:
    trap(f.place.parent)
    try:
        _tree(f, {".git/hooks/post-checkout": b"#!/bin/sh\n: > marks\n"}, "100755")
    except Error as error:  # it cannot even be published
        assert "code/.git" in str(error), error
        _tree(f, {"hooks/post-checkout": b"#!/bin/sh\n"}, "100755")


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "a")


@kind("traps", "a pickle in the checkpoint")
def _(f: Forgery) -> None:
    data = pickle.dumps(_Evil(trap(f.place.parent).parent / "marks" / "pickle"))
    name = f.draw.choice(["model.joblib", "model.skops", "model.pt", "model.keras"])
    f._point(f.at, f.version({name: data}))


@kind("traps", "a pickle in the state")
def _(f: Forgery) -> None:
    data = pickle.dumps(_Evil(trap(f.place.parent).parent / "marks" / "pickle"))
    state = {
        **json.loads(f.read("state.json")),
        "user": {"b": to_json(data, "b"), "c": base64.b64encode(data).decode()},
    }
    f._point(f.at, f.version({"state.json": canonical(state)}, consistent=True))


@kind("traps", "an archive of a package that lies here")
def _(f: Forgery) -> None:
    folder = trap(f.place.parent)
    name = f.lock.environment.pip[0]
    archive = {"kind": "pip", "name": name.name, "version": name.version, "file": f"{name.name}.tar.gz",
               "url": f"git+file://{folder}", "sha256": None, "revision": "main"}  # fmt: skip
    _whole(f, f.lock, {"archives.json": canonical([archive]) + b"\n"})


@kind("traps", "a package that is an option of pip")
def _(f: Forgery) -> None:
    folder = trap(f.place.parent)
    first, *others = f.lock.environment.pip
    evil = f.draw.choice([
        _replace(first, name=f"--index-url={folder}"), _replace(first, version=f"1 @ file://{folder}"),
        _replace(first, name="../../trap/evil"), _replace(first, tags=["../../trap"]),
    ])  # fmt: skip
    environment = _replace(f.lock.environment, pip=[evil, *others])
    told = f.run.record.environment
    assert told is not None
    _whole(f, _replace(f.lock, environment=environment), environment=_replace(told, hash=environment.hash))
