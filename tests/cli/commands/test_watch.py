"""A run is watched and stopped by another process, by the words that people type."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import Project

SCRIPT = """
import signal
import time

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
for step in range(1200):
    print("step", step, "\\x1b[31m", flush=True)
    time.sleep(0.05)
    if asked:
        print("saved", flush=True)
        break
"""
RECIPE = "name: slow\ncode: {entrypoint: train.py}\nenvironment: current\n"


def test_a_run_is_followed_and_stopped_from_elsewhere(tmp_path: Path, small: Path) -> None:
    project = Project(tmp_path, small)
    project.write("train.py", SCRIPT)
    project.write("recipe.yaml", RECIPE)
    project.commit()
    with subprocess.Popen(
        project.command("run", "recipe.yaml", "-q"), cwd=project.root, env=project.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not (going := project.json("status", home="other")["going"]) or going[0]["now"] is None:
                assert time.monotonic() < deadline, going
                time.sleep(0.3)
            run = going[0]["run_id"]
            assert going[0]["status"] == "running"
            assert f"process {running.pid}" in going[0]["by"]
            told = project.reprokit("status", home="other").stdout
            assert told.startswith(f"{run}  running      slow")
            assert "0 checkpoints" in told
            with subprocess.Popen(
                project.command("logs", "-f", run), cwd=project.root, env=project.environment("other"),
                stdout=subprocess.PIPE, text=True,
            ) as follower:  # fmt: skip
                done = project.reprokit("stop", run, "-m", "too slow", home="other")
                assert done.stdout == f"{run}: interrupted\n"
                assert running.wait(30) == 130
                written = follower.communicate(timeout=30)[0].splitlines()
        finally:
            running.send_signal(signal.SIGKILL)
    assert [line.split(" stdout ")[1].split(" ")[0] for line in written] == ["step"] * (len(written) - 1) + ["saved"]
    assert not any("\x1b" in line for line in written)
    record = project.json("show", run, home="other")
    assert record["status"] == "interrupted"
    assert record["failure"].startswith("Stopped by `reprokit stop` of ")
    assert record["failure"].endswith(": too slow.")
    assert not (project.registry / "live" / run).exists()
    assert project.reprokit("status", home="other").stdout == "nothing is running\n"
    refused = project.reprokit("stop", run, home="other", expect=3)
    assert "does not go on" in refused.stderr
    project.reprokit("note", run, "it was\x1b[31m too slow", home="other")
    assert "it was\\x1b[31m too slow" in project.reprokit("show", run, home="other").stdout


ALONE = """
import pathlib
import time

import reprokit

reprokit.save_checkpoint({}, epoch=0, state={"x": 1})
while not pathlib.Path("enough").exists():
    time.sleep(0.05)
"""


def test_a_script_that_no_runner_started_is_shown_and_not_stopped(tmp_path: Path, small: Path) -> None:
    project = Project(tmp_path, small)
    project.write("alone.py", ALONE)
    with subprocess.Popen([str(small), "alone.py"], cwd=project.root, env=project.environment()) as running:
        try:
            deadline = time.monotonic() + 60
            while not (going := project.json("status", home="other")["going"]) or going[0]["now"] is None:
                assert time.monotonic() < deadline, going
                time.sleep(0.3)
            assert (going[0]["name"], going[0]["checkpoints"]) == ("alone", 1)
            refused = project.reprokit("stop", "latest", home="other", expect=3)
            assert "no runner that passes it on" in refused.stderr
            assert "Stop the process that executes it: " in refused.stderr
            (project.root / "enough").touch()
            assert running.wait(30) == 0
        finally:
            running.kill()
    assert project.json("status", home="other") == {"going": [], "waiting": []}
