"""Capture the running interpreter's environment: conda-meta where there is one, and every installed distribution.

Nothing is imported from the packages; their metadata is read, and what was changed since is seen by stat.
"""

from __future__ import annotations

import json
import os
import re
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reprokit.environment.installed import actual_rows, record_digest, rows_of
from reprokit.environment.interpreter import Interpreter
from reprokit.environment.memory import Memory
from reprokit.errors import EnvironmentMismatchError, RecipeError
from reprokit.lock import CondaPackage, EnvironmentLock, PipPackage

__all__ = ["Captured", "capture", "capture_environment", "check_requirements", "importable_folders", "packages_of"]

OURS = "reprokit-runs"  # recorded as the tool that ran, never part of the environment


@dataclass(frozen=True)
class Captured:
    """An environment as it is.

    Attributes:
        changed: Files that were edited, or are missing, since they were installed, by package.
    """

    lock: EnvironmentLock
    changed: dict[str, list[str]]


def capture_environment(cache: Path | None = None, *, interpreter: Interpreter | None = None) -> EnvironmentLock:
    """Return the identity of the environment that an interpreter, by default this one, runs in; see `capture`."""
    return capture(cache, interpreter=interpreter).lock


def capture(cache: Path | None = None, *, interpreter: Interpreter | None = None) -> Captured:
    """Look at what is installed where an interpreter, by default this one, imports from.

    Args:
        cache: Folder in which what was read is remembered by stat; None remembers nothing.
    """
    chosen = interpreter or Interpreter.here()
    memory = Memory(cache / "environment.json" if cache else None)
    pip: dict[str, PipPackage] = {}
    changed: dict[str, list[str]] = {}
    for name, distribution in packages_of(chosen):
        pip[name], files = _pip_package(name, distribution, memory)
        if files:
            changed[name] = files
    memory.save()
    conda = list(_conda(chosen.prefix / "conda-meta"))
    lock = EnvironmentLock(
        python=chosen.version,
        implementation=chosen.implementation,
        platform=chosen.platform,
        conda=sorted(conda, key=lambda package: package.name),
        pip=[pip[name] for name in sorted(pip)],
    )
    return Captured(lock, changed)


def packages_of(interpreter: Interpreter) -> Iterator[tuple[str, Distribution]]:
    """Yield packages by normalised name, as they would be imported: without reprokit and without editable ones."""
    seen = {OURS}
    for distribution in distributions(path=list(interpreter.places)):
        folder = getattr(distribution, "_path", None)
        stem, dash, _ = Path(folder).name.partition("-") if folder is not None else ("", "", "")
        if not dash or not str(folder).endswith(".dist-info"):
            stem = distribution.metadata["Name"] or ""
        name = canonicalize_name(stem)
        # pip leaves `~name` behind where it could not remove a package, and does not see it again
        if stem[:1].isalnum() and name not in seen and _editable_folder(distribution) is None:
            seen.add(name)
            yield name, distribution


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


def _pip_package(name: str, distribution: Distribution, memory: Memory) -> tuple[PipPackage, list[str]]:
    """Return a package's identity as it is now, and which of its files are not those that were installed."""
    folder = getattr(distribution, "_path", None)
    record = Path(folder) / "RECORD" if folder is not None else None
    if record is None or not record.is_file():
        return PipPackage(name=name, version=distribution.version), []
    seen = record.stat()
    told = rows_of(record.read_text(encoding="utf-8", errors="surrogateescape"))
    rows, changed = actual_rows(record, told, memory)
    known = memory.get(str(record), seen)
    if known is None:
        wheel = distribution.read_text("WHEEL") or ""
        tags = sorted(line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:"))
        known = {"version": distribution.version, "tags": tags, "record": record_digest(told)}
        memory.put(str(record), seen, known)
    digest = record_digest(rows) if changed else known["record"]
    return PipPackage(name=name, version=known["version"], tags=known["tags"], record=digest), changed


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
