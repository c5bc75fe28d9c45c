"""What a recipe's environment section names: the files, and what they ask for. Nothing is solved here."""

from __future__ import annotations

import hashlib
import posixpath
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from reprokit.core.atomic_files import os_errors
from reprokit.core.logical_keys import check_relative
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import NotFoundError, RecipeError
from reprokit.schema.recipe import Environment

__all__ = ["CondaFile", "declared_files", "own_projects", "read_conda_file", "read_text", "requirements_of_pyproject"]

_MAX_FILE = 4 * 1024 * 1024
_MAX_FILES = 100
_INCLUDE = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(?P<file>\S+)")
_EDITABLE = re.compile(r"(?:-e|--editable)[ =]?\s*")
_COMMIT = re.compile(r"(?:git|hg|svn|bzr)\+\S+")
_KEYS = ("name", "channels", "dependencies", "prefix", "variables")


@dataclass(frozen=True)
class CondaFile:
    """An `environment.yml`.

    Attributes:
        channels: The first with the highest priority.
        specs: Conda's match specifications.
        pip: Requirements of its pip section.
    """

    channels: list[str]
    specs: list[str]
    pip: list[str]


def declared_files(environment: Environment, root: Path) -> dict[str, str]:
    """Return SHA-256 of every file that the section reads, by path relative to the repository: what a lock stands on.

    Raises:
        NotFoundError: One is missing.
    """
    if environment.declared is None:
        return {}
    kind, given = environment.declared
    found: dict[str, str] = {}
    pending = [given]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        if len(found) >= _MAX_FILES:
            raise RecipeError(f"{given} includes more than {_MAX_FILES} files.")
        text = read_text(root, path)
        found[path] = hashlib.sha256(text.encode()).hexdigest()
        if kind == "pip" and not path.endswith(".toml"):
            pending += list(_includes(text, path))
    return dict(sorted(found.items()))


def own_projects(environment: Environment, root: Path) -> list[str]:
    """Return the folders of the repository that modules are imported from since its requirements name it: `-e .`.

    Such a project is code and no environment: of it only the dependencies are solved, and a run imports what is
    committed. Modules lie in its `src`, where it has one.

    Raises:
        NotFoundError: A file is missing.
        RecipeError: A requirement is a commit of another repository, which is no archive with a hash.
    """
    found: dict[str, None] = {}
    for path in declared_files(environment, root) if environment.pip and not environment.pip.endswith(".toml") else ():
        for number, line in enumerate(read_text(root, path).splitlines(), 1):
            wanted = line.partition(" #")[0].strip()
            if (commit := _COMMIT.search(wanted)) is not None and not wanted.startswith("#"):
                raise RecipeError(
                    f"{path}, line {number}: {commit[0]} is a commit, and no wheel that a hash pins.",
                    hint=f"Make a wheel of it, `pip wheel --no-deps '{commit[0]}' -w wheels`, and name that instead: "
                    "`./wheels/NAME.whl`, or its version with `--find-links wheels`.",
                )
            if (folder := _project(wanted, root)) is not None:
                found[folder] = None
    return [*found]


def _project(wanted: str, root: Path) -> str | None:
    """Return where the modules of a project lie that a line of requirements names by its folder."""
    place = _EDITABLE.sub("", wanted, count=1).partition("[")[0].strip().removeprefix("file:").removeprefix("//")
    if not place.startswith((".", "/")):
        return None
    folder, top = (root / place).resolve(), root.resolve()
    if not folder.is_dir() or not folder.is_relative_to(top):
        return None
    source = folder / "src"
    return (source if source.is_dir() else folder).relative_to(top).as_posix()


def read_text(root: Path, path: str) -> str:
    """Return a file of the repository."""
    check_relative(path, what="environment")
    file = root / path
    with os_errors(f"Reading {file}"):
        if not file.is_file():
            raise NotFoundError(f"The recipe's environment names {path}, and there is no such file in {root}.")
        with file.open("rb") as handle:
            data = handle.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise RecipeError(f"{path} is larger than {_MAX_FILE // 2**20} MiB; that is no list of packages.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text: {error}.") from None


def read_conda_file(text: str, *, what: str) -> CondaFile:
    """Parse an `environment.yml`.

    Raises:
        RecipeError: With the key or the line that is not understood.
    """
    value = load_yaml(text.encode(), what=what)
    if not isinstance(value, dict):
        raise RecipeError(f"{what} must be a mapping with the keys channels and dependencies.")
    for key in value:
        if key not in _KEYS:
            close = get_close_matches(str(key), _KEYS, n=1, cutoff=0.5)
            raise RecipeError(
                f"{what}: unknown key {key}.",
                hint=f"{f'Did you mean {close[0]!r}? ' if close else ''}Known here: {', '.join(_KEYS)}.",
            )
    if value.get("variables"):
        raise RecipeError(
            f"{what}: variables are not taken from here.", hint="Write them as `execution: {variables: {…}}`."
        )
    channels = _texts(value.get("channels"), f"{what}: channels")
    if not channels:
        raise RecipeError(f"{what} names no channels.", hint="Such as `channels: [conda-forge]`.")
    if "defaults" in channels:
        raise RecipeError(
            f"{what}: the channel 'defaults' means something else on every machine.",
            hint="Write the channels out, such as conda-forge, or https://repo.anaconda.com/pkgs/main.",
        )
    specs, pip = [], []
    for index, item in enumerate(_list(value.get("dependencies"), f"{what}: dependencies")):
        where = f"{what}: dependencies[{index}]"
        if isinstance(item, str):
            specs.append(item)
        elif isinstance(item, dict) and list(item) == ["pip"]:
            pip += [_requirement(line, f"{where}.pip") for line in _texts(item["pip"], f"{where}.pip")]
        else:
            raise RecipeError(f"{where}: must be a specification such as 'numpy=2', or a pip section.")
    if not any(re.split(r"[\s=<>!~\[]", spec.rpartition("::")[2].strip(), maxsplit=1)[0] == "python" for spec in specs):
        raise RecipeError(f"{what} does not ask for python.", hint="Add it: `python=3.11`.")
    return CondaFile([one for one in channels if one != "nodefaults"], specs, pip)


def requirements_of_pyproject(text: str, extras: list[str], *, what: str) -> list[str]:
    """Return what a `pyproject.toml` asks for, with extras.

    Raises:
        RecipeError: It is no such file, or has no such extra.
    """
    try:
        project = tomllib.loads(text).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{what} is not TOML: {error}.") from None
    if not isinstance(project, dict) or "dependencies" in project.get("dynamic", []):
        raise RecipeError(
            f"{what} does not state its dependencies: they are dynamic.", hint="Use a requirements file instead."
        )
    known = project.get("optional-dependencies", {})
    wanted = _texts(project.get("dependencies", []), f"{what}: project.dependencies")
    for extra in extras:
        if not isinstance(known, dict) or extra not in known:
            raise RecipeError(f"{what} has no extra {extra!r}.", hint=f"It has: {', '.join(known) or 'none'}.")
        wanted += _texts(known[extra], f"{what}: project.optional-dependencies.{extra}")
    return [_requirement(one, what) for one in wanted]


def _includes(text: str, path: str) -> Iterator[str]:
    folder = path.rpartition("/")[0]
    for line in text.splitlines():
        if (match := _INCLUDE.match(line)) and "://" not in match["file"]:
            yield posixpath.normpath(posixpath.join(folder, match["file"]))  # who reads it refuses what leads out


def _requirement(line: str, what: str) -> str:
    """Return a requirement that pip reads as one, and never as an option."""
    try:
        return str(Requirement(line))
    except InvalidRequirement as error:
        raise RecipeError(
            f"{what}: {line!r} is not a requirement: {str(error).splitlines()[0]}.",
            hint="Options belong into a requirements file (`environment: {pip: requirements.txt}`) or pip's settings.",
        ) from None


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RecipeError(f"{what}: must be a list.")
    return value


def _texts(value: Any, what: str) -> list[str]:
    found = _list(value, what)
    for item in found:
        if not isinstance(item, str):
            raise RecipeError(f"{what}: {item!r} is not text.")
    return list(found)
