"""Capture the running interpreter's environment: conda-meta where there is one, and every installed distribution.

Nothing is imported from the packages; their metadata is read, and what was changed since is seen by stat.
"""

from __future__ import annotations

import json
import os
import site
from collections.abc import Container, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import msgspec
from packaging.utils import canonicalize_name

from reprokit.environment.conda.meta import conda_installed
from reprokit.environment.local.clean_url import clean_url
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.stat_cache import Memory
from reprokit.environment.pip.installed import actual_rows, record_digest, rows_of
from reprokit.schema.lock import Archive, EnvironmentLock, PipPackage

__all__ = ["Captured", "capture", "capture_environment", "importable_folders", "packages_of"]

OURS = "reprokit-runs"  # recorded as the tool that ran, never part of the environment


@dataclass(frozen=True)
class Captured:
    """An environment as it is.

    Attributes:
        changed: Files that were edited, or are missing, since they were installed, by package.
        archives: Where conda packages came from, and those of pip's that no index served: of others it notes nothing.
    """

    lock: EnvironmentLock
    changed: dict[str, list[str]]
    archives: list[Archive]


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
    conda = conda_installed(chosen.prefix, memory)
    pip: dict[str, PipPackage] = {}
    changed = {one.package.name: one.changed for one in conda if one.changed}
    owned = {str(chosen.prefix / folder) for one in conda for folder in one.metadata}
    archives = [one.archive for one in conda if one.archive is not None]
    for name, distribution in packages_of(chosen, owned):
        pip[name], files = _pip_package(name, distribution, memory)
        if (direct := _direct_url(distribution)) is not None and (origin := _origin(pip[name], direct)) is not None:
            archives.append(origin)
        if files:
            changed[name] = files
    memory.save()
    lock = EnvironmentLock(
        python=chosen.version,
        implementation=chosen.implementation,
        platform=chosen.platform,
        conda=[one.package for one in conda],
        pip=[pip[name] for name in sorted(pip)],
    )
    return Captured(lock, changed, archives)


def packages_of(interpreter: Interpreter, owned: Container[str] = ()) -> Iterator[tuple[str, Distribution]]:
    """Yield packages by normalised name, as they would be imported: without reprokit and without editable ones.

    Args:
        owned: Metadata folders of packages that conda brought.
    """
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
            if str(folder) not in owned:
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


def _editable_folder(distribution: Distribution) -> Path | None:
    direct = _direct_url(distribution) or {}
    folder = direct.get("dir_info")
    url = str(direct.get("url"))
    if isinstance(folder, dict) and folder.get("editable") is True and url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None


def _direct_url(distribution: Distribution) -> dict[str, Any] | None:
    """Return what an installer noted of a package that it did not take from an index by its name.

    Source: https://packaging.python.org/en/latest/specifications/direct-url/
    """
    text = distribution.read_text("direct_url.json")
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _origin(package: PipPackage, direct: dict[str, Any]) -> Archive | None:
    """Return where a package came from, in words that may be recorded; None if they cannot be.

    What lay on this machine is not told: the path helps nobody elsewhere, and the vault has the package.
    """
    repository, archive = direct.get("vcs_info"), direct.get("archive_info")
    url = clean_url(str(direct.get("url")))
    if url is None or url.startswith("file:"):
        return None
    try:
        if isinstance(repository, dict):
            found = Archive(
                kind="pip", name=package.name, version=package.version, url=f"{repository['vcs']}+{url}",
                revision=repository["commit_id"],
            )  # fmt: skip
        else:
            hashes = archive.get("hashes") if isinstance(archive, dict) else None
            found = Archive(
                kind="pip", name=package.name, version=package.version, url=str(url),
                file=str(url).rpartition("/")[2] if isinstance(archive, dict) else None,
                sha256=hashes.get("sha256") if isinstance(hashes, dict) else None,
            )  # fmt: skip
        return msgspec.convert(msgspec.to_builtins(found), Archive)
    except (KeyError, TypeError, msgspec.ValidationError):
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
