"""A run that goes on is a screen of the terminal, and whoever leaves it leaves the training alone."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyte

from reprokit.cli.text.watched import watched_lines
from reprokit.registry.live import Now
from reprokit.runs.watching import Seen
from reprokit.schema.record import CheckpointEntry, Record
from tests import terminals
from tests.conftest import Project

_ROWS, _COLUMNS = 24, 80
_AT = datetime(2026, 1, 1, 1, 2, 3, tzinfo=UTC)


def _seen(**facts: object) -> Seen:
    saved = [
        CheckpointEntry(
            package="t/m", top_hash="a" * 64, state_digest="x", epoch=n, step=n, metrics={"loss": 1 / (n + 1)}
        )
        for n in range(4)
    ]
    record = Record(
        run_id="20260101-000000-000000", name="n\x1b[31m", status="running", lock_hash=None, code=None,
        environment=None,
        started="2026-01-01T00:00:00Z", checkpoints=saved, **facts,
    )  # type: ignore[arg-type]  # fmt: skip
    now = Now(by="u@h", at="", metrics={"loss": 0.25})
    return Seen(record=record, now=now, lines=[f"line {n} \x1b]0;title\x07" for n in range(100)])


def test_a_screen_has_how_far_it_is_curves_and_the_end_of_the_log() -> None:
    lines = watched_lines(_seen(), width=_COLUMNS, height=_ROWS, at=_AT)
    texts = [text for text, _ in lines]
    assert len(lines) <= _ROWS and all(len(text) <= _COLUMNS and text.isprintable() for text in texts)
    assert texts[0] == "n\\x1b[31m  20260101-000000-000000"
    assert lines[1] == ("running  for 1:02:03  4 saved, the last at epoch 3", "cyan")
    assert texts[2] == "loss=0.25"
    assert texts[3].startswith("loss  ") and "1 → 0.25" in texts[3]
    assert texts[-2].startswith("line 99 ")
    assert texts[-1] == "q leaves; the training goes on"
    ended = watched_lines(_seen(ended="2026-01-01T00:00:09Z"), width=_COLUMNS, height=8, at=_AT)
    assert len(ended) <= 8 and " for " not in ended[1][0]


def test_q_leaves_and_the_training_goes_on_to_its_end(tmp_path: Path, small: Path) -> None:
    project, hold = Project(tmp_path, small), tmp_path / "hold"
    project.build()
    project.hook(f"while epoch == 1 and os.path.exists({str(hold)!r}): time.sleep(0.05)")
    hold.touch()
    command = project.command("run", "recipe.yaml", "-q")
    quiet = subprocess.DEVNULL
    runner = subprocess.Popen(command, cwd=project.root, env=project.environment(), stdout=quiet, stderr=quiet)
    try:
        until = time.monotonic() + 60
        while not project.json("status")["going"]:
            assert time.monotonic() < until
            time.sleep(0.2)
        shown = _watched(project, lambda text: "epoch 1" in text and "q leaves" in text, b"q")
        assert "tiny  " in shown and "running  for " in shown
        assert runner.poll() is None
        assert "running  for " in project.reprokit("watch").stdout  # without a terminal: once

        def go_on(text: str) -> bool:
            if "epoch 1" in text:
                hold.unlink(missing_ok=True)
            return False

        ended = _watched(project, go_on, b"")
        assert ended.rstrip().endswith(": finished")
        assert runner.wait(60) == 0
        assert "Nothing is running." in project.reprokit("watch", expect=10).stderr
    finally:
        hold.unlink(missing_ok=True)
        runner.kill()
        runner.wait()


def _watched(project: Project, enough: Callable[[str], bool], keys: bytes) -> str:
    """Watch on a terminal until the screen says enough, then press keys; return what stood there, or does at last."""
    screen = pyte.Screen(_COLUMNS, _ROWS)
    stream = pyte.ByteStream(screen)
    pid, terminal = terminals.on_a_terminal(project.command("watch"), project, rows=_ROWS, columns=_COLUMNS)
    found, until = "", time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                stream.feed(os.read(terminal, 65536))
            except OSError:  # Linux says so at the end
                break
        text = "\n".join(line.rstrip() for line in screen.display)
        if not found and enough(text):
            found = text
            os.write(terminal, keys)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "\n".join(screen.display)
    return found if keys else "\n".join(screen.display)
