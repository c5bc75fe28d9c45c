"""A lock beside a recipe, and the world that has moved on since."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.environment.making import copied, needed_by_reprokit, only, repacked, wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for version in ("1.0", "1.1"):
        wheel(folder, "demo", version, {"demo.py": f"rate = {version}\n"})
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(folder))
    return folder


@pytest.fixture(scope="module")
def with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what reprokit needs, and pip, which solves: looking at what is there takes no time."""
    return copied(tmp_path_factory.mktemp("pip") / "venv", needed_by_reprokit("pip"))


def test_a_lock_stands_until_its_files_change(index: Path, tmp_path: Path, with_pip: Path) -> None:
    project = Project(tmp_path, with_pip)
    project.build()
    project.write("recipe.yaml", (project.root / "recipe.yaml").read_text() + "environment: {pip: requirements.txt}\n")
    project.write("requirements.txt", "demo\n")
    project.write("train.py", "import demo, json; json.dump({'rate': demo.rate}, open('metrics.json', 'w'))\n")
    assert "2 packages" not in (first := project.reprokit("lock", "recipe.yaml").stdout)
    assert "1 packages" in first
    wheel(index, "demo", "1.2", {"demo.py": "rate = 1.2\n"})
    project.commit()
    record = project.json("run", "recipe.yaml", "-q")
    assert record["outputs"][0]["path"] == "metrics.json"
    run_lock = json.loads((project.root / "recipe.lock.json").read_text())
    assert [one["version"] for one in run_lock["environment"]["pip"]] == ["1.1"]
    assert project.reprokit("lock", "recipe.yaml").stdout.count("1.2") == 0
    assert "demo 1.1 → 1.2" in project.reprokit("lock", "recipe.yaml", "--upgrade").stdout
    project.write("requirements.txt", "demo<1.1\n")
    project.commit()
    refused = project.reprokit("run", "recipe.yaml", expect=3)
    assert "recipe.lock.json is out of date" in refused.stderr
    assert "demo 1.2 → 1.0" in project.reprokit("lock", "recipe.yaml").stdout
    project.commit()
    project.json("run", "recipe.yaml", "-q")
    done = project.reprokit("reproduce", "latest", home="elsewhere")
    assert "BITWISE" in done.stdout


def test_where_wheels_are_is_asked_only_if_wanted(index: Path, tmp_path: Path) -> None:
    python = copied(tmp_path / "venv", needed_by_reprokit())
    repacked(index, needed_by_reprokit())
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "demo==1.0"]
    subprocess.run(command, check=True)
    project = Project(tmp_path)
    project.build()
    project.python = str(python)
    told = {}
    for options in ([], ["--archives"]):
        project.reprokit("lock", "recipe.yaml", *options)
        told[bool(options)] = json.loads((project.root / "recipe.lock.json").read_text())
    assert [one["name"] for one in told[False]["archives"] if one["name"] == "demo"] == []
    (demo,) = [one for one in told[True]["archives"] if one["name"] == "demo"]
    assert demo["url"] == (index / demo["file"]).as_uri()
    assert demo["sha256"] == hashlib.sha256((index / demo["file"]).read_bytes()).hexdigest()
    assert told[True]["environment"] == told[False]["environment"]


def test_without_a_lock_a_declared_environment_is_solved_and_that_is_said(
    index: Path, tmp_path: Path, with_pip: Path
) -> None:
    project = Project(tmp_path, with_pip)
    project.write("recipe.yaml", "name: bare\ncode: {entrypoint: train.py}\nenvironment: {pip: requirements.txt}\n")
    project.write("requirements.txt", "demo\n")
    project.write("train.py", "import demo; print('rate', demo.rate)\n")
    project.commit()
    done = project.reprokit("run", "recipe.yaml")
    assert "rate 1.1" in done.stdout
    assert "`reprokit lock recipe.yaml` keeps what was chosen" in done.stderr
    assert "BITWISE" not in project.reprokit("reproduce", "latest", expect=8).stdout  # nothing to compare
    here = project.reprokit("run", "recipe.yaml", "--env", "current", expect=6)
    assert "No module named 'demo'" in here.stdout + here.stderr
