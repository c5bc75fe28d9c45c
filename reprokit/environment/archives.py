"""Where the archives of an environment are, and their hashes: asked of pip, which knows the user's indexes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from reprokit.environment.interpreter import Interpreter
from reprokit.environment.wheelhouse import pip_for, what_pip_said
from reprokit.errors import EnvironmentMismatchError
from reprokit.lock import EnvironmentLock, PipPackage
from reprokit.paths import os_errors
from reprokit.progress import SILENT, Progress

__all__ = ["Archive", "find_archives"]

_MISSING = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)==")


class Archive(NamedTuple):
    """One package's wheel, as an index offers it now.

    Attributes:
        url: Without credentials, query and fragment.
        sha256: Of the archive, in hex, as the index states it, or as pip found it in a folder.
    """

    name: str
    version: str
    file: str
    url: str
    sha256: str


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
        if _tags_of(archive.file) != set(wanted[archive.name].tags):
            lost[archive.name] = f"the index has {archive.file}, which is not the wheel that was installed"
        else:
            found[archive.name] = archive
    for name in wanted:
        if name not in found:
            lost.setdefault(name, "the index states no hash of it")
    return [found[name] for name in sorted(found)], dict(sorted(lost.items()))


def _report(command: Sequence[str], packages: list[PipPackage], folder: Path) -> tuple[list[object], str | None]:
    """Return what pip would install, or the package that it does not find."""
    if not packages:
        return [], None
    requirements, report = folder / "requirements.txt", folder / "report.json"
    requirements.write_text("".join(f"{package.name}=={package.version}\n" for package in packages))
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--quiet", "--no-input"]
    done = subprocess.run(
        [*command, "install", *options, "--report", str(report), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        if (missing := _MISSING.search(done.stderr)) is not None:
            return [], canonicalize_name(missing[1])
        raise EnvironmentMismatchError(f"The index could not be asked: {what_pip_said(done.stderr)}.")
    try:
        return list(json.loads(report.read_bytes())["install"]), None
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentMismatchError(f"pip's report cannot be read: {error}.", hint="pip 22.2 or newer.") from None


def _archive(row: object) -> Archive | None:
    try:
        told, metadata = row["download_info"], row["metadata"]  # type: ignore[index]
        url, sha256 = str(told["url"]), str(told["archive_info"]["hashes"]["sha256"])
        name, version = canonicalize_name(metadata["name"]), str(metadata["version"])
    except (KeyError, TypeError):
        return None
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return Archive(
        name,
        version,
        _unquoted(parts.path.rpartition("/")[2]),
        urlunsplit((parts.scheme, host, parts.path, "", "")),
        sha256,
    )


def _unquoted(name: str) -> str:
    return re.sub(r"%2[bB]", "+", name)


def _tags_of(file: str) -> set[str]:
    try:
        tags: frozenset[Tag] = parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return set()
    return {str(tag) for tag in tags}
