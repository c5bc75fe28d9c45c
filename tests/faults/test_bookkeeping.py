"""Nothing that a run made is lost to bookkeeping: each way of losing it is injected into a real run."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import LONG, Project

_ODD = """\
import os, pathlib, numpy as np, reprokit
out = pathlib.Path("out"); out.mkdir()
for name in ("fine", "Twin", "twin", "a\\\\b", "e\\u0301", os.fsdecode(b"caf\\xe9"), "li\\x1bne\\n"):
    (out / name).write_text("x")
(out / "leads-out").symlink_to("/etc/hostname")
os.mkfifo(out / "pipe")
reprokit.save_checkpoint({"w": np.zeros(3)}, epoch=0, loss=0.5).result()
"""


def test_one_unusable_name_costs_no_other_output_and_not_the_run(project: Project) -> None:
    project.write("train.py", _ODD)
    project.write("recipe.yaml", "name: odd\ncode: {entrypoint: train.py}\noutputs: [out]\n")
    project.commit()
    done = project.reprokit("run", "recipe.yaml")
    assert "output       out/leads-out  not kept: it is a symbolic link that leads out of the workspace" in done.stdout
    record = project.json("show", "latest")
    assert record["status"] == "finished"
    kept = {output["path"] for output in record["outputs"] if output["digest"] is not None}
    unkept = {output["path"] for output in record["outputs"] if output["unkept"] is not None}
    assert kept == {"out/fine", "out/Twin", "out/li\x1bne\n"}
    assert unkept == {"out/twin", "out/a\\b", "out/e\u0301", "out/caf\\xe9", "out/leads-out", "out/pipe"}
    warned = [text for text in record["warnings"] if "not kept" in text]
    assert len(warned) == 7
    workspace = Path(warned[-1].removeprefix("What is not kept stays in ").removesuffix("."))
    assert (workspace / "out" / "twin").read_text() == "x"
    assert not any("not declared outputs" in text for text in record["warnings"])
    assert project.json("verify", "--all")["problems"] == []


_LAST = """\
import pathlib, shutil, numpy as np, reprokit
reprokit.save_checkpoint({"w": np.zeros(3)}, epoch=0, loss=0.5).result()
pathlib.Path("out.bin").write_bytes(np.random.default_rng(1).bytes(2_000_000))
INJECTED
print("the end")
"""


def _last(project: Project, injected: str = "") -> None:
    project.write("train.py", _LAST.replace("INJECTED", injected))
    project.write("recipe.yaml", "name: last\ncode: {entrypoint: train.py}\noutputs: [out.bin]\n")
    project.commit()


def test_a_disk_that_is_full_at_the_end_costs_nothing_once_there_is_room(project: Project) -> None:
    """Registry and home on a disk that has room for neither the output nor, at first, for anything else."""
    place = project.base / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of limited size cannot be mounted here: that needs root")
    try:
        (project.base / "tight").symlink_to(place)
        project.registry = place / "r"
        fill = f"open({str(place / 'filler')!r}, 'wb').write(bytes(1 << 22))"
        _last(project, f"try:\n    {fill}\nexcept OSError:\n    pass")
        done = project.reprokit("run", "recipe.yaml", home="tight", expect=11)
        assert "ended (finished), and its record could not be written." in done.stderr, done.stderr
        assert "No space left on device" in done.stderr
        (folder,) = (project.base / "tight" / "runs").iterdir()
        assert f"log, metrics and what else is not in the registry are in {folder}" in done.stderr
        assert project.json("ls", home="tight")["runs"][0]["status"] == "interrupted"  # there is no room yet
        subprocess.run(["mount", "-o", "remount,size=20m", str(place)], check=True)
        (run,) = project.json("ls", home="tight")["runs"]
        assert (run["status"], run["checkpoints"]) == ("finished", 1)
        record = project.json("show", "latest", home="tight")
        assert record["outputs"][0]["size"] == 2_000_000
        assert "1 line(s) are missing from the log: they could not be written." in record["warnings"]
        assert project.json("verify", "--all", home="tight")["problems"] == []
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@LONG
def test_a_runner_that_is_killed_while_it_stores_the_outputs_loses_none(project: Project) -> None:
    _last(project, "pathlib.Path('out.bin').write_bytes(np.random.default_rng(1).bytes(400_000_000))")
    runner = subprocess.Popen(
        project.command("run", "recipe.yaml", "-q"), cwd=project.root, env=project.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    runs = project.base / "home" / "runs"
    while not list(runs.glob("*/ended.json")) and runner.poll() is None:
        time.sleep(0.01)
    runner.kill()
    assert runner.wait() == -9
    record = project.json("show", "latest")
    assert (record["status"], record["outputs"][0]["size"], len(record["checkpoints"])) == ("finished", 400_000_000, 1)
    assert not list(runs.iterdir())


@LONG
def test_a_registry_that_is_taken_away_in_mid_run_and_put_back_has_the_whole_run(project: Project) -> None:
    away = project.base / "away"
    _last(project, f"__import__('time').sleep(2); pathlib.Path({str(project.registry)!r}).rename({str(away)!r})")
    done = project.reprokit("run", "recipe.yaml", expect=11)
    assert f"The registry {project.registry} is gone" in done.stderr
    assert not project.registry.exists()
    away.rename(project.registry)
    record = project.json("show", "latest")
    assert (record["status"], record["outputs"][0]["size"], len(record["checkpoints"])) == ("finished", 2_000_000, 1)
    assert project.json("verify", "--all")["problems"] == []
