"""The hooks that refuse: what would change a virtual file, and what only native code could do with one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, NoReturn

from reprokit.client.overlay.tree import MISSING, Switch

__all__ = ["REFUSING", "fail", "fork_hook", "parent_maker", "refuse_native", "refuse_write"]

_READ_ONLY = "belongs to a package version laid over by reprokit.vfs and is read-only; copy it elsewhere first"
_NATIVE = "is laid over by reprokit.vfs; native code and processes cannot see it: use reprokit mount or install"


def fail(number: int, path: Any) -> NoReturn:
    """Raise what the operating system would raise."""
    raise OSError(number, os.strerror(number), path)


def refuse_write(path: Any, second: Any = None) -> NoReturn:
    """Raise EROFS for a path, or for both paths of a function that takes two."""
    raise OSError(errno.EROFS, f"this path {_READ_ONLY}", path, None, second)


def refuse_native(path: Any) -> NoReturn:
    """Raise ENOTSUP for what hooks cannot serve."""
    raise OSError(errno.ENOTSUP, f"this path {_NATIVE}", path)


def parent_maker(mkdir: Callable[[str], Any], switch: Switch) -> Callable[[Any], bool]:
    """Return the function that makes the folder for a new file, if that folder is there only virtually.

    With a package at data/cifar10 and no data/ on disk, `os.path.isdir("data")` is true, so a script may well go on
    and write data/log.txt. Then data/ becomes real.
    """

    def grow(path: Any) -> bool:
        hit = None if isinstance(path, int) else switch.table.find(os.path.dirname(os.path.abspath(os.fspath(path))))  # noqa: PTH100, PTH120
        if hit is None or hit[0] is not None or switch.exists(hit[2]):
            return False
        missing = [hit[2]]
        while not switch.exists(parent := os.path.dirname(missing[-1])):  # noqa: PTH120
            missing.append(parent)
        for folder in reversed(missing):
            try:
                mkdir(folder)
            except FileExistsError:
                pass  # another thread was quicker
        return True

    return grow


def _laid_over(switch: Switch, path: Any) -> bool:
    hit = switch.table.find(path)
    return hit is not None and hit[0] is not None


def _change(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def change(path: Any, *args: Any, **options: Any) -> Any:
        if options.get("dir_fd") is None and _laid_over(switch, path):
            refuse_write(path)
        return original(path, *args, **options)

    return change


def _mkdir(original: Callable[..., Any], switch: Switch, grow: Callable[[Any], bool]) -> Callable[..., Any]:
    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if dir_fd is None and _laid_over(switch, path):
            refuse_write(path)
        try:
            original(path, mode, dir_fd=dir_fd)
        except FileNotFoundError:
            if dir_fd is not None or not grow(path):
                raise
            original(path, mode)

    return mkdir


def _move(original: Callable[..., Any], switch: Switch, grow: Callable[[Any], bool]) -> Callable[..., Any]:
    """`rename`, `replace` and `link`: neither end may be virtual."""

    def move(
        src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None, **options: Any
    ) -> None:
        if (src_dir_fd is None and _laid_over(switch, src)) or (dst_dir_fd is None and _laid_over(switch, dst)):
            refuse_write(src, dst)
        options |= {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd}
        try:
            original(src, dst, **options)
        except FileNotFoundError:
            if dst_dir_fd is not None or not grow(dst):
                raise
            original(src, dst, **options)

    return move


def _symlink(original: Callable[..., Any], switch: Switch, grow: Callable[[Any], bool]) -> Callable[..., Any]:
    def symlink(src: Any, dst: Any, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
        if dir_fd is None and _laid_over(switch, dst):  # what it points to is only a text
            refuse_write(src, dst)
        try:
            original(src, dst, target_is_directory, dir_fd=dir_fd)
        except FileNotFoundError:
            if dir_fd is not None or not grow(dst):
                raise
            original(src, dst, target_is_directory)

    return symlink


def _native(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def native(path: Any, *args: Any, **options: Any) -> Any:
        _refuse_to_processes(switch, path)
        return original(path, *args, **options)

    return native


def _chdir(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    def chdir(path: Any) -> None:
        _refuse_to_processes(switch, path)
        original(path)
        switch.table.moved()

    return chdir


def fork_hook(original: Callable[..., Any], switch: Switch, _: Any) -> Callable[..., Any]:
    """Return what takes the place of the function with which `subprocess` starts a program."""

    def fork_exec(*arguments: Any) -> Any:
        programs, folder = arguments[1], arguments[4]
        if len(programs) == 1:  # more of them are guesses along PATH
            _refuse_to_processes(switch, os.fsdecode(programs[0]))
        if folder is not None:
            _refuse_to_processes(switch, folder)
        return original(*arguments)

    return fork_exec


def _refuse_to_processes(switch: Switch, path: Any) -> None:
    found = switch.look(path)
    if found is not None:
        fail(errno.ENOENT, path) if found[0] == MISSING else refuse_native(path)


# Each makes a hook of the original function, the switch and `grow`.
REFUSING: dict[str, Callable[[Callable[..., Any], Switch, Callable[[Any], bool]], Callable[..., Any]]] = {
    **dict.fromkeys(
        (
            "chflags", "chmod", "chown", "lchflags", "lchmod", "lchown", "mkfifo", "mknod", "remove", "removexattr",
            "rmdir", "setxattr", "truncate", "unlink", "utime",
        ),
        _change,
    ),
    **dict.fromkeys(("link", "rename", "replace"), _move),
    **dict.fromkeys(("chroot", "execv", "execve", "posix_spawn", "posix_spawnp", "statvfs"), _native),
    **dict.fromkeys(("chdir", "fchdir"), _chdir),
    "mkdir": _mkdir,
    "symlink": _symlink,
}  # fmt: skip
