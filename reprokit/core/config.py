"""Where things live: the home, the cache and the registry in force, from flags, variables and .reprokit/config.yaml."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reprokit.errors import RecipeError, UsageError

__all__ = ["CONFIG_FILE", "Config", "mlflow_store", "named_registry", "registries"]

CONFIG_FILE = Path(".reprokit") / "config.yaml"
_MAX_CONFIG = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(I)?)?B?")
_NEAR_LIMIT = "20GB"
_KEYS = {"mlflow", "registry", "registries"}
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Folders and addresses of one invocation.

    Attributes:
        home: Data that must not be lost: the default registry, journals of runs.
        cache: Anything here can be deleted.
        registry: A folder (a path or file:// URL), or a place in an object store (s3://, gs://, az://).
    """

    home: Path
    cache: Path
    registry: str

    @classmethod
    def load(cls, *, registry: str | None = None, folder: Path | None = None) -> Config:
        """Return the configuration in force: argument, then REPROKIT_* variable, then project file, then default.

        By default a project, which is a git repository, has a registry of its own in `.reprokit/`, and what is in none
        has that of the home.
        """
        home = cls.home_folder()
        base = (folder or Path.cwd()).absolute()
        chosen = registry or os.environ.get("REPROKIT_REGISTRY")
        if not chosen:
            project = _project(base)
            chosen = project.registry if project is not None else None
            base = project.folder if project is not None and chosen else base
            chosen = chosen or str(_own_registry(base) or home / "registry")
        named = named_registry(chosen, folder=base)
        if named is not None:
            chosen = named
        elif "://" not in chosen:
            chosen = str((base / Path(chosen).expanduser()).absolute())
        elif chosen.startswith("file://"):
            chosen = chosen.removeprefix("file://")
        return cls(home=home, cache=cls.cache_folder(), registry=chosen)

    @staticmethod
    def home_folder() -> Path:
        """Return the home in force."""
        chosen = _folder("REPROKIT_HOME") or _default("user_data_dir")
        return chosen.absolute()

    @staticmethod
    def is_offline() -> bool:
        """Return whether nothing may be asked of the network: REPROKIT_OFFLINE."""
        return os.environ.get("REPROKIT_OFFLINE", "") not in ("", "0")

    @staticmethod
    def near_limit() -> int:
        """Return how many bytes of each registry in an object store may be near, 0 for all: REPROKIT_CACHE_LIMIT.

        Raises:
            UsageError: It is no size.
        """
        text = os.environ.get("REPROKIT_CACHE_LIMIT", _NEAR_LIMIT)
        found = _SIZE.fullmatch(text.strip().upper())
        if found is None:
            raise UsageError(
                f"REPROKIT_CACHE_LIMIT must be a size such as 500MB, 20GB or 1TB, or 0 for no limit, not {text!r}."
            )
        return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " "))

    @staticmethod
    def cache_folder() -> Path:
        """Return the cache in force."""
        chosen = _folder("REPROKIT_CACHE") or _default("user_cache_dir")
        return chosen.absolute()


def _own_registry(start: Path) -> Path | None:
    """Return where the registry of the git repository around a folder is; None if there is none around it."""
    for folder in (start, *start.parents):
        if (folder / ".git").exists():
            return folder / Path(CONFIG_FILE).parent / "registry"
    return None


def _default(kind: str) -> Path:
    """Return where the operating system keeps such things; the library that knows loads only if it is asked."""
    return Path(getattr(importlib.import_module("platformdirs"), kind)("reprokit", appauthor=False))


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def registries(folder: Path | None = None) -> dict[str, str]:
    """Return the registries that the project's file gives names to: name → address.

    Args:
        folder: As of `named_registry`.
    Raises:
        RecipeError: The file is malformed.
    """
    project = _project((folder or Path.cwd()).absolute())
    return {} if project is None else {name: _address_in(project, name) for name in project.registries}


def named_registry(name: str, *, folder: Path | None = None) -> str | None:
    """Return the address of a registry that the project's file gives a name to; None if it does not.

    Args:
        folder: Where the search for the file begins; by default the current one.
    Raises:
        RecipeError: The file is malformed.
    """
    project = _project((folder or Path.cwd()).absolute()) if _NAME.fullmatch(name) else None
    if project is None or name not in project.registries:
        return None
    return _address_in(project, name)


def mlflow_store(*, folder: Path | None = None) -> str | None:
    """Return the store of MLflow's that runs are sent to while they go on: REPROKIT_MLFLOW, then the project's file.

    Args:
        folder: As of `named_registry`.
    Raises:
        RecipeError: The file is malformed.
    """
    base = (folder or Path.cwd()).absolute()
    chosen = os.environ.get("REPROKIT_MLFLOW")
    if chosen is not None:
        base = Path.cwd()
    elif (project := _project(base)) is not None:
        chosen, base = project.mlflow, project.folder
    if not chosen:
        return None
    if chosen.startswith(_SQLITE):
        return f"{_SQLITE}{base / chosen.removeprefix(_SQLITE)}"
    return chosen if "://" in chosen else str(base / Path(chosen).expanduser())


def _address_in(project: _Project, name: str) -> str:
    address = project.registries[name]
    return address if "://" in address else str((project.folder / Path(address).expanduser()).absolute())


class _Project(NamedTuple):
    folder: Path
    registry: str | None
    registries: Mapping[str, str]
    mlflow: str | None = None


def _project(start: Path) -> _Project | None:
    """Return what the nearest .reprokit/config.yaml upwards says, and the folder that its paths are relative to."""
    for folder in (start, *start.parents):
        file = folder / CONFIG_FILE
        if not file.is_file():
            continue
        # start-up without the file does not pay
        load_yaml = importlib.import_module("reprokit.core.safe_yaml").load_yaml
        content = load_yaml(file.read_bytes(), what=str(file), max_bytes=_MAX_CONFIG) or {}
        unknown = set(content) - _KEYS if isinstance(content, dict) else {"(not a mapping)"}
        if unknown:
            known = ", ".join(map(repr, sorted(_KEYS)))
            raise RecipeError(f"{file}: unknown key {sorted(map(str, unknown))[0]!r}; known: {known}.")
        chosen, named = content.get("registry"), content.get("registries") or {}
        mlflow = content.get("mlflow")
        for key, value in (("registry", chosen), ("mlflow", mlflow)):
            if not (value is None or isinstance(value, str)):
                raise RecipeError(f"{file}: {key} must be a path or URL, not {value!r}.")
        if not isinstance(named, dict) or not all(
            isinstance(name, str) and _NAME.fullmatch(name) and isinstance(address, str)
            for name, address in named.items()
        ):
            raise RecipeError(
                f"{file}: registries must be a mapping of names (letters, digits, - and _) to paths or URLs."
            )
        if chosen or named or mlflow:
            return _Project(folder, chosen or None, named, mlflow or None)
    return None
