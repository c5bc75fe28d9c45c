"""From what a recipe declares to a locked environment: conda's solver, pip's resolver, or a lock of another tool."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from packaging.pylock import PackageWheel, Pylock, PylockSelectError, PylockValidationError

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.capture import OURS
from reprokit.environment.conda.rattler import solve_conda
from reprokit.environment.declared import own_projects, read_conda_file, read_text, requirements_of_pyproject
from reprokit.environment.local.clean_url import clean_url
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.index import resolve
from reprokit.environment.pip.wheelhouse import Vault, fetch
from reprokit.environment.realise import realise
from reprokit.errors import EnvironmentMismatchError, RecipeError
from reprokit.schema.lock import Archive, EnvironmentLock
from reprokit.schema.recipe import Environment

__all__ = ["Solved", "solve"]


class Solved(NamedTuple):
    """A locked environment, and where its archives were found."""

    environment: EnvironmentLock
    archives: list[Archive]


def solve(environment: Environment, *, root: Path, cache: Path, progress: Progress = SILENT) -> Solved:
    """Choose the packages that meet a recipe's environment section, on this machine and from what is offered now.

    Args:
        root: The repository, which the section's paths are relative to.
        cache: Where archives that were fetched are kept; of conda environments with a pip section, also the conda part.
    Raises:
        RecipeError: A file is not understood.
        EnvironmentMismatchError: It cannot be met; the package, or the solver's explanation, is named.
    """
    if environment.declared is None:
        raise RecipeError("environment: names no file to solve.")
    kind, file = environment.declared
    own_projects(environment, root)  # refuses what cannot be locked before anything is asked of an index
    return _SOLVERS[kind](file, environment.extras, root, cache, progress)


def _solve_pip(file: str, extras: list[str], root: Path, cache: Path, progress: Progress) -> Solved:
    here, text = Interpreter.here(), read_text(root, file)
    if file.endswith(".toml"):
        wanted = requirements_of_pyproject(text, extras, what=file)
        return _with_pip(_empty(here), wanted, None, here, cache, progress, root=root)
    return _with_pip(_empty(here), [], root / file, here, cache, progress, root=root)


def _solve_pylock(file: str, extras: list[str], root: Path, cache: Path, progress: Progress) -> Solved:
    here, chosen = Interpreter.here(), _of_pylock(read_text(root, file), file, extras, root)
    return _with_wheels(_empty(here), chosen, here, cache, progress)


def _empty(here: Interpreter) -> Solved:
    lock = EnvironmentLock(python=here.version, implementation=here.implementation, platform=here.platform)
    return Solved(lock, [])


def _solve_conda(path: str, _: list[str], root: Path, cache: Path, progress: Progress) -> Solved:
    wanted = read_conda_file(read_text(root, path), what=path)
    with progress.task("Solving the environment", None):
        packages, archives = solve_conda(wanted.specs, wanted.channels, cache=cache, what=path)
    python = next((one for one in packages if one.name == "python"), None)
    if python is None:
        raise EnvironmentMismatchError(f"{path}: what was solved has no python.", hint="Add `python` to dependencies.")
    lock = EnvironmentLock(
        python=python.version,
        implementation="PyPy" if "pypy" in python.build else "CPython",
        platform=Interpreter.here().platform,
        conda=packages,
    )
    if not wanted.pip:
        return Solved(lock, archives)
    made = Interpreter.at(realise(lock, cache=cache, vault=Vault(archives=archives), progress=progress))
    return _with_pip(Solved(lock, archives), wanted.pip, None, made, cache, progress, root=root)


def _with_pip(
    solved: Solved,
    wanted: Sequence[str],
    file: Path | None,
    interpreter: Interpreter,
    cache: Path,
    progress: Progress,
    *,
    root: Path,
) -> Solved:
    """Add what pip chooses for requirements, given as text or as a file."""
    with os_errors(f"Writing in {cache}"), progress.task("Solving the environment", None):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=cache) as name:
            if file is None:
                file = Path(name) / "requirements.txt"
                file.write_text("".join(f"{one}\n" for one in wanted), encoding="utf-8")
            beside = bool(solved.environment.conda)
            found = resolve(file, interpreter=interpreter, scratch=Path(name), beside=beside, root=root)
    chosen = [(one, f"{one.name}=={one.version} --hash=sha256:{one.sha256}") for one in found]
    return _with_wheels(solved, chosen, interpreter, cache, progress)


def _with_wheels(
    solved: Solved, chosen: list[tuple[Archive, str]], interpreter: Interpreter, cache: Path, progress: Progress
) -> Solved:
    """Add chosen wheels; each comes with the line that has pip fetch it."""
    lines = {archive.name: line for archive, line in chosen if archive.name != OURS}
    packages = fetch(lines, interpreter=interpreter, cache=cache, progress=progress)
    archives = [*solved.archives, *(archive for archive, _ in chosen if archive.name in lines)]
    return Solved(msgspec.structs.replace(solved.environment, pip=packages), archives)


def _of_pylock(text: str, path: str, extras: list[str], root: Path) -> list[tuple[Archive, str]]:
    """Return the wheels that a `pylock.toml` names for this machine."""
    try:
        lock = Pylock.from_dict(tomllib.loads(text))
        chosen = list(lock.select(extras=extras))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}.") from None
    except PylockValidationError as error:
        raise RecipeError(f"{path} is no valid pylock.toml: {error}.") from None
    except PylockSelectError as error:
        raise EnvironmentMismatchError(f"{path} does not fit this machine: {error}.") from None
    found = []
    for package, source in chosen:
        what = f"{path}: {package.name} {package.version or ''}".strip()
        if not isinstance(source, PackageWheel) or package.version is None:
            raise EnvironmentMismatchError(
                f"{what} is not a wheel; reprokit builds nothing.", hint="Build a wheel of it, and lock that."
            )
        url = source.url
        if url is None and source.path is not None:
            url = ((root / path).parent / source.path).resolve().as_uri()
        if url is None or "sha256" not in source.hashes:
            raise EnvironmentMismatchError(f"{what} has no address, or no SHA-256.")
        sha256, cleaned = source.hashes["sha256"], clean_url(url)
        if cleaned is None or any(char.isspace() for char in url):
            raise EnvironmentMismatchError(f"{what}: {url!r} is no address that can be fetched.")
        archive = Archive(
            kind="pip",
            name=package.name,
            version=str(package.version),
            file=source.filename,
            url=cleaned,
            sha256=sha256,
        )
        found.append((archive, f"{package.name} @ {url} --hash=sha256:{sha256}"))
    return found


_SOLVERS: dict[str, Callable[[str, list[str], Path, Path, Progress], Solved]] = {
    "conda": _solve_conda,
    "pip": _solve_pip,
    "lock": _solve_pylock,
}
"""What solves a file, by the recipe's word for it: given the file, the extras, the repository and the cache."""
