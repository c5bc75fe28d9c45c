"""Code: a git tree captured from a repository, kept as package entries, and recomputed from those bytes.

GitPython is used here alone. Reading a stranger's record never runs git.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from git import Repo
from git.exc import GitCommandError, InvalidGitRepositoryError, NoSuchPathError

from reprokit.errors import DataMismatchError, RecipeError, RefusedError, UsageError
from reprokit.registry.base import Sink
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import CodeIdentity
from reprokit.schema.manifest import Entry
from reprokit.schema.notebook import Notebook
from reprokit.schema.record import CodeFacts

__all__ = ["CodeCapture", "Repository", "code_entries", "identity_of_entries"]

_MAX_UNTRACKED = 50 * 1024 * 1024
_LARGE_BLOB = 20 * 1024 * 1024
_LFS = b"version https://git-lfs.github.com/spec/v1"
_SECRET_NAMES = re.compile(
    r"(^|/)(\.env(\..+)?|\.netrc|\.pypirc|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?|.*\.(pem|key|p12|pfx|jks))$"
)
_SECRET_BYTES = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b")


@dataclass(frozen=True, slots=True)
class Blob:
    """One path of a git tree; `mode` as git writes it: 100644, 100755, 120000 (link), 160000 (submodule)."""

    path: str
    mode: str
    oid: str


@dataclass(frozen=True, kw_only=True)
class CodeCapture:
    """The code of a run before it is stored.

    Attributes:
        identity: Of this tree; where a notebook is executed, with that one by its cells alone.
        notebook: The bytes of the notebook that is executed, if the tree has it.
        blobs: Everything in the tree, sorted as git does.
        objects: Folder of git objects that are not in the repository: those of uncommitted changes.
        patch: What differs from the commit, for people; empty in a clean tree.
    """

    identity: CodeIdentity
    facts: CodeFacts
    blobs: tuple[Blob, ...]
    patch: bytes = b""
    notebook: bytes | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    objects: Path | None = field(default=None, repr=False)


class Repository:
    """The git repository that holds a recipe."""

    def __init__(self, start: Path) -> None:
        try:
            self._repo = Repo(start, search_parent_directories=True)
        except (InvalidGitRepositoryError, NoSuchPathError):
            raise RefusedError(
                f"{start} is not inside a git repository, so its code cannot be pinned.",
                hint="Run `git init`, then `git add -A` and `git commit -m first`.",
            ) from None
        if self._repo.bare:
            raise RefusedError(f"{start} is a bare git repository; a run needs a working tree.")
        self.root = Path(str(self._repo.working_tree_dir))

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
            shown = "".join(f"\n  {status} {path}" for status, path in dirty[:20])
            more = f"\n  … and {len(dirty) - 20} more" if len(dirty) > 20 else ""
            raise RefusedError(
                f"The working tree {self.root} has {len(dirty)} change(s) that are not committed:{shown}{more}",
                hint="Commit them, or capture them in the record with --allow-dirty.",
            )
        with tempfile.TemporaryDirectory(prefix="reprokit-git-") as scratch:
            if dirty:
                self._refuse_secrets([path for status, path in dirty if status == "??"])
                tree, objects = self._write_tree(Path(scratch))
                patch = self._git("diff", "--binary", "HEAD", "--")
            else:
                tree, objects, patch = self._git("rev-parse", "HEAD^{tree}").decode().strip(), None, b""
            blobs = self._list(tree, objects)
            format_: Literal["sha1", "sha256"] = "sha256" if len(tree) == 64 else "sha1"
            executed = self._content(blobs, notebook, objects) if notebook is not None else None
            yield CodeCapture(
                identity=CodeIdentity(
                    tree=_by_cells(blobs, notebook, executed, format_) or tree, object_format=format_
                ),
                notebook=executed,
                facts=CodeFacts(
                    tree=tree, commit=commit, dirty=bool(dirty), remote=self._remote(), branch=self._branch()
                ),
                blobs=blobs,
                patch=patch,
                objects=objects,
                warnings=_warnings(blobs),
            )

    def contents(self, capture: CodeCapture) -> Iterator[tuple[Blob, bytes]]:
        """Yield every file and link of a capture with its bytes as committed: no filter, no line-end conversion."""
        wanted = [blob for blob in capture.blobs if blob.mode != "160000"]
        if not wanted:
            return
        environment = self._with_objects(capture.objects)
        command = ["git", "-C", str(self.root), "cat-file", "--batch"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            if process.stdin is None or process.stdout is None:
                raise AssertionError("pipes were asked for")
            for start in range(0, len(wanted), 500):  # in batches that fit the pipe, so neither side waits for ever
                batch = wanted[start : start + 500]
                process.stdin.write("".join(f"{blob.oid}\n" for blob in batch).encode())
                process.stdin.flush()
                for blob in batch:
                    header = process.stdout.readline().split()
                    if len(header) != 3:
                        raise RefusedError(f"git cannot read {blob.path} ({blob.oid}); run `git fsck` in {self.root}.")
                    data = process.stdout.read(int(header[2]))
                    process.stdout.read(1)
                    yield blob, data
            process.stdin.close()

    def _head(self) -> str:
        try:
            return str(self._repo.head.commit.hexsha)
        except ValueError:
            raise RefusedError(
                f"The repository {self.root} has no commit yet, so its code cannot be pinned.",
                hint="Run `git add -A` and `git commit -m first`.",
            ) from None

    def _status(self) -> list[tuple[str, str]]:
        raw = self._git(
            "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=none"
        )
        rows = [row for row in raw.split(b"\0") if row]
        return [(row[:2].decode().strip() or "M", os.fsdecode(row[3:])) for row in rows]

    def _write_tree(self, scratch: Path) -> tuple[str, Path]:
        """Return the tree of the working tree as it is, without touching the user's index or object store."""
        objects = scratch / "objects"
        objects.mkdir()
        environment = {**self._with_objects(objects), "GIT_INDEX_FILE": str(scratch / "index")}
        self._git("read-tree", "HEAD", environment=environment)
        self._git("add", "--all", "--", ".", environment=environment)
        return self._git("write-tree", environment=environment).decode().strip(), objects

    def _with_objects(self, objects: Path | None) -> dict[str, str]:
        environment = dict(os.environ)
        if objects is not None:
            own = self._git("rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
            environment |= {"GIT_OBJECT_DIRECTORY": str(objects), "GIT_ALTERNATE_OBJECT_DIRECTORIES": own}
        return environment

    def _list(self, tree: str, objects: Path | None) -> tuple[Blob, ...]:
        raw = self._git("ls-tree", "-r", "-z", tree, environment=self._with_objects(objects))
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

    def _content(self, blobs: tuple[Blob, ...], path: str, objects: Path | None) -> bytes | None:
        oid = next((blob.oid for blob in blobs if blob.path == path and blob.mode.startswith("100")), None)
        return None if oid is None else self._git("cat-file", "blob", oid, environment=self._with_objects(objects))

    def _refuse_secrets(self, untracked: list[str]) -> None:
        total = 0
        for path in untracked:
            file = self.root / path
            if file.is_symlink() or not file.is_file():
                continue
            total += file.stat().st_size
            if _SECRET_NAMES.search(path) or _SECRET_BYTES.search(file.read_bytes()[:65536]):
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
        with contextlib.suppress(GitCommandError, ValueError, IndexError, StopIteration):
            return _without_credentials(next(iter(self._repo.remotes)).url)
        return None

    def _branch(self) -> str | None:
        return None if self._repo.head.is_detached else str(self._repo.head.reference.name)

    def _git(self, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
        try:
            output = self._repo.git.execute(
                ["git", "-c", "core.quotePath=false", *arguments],
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                env=dict(environment) if environment else None,
            )
        except GitCommandError as error:
            raise RefusedError(
                f"`git {' '.join(arguments[:2])}` failed in {self.root}: {str(error.stderr).strip()}"
            ) from None
        return bytes(output)


def code_entries(repository: Repository, capture: CodeCapture, sink: Sink) -> tuple[list[Entry], list[str]]:
    """Store a capture's files; return them as entries `code/…` (mode, a submodule's commit in meta), and warnings."""
    entries, warnings = [], list(capture.warnings)
    for blob, data in repository.contents(capture):
        warnings += _content_warnings(blob.path, data)
        digest, size = sink.put_bytes(data)
        meta = {"reprokit": {"mode": blob.mode}}
        entries.append(Entry(CODE_PREFIX + blob.path, size, digest, meta))
    for blob in capture.blobs:
        if blob.mode == "160000":
            digest, size = sink.put_bytes(b"")
            meta = {"reprokit": {"mode": blob.mode, "commit": blob.oid}}
            entries.append(Entry(CODE_PREFIX + blob.path, size, digest, meta))
    return entries, warnings


def identity_of_entries(
    entries: tuple[Entry, ...],
    object_format: Literal["sha1", "sha256"],
    folder: Path,
    *,
    notebook: str | None = None,
) -> CodeIdentity:
    """Recompute the git tree hash of `code/…` entries from their bytes.

    Args:
        folder: Holds the entries as files and links, without the prefix.
        notebook: The one that is executed: it counts by its cells alone.
    Raises:
        DataMismatchError: An entry has no mode that git knows.
        RecipeError: The notebook is malformed.
    """
    files: list[tuple[bytes, bytes, bytes]] = []
    for entry in entries:
        path = entry.logical_key.removeprefix(CODE_PREFIX)
        facts = entry.meta.get("reprokit")
        mode = facts.get("mode") if isinstance(facts, dict) else None
        if mode not in ("100644", "100755", "120000", "160000"):
            raise DataMismatchError(f"{entry.logical_key} has the mode {mode!r}, which git does not know.")
        if mode == "160000":
            oid = bytes.fromhex(str(facts.get("commit")) if isinstance(facts, dict) else "")
        else:
            file = folder / path
            data = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()
            if path == notebook and mode != "120000":
                data = Notebook.parse(data, what=path).identity
            oid = _git_hash(b"blob", data, object_format)
        files.append((os.fsencode(path), mode.encode(), oid))
    return CodeIdentity(tree=_tree_of(files, object_format), object_format=object_format)


def _by_cells(
    blobs: tuple[Blob, ...], notebook: str | None, executed: bytes | None, object_format: Literal["sha1", "sha256"]
) -> str | None:
    """Return the tree's hash with the notebook that is executed taken by its cells; None if there is none."""
    if notebook is None or executed is None:
        return None
    cells = _git_hash(b"blob", Notebook.parse(executed, what=notebook).identity, object_format)
    files = [
        (os.fsencode(blob.path), blob.mode.encode(), cells if blob.path == notebook else bytes.fromhex(blob.oid))
        for blob in blobs
    ]
    return _tree_of(files, object_format)


def _tree_of(files: list[tuple[bytes, bytes, bytes]], object_format: str) -> str:
    """Return the hash of the git tree of (path, mode, object ID)."""
    root: dict[bytes, object] = {}
    for path, mode, oid in files:
        node = root
        parts = path.split(b"/")
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise DataMismatchError(f"{os.fsdecode(path)} is below a file.")
            node = child
        node[parts[-1]] = (mode, oid)
    return _tree_hash(root, object_format).hex()


def _tree_hash(node: Mapping[bytes, object], object_format: str) -> bytes:
    rows: list[tuple[bytes, bytes]] = []
    for name, child in node.items():
        if isinstance(child, dict):
            rows.append((name + b"/", b"40000 " + name + b"\0" + _tree_hash(child, object_format)))
        elif isinstance(child, tuple):
            mode, oid = child
            rows.append((name, mode + b" " + name + b"\0" + oid))
    return _git_hash(b"tree", b"".join(row for _, row in sorted(rows)), object_format)


def _git_hash(kind: bytes, data: bytes, object_format: str) -> bytes:
    return hashlib.new(object_format, kind + b" %d\0" % len(data) + data).digest()


def _warnings(blobs: tuple[Blob, ...]) -> tuple[str, ...]:
    submodules = [blob.path for blob in blobs if blob.mode == "160000"]
    if not submodules:
        return ()
    return (f"Submodules are not captured, their folders are empty in the run: {', '.join(submodules)}.",)


def _content_warnings(path: str, data: bytes) -> list[str]:
    """Say what is odd about one file of the code: an LFS pointer, or data that belongs into a package."""
    if data.startswith(_LFS):
        return [f"{path} is a Git LFS pointer: the run sees the pointer, not the file. Make the file a package."]
    if len(data) > _LARGE_BLOB:
        return [f"{path} is {len(data):,} bytes in git. `reprokit package build` stores data once and verifies it."]
    return []


def _without_credentials(url: str) -> str:
    url = re.sub(r"(?<=://)[^/@]*@", "", url)
    return url.split("?")[0]
