"""A temporary folder that lies deep, as batch systems give one, is no reason not to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project

SCRIPT = """
import multiprocessing
import reprokit

def child(number):
    reprokit.log(step=number, value=number)

if __name__ == "__main__":
    reprokit.save_checkpoint({}, epoch=0, state={"x": 1})
    process = multiprocessing.get_context("spawn").Process(target=child, args=(7,))
    process.start()
    process.join()
"""


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    folder = tmp_path / ("d" * 120) / "ü" / "tmp"
    folder.mkdir(parents=True)
    return folder


def test_a_run_and_its_processes(tmp_path: Path, small: Path, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(deep))
    project = Project(tmp_path, small)
    project.write("train.py", SCRIPT)
    project.write("recipe.yaml", "name: deep\ncode: {entrypoint: train.py}\nenvironment: current\n")
    project.commit()
    record = project.json("run", "recipe.yaml")
    assert record["metrics"] == {"value": 7}
    assert len(record["checkpoints"]) == 1
    assert os.listdir(deep) == []


def test_a_script_of_its_own_accord(tmp_path: Path, deep: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    homes = {name: str(tmp_path / name.lower()) for name in ("REPROKIT_HOME", "REPROKIT_CACHE", "REPROKIT_REGISTRY")}
    environment = {**os.environ, **homes, "TMPDIR": str(deep), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "reprokit", "ls"], env=environment, capture_output=True, text=True, check=True
    )
    assert listed.stdout.splitlines()[1].split()[1:4] == ["finished", "train", "1"]
