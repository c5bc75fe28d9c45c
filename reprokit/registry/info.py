"""What a registry is: where it lies, what is in it, how much that takes; and the listing of one that is served."""

from __future__ import annotations

from typing import Any

import msgspec

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import RESERVED, VERDICTS
from reprokit.errors import NotFoundError
from reprokit.registry.base import FORMAT, Registry
from reprokit.registry.stored import StoredRegistry
from reprokit.store.static_storage import LISTING, listing_of

__all__ = ["Listing", "RegistryInfo", "info", "write_listing"]

_FOLDERS = ("manifests", "packs", "objects")


class RegistryInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry is.

    Attributes:
        kind: folder, s3, gs, az, memory.
        uuid: What it is called wherever it lies.
        packages: Without the records of runs, and verdicts.
        running: Runs whose sign of life is held.
        versions: Manifests that are stored, named by a package or not.
        files, size: Of what packs, objects and manifests are stored in; bytes.
    """

    url: str
    kind: str
    uuid: str
    format: int
    packages: int
    runs: int
    verdicts: int
    running: int
    versions: int
    files: int
    size: int

    def plain(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The listing of a registry that was written; bytes."""

    name: str
    size: int


def write_listing(registry: Registry) -> Listing:
    """Write the listing by which a registry is read as static files.

    Raises:
        NotFoundError: There is no registry of reprokit's.
    """
    ours = _ours(registry)
    with os_errors(f"Writing the listing of {registry.url}"):
        data = listing_of(ours.storage)
        ours.storage.put(LISTING, data)
        return Listing(name=ours.storage.name(LISTING), size=len(data))


def _ours(registry: Registry) -> StoredRegistry:
    if not isinstance(registry, StoredRegistry) or not registry.exists():
        raise NotFoundError(
            f"{registry.url} is no registry of reprokit's yet.", hint="The first `run` or `package build` makes one."
        )
    return registry


def info(registry: Registry, *, progress: Progress = SILENT) -> RegistryInfo:
    """Return what a registry is; its files are listed, and none is read.

    Raises:
        NotFoundError: There is none yet, or it is another tool's.
    """
    ours = _ours(registry)
    versions = files = size = 0
    with os_errors(f"Listing {registry.url}"), progress.task("Listing", None, unit="files") as advance:
        for folder in _FOLDERS:
            for stored in ours.storage.walk(folder):
                versions += folder == "manifests"
                files += 1
                size += stored.size
                advance()
    spaces = [space for space in registry.namespaces() if space not in (RESERVED, VERDICTS)]
    scheme, separator, _ = registry.url.partition("://")
    return RegistryInfo(
        url=registry.url,
        kind=scheme if separator else "folder",
        uuid=ours.uuid,
        format=FORMAT,
        packages=sum(1 for space in spaces for _ in registry.packages(space)),
        runs=sum(head.latest is not None for head in registry.heads(RESERVED)),
        verdicts=sum(1 for _ in registry.packages(VERDICTS)),
        running=len(registry.running()),
        versions=versions,
        files=files,
        size=size,
    )
