"""Capture the running interpreter's environment: conda-meta where there is one, and every installed distribution.

Nothing is imported from the packages; their metadata is read, and what was changed since is seen by stat.
"""

from __future__ import annotations

import json
import os
import re
import site
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import msgspec
from packaging.utils import canonicalize_name

from reprokit.core.package_root import IMPORT_ROOT
from reprokit.environment.conda.meta import conda_installed
from reprokit.environment.local.clean_url import clean_url
from reprokit.environment.local.editable import Editable, added_folders, editable_packages
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.kept import Installed, kept_or_found
from reprokit.environment.local.loose import Loose, Walked, loose_commands, loose_files
from reprokit.environment.local.stat_cache import Memory
from reprokit.environment.pip.installed import actual_rows, beside, read_record, record_digest
from reprokit.schema.lock import Archive, EnvironmentLock, PipPackage

__all__ = ["Captured", "capture", "capture_environment", "importable_folders", "packages_of"]

_SYSTEM = ("/usr/lib/", "/usr/lib64/")
OURS = "reprokit-runs"  # recorded as the tool that ran, never part of the environment


@dataclass(frozen=True)
class Captured:
    """An environment as it is.

    Attributes:
        changed: Files that were edited, or are missing, since they were installed, by package.
        archives: Where conda packages came from, and those of pip's that no index served: of others it notes nothing.
        loose: What is executed and belongs to no package, and where it lies.
        editable: Packages that are imported from working trees, and from where.
        unrecorded: Modules of packages that were installed without a RECORD, which would say what they have.
    """

    lock: EnvironmentLock
    changed: dict[str, list[str]]
    archives: list[Archive]
    loose: tuple[Loose, ...] = ()
    editable: tuple[Editable, ...] = ()
    unrecorded: frozenset[str] = frozenset()

    def remarks(self) -> list[str]:
        """Say what of it is in no archive, so that nobody can make it elsewhere, and what to do about it."""
        told = []
        own = [one for one in self.loose if not self._is_told(str(one.path))]
        if own:
            shown = ", ".join(str(one.path) for one in own[:5]) + (f" and {len(own) - 5} more" if len(own) > 5 else "")
            told.append(
                f"{shown}: executed by Python, and not what a package brought. It counts by its digest, and no archive "
                "has it: remove it, install its package again, or put it into the repository."
            )
        for one in self.editable:
            if one.package.sha256 is not None:
                told.append(
                    f"{one.package.name} is imported from {', '.join(one.places)}, outside the repository. It counts "
                    "by its digest, and no archive has it: install it without -e, or make it a submodule."
                )
        return told

    def files(self, differing: Container[str]) -> list[str]:
        """Say of things that differ from a lock, by their names there, which files here do so and what to do."""
        told = [
            f"{name} was changed since it was installed: {file}; install it again, with --force-reinstall"
            for name, files in sorted(self.changed.items())
            if name in differing
            for file in files
        ]
        told += [
            f"{one.path} is not what a package brought: remove it, or install its package again"
            for one in self.loose
            if one.file.path in differing
        ]
        return told + [
            f"{one.package.name} is imported from {', '.join(one.places)}"
            for one in self.editable
            if one.package.name in differing
        ]

    def _is_told(self, path: str) -> bool:
        """True of what the operating system's tools installed, and of packages without a RECORD, which are refused."""
        names = (path, path.partition(".")[0], *(path[: at.end() - 1] for at in re.finditer("/", path)))
        return path.startswith(_SYSTEM) or not self.unrecorded.isdisjoint(names)


def capture_environment(cache: Path | None = None, *, interpreter: Interpreter | None = None) -> EnvironmentLock:
    """Return the identity of the environment that an interpreter, by default this one, runs in; see `capture`."""
    return capture(cache, interpreter=interpreter).lock


def capture(cache: Path | None = None, *, interpreter: Interpreter | None = None, code: Path | None = None) -> Captured:
    """Look at what is installed where an interpreter, by default this one, imports from.

    Args:
        cache: Folder in which what was read is remembered by stat; None remembers nothing.
        code: The repository of a run: packages that are imported from it are its code.
    """
    chosen = interpreter or Interpreter.here()
    memory = Memory(cache / "environment.json" if cache else None)
    conda = conda_installed(chosen.prefix, memory)
    owned = {f"{chosen.prefix}/{path}": one.written for one in conda for path in one.modules}
    known = {str(chosen.prefix / folder) for one in conda for folder in one.metadata}
    found = kept_or_found(
        cache, chosen, [owned, sorted(known)], lambda there: _look(chosen, owned, known, memory, there)
    )
    projects = {name: (Path(folder), files) for name, (folder, files) in found.projects.items()}
    editable = [*editable_packages(chosen, projects, found.owners, memory, code=code, but=OURS)]
    memory.save()
    lock = EnvironmentLock(
        python=chosen.version,
        implementation=chosen.implementation,
        platform=chosen.platform,
        conda=[one.package for one in conda],
        pip=found.pip,
        loose=sorted((file for file, _ in found.loose), key=lambda file: file.path),
        editable=[one.package for one in editable],
    )
    changed = {one.package.name: one.changed for one in conda if one.changed} | found.changed
    archives = [*(one.archive for one in conda if one.archive is not None), *found.archives]
    loose = tuple(Loose(file, Path(path)) for file, path in found.loose)
    return Captured(lock, changed, archives, loose, tuple(editable), frozenset(found.unrecorded))


def _look(
    interpreter: Interpreter, owned: Mapping[str, int], known: Collection[str], memory: Memory, there: Walked
) -> Installed:
    """Look at every package that is not conda's, and at what belongs to none.

    Args:
        owned: Files of conda's packages, and when each was installed.
        known: Folders of metadata that are conda's.
    """
    looking = _Looking(memory, owned, there)
    pip: dict[str, PipPackage] = {}
    changed: dict[str, list[str]] = {}
    archives = []
    for name, distribution, counts in _all_packages(interpreter):
        package, files = looking.at(name, distribution)
        if not counts or str(getattr(distribution, "_path", None)) in known:
            continue
        pip[name] = package
        if (direct := _direct_url(distribution)) is not None and (origin := _origin(package, direct)) is not None:
            archives.append(origin)
        if files and not str(getattr(distribution, "_path", "")).startswith(_SYSTEM):  # it edits what it packs
            changed[name] = files
    loose = [
        *loose_files(interpreter, looking.owned, memory, there),
        *loose_commands(looking.beside, interpreter.prefix, memory),
    ]
    return Installed(
        pip=[pip[name] for name in sorted(pip)],
        changed=changed,
        archives=archives,
        loose=[(one.file, str(one.path)) for one in loose],
        owners=looking.owners,
        projects={name: (str(folder), files) for name, (folder, files) in looking.projects.items()},
        unrecorded=sorted(looking.unrecorded),
        beside=sorted({*looking.beside, *(path for path in looking.owned if path not in there.seen)}),
    )


class _Looking:
    """What is gathered package by package.

    Attributes:
        owned: Files of packages, and when each package was installed.
        owners: Which package a `.pth` file is of.
        beside: Files outside the folder of packages: does any package that names one have it as it is?
        projects: Of packages that are imported from where they are written their folder, and their files.
        unrecorded: Modules of packages without a RECORD.
    """

    def __init__(self, memory: Memory, owned: Mapping[str, int], there: Walked) -> None:
        self._memory = memory
        self._there = there
        self.owned = dict(owned)
        self.owners: dict[str, str] = {}
        self.beside: dict[str, bool] = {}
        self.projects: dict[str, tuple[Path, list[str]]] = {}
        self.unrecorded: set[str] = set()

    def at(self, name: str, distribution: Distribution) -> tuple[PipPackage, list[str]]:
        """Return a package's identity as it is now, and which of its files are not those that were installed."""
        folder = getattr(distribution, "_path", None)
        record = Path(folder) / "RECORD" if folder is not None else None
        if record is None or not record.is_file():
            if folder is not None:
                self.unrecorded.update(f"{Path(folder).parent}/{one}" for one in _modules(distribution, name))
            return PipPackage(name=name, version=distribution.version), []
        site = str(record.parent.parent)
        told = read_record(record, self._memory)
        self.owned.update(dict.fromkeys([f"{site}/{row[0]}" for row in told.rows], told.written))
        for file, good in beside(site, told, self._memory):
            self.beside[file] = good or self.beside.get(file, False)
        self.owners |= {f"{site}/{path}": name for path, _, _ in told.rows if path.endswith(".pth")}
        if (project := _editable_folder(distribution)) is not None:
            self.projects[name] = (project, [f"{site}/{path}" for path, _, _ in told.rows])
        rows, changed = actual_rows(site, told, self._memory, self._there.seen)
        version, tags = self._about(distribution, record)
        digest = record_digest(rows) if changed else told.digest
        return PipPackage(name=name, version=version, tags=tags, record=digest), changed

    def _about(self, distribution: Distribution, record: Path) -> tuple[str, list[str]]:
        seen = record.stat()
        known = self._memory.get(f"about:{record}", seen)
        if known is None:
            wheel = distribution.read_text("WHEEL") or ""
            tags = sorted(line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:"))
            known = {"version": distribution.version, "tags": tags}
            self._memory.put(f"about:{record}", seen, known)
        return known["version"], known["tags"]


def packages_of(interpreter: Interpreter) -> Iterator[tuple[str, Distribution]]:
    """Yield packages by normalised name, as they would be imported: without reprokit and without editable ones."""
    for name, distribution, counts in _all_packages(interpreter):
        if counts:
            yield name, distribution


def _all_packages(interpreter: Interpreter) -> Iterator[tuple[str, Distribution, bool]]:
    """Yield all that is installed; is each one of the environment, and the one that would be imported?"""
    seen = {OURS}
    for distribution in distributions(path=list(interpreter.places)):
        folder = getattr(distribution, "_path", None)
        stem, dash, _ = Path(folder).name.partition("-") if folder is not None else ("", "", "")
        if not dash or not str(folder).endswith(".dist-info"):
            stem = distribution.metadata["Name"] or ""
        name = canonicalize_name(stem)
        if stem[:1].isalnum():  # pip leaves `~name` behind where it could not remove a package
            counts = name not in seen and _editable_folder(distribution) is None
            yield name, distribution, counts
            if counts:
                seen.add(name)


def importable_folders(root: Path) -> list[str]:
    """Return the folders inside a repository that this interpreter imports from, relative to `root`.

    They come from editable installs (`.pth` lines) and from PYTHONPATH: code, not environment. A run gets the same
    folders of its own workspace, so that it never imports from the user's working tree.
    """
    real_root = root.resolve()
    candidates = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for place in [*site.getsitepackages(), site.getusersitepackages()]:
        candidates += [folder for _, folder in added_folders(Path(place))]
    found: dict[str, None] = {}
    for candidate in candidates:
        folder = Path(candidate).resolve()
        if folder.is_dir() and folder.is_relative_to(real_root) and folder != IMPORT_ROOT:
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


def _modules(distribution: Distribution, name: str) -> set[str]:
    """Return what a package without a RECORD calls its modules, or is likely to."""
    told = distribution.read_text("top_level.txt")
    return set(told.split()) if told else {name, name.replace("-", "_")}
