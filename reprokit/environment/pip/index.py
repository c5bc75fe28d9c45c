"""Where the archives of an environment are, and their hashes: asked of pip, which knows the user's indexes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.local.clean_url import clean_url
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.wheelhouse import pip_for, what_pip_said
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import Archive, EnvironmentLock, PipPackage

__all__ = ["find_archives", "resolve", "with_archives"]

_MISSING = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)")


def find_archives(
    lock: EnvironmentLock, *, interpreter: Interpreter, cache: Path, progress: Progress = SILENT
) -> tuple[list[Archive], dict[str, str]]:
    """Return the archives of an environment's packages, and why others have none, by name.

    Args:
        interpreter: Of the locked version, for which pip chooses.
        cache: Where pip may write its report.
    Raises:
        EnvironmentMismatchError: pip failed otherwise than by not finding a package.
    """
    wanted = {package.name: package for package in lock.pip}
    lost: dict[str, str] = {}
    with os_errors(f"Writing in {cache}"), progress.task("Asking the index", None):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=cache) as name:
            command = pip_for(interpreter, Path(name))
            while True:
                asked = [package for package in wanted.values() if package.name not in lost]
                rows, missing = _report(command, asked, Path(name))
                if missing is None:
                    break
                if missing not in wanted or missing in lost:
                    raise EnvironmentMismatchError(f"pip found no {missing}, which was not asked for.")
                lost[missing] = "no index serves it"
    found = {}
    for row in rows:
        archive = _archive(row)
        if archive is None or archive.name not in wanted:
            continue
        if _tags_of(str(archive.file)) != set(wanted[archive.name].tags):
            lost[archive.name] = f"the index has {archive.file}, which is not the wheel that was installed"
        else:
            found[archive.name] = archive
    for name in wanted:
        if name not in found:
            lost.setdefault(name, "the index states no hash of it")
    return [found[name] for name in sorted(found)], dict(sorted(lost.items()))


def with_archives(
    lock: EnvironmentLock, known: Sequence[Archive], *, cache: Path, progress: Progress = SILENT
) -> list[Archive]:
    """Return what is known of where the packages here came from, and what the indexes say of the others."""
    told = {(one.kind, one.name) for one in known}
    rest = msgspec.structs.replace(lock, pip=[one for one in lock.pip if ("pip", one.name) not in told])
    found, lost = find_archives(rest, interpreter=Interpreter.here(), cache=cache, progress=progress)
    for name, why in lost.items():
        progress.note(f"Where {name} came from is not in the lock: {why}.")
    return [*known, *found]


def resolve(file: Path, *, interpreter: Interpreter, scratch: Path, beside: bool, root: Path) -> list[Archive]:
    """Return the wheels that pip chooses for a requirements file, with everything that they need.

    Args:
        root: The repository. Paths in the file are relative to it; a project inside it is code, and left out here.
        beside: Take what is installed with the interpreter as given, as pip does in a conda environment.
    Raises:
        EnvironmentMismatchError: A package is not served, two contradict each other, or one has no wheel.
    """
    options = ["--requirement", str(file), *([] if beside else ["--ignore-installed"])]
    done, rows = _ask(pip_for(interpreter, scratch), options, scratch, within=root)
    if done.returncode:
        raise EnvironmentMismatchError(
            f"{file.name} cannot be solved: {_explained(done)}",
            hint="Only wheels are used: of what is served as source alone, build a wheel and have pip find it "
            "(`pip wheel`, find-links)."
            if _MISSING.search(done.stderr)
            else None,
        )
    found = []
    for row in rows:
        if _is_inside(row, root):
            continue
        archive = _archive(row)
        if archive is None or not str(archive.file).endswith(".whl"):
            told = row.get("metadata", {}).get("name") if isinstance(row, dict) else None
            raise EnvironmentMismatchError(
                f"{file.name} asks for {told or 'a package'} from a place that serves no wheel of it.",
                hint="Build a wheel of it and have pip find it (`pip wheel`, find-links).",
            )
        found.append(archive)
    return found


def _explained(done: subprocess.CompletedProcess[str]) -> str:
    """Return why pip's resolver gave up: which packages, and what of each contradicts the others."""
    cannot = next((line for line in done.stderr.splitlines() if line.startswith("ERROR: Cannot install")), None)
    if cannot is None:
        return f"{what_pip_said(done.stderr)}."
    told = done.stdout.partition("The conflict is caused by:")[2].partition("\n\n")[0]
    return "\n".join([cannot.removeprefix("ERROR: "), *(line.rstrip() for line in told.splitlines() if line.strip())])


def _report(command: Sequence[str], packages: list[PipPackage], folder: Path) -> tuple[list[object], str | None]:
    """Return what pip would install of exact versions, or the package that it does not find."""
    if not packages:
        return [], None
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{package.name}=={package.version}\n" for package in packages))
    done, rows = _ask(command, ["--ignore-installed", "--no-deps", "--requirement", str(requirements)], folder)
    if done.returncode:
        if (missing := _MISSING.search(done.stderr)) is not None:
            return [], canonicalize_name(missing[1])
        raise EnvironmentMismatchError(f"The index could not be asked: {what_pip_said(done.stderr)}.")
    return rows, None


def _is_inside(row: object, root: Path) -> bool:
    """True of a project that is a folder of the repository."""
    try:
        told = row["download_info"]  # type: ignore[index]
        return "dir_info" in told and Path(unquote(urlsplit(told["url"]).path)).resolve().is_relative_to(root.resolve())
    except (KeyError, TypeError, ValueError):
        return False


def _ask(
    command: Sequence[str], options: Sequence[str], folder: Path, *, within: Path | None = None
) -> tuple[subprocess.CompletedProcess[str], list[object]]:
    """Ask pip what it would install; return how it ended, and its report's rows."""
    report = folder / "report.json"
    fixed = ["--dry-run", "--only-binary", ":all:", "--no-input", "--report", str(report)]
    done = subprocess.run(
        [*command, "install", *fixed, *options],
        cwd=within,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        return done, []
    try:
        return done, list(json.loads(report.read_bytes())["install"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentMismatchError(f"pip's report cannot be read: {error}.", hint="pip 22.2 or newer.") from None


def _archive(row: object) -> Archive | None:
    try:
        told, metadata = row["download_info"], row["metadata"]  # type: ignore[index]
        url, sha256 = clean_url(str(told["url"])), str(told["archive_info"]["hashes"]["sha256"])
        if url is None:
            return None
        archive = Archive(
            kind="pip",
            name=canonicalize_name(metadata["name"]),
            version=str(metadata["version"]),
            file=unquote(url.rpartition("/")[2]),
            url=url,
            sha256=sha256,
        )
        return msgspec.convert(msgspec.to_builtins(archive), Archive)
    except (KeyError, TypeError, msgspec.ValidationError):
        return None


def _tags_of(file: str) -> set[str]:
    try:
        tags: frozenset[Tag] = parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return set()
    return {str(tag) for tag in tags}
