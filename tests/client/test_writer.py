"""Handing snapshots over: a bounded queue, errors where they are seen, nothing lost with the script."""

from __future__ import annotations

from tests.conftest import Project


def _script(project: Project, body: str) -> None:
    project.write("train.py", "import os, signal, sys, time\nimport numpy as np\nimport reprokit\n" + body)
    project.write(
        "recipe.yaml",
        "name: w\ncode: {entrypoint: train.py}\nexecution: {threads: 1, inputs: off}\ncheckpoints: {package: w/m}\n",
    )
    project.commit()


def test_a_snapshot_handed_over_survives_the_script(project: Project) -> None:
    _script(
        project,
        "w = np.random.default_rng(0).normal(size=8_000_000)\n"
        "for epoch in range(2):\n"
        "    reprokit.save_checkpoint({'w': w + epoch}, epoch=epoch)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    project.reprokit("run", "recipe.yaml", expect=130)
    assert [entry["epoch"] for entry in project.json("show", "latest")["checkpoints"]] == [0, 1]
    assert project.json("verify", "--all")["problems"] == []


def test_saving_faster_than_the_disk_waits_and_takes_two_buffers_at_most(project: Project) -> None:
    _script(
        project,
        "w = np.random.default_rng(0).normal(size=1_000_000)\n"
        "for epoch in range(12):\n"
        "    reprokit.save_checkpoint({'w': w * (epoch + 1)}, epoch=epoch)\n"
        "maps = open('/proc/self/maps').read().splitlines()\n"
        "print('buffers', len({line.split()[4] for line in maps if 'reprokit-snapshot' in line}))\n",
    )
    project.reprokit("run", "recipe.yaml")
    log = project.reprokit("logs", "latest").stdout
    assert int(log.rpartition("buffers ")[2].split()[0]) in (1, 2)
    record = project.json("show", "latest")
    assert [entry["epoch"] for entry in record["checkpoints"]] == list(range(12))
    assert len({entry["state_digest"] for entry in record["checkpoints"]}) == 12


_PURGED = "w = np.arange(300_000.0)\nfirst = reprokit.save_checkpoint({'w': w}, epoch=0)\n"


def _purge_first_tensor(project: Project) -> None:
    record = project.json("run", "recipe.yaml")
    entry = record["checkpoints"][0]
    place = f"{entry['package']}@{entry['top_hash']}:model/w.safetensors"
    project.reprokit("purge", "--entry", place, "--reason", "a duty to erase", "-y")


def test_what_could_not_be_stored_is_raised_at_the_next_save(project: Project) -> None:
    _script(project, _PURGED + "time.sleep(2)\nreprokit.save_checkpoint({'w': w + 1}, epoch=1)\n")
    _purge_first_tensor(project)
    done = project.reprokit("run", "recipe.yaml", expect=6)
    assert "line 7, in <module>" in done.stderr, "the save itself raises"
    assert "a checkpoint was not stored" in done.stderr
    assert "is not stored again" in done.stderr


def test_what_could_not_be_stored_at_the_very_end_fails_the_run(project: Project) -> None:
    _script(project, _PURGED)
    _purge_first_tensor(project)
    project.reprokit("run", "recipe.yaml", expect=6)
    record = project.json("show", "latest")
    assert record["status"] == "failed"
    assert record["failure"].startswith("Not stored: ")


def test_a_script_that_was_told_and_goes_on_is_its_own_judge(project: Project) -> None:
    _script(
        project,
        _PURGED + "try:\n    first.result()\nexcept RuntimeError as error:\n    print('told', error)\n",
    )
    _purge_first_tensor(project)
    record = project.json("run", "recipe.yaml")
    assert record["status"] == "finished"
    assert any(text.startswith("Not stored: ") for text in record["warnings"])
