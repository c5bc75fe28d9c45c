"""Packages that are imported from a working tree: what their `.pth` files and finders name, by digest."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from reprokit.core.canonical_json import sha256_of
from reprokit.core.package_root import IMPORT_ROOT
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.loose import tree_digest
from reprokit.environment.local.stat_cache import Memory
from reprokit.schema.lock import EditablePackage

__all__ = ["Editable", "added_folders", "editable_packages"]


class Editable(NamedTuple):
    """One of them: as a lock has it, and what is imported of it."""

    package: EditablePackage
    places: list[str]


def added_folders(site: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders that the `.pth` files of a folder add to the search path, each with the file that does."""
    for file in sorted(site.glob("*.pth")) if site.is_dir() else []:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            text = line.strip()
            if text and "\0" not in text and not line.startswith(("#", "import ", "import\t")):
                folder = site / text
                if folder.is_dir():
                    yield file, str(folder.resolve())


def editable_packages(
    interpreter: Interpreter,
    projects: Mapping[str, tuple[Path, list[str]]],
    owners: Mapping[str, str],
    memory: Memory,
    *,
    code: Path | None,
    but: str,
) -> Iterator[Editable]:
    """Yield the packages that an interpreter imports from working trees.

    Args:
        projects: Of each that its installer noted as such its folder, and the files that it installed.
        owners: Which package a `.pth` file is of.
        code: The run's own repository: what lies in it is code, which its commit names.
        but: A package that is none of the environment's.
    """
    here = {str(Path(site).resolve()) for site in interpreter.sites} | {str(IMPORT_ROOT)}
    places: dict[str, dict[str, None]] = {}
    for site in interpreter.sites:
        for file, folder in added_folders(Path(site)):
            if folder not in here:
                name = owners.get(str(file)) or canonicalize_name(file.stem.strip("._-") or "pth")
                places.setdefault(name, {})[folder] = None
    for name, (project, files) in projects.items():
        if name not in places:
            places[name] = dict.fromkeys(_mapped(files) or [_sources(project)])
    root = code.resolve() if code is not None else None
    for name in sorted(places.keys() - {but}):
        found = sorted(places[name])
        own = root is not None and all(Path(place).resolve().is_relative_to(root) for place in found)
        digest = None if own else sha256_of([tree_digest(place, memory) for place in found])
        yield Editable(EditablePackage(name=name, sha256=digest), found)


def _mapped(files: list[str]) -> list[str]:
    """Return what setuptools' finder of an editable package maps its modules to."""
    for file in files:
        if not file.endswith("_finder.py"):
            continue
        try:
            tree = ast.parse(Path(file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in tree.body:
            if isinstance(node, ast.AnnAssign | ast.Assign):
                targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                if any(isinstance(target, ast.Name) and target.id == "MAPPING" for target in targets) and node.value:
                    try:
                        told = ast.literal_eval(node.value)
                    except ValueError:
                        continue
                    return [str(place) for place in told.values()] if isinstance(told, dict) else []
    return []


def _sources(project: Path) -> str:
    return str(project / "src" if (project / "src").is_dir() else project)
