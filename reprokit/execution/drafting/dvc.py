"""A project of DVC becomes packages and recipes: what `dvc.yaml`, `dvc.lock`, `.dvc` files and DVC's cache say.

Nothing of DVC is executed, and none of its files is changed. Bytes are taken from the working tree or from DVC's cache,
and held against the MD5 that DVC knows them by.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprokit.core.atomic_files import os_errors
from reprokit.core.logical_keys import check_relative
from reprokit.core.safe_json import load_json
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import Error, NotFoundError, RecipeError
from reprokit.execution.drafting.proposals import compare_mode
from reprokit.execution.drafting.yaml_flow import flow
from reprokit.locking.git_command import Git
from reprokit.locking.git_tree import Repository
from reprokit.packages.build import build
from reprokit.registry.context import Context

__all__ = ["Imported", "import_dvc"]

_MAX_FILE = 16 << 20
_PIECE = 1 << 20
_SHELL = re.compile(r"[|&;<>()$`\\*?\[\]{}~\n]|^\w+=")
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a project.

    Attributes:
        packages: Those that were built, with their versions.
        recipes: Those that were written, in the order in which they are to be run.
        notes: What could not be taken over, and what to do about it.
    """

    packages: dict[str, str] = field(default_factory=dict)
    recipes: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"packages": self.packages, "recipes": [str(path) for path in self.recipes], "notes": self.notes}


@dataclass(frozen=True)
class _Out:
    """What DVC keeps: a path relative to the repository, and its MD5."""

    path: str
    md5: str


@dataclass
class _Stage:
    name: str
    command: str
    workdir: str
    deps: list[str]
    outs: list[str]
    params: bool = False


_Kept = dict[str, tuple[str, bool]]
"""By the path of what a `.dvc` file names, its package, and whether it is one file."""


def import_dvc(folder: Path, *, namespace: str | None = None, context: Context) -> Imported:
    """Build a package of what each `.dvc` file names, and write a recipe for each stage into `recipes/`.

    A stage's input that another one makes is that run's output, by its name; parameters stay in the file where the
    scripts read them.

    Args:
        folder: The project of DVC, in a git repository.
        namespace: Of the packages; by default the folder's name.
    Raises:
        NotFoundError: There is nothing of DVC.
        RecipeError: A file of DVC's is malformed.
    """
    repository = Repository(folder)
    project = _Project(repository.root, folder)
    kept, stages = project.outs(), project.stages()
    if not kept and not stages:
        raise NotFoundError(
            f"No .dvc file, dvc.yaml or dvc.lock in {folder}.", hint="Name the folder of a project that DVC tracks."
        )
    space = namespace or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-") or "data"
    imported = Imported()
    named: _Kept = {}
    for out in kept:
        package = f"{space}/{_word(posixpath.splitext(posixpath.basename(out.path))[0])}"
        while package in (name for name, _ in named.values()):
            package += "_2"
        named[out.path] = package, not out.md5.endswith(".dir")
        try:
            files = project.files(out)
        except Error as error:
            imported.notes.append(f"{out.path}: {error.message} {error.hint or ''}".strip())
            continue
        made = build(files, package, registry=context.registry, message=f"DVC {out.md5}", progress=context.progress)
        imported.packages[package] = made.top_hash
    for stage in _in_order(stages):
        imported.recipes.append(_write(repository.root, stage, stages, named, imported.notes))
    return imported


class _Project:
    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root.resolve(), folder.resolve()
        self._names = Git(root).lines("ls-files", "--cached", "--others", "--exclude-standard", "-z")

    def _named(self, *ends: str) -> Iterator[str]:
        below = self._folder.relative_to(self._root).as_posix()
        for name in self._names:
            inside = below == "." or name.startswith(f"{below}/")
            if inside and name.endswith(ends) and (self._root / name).is_file():
                yield name

    def _read(self, name: str) -> dict[str, Any]:
        found = load_yaml((self._root / name).read_bytes(), what=name, max_bytes=_MAX_FILE, max_nodes=2_000_000)
        if not isinstance(found, dict):
            raise RecipeError(f"{name} is not a mapping, as DVC writes it.")
        return found

    def outs(self) -> list[_Out]:
        """Return what `.dvc` files name."""
        found = []
        for name in self._named(".dvc"):
            told = self._read(name)
            folder = posixpath.join(posixpath.dirname(name), str(told.get("wdir", ".")))
            for out in _mappings(told.get("outs")):
                path = _path(posixpath.join(folder, str(out.get("path"))), name)
                md5 = out.get("md5")
                if not isinstance(md5, str) or not _MD5.fullmatch(md5):
                    raise RecipeError(f"{name}: {path} has no MD5.", hint="`dvc commit` notes it.")
                found.append(_Out(path, md5))
        return found

    def stages(self) -> list[_Stage]:
        """Return the stages: as `dvc.lock` has them, with all templates filled in; else as `dvc.yaml` has them."""
        found: dict[tuple[str, str], _Stage] = {}  # by the folder of their file, and name
        files = [name for name in self._named("dvc.yaml", "dvc.lock") if posixpath.basename(name).startswith("dvc.")]
        for name in sorted(files, key=lambda one: one.endswith(".lock")):  # which knows no `wdir`
            here = posixpath.dirname(name)
            stages = self._read(name).get("stages", {})
            if not isinstance(stages, dict):
                raise RecipeError(f"{name}: stages is not a mapping.")
            for key, told in stages.items():
                if not isinstance(told, dict) or "cmd" not in told:
                    continue  # a template, whose stages are in the lock
                known = found.get((here, str(key)))
                place = known.workdir if known else _path(posixpath.join(here, str(told.get("wdir", "."))) or ".", name)
                found[here, str(key)] = _stage(str(key), told, place, name)
        names = [name for _, name in found]
        for (here, name), stage in found.items():
            if names.count(name) > 1 and here:
                stage.name = f"{here}/{name}"
        return [stage for stage in found.values() if "${" not in stage.command]

    def files(self, out: _Out) -> dict[str, Path]:
        """Return the files of an out by their logical keys, each with the MD5 that DVC knows.

        Raises:
            NotFoundError: One is in neither the working tree nor DVC's cache.
        """
        if not out.md5.endswith(".dir"):
            return {posixpath.basename(out.path): self._file(out.path, out.md5)}
        listing = self._cached(out.md5)
        if listing is None:
            raise NotFoundError(
                f"DVC's cache does not have the list of its files ({out.md5}).",
                hint="`dvc fetch` it, and import again.",
            )
        rows = load_json(listing.read_bytes(), what=f"the list {out.md5}", max_bytes=256 << 20)
        found = {}
        for row in _mappings(rows):
            key, md5 = check_relative(str(row.get("relpath")), what="relpath"), str(row.get("md5"))
            if not _MD5.fullmatch(md5):
                raise RecipeError(f"The list {out.md5} of DVC's is malformed at {key!r}.")
            found[key] = self._file(f"{out.path}/{key}", md5)
        return found

    def _file(self, path: str, md5: str) -> Path:
        there = self._root / path
        for place in (self._cached(md5), there if there.is_file() else None):
            if place is not None and _has(place, md5):
                return place
        raise NotFoundError(
            f"{path} with the MD5 {md5} is in neither the working tree nor DVC's cache.",
            hint="`dvc fetch` it, and import again.",
        )

    def _cached(self, md5: str) -> Path | None:
        cache = self._cache()
        places = (cache / "files" / "md5" / md5[:2] / md5[2:], cache / md5[:2] / md5[2:])
        return next((place for place in places if place.is_file()), None)

    def _cache(self) -> Path:
        """Return DVC's cache: beside the project, or where its configuration says."""
        for folder in (self._folder, *self._folder.parents):
            if not (folder / ".dvc").is_dir():
                continue
            for name in ("config.local", "config"):
                file = folder / ".dvc" / name
                text = file.read_text(errors="replace") if file.is_file() else ""
                told = re.search(r"^\[cache\][^\[]*?^\s*dir\s*=\s*(.+?)\s*$", text, re.MULTILINE | re.DOTALL)
                if told:
                    return (file.parent / Path(told[1]).expanduser()).resolve()
            return folder / ".dvc" / "cache"
        return self._folder / ".dvc" / "cache"


def _has(place: Path, md5: str) -> bool:
    """True if a file has an MD5; DVC before version 3 took that of a text with Unix line ends."""
    plain, unix = (hashlib.md5(usedforsecurity=False) for _ in range(2))
    carried = b""  # a carriage return whose line feed may be in the next piece
    with os_errors(f"Reading {place}"), place.open("rb") as handle:
        while piece := handle.read(_PIECE):
            plain.update(piece)
            text = carried + piece
            carried = text[-1:] if text.endswith(b"\r") else b""
            unix.update(text.removesuffix(b"\r").replace(b"\r\n", b"\n"))
    unix.update(carried)
    return md5 in (plain.hexdigest(), unix.hexdigest())


def _stage(name: str, told: dict[str, Any], workdir: str, file: str) -> _Stage:
    command = told["cmd"]
    words = " && ".join(map(str, command)) if isinstance(command, list) else str(command)
    if not words.strip():
        raise RecipeError(f"{file}: the stage {name!r} has no command.")
    found = _Stage(name, words, workdir, [], [], params=bool(told.get("params")))
    for kind, places in (("deps", found.deps), ("outs", found.outs), ("metrics", found.outs), ("plots", found.outs)):
        items = told.get(kind) or []
        if not isinstance(items, list):
            raise RecipeError(f"{file}: {kind} of the stage {name!r} is not a list.")
        for item in items:  # a path, a mapping with its `path`, or one of it to what is said of it
            path = str(item.get("path", next(iter(item), "")) if isinstance(item, dict) else item)
            if "://" not in path:
                places.append(_path(posixpath.join(workdir, path), file))
    return found


def _words(command: str) -> list[str]:
    """Return a command in words; through a shell, where it needs one."""
    if not _SHELL.search(command):
        with contextlib.suppress(ValueError):  # a quotation that does not end: the shell says so
            return shlex.split(command)
    return ["sh", "-c", command]


def _write(root: Path, stage: _Stage, stages: list[_Stage], kept: _Kept, notes: list[str]) -> Path:
    """Write a stage's recipe and return it."""
    name = _word(stage.name)
    recipe = root / "recipes" / f"{name}.yaml"
    if recipe.exists():
        notes.append(f"recipes/{name}.yaml exists, and was left as it is")
        return recipe
    data: dict[str, dict[str, str]] = {}
    for dep in stage.deps:
        source = _source(dep, stage, stages, kept)
        if source is not None:
            word = _word(posixpath.splitext(posixpath.basename(dep))[0])
            data[word if word not in data else f"{word}_{len(data)}"] = {**source, "path": dep}
    place = {} if stage.workdir == "." else {"workdir": stage.workdir}
    outs = dict.fromkeys(stage.outs)
    lines = [f"name: {name}", f"code: {flow({'command': _words(stage.command), **place})}", "environment: current"]
    lines.append("data:" + (" {}" if not data else "".join(f"\n  {key}: {flow(item)}" for key, item in data.items())))
    if stage.params:
        lines.append("params: {}  # the script reads them from the file in git")
    lines.append("execution: {seed: 42, determinism: strict}")
    rows = [path if (how := compare_mode(path)) == "bytes" else {"path": path, "compare": how} for path in outs]
    lines.append("outputs:" + (" []" if not rows else "".join(f"\n  - {flow(row)}" for row in rows)))
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text("\n".join(lines) + "\n")
    return recipe


def _source(dep: str, stage: _Stage, stages: list[_Stage], kept: _Kept) -> dict[str, str] | None:
    """Return where a dependency comes from; None if it is code."""
    for path, (package, single) in kept.items():
        if dep == path:
            return {"package": package, "entry": posixpath.basename(path)} if single else {"package": package}
        if dep.startswith(f"{path}/"):
            return {"package": package, "entry": dep.removeprefix(f"{path}/")}
    for other in stages:
        if other is not stage and any(dep == out or dep.startswith(f"{out}/") for out in other.outs):
            return {"run": _word(other.name), "output": dep}
    return None


def _in_order(stages: list[_Stage]) -> list[_Stage]:
    """Return stages after those whose outs they depend on."""
    done: list[_Stage] = []
    left = list(stages)
    while left:
        made = [out for stage in left for out in stage.outs]
        ready = [
            stage
            for stage in left
            if not any(dep == out or dep.startswith(f"{out}/") for dep in stage.deps for out in made)
        ]
        for stage in ready or left[:1]:
            done.append(stage)
            left.remove(stage)
    return done


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _path(path: str, file: str) -> str:
    normal = posixpath.normpath(path)
    try:
        return "." if normal == "." else check_relative(normal, what=file)
    except Error:
        raise RecipeError(f"{file}: {path[:200]!r} is not inside the repository.") from None


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:100] or "data"
