"""An environment is written for other tools, and each format is read back by the tool that it is for."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.pylock import Pylock

from reprokit.environment.archives import find_archives
from reprokit.environment.capture import capture_environment
from reprokit.environment.exports import as_environment_yml, as_pylock, as_requirements
from reprokit.environment.interpreter import Interpreter
from reprokit.lock import EnvironmentLock
from tests.environment.making import only, venv, wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "demo", "1.0", {"demo.py": "x = 1\n"})
    wheel(folder, "other", "2.0", {"other.py": "x = 1\n"})
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(folder))
    return folder


@pytest.fixture
def lock(tmp_path: Path, index: Path) -> EnvironmentLock:
    ours = wheel(tmp_path, "ours", "3.0", {"ours.py": "x = 1\n"})
    python = venv(tmp_path / "venv", [*index.iterdir(), ours])
    return capture_environment(interpreter=Interpreter.at(python))


def test_requirements_are_what_pip_takes_with_hashes_and_no_others(
    lock: EnvironmentLock, index: Path, tmp_path: Path
) -> None:
    archives, lost = find_archives(lock, interpreter=Interpreter.here(), cache=tmp_path / "cache")
    assert ([one.name for one in archives], lost) == (["demo", "other"], {"ours": "no index serves it"})
    file = tmp_path / "requirements.txt"
    file.write_text(as_requirements(lock, archives, lost))
    assert "# not here: ours 3.0: no index serves it" in file.read_text()
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--require-hashes",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
    ]
    done = subprocess.run([*command, "-r", file, "--report", "-", "-q"], capture_output=True, text=True, check=True)
    taken = {row["metadata"]["name"]: row["metadata"]["version"] for row in json.loads(done.stdout)["install"]}
    assert taken == {"demo": "1.0", "other": "2.0"}
    wheel(index, "demo", "1.0", {"demo.py": "x = 2\n"})
    refused = subprocess.run([*command, "-r", file], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_pylock_is_read_by_packaging(lock: EnvironmentLock, tmp_path: Path) -> None:
    archives, lost = find_archives(lock, interpreter=Interpreter.here(), cache=tmp_path / "cache")
    read = Pylock.from_dict(tomllib.loads(as_pylock(lock, archives, lost)))
    assert [(str(one.name), str(one.version)) for one in read.packages] == [("demo", "1.0"), ("other", "2.0")]
    (demo,) = read.packages[0].wheels or ()
    assert (demo.name, demo.hashes) == ("demo-1.0-py3-none-any.whl", {"sha256": archives[0].sha256})
    assert read.environments is not None
    assert all(marker.evaluate() for marker in read.environments)


def test_environment_yml_has_what_conda_env_export_has(lock: EnvironmentLock) -> None:
    read = yaml.safe_load(as_environment_yml(lock, name="a: run"))
    assert read["name"] == "a: run"
    assert read["dependencies"][0] == f"python={lock.python}"
    assert read["dependencies"][-1] == {"pip": ["demo==1.0", "other==2.0", "ours==3.0"]}


def test_a_wheel_for_another_platform_is_not_taken_for_the_installed_one(
    lock: EnvironmentLock, index: Path, tmp_path: Path
) -> None:
    file = index / "demo-1.0-py3-none-any.whl"
    file.rename(index / "demo-1.0-py2.py3-none-any.whl")
    _, lost = find_archives(lock, interpreter=Interpreter.here(), cache=tmp_path / "cache")
    assert lost["demo"] == "the index has demo-1.0-py2.py3-none-any.whl, which is not the wheel that was installed"
