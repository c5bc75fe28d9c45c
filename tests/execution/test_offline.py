"""Work without the network: what is near is used, what is published waits here, and is sent by the next command."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.execution.test_far import SCRIPT, Far, far, python, started  # noqa: F401 - fixtures

KILLED_ONCE = """
if not mark.with_suffix(".killed").exists():
    mark.with_suffix(".killed").touch()
    os.kill(os.getppid(), 9)
raise SystemExit(3)
"""


@pytest.fixture
def away(far: Far) -> Far:  # noqa: F811
    """A project with a package and a run, which then loses its network."""
    far.json("package", "build", str(far.base / "inputs"), "t/in")
    far.write("recipe.yaml", (far.root / "recipe.yaml").read_text() + "data: {in: {package: t/in, path: in}}\n")
    far.commit()
    far.json("run", "recipe.yaml")
    far.proxy.away = True
    far.proxy.requests.clear()
    return far


def _folders(far: Far) -> list[Path]:  # noqa: F811
    return [path for path in (far.base / "home" / "offline").glob("*/*") if path.name != "lock"]


def test_work_goes_on_without_the_network_and_is_sent_when_it_is_back(away: Far) -> None:
    begun = time.monotonic()
    record = away.json("run", "recipe.yaml", "--offline")
    assert (record["status"], len(record["checkpoints"])) == ("finished", 3)
    first, mine = away.json("ls", "--offline")["runs"]
    assert mine["run_id"] == record["run_id"]
    assert away.json("show", first["run_id"], "--offline")["run_id"] == first["run_id"]
    assert away.json("diff", first["run_id"], mine["run_id"], "--offline")["verdict"].startswith("BITWISE")
    again = away.json("reproduce", mine["run_id"], "-y", "--offline")
    assert again["verdict"].startswith("BITWISE")
    away.reprokit("tag", "t/far", "chosen", "--offline")
    away.reprokit("note", mine["run_id"], "on a train", "--offline")
    assert time.monotonic() - begun < 100
    assert not away.proxy.requests, "something was asked of the network"

    away.proxy.away = False
    assert len(away.json("ls", home="other")["runs"]) == 1
    listed = away.reprokit("ls")
    assert "commit(s) that were made offline are in" in listed.stderr
    assert _folders(away) == []
    runs = away.json("ls", home="other")["runs"]
    assert [one["run_id"] for one in runs] == [first["run_id"], mine["run_id"], again["run_id"]]
    assert (runs[1]["reproduced"], runs[2]["verdict"]) == (True, "BITWISE")
    shown = away.json("show", mine["run_id"], home="other")
    assert [note["text"] for note in shown["notes"]] == ["on a train"]
    assert away.json("log", "t/far", home="other")[0]["tags"] == ["chosen", "latest"]
    assert away.json("verify", "--all", home="third")["problems"] == []
    assert away.json("reproduce", mine["run_id"], "-y", home="other")["verdict"].startswith("BITWISE")
    assert "offline" not in away.reprokit("ls").stderr


def test_what_others_did_meanwhile_stays(away: Far) -> None:
    before = away.json("log", "t/far", "--offline")
    away.reprokit("tag", f"t/far@{before[-1]['top_hash']}", "chosen", "--offline")
    away.json("run", "recipe.yaml", "--offline")
    away.proxy.away = False
    away.reprokit("tag", f"t/far@{before[0]['top_hash']}", "chosen", home="other")
    theirs = away.json("run", "recipe.yaml", home="other")
    said = away.reprokit("ls").stderr
    assert "The tag 'chosen' of t/far was moved by somebody else meanwhile" in said
    log = away.json("log", "t/far", home="third")
    assert next(one["top_hash"] for one in log if "chosen" in one["tags"]) == before[0]["top_hash"]
    assert {one["top_hash"] for one in theirs["checkpoints"]} <= {one["top_hash"] for one in log}
    assert len(away.json("ls", home="third")["runs"]) == 3
    assert away.json("verify", "--all", home="third")["problems"] == []


def test_what_is_not_here_is_said_to_be_missing_here(away: Far, tmp_path: Path) -> None:
    (run,) = away.json("ls", "--offline")["runs"]
    assert (
        "is on this machine, so it cannot be used offline"
        in away.reprokit("ls", "--offline", home="new", expect=11).stderr
    )
    away.proxy.away = False
    away.json("ls", home="new")
    away.proxy.away = True
    assert away.json("ls", "--offline", home="new")["runs"][0]["run_id"] == run["run_id"]
    for words in (("show", run["run_id"]), ("install", "t/in", str(tmp_path / "in")), ("log", "t/far")):
        said = away.reprokit(*words, "--offline", home="new", expect=10).stderr
        assert "only the network would bring it" in said, said
    for words in (("gc",), ("verify", "--all")):
        assert "needs the network" in away.reprokit(*words, "--offline", expect=3).stderr
    away.reprokit("install", "t/in", str(tmp_path / "here"), "--offline")
    assert len(os.listdir(tmp_path / "here")) == 3


@pytest.mark.parametrize("commits", [1, 3, 5])
def test_a_command_that_is_killed_while_it_sends_is_gone_on_with(away: Far, commits: int) -> None:
    away.json("run", "recipe.yaml", "--offline")
    away.proxy.away = False
    code = (
        "import os, signal, sys; from reprokit.recording import outbox; from reprokit.cli.main import main\n"
        "repeat, left = outbox._repeat, [int(sys.argv.pop(1))]\n"
        "def once(*args):\n"
        "    yield from repeat(*args)\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "outbox._repeat = once\n"
        "main()\n"
    )
    killed = subprocess.run(
        [away.python, "-c", code, str(commits), "ls"], cwd=away.root, env=away.environment(), check=False
    )
    assert killed.returncode == -9
    runs = away.json("ls")["runs"]
    assert [one["status"] for one in runs] == ["finished", "finished"]
    assert [one["checkpoints"] for one in runs] == [3, 3]
    log = away.json("log", "t/far", home="other")
    assert len(log) == len({one["top_hash"] for one in log if one["action"] == "publish"})
    assert away.json("verify", "--all", home="other")["problems"] == []
    assert _folders(away) == []


def test_a_run_that_is_killed_offline_is_completed_offline(away: Far) -> None:
    code = f"{SCRIPT}{KILLED_ONCE}"
    away.write("train.py", code)
    away.commit()
    away.reprokit("run", "recipe.yaml", "--offline", expect=None)
    _, killed = away.json("ls", "--offline")["runs"]
    assert killed["status"] == "interrupted"
    assert killed["checkpoints"] >= 1  # a script goes on while the last ones are stored
    away.proxy.away = False
    assert [one["status"] for one in away.json("ls")["runs"]] == ["finished", "interrupted"]
    assert away.json("ls", home="other")["runs"][1]["checkpoints"] == killed["checkpoints"]
    away.reprokit("resume", killed["run_id"], "--offline", expect=6)
    assert away.json("show", killed["run_id"], "--offline")["status"] == "failed"
    assert away.json("show", killed["run_id"], home="other")["status"] == "interrupted"
    assert [one["status"] for one in away.json("ls")["runs"]] == ["finished", "failed"]
    assert away.json("show", killed["run_id"], home="other")["status"] == "failed"


@LONG
def test_a_journal_of_before_waits_for_the_network(far: Far) -> None:  # noqa: F811
    with started(far, "wait") as running:
        _, said = running.communicate(timeout=120)
        assert running.returncode == 11, said
    far.proxy.requests.clear()
    listed = far.reprokit("ls", "--offline")
    assert "still to be completed" not in listed.stderr
    assert not far.proxy.requests
    (waiting,) = far.json("status", "--offline")["waiting"]
    assert waiting["what"].startswith("its record is to be completed")
    far.proxy.away = False
    assert [one["status"] for one in far.json("ls")["runs"]] == ["finished"]


def test_nothing_is_sent_while_somebody_works_offline(away: Far) -> None:
    away.write("train.py", f"import time\n{SCRIPT}\ntime.sleep(6)\n")
    away.commit()
    with subprocess.Popen(
        away.command("run", "recipe.yaml", "--offline", "-q"), cwd=away.root, env=away.environment()
    ) as running:
        while len(away.json("ls", "--offline")["runs"]) < 2:
            assert running.poll() is None
        away.proxy.away = False
        assert len(away.json("ls")["runs"]) == 1
        assert running.wait(60) == 0
    (waiting,) = away.json("status", "--offline")["waiting"]
    assert waiting["what"].endswith(
        "commit(s) that were made offline are to be sent; every command with the network does"
    )
    assert len(away.json("ls")["runs"]) == 2
    assert away.json("status")["waiting"] == []


def test_what_a_killed_sender_left_behind_hides_nothing_that_is_published_later(away: Far) -> None:
    """Killed when all was sent and the logs were gone: its note names numbers that later commits have too."""
    log = away.json("log", "t/far", "--offline")
    (folder,) = [away.base / "home" / "offline" / uuid for uuid in os.listdir(away.base / "home-cache" / "near")]
    folder.mkdir(parents=True)
    (folder / "address").write_text(away.environment()["REPROKIT_REGISTRY"])
    (folder / "sent").write_text("".join(f"t/far {seq}\n" for seq in range(20)))
    away.reprokit("tag", f"t/far@{log[0]['top_hash']}", "chosen", "--offline")
    away.proxy.away = False
    assert "1 commit(s) that were made offline are in" in away.reprokit("ls").stderr
    assert "chosen" in away.json("log", "t/far", home="other")[0]["tags"]


def test_a_version_that_was_there_keeps_what_was_said_of_it_offline(away: Far) -> None:
    """Built again offline it is the same version: its new tag, and that it is the latest, are sent all the same."""
    first = away.json("log", "t/in", "--offline")[0]["top_hash"]
    (away.base / "more").mkdir()
    (away.base / "more" / "a.txt").write_text("a")
    away.json("package", "build", str(away.base / "more"), "t/in", "--offline")
    away.json("package", "build", str(away.base / "inputs"), "t/in", "--tag", "again", "--offline")
    away.proxy.away = False
    away.reprokit("ls")
    newest = away.json("log", "t/in", home="other")[0]
    assert (newest["top_hash"], newest["tags"]) == (first, ["again", "latest"])


def test_what_can_no_longer_be_done_is_said_and_holds_nothing_up(away: Far) -> None:
    top_hash = away.json("log", "t/far", "--offline")[-1]["top_hash"]
    away.reprokit("tag", f"t/far@{top_hash}", "chosen", "--offline")
    away.json("run", "recipe.yaml", "--offline")
    away.proxy.away = False
    away.reprokit("rm", f"t/far@{top_hash}", "--force", home="other")
    said = away.reprokit("ls").stderr
    assert "What was done offline to t/far (tag) cannot be done any more" in said
    assert _folders(away) == []
    assert len(away.json("ls", home="other")["runs"]) == 2


def test_nothing_is_called_purged_without_the_network(away: Far) -> None:
    digest = away.json("ls", "t/in", "--offline")[0]["hash"]
    said = away.reprokit("purge", "--entry", "t/in:0.txt", "--reason", "asked", "-y", "--offline", expect=None)
    assert said.returncode == 3, said.stderr
    assert "purge needs the network" in said.stderr
    assert away.json("ls", "t/in", "--offline")[0]["hash"] == digest
