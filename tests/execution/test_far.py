"""Runs into a registry that is far: the network goes away, or the runner is killed, and nothing of them is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG, SCALE, Project
from tests.environment.making import copied, needed_by_reprokit
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.object_stores import Server

SCRIPT = """
import os
import pathlib
import time

import numpy as np
import reprokit

mark, end = pathlib.Path(os.environ["MARK"]), os.environ["END"]
weights = np.zeros(4)
for epoch in range(3):
    weights += epoch + 0.5
    reprokit.save_checkpoint({"weights": weights}, epoch=epoch)
    if epoch == 0:
        mark.with_suffix(".began").touch()
        while end != "at once" and not mark.exists():
            time.sleep(0.02)
if end == "kill":
    mark.with_suffix(".saved").touch()
    time.sleep(600)
pathlib.Path("out.txt").write_text(str(weights.tolist()))
"""
RECIPE = """\
name: far
code: {entrypoint: train.py}
environment: current
checkpoints: {package: t/far}
execution: {secrets: [MARK, END]}
outputs: [out.txt]
"""


class Far(Project):
    """A project whose registry lies behind a network that can go away."""

    proxy: FaultProxy
    store: Server

    def environment(self, home: str = "home") -> dict[str, str]:
        told = {**self.store.variables, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}"}
        facts = {"MARK": str(self.base / "mark"), "END": "at once"}
        return {**super().environment(home), **told, **facts, "REPROKIT_REGISTRY": f"s3://bucket/{self.name}"}

    name = ""

    def mark(self, kind: str) -> Path:
        return self.base / f"mark{kind}"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what reprokit and an object store need."""
    return copied(tmp_path_factory.mktemp("far") / "venv", needed_by_reprokit("obstore"))


@pytest.fixture
def far(weed: Server, tmp_path: Path, python: Path) -> Iterator[Far]:
    project = Far(tmp_path, python)
    project.name, project.store = str(uuid.uuid4()), weed
    project.write("train.py", SCRIPT)
    project.write("recipe.yaml", RECIPE)
    project.commit()
    with fault_proxy(weed.port) as proxy:
        project.proxy = proxy
        yield project


@contextlib.contextmanager
def started(far: Far, end: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run, and take the network away when its first checkpoint was saved."""
    with subprocess.Popen(
        far.command("run", "recipe.yaml", "-q"), cwd=far.root, env={**far.environment(), "END": end},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        try:
            wait_for(far.mark(".began"), running)
            far.proxy.away = True
            far.mark("").touch()
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


def wait_for(mark: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@LONG
def test_a_network_that_is_away_at_the_end_costs_nothing(far: Far) -> None:
    with started(far, "wait") as running:
        _, said = running.communicate(timeout=120)
        assert running.returncode == 11, said
    assert "its record could not be written" in said
    far.proxy.away = False
    (row,) = far.json("ls", home="other")["runs"]
    assert row["status"] in ("running", "interrupted")  # as far as anybody else can know
    (mine,) = far.json("ls")["runs"]
    assert (mine["status"], mine["checkpoints"]) == ("finished", 3)
    assert far.json("status") == {"going": [], "waiting": []}
    assert far.json("verify", mine["run_id"], home="third")["problems"] == []
    again = far.json("reproduce", mine["run_id"], "-y", home="other")
    assert again["verdict"].startswith("BITWISE"), again


def test_what_a_killed_runner_had_not_sent_the_next_command_sends(far: Far) -> None:
    with started(far, "kill") as running:
        wait_for(far.mark(".saved"), running)
        (journal,) = (far.base / "home" / "runs").glob("*/journal.jsonl")
        while journal.read_text().count('"spooled"') < 3:  # the script goes on while its checkpoint is stored
            time.sleep(0.02)
    far.proxy.away = False
    (mine,) = far.json("ls")["runs"]
    assert (mine["status"], mine["checkpoints"]) == ("interrupted", 3)
    record = far.json("show", mine["run_id"], home="other")
    assert [one["epoch"] for one in record["checkpoints"]] == [0, 1, 2]
    assert far.json("verify", mine["run_id"], home="third")["problems"] == []
    resumed = far.json("resume", mine["run_id"], patience=180)
    assert resumed["status"] == "finished"


@pytest.mark.parametrize("seed", range(max(1, round(SCALE))))
def test_a_run_and_a_repetition_through_a_network_that_breaks(far: Far, seed: int) -> None:
    """A quarter of the requests meet a fault: what is done is done to the last bit, what is not is named and kept."""
    far.json("run", "recipe.yaml")
    far.proxy.reseed(seed, share=0.25)
    tried = [
        far.reprokit("run", "recipe.yaml", expect=None, patience=400),
        far.reprokit("reproduce", "latest", "-y", home="other", expect=None, patience=400),
    ]
    faults = sum(far.proxy.faults.values())
    far.proxy.reseed(seed, share=0.0)
    for done in tried:
        assert done.returncode in (0, 11), done.stderr
        assert done.returncode == 0 or far.name in done.stderr
    assert faults > 20
    for home in ("home", "other"):
        far.json("ls", home=home)  # completes what could not be sent
        assert far.json("status", home=home)["waiting"] == []
    runs = far.json("ls", home="third")["runs"]
    assert [(one["status"], one["checkpoints"]) for one in runs] == [("finished", 3)] * len(runs)
    assert len(runs) >= 1 + sum(done.returncode == 0 for done in tried)
    assert {one["verdict"] for one in runs if one["reproduces"]} <= {"BITWISE"}
    assert far.json("verify", "--all", home="third")["problems"] == []
    print(f"{faults} faults, {sum(done.returncode != 0 for done in tried)} named, 0 lost")
