"""Where packages live: `open_registry` gives the implementation that an address asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reprokit.core.config import Config
from reprokit.errors import UsageError
from reprokit.registry.base import Registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt import QuiltRegistry

__all__ = ["Registry", "open_registry", "registry_folder"]


def open_registry(url: str, *, cache: Path | None = None, outside: Sequence[Path] = ()) -> Registry:
    """Return the registry at a folder path or file:// URL; a folder that does not exist yet reads as empty.

    A folder with `.quilt/` in it and no registry of ours is one of Quilt's, and only read.

    Args:
        cache: Where its index is kept; REPROKIT_CACHE, or the user's cache folder.
        outside: Folders elsewhere that the objects of a registry of Quilt's may lie in.
    Raises:
        UsageError: A scheme that this release does not read.
        RegistryError: The folder is something else, or of an unknown format.
    """
    folder = registry_folder(url)
    if (folder / ".quilt").is_dir() and not (folder / "reprokit-registry.json").exists():
        return QuiltRegistry(folder, outside=outside)
    return LocalRegistry(folder, cache=cache or Config.cache_folder())


def registry_folder(url: str) -> Path:
    """Return the folder that an address names; UsageError for a scheme that this release does not read."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise UsageError(
            f"Registries at {scheme}:// are not read by this release ({url}).",
            hint="Name a folder, which may be a mounted network drive.",
        )
    return Path(rest if separator else url).expanduser()
