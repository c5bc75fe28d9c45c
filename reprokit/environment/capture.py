"""Capture the running interpreter's environment: conda-meta where there is one, and every installed distribution.

Nothing is imported from the packages; their metadata is read, and remembered by stat.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import site
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reprokit.canonical import canonical, sha256_of
from reprokit.environment.interpreter import Interpreter
from reprokit.errors import EnvironmentMismatchError, RecipeError
from reprokit.lock import CondaPackage, EnvironmentLock, PipPackage
from reprokit.paths import durable_write

__all__ = ["capture_environment", "check_requirements", "importable_folders", "is_identity", "record_digest"]

OURS = "reprokit-runs"  # recorded as the tool that ran, never part of the environment
_NOTES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}


def capture_environment(cache: Path | None = None, *, interpreter: Interpreter | None = None) -> EnvironmentLock:
    """Return the identity of the environment that an interpreter, by default this one, runs in.

    Args:
        cache: Folder in which digests of RECORD files are remembered by stat; None remembers nothing.
    """
    chosen = interpreter or Interpreter.here()
    memory = _Memory(cache / "environment.json" if cache else None)
    pip: dict[str, PipPackage] = {}
    for distribution in distributions(path=list(chosen.places)):
        name = canonicalize_name(distribution.metadata["Name"] or "")
        if not name or name == OURS or name in pip or _editable_folder(distribution) is not None:
            continue
        pip[name] = _pip_package(name, distribution, memory)
    memory.save()
    conda = list(_conda(chosen.prefix / "conda-meta"))
    return EnvironmentLock(
        python=chosen.version,
        implementation=chosen.implementation,
        platform=chosen.platform,
        conda=sorted(conda, key=lambda package: package.name),
        pip=[pip[name] for name in sorted(pip)],
    )


def importable_folders(root: Path) -> list[str]:
    """Return the folders inside a repository that this interpreter imports from, relative to `root`.

    They come from editable installs (`.pth` lines) and from PYTHONPATH: code, not environment. A run gets the same
    folders of its own workspace, so that it never imports from the user's working tree.
    """
    real_root, ours = root.resolve(), Path(__file__).resolve().parents[2]
    candidates = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for place in [*site.getsitepackages(), site.getusersitepackages()]:
        for file in sorted(Path(place).glob("*.pth")) if Path(place).is_dir() else []:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            candidates += [line.strip() for line in lines if line.strip() and not line.startswith(("import ", "#"))]
    found: dict[str, None] = {}
    for candidate in candidates:
        folder = Path(candidate).resolve()
        if folder.is_dir() and folder.is_relative_to(real_root) and folder != ours:
            found[folder.relative_to(real_root).as_posix()] = None
    return list(found)


def check_requirements(text: str, *, environment: EnvironmentLock, what: str) -> None:
    """Check that an environment satisfies a requirements file.

    Raises:
        EnvironmentMismatchError: Naming every requirement that is not met.
        RecipeError: A line that is no requirement; options other than comments are not read.
    """
    installed = {package.name: package.version for package in environment.pip}
    unmet = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip().rstrip("\\").strip()
        if not line or line.startswith("--hash"):
            continue
        try:
            requirement = Requirement(line.partition(" --hash")[0])
        except InvalidRequirement as error:
            raise RecipeError(f"{what}, line {number}: {line!r} is not a requirement that is read: {error}.") from None
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = installed.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"\n  {requirement} (found: {version or 'not installed'})")
    if unmet:
        raise EnvironmentMismatchError(
            f"{len(unmet)} requirement(s) of {what} are not met by {sys.executable}:{''.join(unmet)}",
            hint=f"Install them: `{sys.executable} -m pip install -r {what}`.",
        )


def _editable_folder(distribution: Distribution) -> Path | None:
    text = distribution.read_text("direct_url.json")
    if not text:
        return None
    try:
        value = json.loads(text)
        url = str(value["url"])
        if value.get("dir_info", {}).get("editable") is True and url.startswith("file://"):
            return Path(url.removeprefix("file://"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None


def _pip_package(name: str, distribution: Distribution, memory: _Memory) -> PipPackage:
    folder = getattr(distribution, "_path", None)
    record = Path(folder) / "RECORD" if folder is not None else None
    if record is None or not record.is_file():
        return PipPackage(name=name, version=distribution.version)
    known = memory.get(record)
    if known is None:
        wheel = distribution.read_text("WHEEL") or ""
        tags = sorted(line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:"))
        digest = record_digest(record.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
        known = {"version": distribution.version, "tags": tags, "record": digest}
        memory.put(record, known)
    return PipPackage(name=name, version=known["version"], tags=known["tags"], record=known["record"])


def record_digest(lines: Iterable[str]) -> str:
    """Return SHA-256 over the rows of a RECORD that do not depend on where it was installed, sorted.

    Left out: scripts (their shebang names the prefix), .pyc files, RECORD itself, and what installers note.
    """
    rows = ["\0".join(row[:3]) for row in csv.reader(lines) if len(row) >= 3 and is_identity(row[0])]
    joined = "\n".join(sorted(rows)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(joined).hexdigest()


def is_identity(path: str) -> bool:
    """True for a row of RECORD that does not depend on where, when and by what it was installed."""
    noted = path.rpartition("/")[2] in _NOTES and ".dist-info/" in path
    return not path.startswith("../") and not path.endswith(".pyc") and not noted


def _conda(folder: Path) -> Iterator[CondaPackage]:
    if not folder.is_dir():
        return
    for file in folder.glob("*.json"):
        try:
            value = json.loads(file.read_bytes())
            yield CondaPackage(
                name=str(value["name"]),
                version=str(value["version"]),
                build=str(value["build"]),
                subdir=str(value["subdir"]),
                sha256=value.get("sha256"),
            )
        except (ValueError, KeyError, OSError) as error:
            raise EnvironmentMismatchError(
                f"{file} cannot be read as a conda record: {error}.", hint="Repair the environment, or make a new one."
            ) from None


class _Memory:
    """Digests of RECORD files, by stat. Any trouble with it means doing without."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._dirty = False
        self._rows: dict[str, Any] = {}
        if file is not None:
            try:
                stored = json.loads(file.read_bytes())
                if stored["check"] == sha256_of(stored["rows"]):
                    self._rows = stored["rows"]
            except (OSError, ValueError, KeyError, TypeError):
                pass

    @staticmethod
    def _stat(path: Path) -> list[int]:
        seen = path.stat()
        return [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]

    def get(self, path: Path) -> Any:
        row = self._rows.get(str(path))
        return row["facts"] if row is not None and row["stat"] == self._stat(path) else None

    def put(self, path: Path, facts: dict[str, Any]) -> None:
        self._rows[str(path)] = {"stat": self._stat(path), "facts": facts}
        self._dirty = True

    def save(self) -> None:
        if self._file is None or not self._dirty:
            return
        try:
            durable_write(self._file, canonical({"check": sha256_of(self._rows), "rows": self._rows}), sync=False)
        except OSError:
            pass
