"""What changed in a folder since it was sealed is named; what came to it is removed. No environment is needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reprokit.environment.local.seal import Seen, check_private, look, seal, unseal
from reprokit.errors import RefusedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something like an environment, sealed."""
    made = tmp_path / "environment"
    (made / "lib" / "demo").mkdir(parents=True)
    (made / "bin").mkdir()
    (made / "lib" / "demo" / "rate.py").write_text("rate = 0.1\n")
    (made / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    (tmp_path / "real").write_text("python")
    (made / "bin" / "python").symlink_to("python3")
    (made / "bin" / "python3").symlink_to(tmp_path / "real")
    (made / "lib64").symlink_to("lib")
    seal(made, of="lock")
    return made


def _rewrite(path: Path, text: str) -> None:
    """Write something of the same size, and leave the times as they were."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda made: _rewrite(made / "lib/demo/rate.py", "rate = 0.9\n"), "lib/demo/rate.py"),
        (lambda made: (made / "lib/demo/rate.py").chmod(0o777), "lib/demo/rate.py"),
        (lambda made: (made / "lib/demo/rate.py").unlink(), "lib/demo/rate.py"),
        (lambda made: (made / "lib/demo").chmod(0o777), "lib/demo"),
        (lambda made: shutil.rmtree(made / "lib/demo"), "lib/demo"),
        (lambda made: (made / "pyvenv.cfg").write_text("include-system-site-packages = true\n"), "pyvenv.cfg"),
        (lambda made: _link(made / "bin/python3", "/bin/sh"), "bin/python"),
        (lambda made: _link(made / "lib64", "bin"), "lib64"),
        (lambda made: (made.parent / "real").write_text("other!"), "bin/python"),
        (lambda made: (made.parent / "real").unlink(), "bin/python"),
        (unseal, "environment"),
        (lambda made: made.with_name("environment.json").write_text('{"of": "lock", "rows": 1}'), "environment"),
    ],
)
def test_what_was_changed_is_named(folder: Path, change: Callable[[Path], object], named: str) -> None:
    assert look(folder, of="lock") == Seen(None, [])
    change(folder)
    (folder / "added").write_text("")
    assert look(folder, of="lock") == Seen(named, [])
    assert (folder / "added").exists()  # nothing is done to a folder that is made again anyhow


def test_another_lock_is_not_what_was_made_here(folder: Path) -> None:
    assert look(folder, of="other").changed == "environment"


def test_what_came_to_it_is_removed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("")
    (folder / "lib" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "lib" / "evil.pth").write_text("import evil\n")
    (folder / "lib" / "evil").mkdir()
    (folder / "lib" / "evil" / "__init__.py").write_text("")
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "evil.cpython-311.pyc").write_text("")
    assert look(folder, of="lock") == Seen(None, ["lib/evil", "lib/evil.pth", "lib/evil/__init__.py", "lib/linked"])
    assert sorted(one.name for one in (folder / "lib").iterdir()) == ["demo"]
    assert (tmp_path / "elsewhere" / "kept").exists()


@pytest.mark.parametrize("mode", [0o702, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    check_private(folder)
    folder.chmod(mode)
    with pytest.raises(RefusedError, match=r"environment may be written by others \(drwx"):
        check_private(folder)


def test_a_group_of_ones_own_shares_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a umask of 002, where each user has a group to himself."""
    folder.chmod(0o770)
    groups = {"gr_name": "me", "gr_mem": []}
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("User", (), {"pw_gid": folder.stat().st_gid, "pw_name": "me"}))
    monkeypatch.setattr("grp.getgrgid", lambda _: type("Group", (), groups))
    check_private(folder)
    groups["gr_mem"] = ["me", "you"]
    with pytest.raises(RefusedError):
        check_private(folder)
