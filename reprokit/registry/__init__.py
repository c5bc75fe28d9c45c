"""Where packages live: `open_registry` gives the implementation that an address asks for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from reprokit.core.config import Config
from reprokit.errors import UsageError
from reprokit.registry.base import OFFLINE, Registry
from reprokit.registry.local import LocalRegistry

__all__ = ["Registry", "open_registry", "registry_folder"]

_REMOTE = ("s3", "gs", "az", "memory", "https", "http")


def open_registry(
    url: str, *, cache: Path | None = None, outside: Sequence[Path | str] = (), offline: bool | None = None
) -> Registry:
    """Return the registry at a folder path or URL; one that does not exist yet reads as empty.

    Args:
        cache: Where its index is kept; REPROKIT_CACHE, or the user's cache folder.
        outside: Folders elsewhere (in a bucket: addresses) that the objects of a registry of Quilt's may lie in.
        offline: Of one in an object store what is on this machine; by default as REPROKIT_OFFLINE says.
    Raises:
        UsageError: A scheme that this release does not read.
        RegistryError: The folder is something else, or of an unknown format.
    """
    behind = url.removeprefix(OFFLINE) if url.startswith(OFFLINE) else None
    url = url if behind is None else behind
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _in_folder(url, cache, outside)
    if scheme == "file":
        return _in_folder(rest, cache, outside)
    if scheme not in _REMOTE:
        raise _unread(url)
    near = cache or Config.cache_folder()
    if behind is not None or (Config.is_offline() if offline is None else offline):
        apart = import_module("reprokit.registry.remote.offline").OfflineRegistry
        unsent: Registry = apart(url, cache=near, home=Config.home_folder())
        return unsent
    storage = import_module("reprokit.store.object_storage").open_storage(url)  # a client that only these need
    remote = import_module("reprokit.registry.remote.registry").RemoteRegistry
    opened = remote(storage, cache=near, home=Config.home_folder())
    if scheme == "s3" and not opened.opened and storage.names(".quilt/named_packages"):
        bucket: Registry = import_module("reprokit.registry.quilt.bucket").QuiltBucket(storage, outside=outside)
        return bucket
    found: Registry = opened
    return found


def registry_folder(url: str) -> Path:
    """Return the folder that an address names; UsageError for a scheme that names none."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise UsageError(f"{url} names no folder.", hint="Name a folder, which may be a mounted network drive.")
    return Path(rest if separator else url).expanduser()


def _in_folder(path: str, cache: Path | None, outside: Sequence[Path | str]) -> Registry:
    """A folder with `.quilt/` in it and no registry of ours is one of Quilt's, and only read."""
    folder = Path(path).expanduser()
    if (folder / ".quilt").is_dir() and not (folder / "reprokit-registry.json").exists():
        quilt = import_module("reprokit.registry.quilt.registry").QuiltRegistry
        browsed: Registry = quilt(folder, outside=[Path(one) for one in outside])
        return browsed
    return LocalRegistry(folder, cache=cache or Config.cache_folder(), home=Config.home_folder())


def _unread(url: str) -> UsageError:
    return UsageError(
        f"Registries at {url.partition('://')[0]}:// are not read by this release ({url}).",
        hint="Name a folder, or s3://BUCKET/FOLDER, gs://…, az://… or https://….",
    )
