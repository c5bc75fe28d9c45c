"""Look through a folder: the logical key and stat of every file that a package of it would hold. Reads no file.

A link to a file inside the folder counts as that file. Links that leave it or mean folders, sockets, pipes and devices
are refused by name. A `.reprokitignore` at the top leaves files out, in the language of `.gitignore`.
"""

from __future__ import annotations

import importlib
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reprokit.core.atomic_files import explain_os_error
from reprokit.core.canonical_json import canonical
from reprokit.core.progress import Advance
from reprokit.core.safe_json import load_json
from reprokit.errors import RefusedError

__all__ = ["IGNORE_FILE", "Files", "Known", "look_through"]

IGNORE_FILE = ".reprokitignore"
_MAX_IGNORE = 1024 * 1024
_COARSE = 2_000_000_000  # ns: file systems that keep whole or even seconds
_FINE = 100_000_000  # ns: many ticks of a kernel's clock
_SECOND = 1_000_000_000  # ns
_FORM = 1
_KIND, _REGULAR = 0o170000, 0o100000  # of st_mode


_Stat = tuple[int, int, int, int]


@dataclass
class Files:
    """Files of a folder, sorted as a manifest sorts them; `stats` has size, mtime, ctime (ns) and inode of each."""

    root: str
    keys: list[str]
    stats: list[_Stat]
    links: dict[str, str]

    def path(self, key: str) -> str:
        """Return the file to read for a key: for a link, what it means."""
        return self.links.get(key) or f"{self.root}/{key}"


def look_through(root: Path, advance: Advance) -> Files:
    """Return every file below `root`.

    Whether the names are legal logical keys is not looked at here.

    Raises:
        RefusedError: Something that cannot be stored faithfully.
        RegistryError: A folder cannot be read.
    """
    files = Files(str(root), [], [], {})
    _Walk(files, root.resolve(), _ignore_rules(root), advance).enter(str(root), "")
    return files


class _Walk:
    """Goes through folders depth first, in the order of names, which is the order of a manifest."""

    def __init__(self, files: Files, real_root: Path, ignored: Callable[[str], bool] | None, advance: Advance) -> None:
        self._files = files
        self._real_root = real_root
        self._ignored = ignored
        self._advance = advance

    def enter(self, folder: str, prefix: str) -> None:
        files, ignored = self._files, self._ignored
        keys, stats = files.keys, files.stats
        try:
            with os.scandir(folder) as found:
                children = sorted(found, key=_name)
            for child in children:
                key = prefix + child.name
                if child.is_dir(follow_symlinks=False):
                    if ignored is None or not ignored(key + "/"):
                        self.enter(child.path, key + "/")
                    continue
                if ignored is not None and ignored(key):
                    continue
                seen = child.stat(follow_symlinks=False)
                if seen.st_mode & _KIND != _REGULAR:
                    seen = self._irregular(child, key)
                keys.append(key)
                stats.append((seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino))
        except OSError as error:
            raise explain_os_error(error, f"Reading the folder {folder}") from error
        except RecursionError:
            raise RefusedError(f"{folder} lies deeper than a package can.") from None
        self._advance(len(children))

    def _irregular(self, child: os.DirEntry[str], key: str) -> os.stat_result:
        if not child.is_symlink():
            raise RefusedError(
                f"{child.path} is a socket, pipe or device; a package holds files only.",
                hint=f"Remove it, or name it in {IGNORE_FILE}.",
            )
        self._files.links[key] = _inside(Path(child.path), self._real_root)
        return os.stat(self._files.links[key])  # noqa: PTH116 - a stat of a string, as the others are


def _name(child: os.DirEntry[str]) -> str:
    return child.name


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
        return cls(files.keys, _columns(_settled(files.stats, now)), "".join(values), "\n".join(places))

    def encode(self) -> bytes:
        """Return one blob; `decode` gives it back."""
        keys, places = "\0".join(self.keys).encode(), self.places.encode()
        head = canonical({"form": _FORM, "count": len(self.keys), "keys": len(keys), "places": len(places)})
        return b"".join([head, b"\n", keys, *(column.tobytes() for column in self.stats), self.values.encode(), places])

    @classmethod
    def decode(cls, blob: bytes) -> Known | None:
        """Return what was kept, None if it is of another form."""
        cut = blob.index(b"\n")
        facts = load_json(blob[:cut], what="What is known of a folder")
        rest = memoryview(blob)[cut + 1 :]
        count, cut = facts["count"], facts["keys"]
        if facts.get("form") != _FORM or len(rest) != cut + count * (4 * 8 + 44) + facts["places"]:
            return None
        keys = str(rest[:cut], "utf-8").split("\0") if count else []
        stats = tuple(array("q") for _ in range(4))
        for column in stats:
            column.frombytes(rest[cut : cut + 8 * count])
            cut += 8 * count
        return cls(keys, stats, str(rest[cut : cut + 44 * count], "ascii"), str(rest[cut + 44 * count :], "utf-8"))

    def value(self, at: int) -> str:
        return self.values[44 * at : 44 * at + 44]

    def all_places(self) -> list[str]:
        """Return the physical key of each file, "" where it is not known."""
        return self.places.split("\n") if self.keys else []

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


def _columns(stats: list[_Stat]) -> tuple[array[int], ...]:
    return tuple(array("q", [stat[place] for stat in stats]) for place in range(4))


def _settled(stats: list[_Stat], now: int) -> list[_Stat]:
    """Return the stats, and in place of each that would not show a later change one that nothing has.

    As with git's racy entries: a file that changed within the clock's granularity before it was read could change again
    and look the same, so its stat is not trusted and it is read again next time.
    """
    fine, coarse = now - _FINE, now - _COARSE
    return [
        stat
        if (stat[1] < coarse and stat[2] < coarse)
        or (stat[1] < fine and stat[2] < fine and stat[1] % _SECOND and stat[2] % _SECOND)
        else (-1, 0, 0, 0)
        for stat in stats
    ]
