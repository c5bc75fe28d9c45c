"""The files of a package version by number, for data loaders: straight from the packs of the registry, verified."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from reprokit.client.inputs import declared_folder, in_run, names_of

if TYPE_CHECKING:
    from reprokit.packages.package import Package

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """Files in a fixed order. Can be pickled, and used after a fork and from several threads."""

    keys: list[str]

    def read(self, number: int) -> bytes:
        """Return a file's verified bytes."""


class FolderSource:
    """A declared input of a run, which the runner laid out and verified."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.keys = names_of(root)

    def read(self, number: int) -> bytes:
        with open(f"{self.root}/{self.keys[number]}", "rb") as handle:  # noqa: PTH123 - must cost little
            return handle.read()


class PackageSource:
    """A version in a registry."""

    def __init__(self, package: Package, folder: str) -> None:
        self._package: Package | None = package
        self._folder = folder
        self._place = f"{package.name}@{package.top_hash}", package.registry.url
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        numbered = [(number, key) for number, key in enumerate(package.manifest.keys) if key.startswith(prefix)]
        if not numbered:
            raise FileNotFoundError(f"reprokit: {package} has no folder {folder!r}")
        self._positions = [number for number, _ in numbered]
        self.keys = [key[len(prefix) :] for _, key in numbered]
        self._read = package.reader.read

    def read(self, number: int) -> bytes:
        return self._read(self._positions[number])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (*self._place, self._folder)


def _reopen(ref: str, registry: str, folder: str) -> PackageSource:
    opener = importlib.import_module("reprokit.packages.package").Package
    return PackageSource(opener.open(ref, registry=registry), folder)


def open_source(package: Any, folder: str = "", *, registry: Any = None) -> Source:
    """Return the files below a folder of a package version, in the order of their keys.

    Args:
        package: An open `Package` or a reference; inside a run, a declared input.
    """
    if isinstance(package, str):
        if in_run():
            root = declared_folder(package)
            return FolderSource(f"{root}/{folder.strip('/')}" if folder.strip("/") else root)
        # a run's environment need not have what it needs
        opener = importlib.import_module("reprokit.packages.package").Package
        package = opener.open(package, registry=registry)
    return PackageSource(package, folder)
