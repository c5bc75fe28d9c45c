"""Where things live: the home, the cache and the registry in force, from flags, variables and .reprokit/config.yaml."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from reprokit.errors import RecipeError

__all__ = ["CONFIG_FILE", "Config"]

CONFIG_FILE = Path(".reprokit") / "config.yaml"
_MAX_CONFIG = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Folders and addresses of one invocation.

    Attributes:
        home: Data that must not be lost: the default registry, journals of runs.
        cache: Anything here can be deleted.
        registry: A folder (a path or file:// URL).
    """

    home: Path
    cache: Path
    registry: str

    @classmethod
    def load(cls, *, registry: str | None = None, folder: Path | None = None) -> Config:
        """Return the configuration in force: argument, then REPROKIT_* variable, then project file, then default."""
        home = cls.home_folder()
        base = (folder or Path.cwd()).absolute()
        chosen = registry or os.environ.get("REPROKIT_REGISTRY")
        if not chosen:
            chosen, base = _from_project(base) or (str(home / "registry"), base)
        if "://" not in chosen:
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
    def cache_folder() -> Path:
        """Return the cache in force."""
        chosen = _folder("REPROKIT_CACHE") or _default("user_cache_dir")
        return chosen.absolute()


def _default(kind: str) -> Path:
    """Return where the operating system keeps such things; the library that knows loads only if it is asked."""
    return Path(getattr(importlib.import_module("platformdirs"), kind)("reprokit", appauthor=False))


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def _from_project(start: Path) -> tuple[str, Path] | None:
    """Return the registry that the nearest .reprokit/config.yaml upwards names, and the folder it is relative to."""
    for folder in (start, *start.parents):
        file = folder / CONFIG_FILE
        if not file.is_file():
            continue
        # start-up without the file does not pay
        load_yaml = importlib.import_module("reprokit.core.safe_yaml").load_yaml
        content = load_yaml(file.read_bytes(), what=str(file), max_bytes=_MAX_CONFIG) or {}
        unknown = set(content) - {"registry"} if isinstance(content, dict) else {"(not a mapping)"}
        if unknown:
            raise RecipeError(f"{file}: unknown key {sorted(map(str, unknown))[0]!r}; known: 'registry'.")
        if value := content.get("registry"):
            if not isinstance(value, str):
                raise RecipeError(f"{file}: registry must be a path or URL, not {value!r}.")
            return value, folder
    return None
