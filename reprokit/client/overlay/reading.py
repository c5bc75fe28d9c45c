"""The hooks that read: each asks where a path leads, and answers from the layer or passes the call on unchanged."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from reprokit.client.overlay.files import Entry, Listing, descriptor_of, open_bytes
from reprokit.client.overlay.refusing import fail, refuse_native, refuse_write
from reprokit.client.overlay.tree import ABOVE, FILE, FOLDER, MISSING, Hit, Switch, status

__all__ = ["READING", "open_hook"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_BINARY = frozenset({"rb", "br"})
_TEXT = frozenset({"r", "rt", "tr"})


def open_hook(original: Callable[..., Any], switch: Switch, grow: Callable[[Any], bool]) -> Callable[..., Any]:
    """Return what takes the place of `open`.

    Args:
        grow: Makes the folder that a new file is to be in, if it is there only virtually.
    """

    def open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        hit = switch.table.find(file)
        if hit is None or opener is not None:  # what an opener opens, it opens through `os.open`
            try:
                return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
            except FileNotFoundError:
                if mode in _TEXT or mode in _BINARY or not grow(file):
                    raise
            return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
        tree, key, _ = hit
        plain = closefd and encoding is errors is newline is None
        if plain and mode in _BINARY and tree is not None and tree.kind(key) == FILE:  # what training does most, first
            return open_bytes(tree.layer.read(key), os.fspath(file))
        return open_otherwise(file, mode, buffering, encoding, errors, newline, closefd)

    def open_otherwise(file: Any, mode: str, buffering: int, *options: Any) -> Any:
        found = switch.look(file)
        if found is None:
            return original(file, mode, buffering, *options)
        kind, (tree, key, _) = found
        if tree is not None and not {"w", "a", "x", "+"}.isdisjoint(mode):
            refuse_write(file)
        if mode not in _TEXT or buffering == 0 or not options[-1]:
            original(os.devnull, mode, buffering, *options).close()  # raises what is wrong with the arguments
        if tree is None or kind != FILE:
            fail(errno.ENOENT if kind == MISSING else errno.EISDIR, file)
        encoding, errors, newline, _ = options
        binary: Any = open_bytes(tree.layer.read(key), os.fspath(file))
        text = io.TextIOWrapper(binary, io.text_encoding(encoding), errors, newline)
        text.mode = mode  # type: ignore[misc]
        return text

    return open


def _os_open(original: Callable[..., Any], switch: Switch, grow: Callable[[Any], bool]) -> Callable[..., Any]:
    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
        found = switch.look(path) if dir_fd is None else None
        if found is None:
            try:
                return original(path, flags, mode, dir_fd=dir_fd)
            except FileNotFoundError:
                if not flags & os.O_CREAT or dir_fd is not None or not grow(path):
                    raise
            return original(path, flags, mode)
        kind, (tree, key, _) = found
        if flags & _WRITES and tree is not None:
            refuse_write(path)
        if kind == FOLDER or tree is None:
            refuse_native(path)
        if kind == MISSING or flags & getattr(os, "O_DIRECTORY", 0):
            fail(errno.ENOENT if kind == MISSING else errno.ENOTDIR, path)
        return descriptor_of(tree.layer.read(key))

    return open


def _stat(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def stat(path: Any, *, dir_fd: int | None = None, **options: Any) -> Any:
        found = switch.look(path) if dir_fd is None else None
        if found is None:
            return original(path, dir_fd=dir_fd, **options)
        kind, hit = found
        return fail(errno.ENOENT, path) if kind == MISSING else status(hit, kind == FOLDER)

    return stat


def _access(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def access(path: Any, mode: int, *, dir_fd: int | None = None, **options: Any) -> Any:
        found = switch.look(path) if dir_fd is None else None
        if found is None:
            return original(path, mode, dir_fd=dir_fd, **options)
        refused = os.W_OK if found[0] == FOLDER else os.W_OK | os.X_OK
        return found[0] != MISSING and not mode & refused

    return access


def _readlink(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def readlink(path: Any, *, dir_fd: int | None = None) -> Any:
        found = switch.look(path) if dir_fd is None else None
        if found is None:
            return original(path, dir_fd=dir_fd)
        return fail(errno.ENOENT if found[0] == MISSING else errno.EINVAL, path)

    return readlink


def _listxattr(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def listxattr(path: Any = None, **options: Any) -> Any:
        found = switch.look("." if path is None else path)
        if found is None:
            return original(path, **options)
        return fail(errno.ENOENT, path) if found[0] == MISSING else []

    return listxattr


def _getxattr(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def getxattr(path: Any, attribute: Any, **options: Any) -> Any:
        found = switch.look(path)
        if found is None:
            return original(path, attribute, **options)
        return fail(errno.ENOENT if found[0] == MISSING else errno.ENODATA, path)

    return getxattr


def _folder(switch: Switch, path: Any) -> tuple[Hit, bool] | None:
    """Return where a folder to be listed leads, and whether real files are to be listed with it; None if only those."""
    where = "." if path is None else path
    hit = switch.table.find(where)
    if hit is None:
        return None
    kind = switch.table.kind(hit)
    if kind in (FILE, MISSING):
        _not_a_folder(kind, where)
    return hit, kind == ABOVE and switch.exists(hit[2])


def _not_a_folder(kind: int, path: Any) -> NoReturn:
    fail(errno.ENOENT if kind == MISSING else errno.ENOTDIR, path)


def _listdir(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def listdir(path: Any = None) -> Any:
        folder = _folder(switch, path)
        if folder is None:
            return original(path)
        hit, also_real = folder
        names: list[Any] = list(switch.table.children(hit))
        if path is not None and isinstance(os.fspath(path), bytes):
            names = [os.fsencode(name) for name in names]
        return list(dict.fromkeys([*original(path), *names])) if also_real else names

    return listdir


def _scandir(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def scandir(path: Any = None) -> Any:
        folder = _folder(switch, path)
        if folder is None:
            return original(path)
        hit, also_real = folder
        real = original(path) if also_real else None
        return Listing(entries(real, switch.table.children(hit), "." if path is None else os.fspath(path)))

    def entries(real: Any, virtual: dict[str, tuple[Hit, bool]], here: str | bytes) -> Iterator[Any]:
        if real is not None:
            with real:
                for entry in real:
                    child = virtual.get(os.fsdecode(entry.name))
                    if child is not None and child[0][0] is not None:
                        continue  # hidden by what is laid over it
                    virtual.pop(os.fsdecode(entry.name), None)
                    yield entry
        for name, (hit, is_folder) in virtual.items():
            own: Any = os.fsencode(name) if isinstance(here, bytes) else name
            yield Entry(own, os.path.join(here, own), hit, is_folder)  # noqa: PTH118

    return scandir


# Each makes a hook of the original function, the switch and `grow`.
READING: dict[str, Callable[[Callable[..., Any], Switch, Callable[[Any], bool]], Callable[..., Any]]] = {
    "access": _access, "getxattr": _getxattr, "listdir": _listdir, "listxattr": _listxattr, "lstat": _stat,
    "open": _os_open, "readlink": _readlink, "scandir": _scandir, "stat": _stat,
}  # fmt: skip
