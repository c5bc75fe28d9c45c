"""The one door to the `git` command: how it is started, and what becomes of its failure.

reprokit only reads repositories, and their configuration is whoever's made them. So git starts nothing that a
repository names: no hook, file system monitor, filter, pager, external diff, text conversion, and no transport, as a
partial clone would use for an object that it lacks. Filters of the user's own configuration are his, and are
run: without the one of Git LFS its working trees could not be told from changed ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from reprokit.errors import RefusedError

__all__ = ["Git"]

# before any configuration of the user's or the repository's; they reach the git of submodules too
_SETTINGS = {
    "core.fsmonitor": "",  # empty is off in every version; `false` was the name of a program before 2.36
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
}
_FIXED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",  # the user's own git may be at work
    "GIT_NO_LAZY_FETCH": "1",  # since 2.44; before, it is the next one that keeps git from fetching
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_REPLACE_OBJECTS": "1",  # a commit names what is in it, whatever `git replace` shows in its place
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
    "LANGUAGE": "C",
}
# of what a user, or a hook that calls us, has in the environment for git, the rest is for another repository or purpose
_KEPT = re.compile(
    r"GIT_(CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM"
    r"|EXEC_PATH|TEST_ASSUME_DIFFERENT_OWNER)"
)
_FILTER = re.compile(r"filter\.(.+)\.(clean|smudge|process|required)", re.DOTALL)
_NEVER_FETCHED = ("lazy fetching disabled", "transport '", "could not fetch")


class Git:
    """`git` in one working tree.

    Args:
        objects: Objects that are new go there, and not into the repository; those there are found beside its own.
        index: The file that takes the place of the repository's index.
    """

    def __init__(self, root: Path, *, objects: Path | None = None, index: Path | None = None) -> None:
        self.root = root
        self._command = ["git", "-C", str(root), "--no-pager"]
        for name, value in _SETTINGS.items():
            self._command += ["-c", f"{name}={value}"]
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _KEPT.fullmatch(name)
        }
        self._environment = kept | _FIXED
        if index is not None:
            self._environment["GIT_INDEX_FILE"] = str(index)
        if objects is not None:
            own = self.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
            self._environment |= {"GIT_OBJECT_DIRECTORY": str(objects), "GIT_ALTERNATE_OBJECT_DIRECTORIES": own}

    def without_filters(self) -> list[str]:
        """Have git start no filter that the repository's own configuration defines; return the names of those.

        What the user's own configuration says of them holds again.
        """
        asked = ("config", "--null", "--show-scope", "--get-regexp", r"^filter\.")
        raw, _ = self._start(asked, stdin=subprocess.DEVNULL).communicate()  # it fails if there is none
        settings: dict[tuple[str, str], str] = {}
        local: dict[tuple[str, str], None] = {}
        words = os.fsdecode(raw).split("\0")
        for scope, text in zip(words[::2], words[1::2], strict=False):
            key, _, value = text.partition("\n")
            if (found := _FILTER.fullmatch(key)) is None:
                continue
            if scope in ("local", "worktree"):
                local[found[1], found[2]] = None
            else:
                settings[found[1], found[2]] = value
        number = int(self._environment.get("GIT_CONFIG_COUNT") or 0)
        for name, item in local:  # those alone: an empty `process` takes the place of `clean`, too
            default = "false" if item == "required" else ""
            self._environment[f"GIT_CONFIG_KEY_{number}"] = f"filter.{name}.{item}"
            self._environment[f"GIT_CONFIG_VALUE_{number}"] = settings.get((name, item), default)
            number += 1
        self._environment["GIT_CONFIG_COUNT"] = str(number)
        return sorted({name for name, _ in local} - {name for name, _ in settings})

    def setting(self, name: str) -> str | None:
        """Return a setting of git's, None if there is none."""
        process = self._start(("config", "--get", name), stdin=subprocess.DEVNULL)
        output, _ = process.communicate()
        return None if process.returncode else os.fsdecode(output).removesuffix("\n")

    def path(self, name: str) -> Path:
        """Return where git keeps something of the repository."""
        return Path(self.text("rev-parse", "--path-format=absolute", "--git-path", name))

    def fed(self, text: bytes, *arguments: str) -> list[str]:
        """Return what a git command, given some text, writes with -z."""
        process = self._start(arguments, stdin=subprocess.PIPE)
        output, errors = process.communicate(text)
        if process.returncode:
            raise self._failure(arguments, errors)
        return [os.fsdecode(row) for row in output.split(b"\0")[:-1]]

    def lines(self, *arguments: str) -> list[str]:
        """Return what a git command writes with -z."""
        return [os.fsdecode(row) for row in self(*arguments).split(b"\0") if row]

    def __call__(self, *arguments: str) -> bytes:
        """Return what a git command writes.

        Raises:
            RefusedError: It failed, or there is no git.
        """
        process = self._start(arguments, stdin=subprocess.DEVNULL)
        output, errors = process.communicate()
        if process.returncode:
            raise self._failure(arguments, errors)
        return output

    def text(self, *arguments: str) -> str:
        """Return the one line that a git command writes, without its end."""
        return os.fsdecode(self(*arguments)).removesuffix("\n")

    def revision(self, name: str) -> str | None:
        """Return the ID of an object by a name of git's, None if there is none."""
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", name)
        process = self._start(asked, stdin=subprocess.DEVNULL)
        output, errors = process.communicate()
        if process.returncode == 1 and not errors:
            return None
        if process.returncode:
            raise self._failure(asked, errors)
        return output.decode().strip()

    @contextlib.contextmanager
    def talk(self, *arguments: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Start a git command that answers what it is asked; yield the end for questions, and the one for answers."""
        with self._start(arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            if process.stdin is None or process.stdout is None:
                raise AssertionError("pipes were asked for")
            yield process.stdin, process.stdout
            process.stdin.close()

    def _start(
        self, arguments: tuple[str, ...], *, stdin: int, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self._command, *arguments],
                stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=self._environment,
            )  # fmt: skip
        except FileNotFoundError:
            raise RefusedError(
                f"There is no `git` on the path, so the code in {self.root} cannot be read.", hint="Install git."
            ) from None

    def _failure(self, arguments: tuple[str, ...], errors: bytes) -> RefusedError:
        said = errors.decode(errors="replace").strip()
        hint = None
        if any(words in said for words in _NEVER_FETCHED):
            hint = "Objects are missing, and reprokit fetches none: run `git fetch --refetch --no-filter` first."
        elif "dubious ownership" in said:
            hint = "It belongs to another user. If you trust what is in it, do as git says there; else clone it."
            said = said.replace("\n\n", "\n").replace("\t", "  ")
        return RefusedError(f"`git {' '.join(arguments[:2])}` failed in {self.root}: {said}", hint=hint)
