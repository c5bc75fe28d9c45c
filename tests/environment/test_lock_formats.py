"""An environment is written for other tools, and each format is read back by the tool that it is for."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.pylock import Pylock
from rattler.explicit_environment import ExplicitEnvironmentSpec

from reprokit.environment.capture import capture, capture_environment
from reprokit.environment.conda.rattler import solve_conda
from reprokit.environment.declared import read_conda_file
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.lock_formats import as_environment_yml, as_explicit, as_pylock, as_requirements
from reprokit.environment.pip.index import find_archives
from reprokit.schema.lock import EnvironmentLock
from tests.environment import channels
from tests.environment.making import install, only, venv, wheel


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
    read = yaml.safe_load(as_environment_yml(lock, [], name="a: run"))
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


def test_the_explicit_list_is_read_by_rattler_and_is_what_its_solver_reads_back(tmp_path: Path) -> None:
    channel = tmp_path / "channel"
    channels.stub_python(channel)
    channels.python_package(channel, "demo", "1.0", "rate = 0.1\n")
    address = channels.index(channel)
    python = channels.install(tmp_path / "prefix", address, "demo")
    install(python, wheel(tmp_path, "extra", "2.0", {"extra.py": "x = 1\n"}))
    found = capture(interpreter=Interpreter.at(python))
    text, lost = as_explicit(found.lock, found.archives)
    assert lost == {"extra": "pip installed it; see --as requirements"}
    read = ExplicitEnvironmentSpec.from_str(text)
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in channel.rglob("*.tar.bz2")}
    assert str(read.platform) == "linux-64"
    assert {one.url for one in read.packages} == {
        f"{address}/{'noarch' if name.startswith('demo') else 'linux-64'}/{name}#sha256:{digest}"
        for name, digest in hashes.items()
    }
    exported = yaml.safe_load(as_environment_yml(found.lock, found.archives, name="run"))
    assert (exported["channels"], exported["dependencies"][-1]) == ([address], {"pip": ["extra==2.0"]})
    (tmp_path / "environment.yml").write_text(as_environment_yml(found.lock, found.archives, name="run"))
    wanted = read_conda_file((tmp_path / "environment.yml").read_text(), what="environment.yml")
    packages, _ = solve_conda(wanted.specs, wanted.channels, cache=tmp_path / "cache", what="environment.yml")
    assert packages == found.lock.conda
