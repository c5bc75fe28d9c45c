"""Lay read-only virtual files over local paths by hooking Python's file functions; nothing is written to disk.

    overlay = Overlay()
    overlay.mount("data/cifar10", layer)
    install(overlay)            # open, os.stat, listdir, glob, pathlib, np.load, PIL, gzip … see data/cifar10/…
    …
    remove(overlay)

What lies under a place is the layer's alone: real files there are hidden, and one that the layer lacks is missing.
The place shows up in the listing of its real parent folder; a parent that does not exist is virtual as well, until
something is written to it. Paths are taken as they are written (`a/../b` is `b`), also under the place's real name,
but a real symbolic link that points into a place is not followed.

Seen: all that goes through `open`, `io.open` and the functions of `os`, also where a loaded module has taken one by
name (`from os import listdir`). A file object's `fileno()` is a descriptor of memory, so mmap, `np.memmap`, sendfile
and a child's standard input work. Forked children, such as the workers of a DataLoader, inherit everything. A spawned
one starts without: hand it `Overlay.mounts()`, or install an overlay there anew.

Not seen: native code that opens files by itself (TensorFlow's `tf.io`, HDF5, SQLite, Arrow's readers; `h5py.File` and
pyarrow also take a file object), other programs, `io.FileIO(path)`, imports, a function that was copied into a default
argument or a closure before `install`, and whatever is given relative to `dir_fd`. Where a function of Python hands a
path to such code (`os.chdir`, `os.execv`, the `cwd` of a process), an error says so.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from reprokit.client.overlay.reading import READING, open_hook
from reprokit.client.overlay.refusing import REFUSING, fork_hook, parent_maker
from reprokit.client.overlay.tree import Layer, Switch, Table, Tree

try:
    import _posixsubprocess
except ImportError:  # pragma: no cover - not on POSIX
    _posixsubprocess = None  # type: ignore[assignment]

__all__ = ["Layer", "Overlay", "install", "remove"]

_Site = tuple[ModuleType, str]  # a module and the name of a function in it

_LOCK = threading.Lock()
_SWITCH = Switch(os.stat)
_INSTALLED: list[Overlay] = []
_PAIRS: dict[_Site, tuple[Callable[..., Any], Callable[..., Any]]] = {}  # original and hook, now or before
_BURIED: set[_Site] = set()  # where someone's wrapper lies on top of our hook
_KEPT = frozenset({"posix", "_io"})  # where `os` and `io` have their functions from

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class Overlay:
    """Layers over local paths, seen once `install` has been called. Safe to use from several threads."""

    def __init__(self) -> None:
        self._trees: dict[str, tuple[Tree, tuple[str, ...]]] = {}

    def mount(self, place: str, layer: Layer, *, mtime: float = 0.0) -> None:
        """Lay a layer over a path, in the place of one that is there.

        Args:
            place: A folder, or a file if the layer's only key is "". A relative path counts from the working
                directory of this moment.
            mtime: What `os.stat` says of every file, in seconds since 1970.
        Raises:
            ValueError: The layer has no files, or keys that are not relative paths in normal form.
            NotADirectoryError: A real file is where a folder over `place` would have to be.
        """
        absolute = os.path.abspath(os.fsdecode(place))  # noqa: PTH100
        if absolute == "/":
            raise ValueError("cannot lay a layer over /")
        folder, name = os.path.split(absolute)
        above = folder
        while not os.path.lexists(above):
            above = os.path.dirname(above)  # noqa: PTH120
        if not os.path.isdir(above):  # noqa: PTH112
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), above)
        tree = Tree(absolute, layer, mtime)
        real = os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        with _LOCK:
            self._trees.pop(absolute, None)
            self._trees[absolute] = tree, (absolute, real)
            _publish()

    def unmount(self, place: str) -> None:
        """Take a layer away again.

        Raises:
            KeyError: Nothing is mounted there.
        """
        absolute = os.path.abspath(os.fsdecode(place))  # noqa: PTH100
        with _LOCK:
            if absolute not in self._trees:
                raise KeyError(f"nothing is mounted at {absolute}")
            del self._trees[absolute]
            _publish()

    def mounts(self) -> list[tuple[str, Layer, float]]:
        """Return place, layer and mtime of every mount, with which another process can make the same overlay."""
        return [(tree.place, tree.layer, tree.mtime) for tree, _ in list(self._trees.values())]

    def seen(self) -> list[tuple[Tree, tuple[str, ...]]]:
        """Return the trees in the order of their mounting, each with the paths under which it is seen."""
        return list(self._trees.values())


def install(overlay: Overlay) -> None:
    """Make an overlay visible to Python's file functions. Counted; the last of several hides the others."""
    with _LOCK:
        if not _INSTALLED:
            _hook()
        _INSTALLED.append(overlay)
        _publish()


def remove(overlay: Overlay) -> None:
    """Undo one `install`; with the last one gone, the original functions are put back.

    A function that someone has wrapped in the meantime is left as it is: our hook beneath passes all calls on.

    Raises:
        ValueError: The overlay is not installed.
    """
    with _LOCK:
        if overlay not in _INSTALLED:
            raise ValueError("the overlay is not installed")
        _INSTALLED.reverse()
        _INSTALLED.remove(overlay)
        _INSTALLED.reverse()
        _publish()
        if not _INSTALLED:
            _unhook()


def _publish() -> None:
    overlays = list(dict.fromkeys(reversed(_INSTALLED)))
    _SWITCH.table = Table(item for overlay in reversed(overlays) for item in overlay.seen())


def _hook() -> None:
    sites: list[_Site] = [(builtins, "open"), (io, "open"), (_posixsubprocess, "fork_exec")]
    sites += [(os, name) for name in (*READING, *REFUSING)]
    found: dict[_Site, Callable[..., Any]] = {}
    for site in sites:
        current = getattr(*site, None)
        original, hook = _PAIRS.get(site, (None, None))
        if current is None or (site in _BURIED and current is not original and current is not hook):
            continue
        _BURIED.discard(site)
        if current is not hook:
            found[site] = current
    mkdir = found[os, "mkdir"] if (os, "mkdir") in found else _PAIRS[os, "mkdir"][0]
    grow = parent_maker(mkdir, _SWITCH)
    hooks: dict[int, Callable[..., Any]] = {}  # by the original, so that `open` and `io.open` stay one function
    for site, original in found.items():
        if id(original) not in hooks:
            hooks[id(original)] = _hook_for(site, original, grow)
        _PAIRS[site] = original, hooks[id(original)]
    _replace(hooks, found.values())


def _hook_for(site: _Site, original: Callable[..., Any], grow: Callable[[Any], bool]) -> Callable[..., Any]:
    module, name = site
    make = fork_hook if module is _posixsubprocess else (READING | REFUSING)[name] if module is os else open_hook
    hook = make(original, _SWITCH, grow)
    functools.update_wrapper(hook, original)
    hook.__module__ = "io" if module is builtins else module.__name__  # where pickle finds it
    return hook


def _unhook() -> None:
    back: dict[int, Callable[..., Any]] = {}
    for site, (original, hook) in _PAIRS.items():
        if getattr(*site) is hook:
            back[id(hook)] = original
        else:
            _BURIED.add(site)
    gone = [hook for _, hook in _PAIRS.values() if id(hook) in back]
    _replace(back, gone)
    for functions in _capabilities():
        functions.difference_update(gone)


def _replace(new: dict[int, Callable[..., Any]], old: Iterable[Callable[..., Any]]) -> None:
    """Put functions in the place of others, by their id, wherever a loaded module has one of them by name."""
    for name, module in list(sys.modules.items()):
        if name in _KEPT or not isinstance(module, ModuleType):
            continue
        names = object.__getattribute__(module, "__dict__")  # plainly: asking a lazy module would load it
        for key, value in list(names.items()):
            if id(value) in new:
                names[key] = new[id(value)]
    for holder, table in _other_holders():
        for key, value in list(table.items()):
            plain = value.__func__ if isinstance(value, staticmethod) else value
            if id(plain) in new:
                holder(key, staticmethod(new[id(plain)]) if value is not plain else new[id(plain)])
    for functions in _capabilities():
        functions.update([new[id(function)] for function in old if function in functions])


def _capabilities() -> tuple[set[Callable[..., Any]], ...]:
    return os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks


def _other_holders() -> Iterator[tuple[Callable[[str, Any], None], Mapping[str, Any]]]:
    """Yield what else keeps functions from before: how to set one there, and what is there."""
    globber = getattr(sys.modules.get("glob"), "_StringGlobber", None)  # of pathlib, since Python 3.13
    if globber is not None:
        yield functools.partial(setattr, globber), vars(globber)
    openers = getattr(sys.modules.get("numpy.lib._datasource"), "_file_openers", None)  # of np.loadtxt
    openers = getattr(openers, "_file_openers", None)
    if isinstance(openers, dict):
        yield openers.__setitem__, openers
