"""Lay a package version over local paths, for code that opens files by their names.

    with reprokit.vfs.setup("vision/cifar10", {"data/cifar10": "train"}):
        image = PIL.Image.open("data/cifar10/cat/0001.png")

Nothing is written to disk: Python's own file functions are hooked (`reprokit.client.overlay.install` says what they
are), and what they read comes from the packs of the registry, verified. Native readers, such as TensorFlow's and
HDF5's, pass Python by: `mode="tree"` lays the files out in the cache and puts a link to them at the path; `reprokit
mount` serves any program.

Inside a run only declared inputs can be mapped, from where the runner laid them out; outside one, a process that is
started with `spawn` calls `setup` again.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from reprokit.client.inputs import FolderLayer, declared_folder, in_run
from reprokit.client.overlay.install import Overlay, install, remove

if TYPE_CHECKING:
    from reprokit.packages.package import Package

__all__ = ["Mapped", "setup", "teardown"]

_VARIABLE = "REPROKIT_VFS"  # tells the descendants of a run's process what to lay over
_MAPPED: list[Mapped] = []


class Mapped:
    """What `setup` laid over paths; a path itself if there is one mapping. Ends with `teardown` or its `with` block."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """Args: places: local path → what lies there, for people."""
        self.places = dict(places)
        self._overlay: Overlay | None = None
        self._links: list[str] = []

    def __fspath__(self) -> str:
        if len(self.places) != 1:
            raise TypeError(f"{len(self.places)} paths are mapped, so there is not one that is meant")
        return next(iter(self.places))

    def __str__(self) -> str:
        return ", ".join(self.places)

    def __enter__(self) -> Mapped:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.teardown()

    def teardown(self) -> None:
        """Take it all away again; twice does no harm."""
        if self._overlay is not None:
            remove(self._overlay)
            self._overlay = None
        for link in self._links:
            os.unlink(link)  # noqa: PTH108
        self._links.clear()
        if self in _MAPPED:
            _MAPPED.remove(self)
            _tell_descendants()


class PackageLayer:
    """The entries of an open package below a folder."""

    def __init__(self, package: Package, below: str) -> None:
        prefix = f"{below.strip('/')}/" if below.strip("/") else ""
        self._package = package
        self._positions = {
            key[len(prefix) :]: position for position, key in enumerate(package.manifest.keys) if key.startswith(prefix)
        }
        if below in package.manifest:
            self._positions = {"": package.manifest.position(below)}
        if not self._positions:
            raise FileNotFoundError(errno.ENOENT, f"reprokit: {package} has no entry or folder of that name", below)
        self._sizes = package.manifest.columns()[2]
        self._view = package.reader.view

    def keys(self) -> Iterable[str]:
        return self._positions

    def size(self, key: str) -> int:
        return self._sizes[self._positions[key]]

    def read(self, key: str) -> bytes | memoryview:
        try:
            return self._view(self._positions[key])
        except OSError:
            raise
        except Exception as error:
            raise OSError(errno.EIO, str(error), key) from error


def setup(
    ref: str,
    mappings: Mapping[str, str] | None = None,
    *,
    registry: Any = None,
    mode: Literal["hooks", "tree"] = "hooks",
) -> Mapped:
    """Lay a package version over local paths until `teardown`, or for a `with` block.

    Args:
        ref: `ns/name`, `ns/name:tag` or `ns/name@hash`; inside a run also the input's name in the recipe.
        mappings: Local path → folder or entry of the package, "" for all of it; None maps all of it to `name`.
        registry: A registry or its address; the one configured if None. Not used inside a run.
        mode: `hooks` writes nothing and is seen by Python code alone; `tree` puts links to files, seen by all.
    Raises:
        LookupError: Inside a run, `ref` is not a declared input.
        FileNotFoundError: The package has no such folder or entry.
        FileExistsError: With `tree`, something is at the path already.
        reprokit.Error: The version cannot be found or read.
    """
    chosen = (
        dict(mappings) if mappings is not None else {ref.partition("@")[0].partition(":")[0].rpartition("/")[2]: ""}
    )
    mapped = Mapped({os.path.abspath(place): below for place, below in chosen.items()})  # noqa: PTH100
    if in_run():
        folder = declared_folder(ref)
        layers: dict[str, Any] = {place: FolderLayer(folder, below) for place, below in mapped.places.items()}
    else:  # loaded here, because the environment of a run need not have what it stands on
        package = importlib.import_module("reprokit.packages.package").Package.open(ref, registry=registry)
        if mode == "tree":
            folder = _laid_out(package)
        layers = {place: PackageLayer(package, below) for place, below in mapped.places.items()}
    if mode == "tree":
        for place, below in mapped.places.items():
            os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
            os.symlink(os.path.join(folder, below.strip("/")) if below else folder, place)  # noqa: PTH118, PTH211
            mapped._links.append(place)
    else:
        overlay = Overlay()
        for place, layer in layers.items():
            overlay.mount(place, layer)
        install(overlay)
        mapped._overlay = overlay
    _MAPPED.append(mapped)
    _tell_descendants()
    return mapped


def teardown() -> None:
    """Take away everything that `setup` laid over paths in this process."""
    for mapped in reversed(_MAPPED.copy()):
        mapped.teardown()


def _laid_out(package: Package) -> str:
    lay_out = importlib.import_module("reprokit.packages.tree_cache").lay_out
    cache = importlib.import_module("reprokit.core.config").Config.cache_folder()
    return str(lay_out(package.manifest, registry=package.registry, cache=cache, what=str(package)))


def _tell_descendants() -> None:
    """Inside a run, leave word for processes that are started from now on; `sitecustomize` there reads it."""
    if not in_run():
        return
    roots = [
        (place, layer.root)
        for mapped in _MAPPED
        if mapped._overlay is not None
        for place, layer, _ in mapped._overlay.mounts()
        if isinstance(layer, FolderLayer)
    ]
    if roots:
        os.environ[_VARIABLE] = json.dumps(roots)
    else:
        os.environ.pop(_VARIABLE, None)
