"""Code: a git tree captured from a repository and its submodules.

The git command is started by `git_command` alone. Reading a stranger's record runs no git.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from reprokit.core.scratch import temporary
from reprokit.errors import RecipeError, RefusedError, UsageError
from reprokit.locking.git_command import Git
from reprokit.locking.git_hash import git_hash, lfs_pointer, tree_of
from reprokit.locking.git_remarks import remarks, replaces, shown, unfit
from reprokit.schema.lock import CodeIdentity
from reprokit.schema.notebook import Notebook
from reprokit.schema.record import CodeFacts

__all__ = ["Blob", "CodeCapture", "Repository"]

_MAX_UNTRACKED = 50 * 1024 * 1024
_LARGE_LFS = 256 * 1024 * 1024
_POINTER = re.compile(rb"version https://git-lfs.github.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n")
_SECRET_NAMES = re.compile(
    r"(^|/)(\.env(\..+)?|\.netrc|\.pypirc|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?|.*\.(pem|key|p12|pfx|jks))$"
)


@dataclass(frozen=True, slots=True)
class Blob:
    """One path of a git tree; `mode` as git writes it: 100644, 100755, 120000 (link), 160000 (submodule)."""

    path: str
    mode: str
    oid: str


@dataclass(frozen=True, slots=True)
class Part:
    """The files of one repository: the run's own, or a submodule's.

    Attributes:
        prefix: Where it lies, as `vendor/lib/`; empty of the run's own.
        commit: What is checked out there.
        objects: Folder of git objects that are not in the repository: those of uncommitted changes.
    """

    root: Path
    prefix: str
    commit: str
    blobs: tuple[Blob, ...]
    objects: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CodeCapture:
    """The code of a run before it is stored.

    Attributes:
        identity: Of this tree; where a notebook is executed, with that one by its cells alone.
        notebook: The bytes of the notebook that is executed, if the tree has it.
        parts: Where everything is read from.
        patch: What differs from the commit, for people; empty in a clean tree.
    """

    identity: CodeIdentity
    facts: CodeFacts
    parts: tuple[Part, ...]
    patch: bytes = b""
    notebook: bytes | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that the run gets, by its path in the run's repository."""
        return tuple(replace(blob, path=part.prefix + blob.path) for part in self.parts for blob in part.blobs)

    @property
    def submodules(self) -> dict[str, str]:
        """The commits of the submodules that the run gets, by path."""
        return {part.prefix.rstrip("/"): part.commit for part in self.parts if part.prefix}


class Repository:
    """The git repository that holds a recipe."""

    def __init__(self, start: Path) -> None:
        try:
            found = Git(start).text("rev-parse", "--show-toplevel")
        except RefusedError as error:
            if "must be run in a work tree" in error.message:
                raise RefusedError(f"{start} is a bare git repository; a run needs a working tree.") from None
            if "not a git repository" not in error.message and start.is_dir():
                raise
            raise RefusedError(
                f"{start} is not inside a git repository, so its code cannot be pinned.",
                hint="Run `git init`, then `git add -A` and `git commit -m first`.",
            ) from None
        self.root = Path(found)
        self._git = Git(self.root)
        self._refused = self._git.without_filters()

    def relative(self, path: Path) -> str:
        """Return a path inside the repository as its `/`-separated name."""
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            raise UsageError(f"{path} is not inside the repository {self.root}.") from None

    @contextlib.contextmanager
    def capture(
        self, *, allow_dirty: bool = False, ignore: tuple[str, ...] = (), notebook: str | None = None
    ) -> Iterator[CodeCapture]:
        """Capture the commit's tree or, with `allow_dirty`, the working tree as it is.

        Args:
            ignore: Paths whose changes do not count: files that reprokit itself writes.
            notebook: Path of the notebook that is executed; if only its outputs changed, that does not count either.
        Raises:
            RefusedError: No commit yet; a dirty tree, listing what is dirty; a secret or too much untracked data.
        """
        commit = self._head()
        dirty = [(status, path) for status, path in self._status() if path not in ignore]
        if (
            notebook is not None
            and [path for _, path in dirty] == [notebook]
            and self._same_cells(f"HEAD:{notebook}", notebook)
        ):
            dirty = []
        if dirty and not allow_dirty:
            listed = "".join(f"\n  {status} {shown(path)}" for status, path in dirty[:20])
            more = f"\n  … and {len(dirty) - 20} more" if len(dirty) > 20 else ""
            raise RefusedError(
                f"The working tree {self.root} has {len(dirty)} change(s) that are not committed:{listed}{more}",
                hint="Commit them, or capture them in the record with --allow-dirty." + self._why_changed(),
            )
        with temporary() as scratch:
            self._refuse_secrets([path for status, path in dirty if status == "??"])
            warnings: list[str] = []
            parts, patches = [], []
            for one in self._parts("", commit, bool(dirty), scratch, warnings):
                parts.append(one)
                patches += [self._at(one).patch(one.prefix)] if dirty else []
            parts, lost = _fitting(parts)
            warnings += lost
            format_: Literal["sha1", "sha256"] = "sha256" if len(commit) == 64 else "sha1"
            executed = self._content(parts, notebook) if notebook is not None else None
            capture = CodeCapture(
                identity=CodeIdentity(tree=_tree(parts, format_, notebook, executed), object_format=format_),
                notebook=executed,
                facts=CodeFacts(
                    tree=_tree(parts, format_),
                    commit=commit,
                    dirty=bool(dirty),
                    remote=self._remote(),
                    branch=self._branch(),
                ),
                parts=tuple(parts),
                patch=b"".join(patches),
                warnings=tuple(warnings),
            )
            yield capture

    def contents(self, capture: CodeCapture) -> Iterator[tuple[Blob, bytes]]:
        """Yield every file and link of a capture with its bytes as committed: no filter, no line-end conversion."""
        for part in capture.parts:
            wanted = [blob for blob in part.blobs if blob.mode != "160000"]
            for blob, data in self._at(part)._read(wanted, part.objects):
                yield replace(blob, path=part.prefix + blob.path), data

    def lfs_content(self, capture: CodeCapture, path: str, pointer: bytes) -> bytes | None:
        """Return the content that a pointer of Git LFS stands for, if it is here and small enough to be code.

        Raises:
            RefusedError: It is too large.
        """
        told = _POINTER.fullmatch(pointer)
        if told is None:
            return None
        digest, size = told[1].decode(), int(told[2])
        part = max((one for one in capture.parts if path.startswith(one.prefix)), key=lambda one: len(one.prefix))
        stored = self._at(part)._git.path("lfs/objects") / digest[:2] / digest[2:4] / digest
        for place in (self.root / path, stored):
            with contextlib.suppress(OSError):
                if place.is_symlink() or not place.is_file() or place.stat().st_size != size:
                    continue
                if size > _LARGE_LFS:
                    raise RefusedError(
                        f"{shown(path)} is {size:,} bytes that Git LFS keeps; as code a record takes {_LARGE_LFS:,}.",
                        hint="Make it a package: `reprokit package build DIR NAME`, and name that under `data:`.",
                    )
                if lfs_pointer(data := place.read_bytes()) == pointer:
                    return data
        return None

    def _at(self, part: Part) -> Repository:
        return self if part.root == self.root else Repository(part.root)

    def _parts(self, prefix: str, commit: str, dirty: bool, scratch: Path, warnings: list[str]) -> Iterator[Part]:
        """Yield this repository's files, and those of its submodules that are checked out."""
        objects = Path(tempfile.mkdtemp(dir=scratch)) if dirty else None
        tree = self._write_tree(objects) if objects else f"{commit}^{{tree}}"
        blobs = self._list(tree, objects)
        warnings += remarks(self._git, prefix=prefix, refused=self._refused, dirty=dirty)
        inner = {blob.path: self._submodule(blob.path) for blob in blobs if blob.mode == "160000"}
        missing = [prefix + path for path, repository in inner.items() if repository is None]
        if missing:
            warnings.append(
                f"Submodules that are not checked out here are empty folders in the run: "
                f"{', '.join(map(shown, missing))}. `git submodule update --init --recursive` has them here."
            )
        yield Part(self.root, prefix, commit, tuple(b for b in blobs if inner.get(b.path) is None), objects)
        for blob in blobs:
            if (repository := inner.get(blob.path)) is not None:
                theirs = repository._head() if dirty else blob.oid
                yield from repository._parts(f"{prefix}{blob.path}/", theirs, dirty, scratch, warnings)

    def _submodule(self, path: str) -> Repository | None:
        folder = self.root / path
        if folder.is_symlink() or not (folder / ".git").exists():
            return None
        repository = Repository(folder)
        return repository if repository.root.resolve() == folder.resolve() else None

    def _read(self, wanted: list[Blob], objects: Path | None) -> Iterator[tuple[Blob, bytes]]:
        if not wanted:
            return
        with self._reading(objects).talk("cat-file", "--batch") as (questions, answers):
            for start in range(0, len(wanted), 500):  # in batches that fit the pipe, so neither side waits for ever
                batch = wanted[start : start + 500]
                questions.write("".join(f"{blob.oid}\n" for blob in batch).encode())
                questions.flush()
                for blob in batch:
                    header = answers.readline().split()
                    if len(header) != 3:
                        raise RefusedError(
                            f"git cannot read {shown(blob.path)} ({blob.oid}) in {self.root}.",
                            hint="In a partial clone, `git fetch --refetch --no-filter` has it; else see `git fsck`.",
                        )
                    data = answers.read(int(header[2]))
                    answers.read(1)
                    yield blob, data

    def _why_changed(self) -> str:
        """Say what may make files look changed that nobody has touched."""
        told = ""
        if self._refused:
            told += (
                f" The repository's own configuration defines filters ({', '.join(map(shown, self._refused))}), and "
                "reprokit starts none of them: files may look changed. Define them in your own, with `git config "
                "--global`, to have them started."
            )
        if replaces(self._git):
            told += " `git replace` shows other objects here; a run gets those that the commit names."
        return told

    def _head(self) -> str:
        commit = self._git.revision("HEAD^{commit}")
        if commit is None:
            raise RefusedError(
                f"The repository {self.root} has no commit yet, so its code cannot be pinned.",
                hint="Run `git add -A` and `git commit -m first`.",
            )
        return commit

    def _status(self) -> list[tuple[str, str]]:
        """Return what is changed, in submodules too; each is asked by itself, for git would start its filters."""
        raw = self._git(
            "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty"
        )
        rows = [row for row in raw.split(b"\0") if row]
        found = [(row[:2].decode().strip() or "M", os.fsdecode(row[3:])) for row in rows]
        for row in self._git.lines("ls-files", "--stage", "-z"):
            facts, _, path = row.partition("\t")
            if facts.startswith("160000") and (inner := self._submodule(path)) is not None:
                found += [(status, f"{path}/{name}") for status, name in inner._status()]
        return found

    def _write_tree(self, objects: Path) -> str:
        """Return the tree of the working tree as it is, without touching the user's index or object store."""
        writing = Git(self.root, objects=objects, index=objects / "index")
        writing.without_filters()
        writing("read-tree", "HEAD")
        rows = self._git.lines("ls-files", "-t", "-z")
        absent = [row[2:] for row in rows if row[0] == "S" and not os.path.lexists(self.root / row[2:])]
        if absent:  # a sparse checkout: they are not deleted
            writing.fed(os.fsencode("\0".join(absent)) + b"\0", "update-index", "-z", "--skip-worktree", "--stdin")
        writing("add", "--all", *(["--sparse"] if absent else []), "--", ".")
        return writing.text("write-tree")

    def patch(self, prefix: str) -> bytes:
        """Return what differs from the commit; a repository may name programs to show it, and none of them is run."""
        return self._git(
            "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=dirty",
            f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}", "--binary", "HEAD", "--",
        )  # fmt: skip

    def _reading(self, objects: Path | None) -> Git:
        return self._git if objects is None else Git(self.root, objects=objects)

    def _list(self, tree: str, objects: Path | None) -> tuple[Blob, ...]:
        raw = self._reading(objects)("ls-tree", "-r", "-z", tree)
        blobs = []
        for row in raw.split(b"\0"):
            if row:
                facts, _, path = row.partition(b"\t")
                mode, _, oid = facts.decode().split()
                blobs.append(Blob(os.fsdecode(path), mode, oid))
        return tuple(blobs)

    def _same_cells(self, committed: str, path: str) -> bool:
        """True if a committed notebook and the one in the working tree have the same cells."""
        try:
            one = Notebook.parse(self._git("cat-file", "blob", committed), what=committed)
            other = Notebook.parse((self.root / path).read_bytes(), what=path)
        except (RefusedError, RecipeError, OSError):  # new, deleted, or not a notebook: it counts as any other file
            return False
        return one.identity == other.identity

    def _content(self, parts: list[Part], path: str) -> bytes | None:
        for part in parts:
            for blob in part.blobs:
                if part.prefix + blob.path == path and blob.mode.startswith("100"):
                    return self._at(part)._reading(part.objects)("cat-file", "blob", blob.oid)
        return None

    def _refuse_secrets(self, untracked: list[str]) -> None:
        total = 0
        for path in untracked:
            file = self.root / path
            if file.is_symlink() or not file.is_file():
                continue
            total += file.stat().st_size
            if _SECRET_NAMES.search(path):
                raise RefusedError(
                    f"{path} is not tracked and looks like a secret; it is not put into a record.",
                    hint="Add it to .gitignore, or move it out of the repository.",
                )
        if total > _MAX_UNTRACKED:
            raise RefusedError(
                f"The untracked files are {total:,} bytes together; --allow-dirty captures at most {_MAX_UNTRACKED:,}.",
                hint="Ignore them in .gitignore, or make data a package: `reprokit package build DIR NAME`.",
            )

    def _remote(self) -> str | None:
        for name in self._git("remote").splitlines()[:1]:
            with contextlib.suppress(RefusedError):  # one without a URL
                return _without_credentials(self._git.text("remote", "get-url", "--", os.fsdecode(name)))
        return None

    def _branch(self) -> str | None:
        name = self._git.text("rev-parse", "--symbolic-full-name", "HEAD")
        return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None


def _fitting(parts: list[Part]) -> tuple[list[Part], list[str]]:
    """Leave out what cannot have its name in a record; return also what is to be said of that."""
    lost = unfit(part.prefix + blob.path for part in parts for blob in part.blobs)
    if not lost:
        return parts, []
    told = [f"{shown(path)} ({reason})" for path, reason in lost.items()]
    more = f" and {len(told) - 20} more" if len(told) > 20 else ""
    kept = [replace(p, blobs=tuple(b for b in p.blobs if p.prefix + b.path not in lost)) for p in parts]
    return kept, [f"The run does not get {', '.join(told[:20])}{more}: no record has such names."]


def _tree(
    parts: list[Part],
    object_format: Literal["sha1", "sha256"],
    notebook: str | None = None,
    executed: bytes | None = None,
) -> str:
    """Return the hash of the git tree of all parts, submodules being folders of it.

    Args:
        notebook: The one that is executed, which counts by its cells alone.
    """
    cells = None
    if notebook is not None and executed is not None:
        cells = git_hash(b"blob", Notebook.parse(executed, what=notebook).identity, object_format)
    files = []
    for part in parts:
        for blob in part.blobs:
            path = part.prefix + blob.path
            oid = cells if cells is not None and path == notebook else bytes.fromhex(blob.oid)
            files.append((os.fsencode(path), blob.mode.encode(), oid))
    return tree_of(files, object_format)


def _without_credentials(url: str) -> str:
    url = re.sub(r"(?<=://)[^/@]*@", "", url)
    return url.split("?")[0]
