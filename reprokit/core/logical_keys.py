"""Names that may become paths, and writes that survive a crash.

A logical key is relative, `/`-separated and NFC; everything that could leave its root is refused here, once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from reprokit.errors import RegistryError, UsageError

__all__ = [
    "check_logical_key",
    "check_logical_keys",
    "check_relative",
    "durable_write",
    "explain_os_error",
    "fsync_folder",
    "make_folder",
    "os_errors",
    "safe_join",
]

_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_KEY_BYTES = 4096
_PERMISSION = "You lack the permission: ask the owner, or choose another place with --registry or REPROKIT_HOME."


def check_logical_key(key: str) -> str:
    """Return `key` if it is a legal logical key.

    Raises:
        UsageError: Empty, absolute, a drive letter, an empty, `.` or `..` part, NUL, a backslash, not NFC,
            not UTF-8, a part over 255 bytes or a key over 4096.
    """
    reason = _key_fault(key)
    if reason:
        raise UsageError(
            f"Not a legal logical key: {key[:200]!r} ({reason}).",
            hint="Logical keys are relative paths in NFC with '/' between parts, such as train/cat/0001.jpg.",
        )
    return key


def _key_fault(key: str) -> str | None:
    if not key:
        return "it is empty"
    if "\0" in key:
        return "it holds a NUL"
    if "\\" in key:
        return "it holds a backslash"
    if key.startswith("/"):
        return "it is absolute"
    if _DRIVE.match(key):
        return "it starts with a drive letter"
    if key.isascii():
        encoded_length = len(key)
    else:
        try:
            encoded_length = len(key.encode())
        except UnicodeEncodeError:
            return "its name is not UTF-8"
        if unicodedata.normalize("NFC", key) != key:
            return "it is not in Unicode NFC"
    if encoded_length > _MAX_KEY_BYTES:
        return f"it is longer than {_MAX_KEY_BYTES} bytes"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"it has the part {part!r}"
        if len(part) > 63 and len(part.encode()) > 255:
            return "a part is longer than 255 bytes"
    return None


def check_logical_keys(keys: Iterable[str]) -> None:
    """Check every key, and that no two clash: equal, equal but for case, or one a folder of the other.

    Raises:
        UsageError: Naming the key, or both.
    """
    every = list(keys)
    if _plainly_fine(every):
        return
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for key in every:
        check_logical_key(key)
        folded = key.casefold()
        if folded in seen or folded in folders:
            other = seen.get(folded) or folders[folded]
            raise UsageError(
                f"Two logical keys cannot stand side by side: {other!r} and {key!r}.",
                hint="Keys must differ in more than case, and none may be a folder of another. Rename one.",
            )
        seen[folded] = key
        start = folded.rfind("/")
        while start > 0 and folded[:start] not in folders:
            folder = folded[:start]
            if folder in seen:
                raise UsageError(
                    f"Two logical keys cannot stand side by side: {seen[folder]!r} and {key!r}.",
                    hint="One would be a file and a folder at once. Rename one.",
                )
            folders[folder] = key
            start = folded.rfind("/", 0, start)


# What is certainly no illegal part, looked for in all keys at once with a line feed between, before and after them.
_SUSPECTS = (
    *("\0", "\\", "\n/", "/\n", "//", "\n\n", ":"),
    *("/./", "/../", "\n./", "\n../", "/.\n", "/..\n", "\n.\n", "\n..\n"),
)


def _plainly_fine(keys: list[str]) -> bool:
    """True if all keys are short ASCII without anything suspect, and none clash: 60,000 at once, fast."""
    joined = "\n".join(["", *keys, ""])
    if (
        not keys
        or not joined.isascii()
        or joined.count("\n") != len(keys) + 1
        or any(suspect in joined for suspect in _SUSPECTS)
        or max(map(len, keys)) > 255
    ):
        return False
    folded = joined[1:-1].lower().split("\n")
    names = set(folded)
    if len(names) != len(folded):
        return False
    folders = {key.rpartition("/")[0] for key in folded}
    while folders:
        if not folders.isdisjoint(names):
            return False
        folders = {folder.rpartition("/")[0] for folder in folders if folder} - {""}
    return True


def check_relative(path: str, *, what: str) -> str:
    """Return a path given by a user as a clean relative one (`./a/../b` is refused, `./a` becomes `a`).

    Raises:
        UsageError: The path is absolute or leaves its root; `what` names the field.
    """
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path or _DRIVE.match(path):
        raise UsageError(
            f"{what}: {path!r} is not a path inside the repository.",
            hint="Write it relative to the repository root, with '/', and without '..'.",
        )
    return str(pure)


def safe_join(root: Path, key: str) -> Path:
    """Return `root/key`, refusing keys that leave `root` and folders below it that are symbolic links."""
    check_logical_key(key)
    current = root
    parts = key.split("/")
    for part in parts[:-1]:
        current = current / part
        if current.is_symlink():
            raise UsageError(f"{current} is a symbolic link; {key!r} would be written through it.")
    return current / parts[-1]


def durable_write(path: Path, data: bytes, *, exclusive: bool = False, sync: bool = True) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename (or link), fsync of the folder.

    Args:
        exclusive: Fail if `path` exists, atomically.
    Raises:
        FileExistsError: `exclusive` and it is there.
    """
    unsynced = make_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fchmod(handle.fileno(), 0o644)
            if sync:
                os.fsync(handle.fileno())
        if exclusive:
            os.link(temporary, path)
        else:
            Path(temporary).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    if sync:
        for folder in {path.parent, *unsynced}:
            fsync_folder(folder)


def make_folder(folder: Path) -> set[Path]:
    """Make a folder and those it is in; return the ones to sync before what is in it is durable."""
    made = []
    while not folder.exists():
        made.append(folder)
        folder = folder.parent
    for new in reversed(made):
        new.mkdir(exist_ok=True)
    return {new.parent for new in made}


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a file system that cannot is left alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a RegistryError that says what was being done and what to do."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, what) from error


def explain_os_error(error: OSError, what: str) -> RegistryError:
    """Return the RegistryError that tells a user about `error`; `what` is e.g. ``Writing objects to /r``."""
    hints = {
        errno.ENOSPC: "The disk is full: free some space and repeat the command; what was published is intact.",
        errno.EDQUOT: "Your disk quota is used up: free some space and repeat the command.",
        errno.EACCES: _PERMISSION,
        errno.EPERM: _PERMISSION,
        errno.EROFS: "The file system is read-only: choose another registry with --registry.",
        errno.EIO: "The device reports an input/output error: check the disk, then run `reprokit verify --all`.",
    }
    where = f" ({error.filename})" if error.filename else ""
    return RegistryError(f"{what} failed: {error.strerror or error}{where}.", hint=hints.get(error.errno or 0))
