"""Serve a package version as a read-only file system, for readers that no Python hook reaches: TensorFlow, HDF5, any.

A mount is a process. The kernel keeps what it has read, so a second reading does not come here at all; `serving` has
the tree and the verified bytes, this module has FUSE and the life of the process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from reprokit.core.atomic_files import explain_os_error
from reprokit.core.config import Config
from reprokit.core.own_extras import pip_words
from reprokit.core.package_root import IMPORT_ROOT
from reprokit.core.refs import PackageRef
from reprokit.errors import Error, RefusedError, RegistryError, UsageError
from reprokit.mount.filesystem import Contents, Node, PackageSource, Tree
from reprokit.mount.table import MADE, TYPE, absolute, mounts, unmount
from reprokit.packages.package import Package
from reprokit.registry import Registry

_missing: str | None = None
_chosen = os.environ.get("FUSE_LIBRARY_NAME")
os.environ["FUSE_LIBRARY_NAME"] = "fuse3"  # mfusepy would take libfuse 2 where both are installed
try:
    import mfusepy
except ImportError:
    _missing = "mfusepy"
except OSError:
    _missing = "libfuse"
finally:
    del os.environ["FUSE_LIBRARY_NAME"]
    if _chosen is not None:
        os.environ["FUSE_LIBRARY_NAME"] = _chosen

__all__ = ["Mounted", "check_fuse", "mount", "start", "unmount"]

_FOREVER = 1e6  # seconds; content is named by hash and never changes
_READDIRPLUS_AUTO = 1 << 14  # libfuse 3: FUSE_CAP_READDIRPLUS_AUTO,
_READDIR_PLUS = 1  # FUSE_READDIR_PLUS
_FILL_DIR_PLUS = 2  # and FUSE_FILL_DIR_PLUS
_DEVICE = Path("/dev/fuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A version that is served at `folder` by process `pid`; `log` has what went wrong, None is standard error."""

    name: str
    top_hash: str
    entries: int
    folder: Path
    pid: int
    log: Path | None


def mount(
    package: Package, folder: Path, *, foreground: bool = True, ready: Callable[[Mounted], None] | None = None
) -> Mounted:
    """Serve `package` at `folder`, read-only, every byte verified.

    A corrupt object is an input/output error to its reader, and a line in the log that says why.

    Args:
        folder: Empty, or missing in a folder that exists: then it is made, and removed when unmounted.
        foreground: Serve in this process and return when unmounted, also by SIGINT and SIGTERM. Otherwise return
            once a process of its own serves.
        ready: Called in the foreground once the mount answers.
    Raises:
        UsageError: mfusepy is not installed, or the folder's parent is missing.
        RefusedError: The folder is not empty, or is mounted.
        RegistryError: The machine cannot mount.
    """
    check_fuse()
    folder = absolute(folder)
    _check_folder(folder)
    if not foreground:
        return start(PackageRef(package.name, hash=package.top_hash), folder, registry=package.registry)
    made = not folder.exists()
    if made:
        try:
            folder.mkdir()
        except OSError as error:
            raise explain_os_error(error, f"Creating {folder}") from error
    mounted = Mounted(
        name=package.name,
        top_hash=package.top_hash,
        entries=len(package),
        folder=folder,
        pid=os.getpid(),
        log=None,
    )
    served = _Served(package, lambda: ready(mounted) if ready else None)
    try:
        _Fuse(
            served,
            str(folder),
            foreground=True,
            ro=True,
            subtype=TYPE.partition(".")[2],
            fsname=f"{package}{MADE if made else ''}",
            use_ino=True,
            kernel_cache=True,
            entry_timeout=_FOREVER,
            attr_timeout=_FOREVER,
            negative_timeout=_FOREVER,
            default_permissions=True,
            nothreads=True,  # measured: several threads take turns at the interpreter, and at twice the cost
        )
    except RuntimeError as error:  # also how a signal ends a mount
        if not served.answered:
            raise RegistryError(
                f"Mounting {package} on {folder} failed (libfuse error {error}).",
                hint="What libfuse and fusermount3 say of it is on standard error.",
            ) from None
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return mounted


def start(ref: PackageRef, folder: Path, *, registry: Registry) -> Mounted:
    """Serve a version in a process of its own; return once it serves. This process does not read the manifest.

    The process is started afresh: a fork would lack the threads that a registry may need.

    Raises:
        Error: As `mount` does, and NotFoundError for a version that does not exist.
    """
    check_fuse()
    folder = absolute(folder)
    _check_folder(folder)
    top_hash = registry.resolve(ref)
    logs = Config.load().cache / "mounts"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{folder.name}-", suffix=".log", dir=logs)
    except OSError as error:
        raise explain_os_error(error, f"Creating a log in {logs}") from error
    log = Path(name)
    answer, signal = os.pipe()
    root = str(IMPORT_ROOT)
    search = [root, *map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    url = registry.url
    if "://" not in url:
        url = str(Path(url).absolute())
    reference = f"{ref.name}@{top_hash}"
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "reprokit.mount.fuse", str(signal), reference, str(folder), url, str(log)],
            cwd="/",  # keeps no folder busy
            env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            pass_fds=(signal,),
            start_new_session=True,
        )
    finally:
        os.close(handle)
        os.close(signal)
    with os.fdopen(answer, "rb") as pipe:
        said = json.loads(pipe.readline() or "{}")
    if "entries" in said:
        return Mounted(
            name=ref.name, top_hash=top_hash, entries=said["entries"], folder=folder, pid=process.pid, log=log
        )
    process.wait()
    written = log.read_text(errors="replace").strip()
    log.unlink()
    failed = RegistryError(
        said.get("message") or f"Mounting {reference[:-56]} on {folder} failed.", hint=written or said.get("hint")
    )
    failed.exit_code = said.get("code", failed.exit_code)
    raise failed


def check_fuse() -> None:
    """Raise an error that says what is missing for mounting, and how to install it."""
    if sys.platform != "linux":
        raise UsageError("Mounting works on Linux only.", hint="`reprokit install` writes the files to a folder.")
    if _missing == "mfusepy":
        raise UsageError(
            "Mounting needs mfusepy, which is not installed.",
            hint=f"Install it: `pip install {pip_words('mount')}`.",
        )
    if _missing or mfusepy.fuse_version_major < 3:
        raise RegistryError(
            "Mounting needs libfuse 3, which is not installed.", hint="Install it: `apt install fuse3`."
        )
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise RegistryError(
            "Mounting needs fusermount3, which is not installed.", hint="Install it: `apt install fuse3`."
        )
    try:
        os.close(os.open(_DEVICE, os.O_RDWR))
    except OSError as error:
        raise RegistryError(
            f"Mounting needs {_DEVICE}, which cannot be opened: {error.strerror}.",
            hint="Run `modprobe fuse` as root; a container is started with "
            "`--device /dev/fuse --cap-add SYS_ADMIN`. `reprokit install` needs none of it.",
        ) from None


class _Served:
    """The operations that mfusepy calls: paths start with a slash, an OSError's errno is the answer.

    `open` is not implemented, which the kernel remembers: it asks no more, and a file that it has cached is opened,
    read and closed without a message to this process.
    """

    use_ns = True

    def __init__(self, package: Package, ready: Callable[[], None]) -> None:
        self.answered = False
        self._package = package
        self._ready = ready
        self._tree = Tree(package.manifest.entries)
        self._contents = Contents(PackageSource(package))
        self._time = _published(package)
        self._owner = (os.getuid(), os.getgid())
        self._blocks = -(-package.manifest.size // 4096)
        self._said: dict[str, str] = {}

    def init_with_config(self, conn: Any, _config: Any) -> None:
        conn.want &= ~_READDIRPLUS_AUTO
        self.answered = True
        self._ready()

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, int]:
        return self._attributes(self._find(path))

    def readdir_with_offset(self, path: str, offset: int, _fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """Yield what follows `offset`: 0 is the start, 1 and 2 follow the dots, then 2 + the index of an entry."""
        folder = self._find(path)
        if offset < 1:
            yield ".", self._attributes(folder), 1
        if offset < 2:
            yield "..", {"st_mode": stat.S_IFDIR | 0o555, "st_ino": 0}, 2
        for name, child, following in self._tree.children(folder, offset - 2 if offset > 2 else None):
            yield name, self._attributes(child), following + 2

    def open(self, _path: str, _flags: int) -> int:
        raise OSError(errno.ENOSYS, "not needed")

    def read(self, path: str, size: int, offset: int, _fh: int) -> bytes:
        key = path[1:]
        try:
            return self._contents.read(key, offset, size)
        except (Error, OSError, MemoryError) as error:
            self._tell(key, str(error) or type(error).__name__)
            raise OSError(errno.EIO, "see the log of the mount") from None

    def statfs(self, _path: str) -> dict[str, int]:
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": self._blocks,
            "f_files": len(self._package),
            "f_namemax": 255,
        }

    def _refuse(self, *_arguments: Any) -> NoReturn:
        raise OSError(errno.EROFS, "read-only")

    # The kernel refuses these by itself on a read-only mount; these are for who mounts it anew with `rw`.
    chmod = chown = create = fallocate = link = mkdir = mknod = removexattr = rename = rmdir = _refuse
    setxattr = symlink = truncate = unlink = utimens = write = _refuse

    def _find(self, path: str) -> Node:
        node = self._tree.find(path[1:])
        if node is None:
            raise OSError(errno.ENOENT, "no such entry")
        return node

    def _attributes(self, node: Node) -> dict[str, int]:
        size = node.entry.size if node.entry else 0
        return {
            "st_mode": stat.S_IFREG | 0o444 if node.entry else stat.S_IFDIR | 0o555,
            "st_ino": node.inode,
            "st_nlink": 1,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_uid": self._owner[0],
            "st_gid": self._owner[1],
            "st_atime": self._time,
            "st_mtime": self._time,
            "st_ctime": self._time,
        }

    def _tell(self, key: str, reason: str) -> None:
        """Log why a file cannot be read: once, however often it is tried."""
        if self._said.get(key) != reason:
            self._said[key] = reason
            moment = time.strftime("%Y-%m-%d %H:%M:%S")
            print(f"{moment} {self._package}: reading {key} failed: {reason}", file=sys.stderr, flush=True)


if not _missing:

    class _Fuse(mfusepy.FUSE):  # type: ignore[misc]  # untyped
        """mfusepy's class, with listings that bring each entry's attributes: a lookup less per file that is read."""

        def readdir_fuse_3(self, path: bytes, buf: Any, filler: Any, offset: int, _fi: Any, flags: int) -> int:
            attributes = mfusepy.c_stat()
            plus = _FILL_DIR_PLUS if flags & _READDIR_PLUS else 0
            for name, plain, following in self.operations.readdir_with_offset(os.fsdecode(path), offset, 0):
                mfusepy.set_st_attrs(attributes, plain, use_ns=True)
                if filler(buf, name.encode(), attributes, following, plus):
                    break  # the buffer is full; the kernel asks again from there
            return 0


def _published(package: Package) -> int:
    """Return when the version was first published, in nanoseconds since 1970; 0 if that is not known."""
    try:
        log = package.registry.log(package.name)
    except (Error, OSError):
        return 0
    return next((entry.time for entry in log if entry.top_hash == package.top_hash), 0)


def _serve(signal: int, reference: str, folder: Path, url: str, log: Path) -> None:
    """Be the process that `start` starts: answer one line of JSON when the mount is ready, or why it cannot be."""

    def answer(said: dict[str, Any]) -> None:
        os.write(signal, json.dumps(said).encode() + b"\n")
        os.close(signal)

    try:
        mount(Package.open(reference, registry=url), folder, ready=lambda mounted: answer({"entries": mounted.entries}))
    except Error as error:
        answer({"message": error.message, "hint": error.hint, "code": error.exit_code})
        sys.exit(error.exit_code)
    if log.stat().st_size == 0:
        log.unlink()


def _check_folder(folder: Path) -> None:
    if str(folder) in mounts():
        raise RefusedError(
            f"{folder} is a mount of a package version already.", hint=f"`reprokit unmount {folder}` ends it."
        )
    if not folder.parent.is_dir():
        raise UsageError(
            f"{folder.parent} is not a folder.", hint=f"Create it first; {folder.name} itself need not be."
        )
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RefusedError(
                f"{folder} exists and is not an empty folder; nothing was mounted.",
                hint="Name a new folder, or an empty one.",
            )
    except OSError as error:
        raise explain_os_error(error, f"Looking at {folder}") from error


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
