"""Which paths an overlay answers for, and what lies there. Hooks nothing (see `overlay`), and reads no content.

A `Tree` is one layer at one place. A `Table` is all trees that are in force: it is never changed, only replaced, so
that looking a path up takes no lock and a forked child inherits a whole one. The hooks share one `Switch`.
"""

from __future__ import annotations

import os
import posixpath
import stat
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias

__all__ = ["ABOVE", "FILE", "FOLDER", "MISSING", "Hit", "Layer", "Switch", "Table", "Tree", "inode", "status"]

MISSING, FILE, FOLDER, ABOVE = range(4)

_DEVICE = 0x7265706B  # a device number that no disk has: "repk"
_MANY = 16  # above this number of places, testing each for a prefix costs more than what their names share


class Layer(Protocol):
    """What is laid over one local path. Its methods are called from any thread."""

    def keys(self) -> Iterable[str]:
        """Return all keys, relative and '/'-separated; the one key "" if the place itself is a file."""

    def size(self, key: str) -> int:
        """Return the length of a file in bytes."""

    def read(self, key: str) -> bytes | memoryview:
        """Return a file's verified bytes; an OSError that it raises is what the caller of `open` gets.

        A view whose `obj` has a method `unchanged` is read as long as that is true.
        """


class Tree:
    """One layer at one place. A file costs a place in a set and in a list; the strings are the layer's own.

    Raises:
        ValueError: There is no file, or a key is not a relative path in normal form, or a file is also a folder.
    """

    __slots__ = ("_files", "_folders", "_keys", "layer", "mtime", "place", "times")

    def __init__(self, place: str, layer: Layer, mtime: float) -> None:
        self.place, self.layer, self.mtime = place, layer, mtime
        self.times = _times(mtime)
        self._keys = sorted(layer.keys())
        self._files = set(self._keys)
        self._folders: set[str] = set()
        if not self._keys:
            raise ValueError(f"nothing to lay over {place}: the layer has no files")
        if self._keys == [""]:
            return
        _refuse_odd_keys(place, self._keys)
        self._folders.add("")
        for folder in {key.rpartition("/")[0] for key in self._keys}:
            while folder not in self._folders:
                self._folders.add(folder)
                folder = folder.rpartition("/")[0]
        if both := self._files & self._folders:
            raise ValueError(f"cannot lay over {place}: {min(both)!r} is both a file and a folder")

    def kind(self, key: str) -> int:
        """Return FILE, FOLDER or MISSING."""
        return FILE if key in self._files else FOLDER if key in self._folders else MISSING

    def names(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, and whether each is a folder itself."""
        keys, start = self._keys, folder + "/" if folder else ""
        at, end, skip = bisect_left(keys, start), len(keys), len(start)
        while at < end and keys[at].startswith(start):
            name, slash, _ = keys[at][skip:].partition("/")
            yield name, bool(slash)
            at = bisect_left(keys, f"{start}{name}0", at) if slash else at + 1  # "0" follows "/": past all of its keys


# Where a path leads: its tree (none if it only lies above places), its key there, and the absolute path.
Hit: TypeAlias = tuple[Tree | None, str, str]


class Table:
    """All trees in force, by place; of two trees at one place the later one counts.

    Args:
        trees: With each, the absolute paths under which it is seen.
    """

    __slots__ = ("_inside", "_parts", "_prefixes", "above", "trees")

    def __init__(self, trees: Iterable[tuple[Tree, Iterable[str]]] = ()) -> None:
        self.trees = {place: tree for tree, places in trees for place in places}
        self.above: dict[str, dict[str, None]] = {}  # a folder over places: the names that lead down to them
        for place in self.trees:
            folder, _, name = place.rpartition("/")
            while True:
                self.above.setdefault(folder or "/", {})[name] = None
                if not folder:
                    break
                folder, _, name = folder.rpartition("/")
        self._parts = frozenset(part for place in self.trees for part in place.split("/"))
        many = len(self.trees) > _MANY
        self._prefixes = (posixpath.commonprefix(list(self.trees)),) if many else tuple(self.trees)
        self.moved()

    def moved(self) -> None:
        """Note that the working directory has changed."""
        try:
            hit = self._lookup(os.getcwd()) if self.trees else None  # noqa: PTH109
        except FileNotFoundError:
            hit = None
        self._inside = hit is not None and hit[0] is not None

    def find(self, path: Any) -> Hit | None:
        """Return where a path leads, or None if it has nothing to do with the overlay: the case to be quick about."""
        if type(path) is not str and (path := _text(path)) is None:
            return None
        if not path:
            return None
        if path[0] != "/":
            # Asking for the working directory costs more than the rest, so first see if the name can lead to a place.
            if not (self._inside or path[0] == "." or path.partition("/")[0] in self._parts or "/." in path):
                return None
            try:
                path = os.getcwd() + "/" + path  # noqa: PTH109
            except FileNotFoundError:
                return None
        if "/." in path or "//" in path or path[-1] == "/":
            path = posixpath.normpath(path)
            if path[:2] == "//":
                path = path[1:]
        if path.startswith(self._prefixes) or path in self.above:
            return self._lookup(path)
        return None

    def kind(self, hit: Hit) -> int:
        """Return what is there: FILE, FOLDER, MISSING, or ABOVE: a real folder or, for lack of one, a virtual."""
        tree, key, path = hit
        if tree is None:
            return ABOVE
        return tree.kind(key) or (FOLDER if path in self.above else MISSING)

    def children(self, hit: Hit) -> dict[str, tuple[Hit, bool]]:
        """Return what the overlay has in a folder, by name: where it leads, and whether it is a folder."""
        tree, key, path = hit
        start = path if path == "/" else path + "/"
        found: dict[str, tuple[Hit, bool]] = {}
        if tree is not None:
            inner = key + "/" if key else ""
            for name, folder in tree.names(key):
                found[name] = (tree, inner + name, start + name), folder
        for name in self.above.get(path, ()):
            child = self.trees.get(start + name)
            if child is not None:
                found[name] = (child, "", start + name), child.kind("") == FOLDER
            elif name not in found:
                found[name] = (tree, (key + "/" if key else "") + name, start + name), True
        return found

    def _lookup(self, path: str) -> Hit | None:
        trees, place = self.trees, path
        while place:
            if (tree := trees.get(place)) is not None:
                return tree, path[len(place) + 1 :], path
            place = place.rpartition("/")[0]
        return (None, "", path) if path in self.above else None


class Switch:
    """Holds the table in force; every hook looks here, so one assignment changes what all of them see.

    Args:
        real: The original `os.stat`.
    """

    __slots__ = ("_real", "table")

    def __init__(self, real: Callable[[str], Any]) -> None:
        self._real = real
        self.table = Table()

    def look(self, path: Any) -> tuple[int, Hit] | None:
        """Return what the overlay has at a path, FILE, FOLDER or MISSING; None if the real files are to answer."""
        hit = self.table.find(path)
        if hit is None:
            return None
        kind = self.table.kind(hit)
        if kind != ABOVE:
            return kind, hit
        return None if self.exists(hit[2]) else (FOLDER, hit)

    def exists(self, path: str) -> bool:
        """True if something real is at a path."""
        try:
            self._real(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # there, but not for us: the original function says why
        return True


def status(hit: Hit, folder: bool) -> os.stat_result:
    """Return what `os.stat` says of a virtual file or folder."""
    tree, key, path = hit
    whole, times = (0, _times(0)) if tree is None else (int(tree.mtime // 1), tree.times)
    size = 0 if folder or tree is None else tree.layer.size(key)
    mode = stat.S_IFDIR | 0o555 if folder else stat.S_IFREG | 0o444
    return os.stat_result(
        (mode, inode(path), _DEVICE, 1, os.getuid(), os.getgid(), size, whole, whole, whole),
        {**times, "st_blocks": -(-size // 512)},
    )


def inode(path: str) -> int:
    """Return a number for a path: the same in every process, and not 0.

    Two CRCs, forwards and backwards, make a polynomial of degree 64: names of one length that differ only within
    8 bytes in a row never share a number, and others do by chance, 1 in 2**64.
    """
    name = os.fsencode(path)
    return zlib.crc32(name) << 32 | zlib.crc32(name[::-1]) or 1


def _times(mtime: float) -> dict[str, float]:
    nanoseconds = int(mtime // 1) * 1_000_000_000 + round(mtime % 1 * 1e9)
    rest: dict[str, float] = {"st_blksize": 4096, "st_rdev": 0}
    for kind in "amc":
        rest |= {f"st_{kind}time": mtime, f"st_{kind}time_ns": nanoseconds}
    return rest


def _text(path: Any) -> str | None:
    if path is None or isinstance(path, int):
        return None
    try:
        return os.fsdecode(path)
    except (TypeError, UnicodeError):
        return None  # the original function says what is wrong with it


def _refuse_odd_keys(place: str, keys: list[str]) -> None:
    joined = "\0/" + "\0/".join(keys) + "\0"  # searched as one string: a million keys take no loop in Python
    odd = ("//", "/\0", "/./", "/../", "/.\0", "/..\0")
    if joined.count("\0") == len(keys) + 1 and not any(part in joined for part in odd):
        return
    for key in keys:
        if "\0" in key or posixpath.normpath("/-/" + key) != "/-/" + key:
            raise ValueError(f"cannot lay over {place}: {key!r} is not a relative path in normal form")
