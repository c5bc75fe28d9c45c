"""Look through a folder: the logical key and stat of every file that a package of it would hold. Reads no file.

A link to a file inside the folder counts as that file. Links that leave it or mean folders, sockets, pipes and devices
are refused by name. A `.reprokitignore` at the top leaves files out, in the language of `.gitignore`.
"""

from __future__ import annotations

import importlib
import os
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprokit.canonical import canonical
from reprokit.errors import RefusedError
from reprokit.paths import check_logical_keys, explain_os_error
from reprokit.progress import Advance
from reprokit.untrusted import load_json

__all__ = ["IGNORE_FILE", "Files", "Known", "look_through"]

IGNORE_FILE = ".reprokitignore"
_MAX_IGNORE = 1024 * 1024
_COARSE = 2_000_000_000  # ns: file systems that keep whole or even seconds
_FINE = 100_000_000  # ns: many ticks of a kernel's clock
_FORM = 1


@dataclass
class Files:
    """Files of a folder, sorted as a manifest sorts them; `stats` has size, mtime, ctime (ns) and inode of each."""

    root: str
    keys: list[str]
    stats: list[tuple[int, int, int, int]]
    links: Mapping[str, str] = field(default_factory=dict)

    def path(self, key: str) -> str:
        """Return the file to read for a key: for a link, what it means."""
        return self.links.get(key) or f"{self.root}/{key}"


def look_through(root: Path, advance: Advance) -> Files:
    """Return every file below `root`.

    Raises:
        UsageError: A file's name is no legal logical key, or two names clash.
        RefusedError: Something that cannot be stored faithfully.
        RegistryError: A folder cannot be read.
    """
    ignored = _ignore_rules(root)
    real_root = root.resolve()
    links: dict[str, str] = {}
    found: list[tuple[str, str, tuple[int, int, int, int]]] = []
    pending = [(str(root), "")]
    while pending:
        folder, prefix = pending.pop()
        before = len(found)
        try:
            with os.scandir(folder) as children:
                for child in children:
                    key = prefix + child.name
                    if child.is_dir(follow_symlinks=False):
                        if ignored is None or not ignored(key + "/"):
                            pending.append((child.path, key + "/"))
                        continue
                    if ignored is not None and ignored(key):
                        continue
                    if child.is_symlink():
                        links[key] = _inside(Path(child.path), real_root)
                        seen = os.stat(links[key])  # noqa: PTH116 - a stat of a string, among ten thousands
                    else:
                        seen = child.stat(follow_symlinks=False)
                        if not child.is_file(follow_symlinks=False):
                            raise RefusedError(
                                f"{child.path} is a socket, pipe or device; a package holds files only.",
                                hint=f"Remove it, or name it in {IGNORE_FILE}.",
                            )
                    stat = (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)
                    found.append((key.replace("/", "\0"), key, stat))
        except OSError as error:
            raise explain_os_error(error, f"Reading the folder {folder}") from error
        advance(len(found) - before)
    found.sort()
    files = Files(str(root), [key for _, key, _ in found], [stat for _, _, stat in found], links)
    check_logical_keys(files.keys)
    return files


def _inside(link: Path, real_root: Path) -> str:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):  # a link to itself
        target = link
    if target == link or not target.is_file() or not target.is_relative_to(real_root):
        raise RefusedError(
            f"{link} is a symbolic link to {str(link.readlink())!r}, which is not a file inside {real_root}.",
            hint=f"Replace the link by the file it means, remove it, or name it in {IGNORE_FILE}.",
        )
    return str(target)


def _ignore_rules(root: Path) -> Callable[[str], bool] | None:
    """Return what tells whether a key is left out, None if nothing is; the pattern library loads only if needed."""
    file = root / IGNORE_FILE
    try:
        with file.open("rb") as handle:
            text = handle.read(_MAX_IGNORE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain_os_error(error, f"Reading {file}") from error
    if len(text) > _MAX_IGNORE:
        raise RefusedError(f"{file} is larger than {_MAX_IGNORE:,} bytes.")
    try:
        spec = importlib.import_module("pathspec").GitIgnoreSpec.from_lines(text.decode().splitlines())
    except ValueError as error:
        raise RefusedError(f"{file} cannot be read: {error}.", hint="Its language is that of .gitignore.") from None
    matches: Callable[[str], bool] = spec.match_file
    return matches


@dataclass
class Known:
    """What was learned of a folder's files when they were last read, in columns.

    Attributes:
        stats: Size, mtime, ctime and inode of each; size -1 where a later change might not show.
        values: The digests, base64 of 44 characters, one after the other.
        places: The physical keys, with a line feed between.
    """

    keys: list[str]
    stats: tuple[array[int], ...]
    values: str
    places: str

    @classmethod
    def of(cls, files: Files, values: list[str], places: list[str], *, now: int) -> Known:
        """Return what is known of files read before `now` (nanoseconds)."""
        stats = [stat if _settled(stat, now) else (-1, 0, 0, 0) for stat in files.stats]
        return cls(files.keys, _columns(stats), "".join(values), "\n".join(places))

    def encode(self) -> bytes:
        """Return one blob; `decode` gives it back."""
        keys, places = "\0".join(self.keys).encode(), self.places.encode()
        head = canonical({"form": _FORM, "count": len(self.keys), "keys": len(keys), "places": len(places)})
        return b"".join([head, b"\n", keys, *(column.tobytes() for column in self.stats), self.values.encode(), places])

    @classmethod
    def decode(cls, blob: bytes) -> Known | None:
        """Return what was kept, None if it is of another form."""
        head, _, rest = blob.partition(b"\n")
        facts = load_json(head, what="What is known of a folder")
        count, cut = facts["count"], facts["keys"]
        if facts.get("form") != _FORM or len(rest) != cut + count * (4 * 8 + 44) + facts["places"]:
            return None
        keys = rest[:cut].decode().split("\0") if count else []
        stats = tuple(
            array("q", rest[start : start + count * 8]) for start in range(cut, cut + 4 * count * 8, count * 8 or 1)
        )
        cut += 4 * count * 8
        return cls(keys, stats, rest[cut : cut + 44 * count].decode(), rest[cut + 44 * count :].decode())

    def value(self, at: int) -> str:
        return self.values[44 * at : 44 * at + 44]

    def unchanged(self, files: Files) -> list[int] | None:
        """Return for each of the files its position here if it is unchanged by its stat, else -1; None if all are."""
        if files.keys == self.keys:
            if self.stats == _columns(files.stats):
                return None
            ours = zip(*self.stats, strict=True)
            return [at if old == new else -1 for at, (old, new) in enumerate(zip(ours, files.stats, strict=True))]
        at_key = {
            key: (at, stat) for at, (key, stat) in enumerate(zip(self.keys, zip(*self.stats, strict=True), strict=True))
        }
        found = [at_key.get(key, (-1, None)) for key in files.keys]
        return [at if old == new else -1 for (at, old), new in zip(found, files.stats, strict=True)]


def _columns(stats: list[tuple[int, int, int, int]]) -> tuple[array[int], ...]:
    return tuple(array("q", column) for column in zip(*stats, strict=True)) if stats else (array("q"),) * 4


def _settled(stat: tuple[int, int, int, int], now: int) -> bool:
    """True if a file so old would show a later change in its stat.

    As with git's racy entries: one that changed within the clock's granularity before it was read could change again
    and look the same, so its stat is not trusted and it is read again next time.
    """
    latest = max(stat[1], stat[2])
    margin = _FINE if stat[1] % 1_000_000_000 or stat[2] % 1_000_000_000 else _COARSE
    return latest + margin < now
