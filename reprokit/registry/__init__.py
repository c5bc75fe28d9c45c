"""Where packages live: `open_registry` gives the implementation that an address asks for."""

from __future__ import annotations

from pathlib import Path

from reprokit.config import Config
from reprokit.errors import UsageError
from reprokit.registry.base import Registry
from reprokit.registry.local import LocalRegistry

__all__ = ["Registry", "open_registry"]


def open_registry(url: str, *, cache: Path | None = None) -> Registry:
    """Return the registry at a folder path or file:// URL; a folder that does not exist yet reads as empty.

    Args:
        cache: Where its index is kept; REPROKIT_CACHE, or the user's cache folder.
    Raises:
        UsageError: A scheme that this release does not read.
        RegistryError: The folder is something else, or of an unknown format.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise UsageError(
            f"Registries at {scheme}:// are not read by this release ({url}).",
            hint="Name a folder, which may be a mounted network drive.",
        )
    return LocalRegistry(Path(rest if separator else url).expanduser(), cache=cache or Config.cache_folder())
