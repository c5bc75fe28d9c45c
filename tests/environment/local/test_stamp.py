"""Many files are looked at by several processes, and come to the same digest as by one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from reprokit.environment.local import stamp
from reprokit.environment.local.stamp import Folders, Stamp


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Sixty files in twelve folders, of which two processes look at each a part."""
    monkeypatch.setattr(stamp, "_SHARE", 20)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for folder in range(12):
        (tmp_path / str(folder)).mkdir()
        for name in range(5):
            (tmp_path / str(folder) / f"{name}.py").write_text(f"{folder} {name}")
    return Stamp().walk(str(tmp_path))


def _digest(folders: Folders) -> str:
    one = Stamp()
    one.add(folders)
    return one.digest


def _alone(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        return _digest(folders)


def test_processes_come_to_what_one_comes_to(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked = []
    monkeypatch.setattr(os, "fork", lambda fork=os.fork: forked.append(1) or fork())
    before = _digest(folders)
    assert len(forked) == 2
    assert before == _alone(folders, monkeypatch)
    (tmp_path / "11" / "4.py").write_text("edited")
    assert _digest(folders) == _alone(folders, monkeypatch) != before
    (tmp_path / "6" / "0.py").unlink()  # a file, and with it what a process has to say, is gone
    gone = _digest(folders)
    assert gone == _alone(folders, monkeypatch) != before


def test_what_a_process_could_not_say_is_looked_at_here(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    before, here, look = _digest(folders), os.getpid(), Stamp._look

    def killed(self: Stamp, some: Iterable[tuple[str, list[str]]]) -> None:
        look(self, some)
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Stamp, "_look", killed)
    assert _digest(folders) == before
