"""Repositories as they are: what a run gets of each, and what is said before it starts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reprokit.core.digest import Digest
from reprokit.errors import RefusedError
from reprokit.execution.workspace import lay_code
from reprokit.locking.code_entries import code_entries
from reprokit.locking.git_hash import lfs_pointer
from reprokit.locking.git_tree import Repository
from reprokit.locking.secret_check import SecretCheck
from reprokit.registry.local import LocalRegistry
from reprokit.schema.lock import CodeIdentity
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import from_plain

RECIPE = from_plain({"name": "t", "code": {"entrypoint": "train.py"}, "data": {}, "checkpoints": {}, "outputs": []})
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]


def git(folder: Path, *arguments: str, text: bytes = b"") -> str:
    done = subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, input=text)
    assert done.returncode == 0, done.stderr
    return os.fsdecode(done.stdout).strip()


def made(folder: Path, files: dict[str, str], *options: str) -> Path:
    """Return a repository with one commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", *options)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode())
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD^{tree}")


def committed(folder: Path, paths: list[bytes]) -> None:
    """Commit names that a file system may not have."""
    blob = git(folder, "hash-object", "-w", "--stdin", text=b"odd\n").encode()
    rows = b"".join(b"100644 %s\t%s\0" % (blob, path) for path in paths)
    git(folder, "update-index", "-z", "--index-info", text=rows)
    git(folder, "commit", "-q", "-m", "odd")
    git(folder, "checkout", "-q", "-f", ".")


@dataclass
class Got:
    """What a run gets of a repository, laid out anew from a registry alone."""

    files: dict[str, bytes]
    warnings: list[str]
    identity: CodeIdentity
    tree: str
    commit: str
    branch: str | None
    dirty: bool
    patch: bytes
    extra: dict[str, object] = field(default_factory=dict)


def taken(folder: Path, base: Path, *, dirty: bool = False) -> Got:
    registry = LocalRegistry(base / "registry")
    repository = Repository(folder)
    with repository.capture(allow_dirty=dirty) as capture, registry.staging() as sink:
        entries, warnings = code_entries(repository, capture, sink, check=SecretCheck(RECIPE))
    target = base / f"laid-{len(list(base.glob('laid-*')))}"
    manifest = Manifest.make(entries, message="", user_meta={})
    lay_code(manifest, capture.identity, target, registry=registry)
    found = {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in sorted(target.rglob("*"))
        if path.is_file() or path.is_symlink()
    }
    extra = {e.logical_key: json.loads(registry.read_object(e, what="it")) for e in entries if "/" not in e.logical_key}
    facts = capture.facts
    return Got(
        found,
        warnings,
        capture.identity,
        facts.tree,
        str(facts.commit),
        facts.branch,
        facts.dirty,
        capture.patch,
        extra,
    )


PLAIN = {"train.py": "print(1)\n", "lib/a.py": "a = 1\n"}
BYTES = {path: text.encode() for path, text in PLAIN.items()}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain repository, and one with a submodule that has one itself: copies are made faster."""
    tmp_path = tmp_path_factory.mktemp("templates")
    made(tmp_path / "repo", PLAIN)
    inner = made(tmp_path / "inner", {"i.py": "i = 1\n"})
    library = made(tmp_path / "library", {"b.py": "b = 1\n", ".gitattributes": "*.txt eol=crlf\n"})
    git(library, "submodule", "add", "-q", str(inner), "deep")
    commit(library)
    repo = made(tmp_path / "parent", PLAIN)
    git(repo, "submodule", "add", "-q", str(library), "vendor/library")
    commit(repo)
    git(repo, "submodule", "update", "-q", "--init", "--recursive")
    return tmp_path


@pytest.fixture
def repo(templates: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(templates / "repo", tmp_path / "repo", symlinks=True))


@pytest.fixture
def parent(templates: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(templates / "parent", tmp_path / "parent", symlinks=True))


INNER = {"vendor/library/b.py": b"b = 1\n", "vendor/library/deep/i.py": b"i = 1\n"}


def test_submodules_are_captured_and_laid_out_from_the_registry_alone(parent: Path, tmp_path: Path) -> None:
    got = taken(parent, tmp_path)
    assert INNER.items() <= got.files.items() and got.warnings == [] and not got.dirty
    assert got.extra == {
        "code.submodules": {
            "vendor/library": git(parent / "vendor/library", "rev-parse", "HEAD"),
            "vendor/library/deep": git(parent / "vendor/library/deep", "rev-parse", "HEAD"),
        }
    }
    # the tree is that of a repository that had the files themselves
    flat = made(tmp_path / "flat", {path: data.decode() for path, data in got.files.items()})
    assert git(flat, "rev-parse", "HEAD^{tree}") == got.identity.tree == got.tree


@pytest.mark.parametrize("path", ["vendor/library/b.py", "vendor/library/deep/i.py"])
def test_a_change_in_a_submodule_is_a_change(parent: Path, tmp_path: Path, path: str) -> None:
    before = taken(parent, tmp_path).identity
    (parent / path).write_text("c = 2\n")
    with pytest.raises(RefusedError, match=rf"1 change\(s\) that are not committed:\n  M {path}"):
        taken(parent, tmp_path)
    got = taken(parent, tmp_path, dirty=True)
    assert got.files[path] == b"c = 2\n" and got.identity != before and got.dirty
    assert f"+++ b/{path}".encode() in got.patch and b"+c = 2" in got.patch


def test_a_submodule_at_another_commit_is_a_change(parent: Path, tmp_path: Path) -> None:
    (parent / "vendor/library/b.py").write_text("b = 2\n")
    commit(parent / "vendor/library")
    with pytest.raises(RefusedError, match=r"not committed:\n  M vendor/library"):
        taken(parent, tmp_path)
    assert taken(parent, tmp_path, dirty=True).files["vendor/library/b.py"] == b"b = 2\n"
    commit(parent)
    assert taken(parent, tmp_path).files["vendor/library/b.py"] == b"b = 2\n"


def test_a_submodule_that_is_not_checked_out_is_named(parent: Path, tmp_path: Path) -> None:
    git(parent, "clone", "-q", ".", str(tmp_path / "clone"))
    got = taken(tmp_path / "clone", tmp_path)
    assert got.warnings == [
        "Submodules that are not checked out here are empty folders in the run: vendor/library. "
        "`git submodule update --init --recursive` has them here."
    ]
    assert BYTES.items() <= got.files.items() and not [path for path in got.files if path.startswith("vendor")]
    (tmp_path / "clone/vendor/library").rmdir()
    (tmp_path / "clone/vendor/library").symlink_to(parent)  # somebody else's is not taken for it
    git(tmp_path / "clone", "update-index", "--assume-unchanged", "vendor/library")
    assert not [path for path in taken(tmp_path / "clone", tmp_path, dirty=True).files if "train.py" in path[1:]]


def test_content_that_lfs_keeps_is_captured(repo: Path, tmp_path: Path) -> None:
    """Checked out, or in LFS' own store; what git has in its place is what the tree's hash is of."""
    content = b"\0weights" * 1000
    (repo / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (repo / "a.bin").write_bytes(lfs_pointer(content))
    tree = commit(repo)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(RefusedError) as caught:
        taken(repo, tmp_path)
    assert caught.value.message == (
        "1 file(s) of the code are pointers of Git LFS, and what they stand for is not here: a.bin."
    )
    assert str(caught.value.hint).startswith("`git lfs pull` has it here.")
    stored = repo / ".git" / "lfs" / "objects" / digest[:2] / digest[2:4]
    stored.mkdir(parents=True)
    (stored / digest).write_bytes(b"\1weights" * 1000)
    with pytest.raises(RefusedError, match="pointers of Git LFS"):  # it is not what the pointer says
        taken(repo, tmp_path)
    (stored / digest).write_bytes(content)
    got = taken(repo, tmp_path)
    assert got.files["a.bin"] == content and got.identity.tree == tree and got.warnings == []


def test_content_of_lfs_that_was_altered_is_another_tree(repo: Path, tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    tree = made(tmp_path / "lfs", {"a.bin": lfs_pointer(b"right").decode()})
    with registry.staging() as sink:
        digest, size = sink.put_bytes(b"wrong")
        assert isinstance(digest, Digest)
        entry = Entry("code/a.bin", size, digest, {"reprokit": {"mode": "100644", "lfs": True}})
    identity = CodeIdentity(tree=git(tree, "rev-parse", "HEAD^{tree}"))
    with pytest.raises(Exception, match="is not the locked tree"):
        lay_code(Manifest.make([entry], message="", user_meta={}), identity, tmp_path / "laid", registry=registry)


def test_names_that_no_record_has_are_left_out_and_named(repo: Path, tmp_path: Path) -> None:
    committed(
        repo, [b"not-\xff-utf8", "nfd-e\u0301.txt".encode(), b"back\\slash", b"Readme.md", b"README.md", b"lib/A.py"]
    )
    got = taken(repo, tmp_path)
    assert got.files == {"train.py": b"print(1)\n", "README.md": b"odd\n", "lib/A.py": b"odd\n"}
    (warning,) = got.warnings
    assert warning == (
        "The run does not get Readme.md (it is told from README.md by case alone), "
        "back\\slash (it holds a backslash), lib/a.py (it is told from lib/A.py by case alone), "
        "'nfd-e\\u0301.txt' (it is not in Unicode NFC), 'not-\\udcff-utf8' (its name is not UTF-8): "
        "no record has such names."
    )


def test_a_path_of_spaces_and_lines_is_one(tmp_path: Path) -> None:
    folder = made(tmp_path / "a b\nc '\"$x" / "repo \n", {**PLAIN, "two\nlines é.py": "x\n"})
    got = taken(folder, tmp_path)
    assert got.files == {**BYTES, "two\nlines é.py": b"x\n"}


def _crlf(repo: Path, tmp_path: Path) -> None:
    git(repo, "config", "core.autocrlf", "true")
    (repo / "train.py").unlink()
    git(repo, "checkout", "-q", "train.py")
    assert (repo / "train.py").read_bytes() == b"print(1)\r\n"


def _replaced(repo: Path, tmp_path: Path) -> None:
    other = git(repo, "hash-object", "-w", "--stdin", text=b"print(9)\n")
    git(repo, "replace", git(repo, "rev-parse", "HEAD:train.py"), other)


def _hidden(flag: str) -> Callable[[Path, Path], None]:
    def act(repo: Path, tmp_path: Path) -> None:
        git(repo, "update-index", flag, "train.py")
        (repo / "train.py").write_text("print(9)\n")

    return act


def _attribute(text: str) -> Callable[[Path, Path], None]:
    def act(repo: Path, tmp_path: Path) -> None:
        (repo / ".git" / "info").mkdir(exist_ok=True)
        (repo / ".git" / "info" / "attributes").write_text(text)

    return act


# what makes the files here other than those of the run: how, and what is said
OTHERWISE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "autocrlf": (
        _crlf,
        "train.py: with other line ends here than in git (core.autocrlf, or .gitattributes): the run gets those of "
        "git.",
    ),
    "git replace": (_replaced, "`git replace` shows other objects here; the run gets those that the commit names."),
    "assume-unchanged": (
        _hidden("--assume-unchanged"),
        "train.py: marked assume-unchanged or skip-worktree: the run gets what is committed, not what lies here.",
    ),
    "skip-worktree": (
        _hidden("--skip-worktree"),
        "train.py: marked assume-unchanged or skip-worktree: the run gets what is committed, not what lies here.",
    ),
    "ident": (
        _attribute("train.py ident\n"),
        "train.py: converted when they are checked out (ident): the run gets what git has.",
    ),
    "filter": (
        _attribute("lib/*.py filter=own\n"),
        "lib/a.py: converted when they are checked out (filter own): the run gets what git has.",
    ),
}


@pytest.mark.parametrize("how", OTHERWISE)
def test_where_the_run_gets_other_bytes_than_lie_here_it_is_said(repo: Path, tmp_path: Path, how: str) -> None:
    act, told = OTHERWISE[how]
    before = taken(repo, tmp_path)
    assert before.warnings == []
    act(repo, tmp_path)
    got = taken(repo, tmp_path)
    assert got.files == BYTES and got.identity == before.identity
    assert got.warnings == [told]


def test_a_file_that_git_replaced_is_a_change(repo: Path, tmp_path: Path) -> None:
    _replaced(repo, tmp_path)
    (repo / "train.py").unlink()
    git(repo, "checkout", "-q", "train.py")
    os.utime(repo / "train.py", (1, 1))
    assert (repo / "train.py").read_bytes() == b"print(9)\n"
    with pytest.raises(RefusedError) as caught:
        taken(repo, tmp_path)
    assert str(caught.value.hint).endswith(
        "`git replace` shows other objects here; a run gets those that the commit names."
    )


def _clone(*options: str) -> Callable[[Path, Path], Path]:
    def act(repo: Path, tmp_path: Path) -> Path:
        git(repo, "config", "uploadpack.allowFilter", "true")
        git(tmp_path, "clone", "-q", *options, repo.as_uri(), str(tmp_path / "clone"))
        return tmp_path / "clone"

    return act


def _sparse(repo: Path, tmp_path: Path) -> Path:
    git(repo, "status")  # it looks at the files of the copy
    git(repo, "sparse-checkout", "set", "--no-cone", "/train.py")
    assert not (repo / "lib").exists()
    return repo


def _worktree(repo: Path, tmp_path: Path) -> Path:
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    return tmp_path / "tree"


def _alternates(repo: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", "--shared", str(repo), str(tmp_path / "shared"))
    return tmp_path / "shared"


def _grafts(repo: Path, tmp_path: Path) -> Path:
    (repo / ".git" / "info").mkdir(exist_ok=True)
    (repo / ".git" / "info" / "grafts").write_text(git(repo, "rev-parse", "HEAD") + "\n")
    return repo


def _settings(**values: str) -> Callable[[Path, Path], Path]:
    def act(repo: Path, tmp_path: Path) -> Path:
        for name, value in values.items():
            git(repo, "config", name.replace("__", "."), value)
        return repo

    return act


def _archived(repo: Path, tmp_path: Path) -> Path:
    (repo / ".git" / "info").mkdir(exist_ok=True)
    (repo / ".git" / "info" / "attributes").write_text("lib export-ignore\ntrain.py export-subst\n")
    return repo


def _mode(repo: Path, tmp_path: Path) -> Path:
    git(repo, "config", "core.fileMode", "false")
    (repo / "train.py").chmod(0o755)
    return repo


SAME: dict[str, Callable[[Path, Path], Path]] = {
    "shallow": _clone("--depth=1"),
    "whole partial": _clone("--filter=blob:none"),
    "sparse": _sparse,
    "worktree": _worktree,
    "alternates": _alternates,
    "grafts": _grafts,
    "export attributes": _archived,
    "filemode": _mode,
    "status": _settings(status__short="true", status__branch="true", status__showUntrackedFiles="no"),
    "status, otherwise": _settings(status__relativePaths="false", status__showStash="true", status__renames="copies"),
    "colours": _settings(color__ui="always", color__status="always", color__diff="always", core__quotePath="true"),
    "diff": _settings(diff__noprefix="true", diff__external="false", diff__ignoreSubmodules="all"),
    "index": _settings(core__untrackedCache="true", index__version="4", core__splitIndex="true", core__fsmonitor="x"),
    "column": _settings(column__ui="always", core__abbrev="4", log__showSignature="true", core__ignoreCase="true"),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_repository_of_another_kind_gives_the_same(repo: Path, tmp_path: Path, kind: str) -> None:
    folder = SAME[kind](repo, tmp_path)
    before = taken(folder, tmp_path)
    assert before.files == BYTES and before.warnings == [] and not before.dirty
    (folder / "new.py").write_text("x\n")
    with pytest.raises(RefusedError, match=r"1 change\(s\) that are not committed:\n  \?\? new.py"):
        taken(folder, tmp_path)
    got = taken(folder, tmp_path, dirty=True)
    assert got.files == {**BYTES, "new.py": b"x\n"}


@pytest.mark.parametrize(
    "variable", ["GIT_TRACE", "GIT_DIR", "GIT_LITERAL_PATHSPECS", "GIT_DIFF_OPTS", "GIT_NAMESPACE"]
)
def test_variables_of_git_do_not_come_in(
    repo: Path, tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert taken(repo, tmp_path).files == BYTES


def test_a_detached_head_has_no_branch(repo: Path, tmp_path: Path) -> None:
    branch = git(repo, "symbolic-ref", "--short", "HEAD")
    assert taken(repo, tmp_path).branch == branch
    git(repo, "checkout", "-q", "--detach")
    got = taken(repo, tmp_path)
    assert got.branch is None and got.commit == git(repo, "rev-parse", "HEAD")


def test_a_repository_of_sha256(tmp_path: Path) -> None:
    folder = made(tmp_path / "repo", PLAIN, "--object-format=sha256")
    got = taken(folder, tmp_path)
    assert got.files == BYTES and got.identity.object_format == "sha256" and len(got.identity.tree) == 64


def test_what_is_no_repository_to_run_from_is_refused_by_name(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "absent"):
        with pytest.raises(RefusedError, match="is not inside a git repository, so its code cannot be pinned"):
            Repository(folder)
    git(empty, "init", "-q")
    with pytest.raises(RefusedError, match="has no commit yet, so its code cannot be pinned"):
        taken(empty, tmp_path)
    git(tmp_path, "clone", "-q", "--bare", str(repo), str(tmp_path / "bare"))
    with pytest.raises(RefusedError, match=r"is a bare git repository; a run needs a working tree\."):
        Repository(tmp_path / "bare")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    with pytest.raises(RefusedError) as caught:
        Repository(repo)
    assert f"detected dubious ownership in repository at '{repo}'" in caught.value.message
    assert f"git config --global --add safe.directory {repo}" in caught.value.message
    assert str(caught.value.hint).startswith("It belongs to another user.")
