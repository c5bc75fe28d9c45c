"""In what the code of a run differs from the files that its author sees, and which names of a tree it cannot have.

A run gets what git has, byte for byte; checking out may have made something else of it.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

from reprokit.core.logical_keys import check_logical_key, check_logical_keys
from reprokit.core.terminal_text import printable
from reprokit.errors import RefusedError, UsageError
from reprokit.locking.git_command import Git
from reprokit.runs.store import CODE_PREFIX

__all__ = ["remarks", "replaces", "shown", "unfit"]

_SHOWN = 5
_CONVERTING = ("filter", "ident", "working-tree-encoding")


def unfit(paths: Iterable[str]) -> dict[str, str]:
    """Return the paths that cannot be names in a record, each with the reason; of two that clash the second is one."""
    every = sorted(paths)
    try:
        check_logical_keys([CODE_PREFIX + path for path in every])
    except UsageError:
        return dict(_unfit(every))
    return {}


def _unfit(paths: list[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    folders: set[str] = set()
    for path in paths:
        try:
            check_logical_key(CODE_PREFIX + path)
        except UsageError as error:
            yield path, error.message.rpartition("(")[2].removesuffix(").")
            continue
        folded = path.casefold()
        parents = [folded[:at] for at, char in enumerate(folded) if char == "/"]
        if (other := next((seen[name] for name in (folded, *parents) if name in seen), None)) is not None:
            yield path, f"it is told from {shown(other)} by case alone"
        elif folded in folders:
            yield path, "it is told from a folder by case alone"
        else:
            seen[folded] = path
            folders.update(parents)


def remarks(git: Git, *, prefix: str, refused: list[str], dirty: bool) -> Iterator[str]:
    """Say in what the files here are other than those of the run.

    Args:
        git: In a working tree.
        prefix: Where it lies in the repository of the run.
        refused: Filters of the repository's own configuration, none of which was started.
        dirty: It is captured as it is, not as committed.
    """
    if replaces(git):
        yield "`git replace` shows other objects here; the run gets those that the commit names."
    if not dirty:
        rows = git.lines("ls-files", "-v", "-z")
        hidden = [row[2:] for row in rows if row[0].islower() or (row[0] == "S" and (git.root / row[2:]).exists())]
        what = "marked assume-unchanged or skip-worktree: the run gets what is committed, not what lies here"
        yield from _told(hidden, prefix, what)
    attributes = _has_attributes(git)
    if attributes or git.setting("core.autocrlf") not in (None, "false") or git.setting("core.eol") is not None:
        with contextlib.suppress(RefusedError):  # of objects that are not here, reading them says more
            yield from _line_ends(git, prefix)
    if attributes:
        yield from _attributes(git, prefix, refused)


def replaces(git: Git) -> bool:
    """True if git shows objects in the place of others (`git replace`)."""
    return bool(git("for-each-ref", "--count=1", "refs/replace/"))


def _line_ends(git: Git, prefix: str) -> Iterator[str]:
    found = []
    for row in git.lines("ls-files", "--eol", "-z"):
        facts, _, path = row.partition("\t")
        index, _, here = facts.partition(" ")
        if here.strip().startswith("w/") and here.split()[0][2:] not in ("", index[2:]):
            found.append(path)
    yield from _told(found, prefix, "with other line ends here than in git (core.autocrlf, or .gitattributes): the run "
                                    "gets those of git")  # fmt: skip


def _attributes(git: Git, prefix: str, refused: list[str]) -> Iterator[str]:
    files = git("ls-files", "-z")
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    words = git.fed(files, "check-attr", "-z", "--stdin", *_CONVERTING)
    for path, attribute, value in zip(words[::3], words[1::3], words[2::3], strict=False):
        if value not in ("unspecified", "unset") and (attribute, value) != ("filter", "lfs"):
            found[attribute, value].append(path)
    for (attribute, value), paths in sorted(found.items()):
        how = f"{attribute} {printable(value)}" if value != "set" else attribute
        what = f"converted when they are checked out ({how}): the run gets what git has"
        if attribute == "filter" and value in refused:
            what += ". reprokit starts no filter that a repository's own configuration defines; `git config --global "
            what += f"filter.{printable(value)}.clean …` has it started"
        yield from _told(paths, prefix, what)


def _has_attributes(git: Git) -> bool:
    """True if anything says so; asking of each file is slow in a large repository."""
    named = git.lines("ls-files", "-z", "--", ".gitattributes", "**/.gitattributes")
    return bool(named) or git.path("info/attributes").exists() or git.setting("core.attributesFile") is not None


def _told(paths: list[str], prefix: str, what: str) -> Iterator[str]:
    if paths:
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        yield f"{', '.join(shown(prefix + path) for path in paths[:_SHOWN])}{more}: {what}."


def shown(path: str) -> str:
    """Return a path of a repository as it may be printed: what is not text, or not one line, by its escapes."""
    plain = path.isprintable() and unicodedata.is_normalized("NFC", path)
    return path if plain else ascii(path)
