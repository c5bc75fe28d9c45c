"""Names that may become paths, and writes that survive a crash.

A logical key is relative, `/`-separated and NFC; everything that could leave its root is refused here, once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from reprokit.errors import RefusedError, UsageError

__all__ = ["check_logical_key", "check_logical_keys", "check_relative", "inside", "key_fault", "safe_join"]

_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_KEY_BYTES = 4096
_OWN = {".git", ".reprokit"}


def check_logical_key(key: str) -> str:
    """Return `key` if it is a legal logical key.

    Raises:
        UsageError: Empty, absolute, a drive letter, an empty, `.` or `..` part, NUL, a backslash, not NFC,
            not UTF-8, a part over 255 bytes or a key over 4096.
    """
    reason = key_fault(key)
    if reason:
        raise UsageError(
            f"Not a legal logical key: {key[:200]!r} ({reason}).",
            hint="Logical keys are relative paths in NFC with '/' between parts, such as train/cat/0001.jpg.",
        )
    return key


def key_fault(key: str, *, dot: bool = False) -> str | None:
    """Return what is wrong with a key; with `dot` the root itself, `.`, is fine."""
    if dot and key == ".":
        return None
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
        folders = {folder.rpartition("/")[0] for folder in folders} - {""}
    return True


def check_relative(path: str, *, what: str) -> str:
    """Return a path given by a user as a clean relative one (`./a/../b` is refused, `./a` becomes `a`).

    Raises:
        UsageError: The path is absolute, leaves its root, or is no legal key in it; or it is git's or reprokit's own.
            `what` names the field.
    """
    pure = PurePosixPath(path)
    if not path or key_fault(str(pure), dot=True):
        raise UsageError(
            f"{what}: {path!r} is not a path inside the repository.",
            hint="Write it relative to the repository root, with '/', in Unicode NFC, and without '..'.",
        )
    own = next((part for part in pure.parts if part.casefold() in _OWN), None)
    if own is not None:
        raise UsageError(f"{what}: {path!r} lies in {own}, where no run has anything.", hint="Name another folder.")
    return str(pure)


def inside(root: Path, path: str, *, what: str) -> Path:
    """Return `root/path`, unless a symbolic link leads it out of `root`; what does not exist is looked at too.

    Raises:
        RefusedError: It does; `what` names the field.
    """
    found, real = root / check_relative(path, what=what), root.resolve()
    try:
        outside = not found.resolve().is_relative_to(real)
    except (OSError, RuntimeError):  # links in a circle
        outside = True
    if outside:
        raise RefusedError(
            f"{what}: {path!r} leads out of the workspace {root}, by a symbolic link in the code.",
            hint="Nothing was executed, or written there. Take the link out of the code, or name another path.",
        )
    return found


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
