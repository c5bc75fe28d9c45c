"""Reading a repository starts nothing that the repository names."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

from reprokit.errors import RefusedError
from reprokit.locking.git_command import Git
from reprokit.locking.git_tree import Repository
from tests.conftest import ROOT


class Hostile:
    """A repository with a submodule and changes, and programs that leave a mark when they are run."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "repo"
        self.mark = base / "ran"
        self.program = base / "program"
        self.program.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.mark}\ncat "$1" 2>/dev/null\nexit 0\n')
        self.program.chmod(0o755)
        self.hooks = base / "hooks"
        self.hooks.mkdir()
        (self.hooks / "post-index-change").symlink_to(self.program)
        for folder in (self.root, self.root / "part"):
            folder.mkdir()
            self.git("init", "-q", cwd=folder)
            (folder / "a.txt").write_text("first\n")
            (folder / ".gitattributes").write_text("*.txt diff=own\n")
            self.git("add", "-A", cwd=folder)
            self.git("commit", "-q", "-m", "first", cwd=folder)
        self.git("add", "part")
        self.git("commit", "-q", "-m", "part")
        (self.root / "a.txt").write_text("second\n")
        (self.root / "new.txt").write_text("new\n")
        (self.root / "part" / "a.txt").write_text("second\n")

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
        done = subprocess.run(["git", *identity, *arguments], cwd=cwd or self.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


def captured(root: Path) -> tuple[list[str], bytes, list[bytes]]:
    """Capture a working tree with its changes; return its paths, the patch and what the files hold."""
    repository = Repository(root)
    with repository.capture(allow_dirty=True) as capture:
        assert capture.facts.dirty
        contents = [data for _, data in repository.contents(capture)]
        return [blob.path for blob in capture.blobs], capture.patch, contents


# what a stranger's repository can name: where, and `git config NAME VALUE`
SETTINGS = {
    "file system monitor": [(".", "core.fsmonitor", "PROGRAM")],
    "file system monitor of a submodule": [("part", "core.fsmonitor", "PROGRAM")],
    "hooks": [(".", "core.hooksPath", "HOOKS")],
    "hooks of a submodule": [("part", "core.hooksPath", "HOOKS")],
    "external diff": [(".", "diff.external", "PROGRAM")],
    "diff of an attribute": [(".", "diff.own.command", "PROGRAM")],
    "text conversion": [(".", "diff.own.textconv", "PROGRAM")],
    "diff of a submodule": [("part", "diff.own.textconv", "PROGRAM"), (".", "diff.submodule", "diff")],
    "pager": [(".", "core.pager", "PROGRAM"), (".", "pager.status", "true"), (".", "pager.diff", "true")],
    "editor": [(".", "core.editor", "PROGRAM")],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_capture_runs_no_program_that_the_repository_names(hostile: Hostile, setting: str) -> None:
    expected = captured(hostile.root)
    for folder, name, value in SETTINGS[setting]:
        places = {"PROGRAM": str(hostile.program), "HOOKS": str(hostile.hooks)}
        hostile.git("config", name, places.get(value, value), cwd=hostile.root / folder)
    os.utime(hostile.root / "a.txt", (1, 1))  # so that git looks at it once more
    assert captured(hostile.root) == expected
    assert not hostile.mark.exists(), hostile.mark.read_text()
    assert b"+second" in expected[1]


def test_the_programs_would_be_run(hostile: Hostile) -> None:
    """Plain git runs what these tests are about; without this they would prove nothing."""
    (hostile.root / ".gitattributes").write_text("*.txt diff=own filter=own\n")
    settings = {"core.fsmonitor": hostile.program, "core.hooksPath": hostile.hooks, "filter.own.clean": hostile.program}
    for number, (name, value) in enumerate(settings.items(), 1):
        hostile.git("config", name, str(value))
        os.utime(hostile.root / "new.txt", (number, number))
        hostile.git("add", "new.txt")
        hostile.git("config", "--unset", name)
        hostile.mark.unlink()
    hostile.git("config", "diff.own.textconv", str(hostile.program))
    hostile.git("diff")
    assert hostile.mark.exists()


def test_an_object_that_a_partial_clone_lacks_is_not_fetched(hostile: Hostile, tmp_path: Path) -> None:
    hostile.git("config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    (hostile.root / "deep").mkdir()
    (hostile.root / "deep" / "b.txt").write_text("deep\n")
    hostile.git("add", "deep")
    hostile.git("commit", "-q", "-m", "deep")
    hostile.git("clone", "-q", "--sparse", "--filter=blob:none", f"file://{hostile.root}", str(partial))
    hostile.git("remote", "set-url", "origin", "ssh://example.org/repo", cwd=partial)
    hostile.git("config", "core.sshCommand", str(hostile.program), cwd=partial)
    repository = Repository(partial)
    with repository.capture() as capture, pytest.raises(RefusedError) as caught:
        list(repository.contents(capture))
    assert not hostile.mark.exists(), hostile.mark.read_text()
    assert caught.value.hint == "In a partial clone, `git fetch --refetch --no-filter` has it; else see `git fsck`."


def test_a_filter_of_the_users_own_still_says_what_a_file_is(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git LFS and its like: what is captured is what would be committed."""
    (tmp_path / "gitconfig").write_text('[filter "upper"]\n\tclean = tr a-z A-Z\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (hostile.root / ".gitattributes").write_text("*.txt filter=upper\n")
    hostile.git("config", "filter.upper.clean", str(hostile.program))  # the repository's own does not take its place
    paths, _, contents = captured(hostile.root)
    assert contents[paths.index("a.txt")] == b"SECOND\n"
    assert not hostile.mark.exists()


@pytest.mark.parametrize(
    ("folder", "setting", "name"),
    [(".", "clean", "own"), (".", "process", "own"), (".", "clean", "own.x=y z"), ("part", "clean", "own")],
)
def test_a_filter_of_a_repository_is_not_started(hostile: Hostile, folder: str, setting: str, name: str) -> None:
    where = hostile.root / folder
    (where / ".gitattributes").write_text("*.txt diff=own filter=own\n")
    hostile.git("add", ".gitattributes", cwd=where)
    hostile.git("commit", "-q", "-m", "filter", cwd=where)
    expected = captured(hostile.root)
    hostile.git("config", f"filter.{name}.{setting}", str(hostile.program), cwd=where)
    hostile.git("config", f"filter.{name}.required", "true", cwd=where)
    os.utime(where / "a.txt", (1, 1))
    assert captured(hostile.root) == expected
    with pytest.raises(RefusedError, match=r"not committed") as caught, Repository(hostile.root).capture():
        pass
    assert ("reprokit starts none of them" in str(caught.value.hint)) == (folder == ".")
    assert not hostile.mark.exists(), hostile.mark.read_text()


def test_what_a_hook_has_in_its_environment_is_left_behind(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = captured(hostile.root)
    other = tmp_path / "other"
    other.mkdir()
    hostile.git("init", "-q", cwd=other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(hostile.program))
    assert captured(hostile.root) == expected


def test_a_failure_says_what_where_and_why(hostile: Hostile) -> None:
    with pytest.raises(RefusedError) as caught:
        Git(hostile.root)("cat-file", "blob", "0" * 40)
    assert str(caught.value) == (
        f"`git cat-file blob` failed in {hostile.root}: fatal: git cat-file {'0' * 40}: bad file"
    )


def test_a_machine_without_git_is_told_so(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError) as caught:
        Git(hostile.root)("status")
    assert caught.value.message == f"There is no `git` on the path, so the code in {hostile.root} cannot be read."
    assert caught.value.hint == "Install git."


def test_git_is_started_in_one_place() -> None:
    starts = []
    for path in sorted((ROOT / "reprokit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant):
                starts += [path.relative_to(ROOT).as_posix()] if node.elts[0].value == "git" else []
    assert starts == ["reprokit/locking/git_command.py"]
