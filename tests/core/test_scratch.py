"""What a killed process left is swept; what anybody uses never is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reprokit.core import scratch as scratches
from reprokit.core.scratch import ALL, OWNER, abandoned, sweep, temporary
from tests.conftest import ROOT

_HOLDS = """\
import sys, time
from reprokit.core.scratch import temporary
with temporary() as folder:
    (folder / "much").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def _holding() -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", _HOLDS], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_folders_of_killed_processes_go_and_those_in_use_stay() -> None:
    killed, live = [_holding() for _ in range(2)], _holding()
    for process, _ in killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    try:
        with temporary() as ours:
            assert sweep(dry_run=True)[0] == 2
            assert all(folder.is_dir() for _, folder in killed)
            count, freed = sweep()
            assert (count, freed > 2000) == (2, True)
            assert ours.is_dir()
        assert not ours.exists()
        assert live[1].is_dir()
        assert not any(folder.exists() for _, folder in killed)
        assert sweep() == (0, 0)
    finally:
        live[0].kill()
        live[0].wait()


@pytest.mark.parametrize(
    ("told", "gone"),
    [
        ({}, True),  # this machine, as it is now
        ({"boot": "another start"}, True),  # which ended every process
        ({"host": "another"}, True),  # a container on the same kernel, which knows of the lock
        ({"host": "another", "boot": "another"}, False),
        ({"machine": "another", "boot": "another"}, False),  # of the same name
    ],
)
def test_a_lock_tells_only_of_the_machine_that_it_was_taken_on(base: Path, told: dict[str, str], gone: bool) -> None:
    folder = base / "reprokit-abc"
    folder.mkdir()
    (folder / OWNER).write_text(json.dumps({**scratches._here(), **told}))
    assert list(abandoned(base, prefix="reprokit-")) == [folder] * gone
    assert list(abandoned(base, prefix="reprokit-", elsewhere=ALL)) == [folder]  # for who erases, locks alone tell
    for path in (folder / OWNER, folder):
        os.utime(path, (0, 0))
    assert list(abandoned(base, prefix="reprokit-")) == [folder]  # after years it is nobody's
    assert sweep()[0] == gone
    assert folder.exists() != gone


def test_what_is_not_ours_is_left_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / OWNER).touch()
    (base / "reprokit-link").symlink_to(elsewhere)
    (base / "reprokit-file").touch()
    (base / "reprokit-none").mkdir()  # of somebody who does not say so
    (base / "reprokit-odd").mkdir()
    (base / "reprokit-odd" / OWNER).write_text("[1")
    assert sweep() == (0, 0)
    (base / "reprokit-other").mkdir()
    (base / "reprokit-other" / OWNER).touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert sweep() == (0, 0)
    monkeypatch.undo()
    assert sorted(path.name for path in base.iterdir() if path.name.startswith("reprokit-")) == [
        "reprokit-file", "reprokit-link", "reprokit-none", "reprokit-odd", "reprokit-other"
    ]  # fmt: skip
    assert (elsewhere / OWNER).exists()


def test_a_file_system_without_locks_shows_nothing_as_abandoned(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "x").mkdir()
    (base / "x" / OWNER).touch()

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("reprokit.core.scratch.fcntl.flock", refuse)
    assert list(abandoned(base)) == []
