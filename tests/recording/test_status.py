"""What is running where, and what this machine has still to store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprokit.recording.journal import Journal
from reprokit.recording.status import status
from reprokit.registry.live import Now, StopRequest
from reprokit.registry.local import LocalRegistry
from tests.conftest import context_of, put_run

RUNS = [f"2026010{day}-000000-aaaaa{day}" for day in range(1, 5)]


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def test_runs_that_have_not_ended(registry: LocalRegistry, tmp_path: Path) -> None:
    context = context_of(tmp_path, registry)
    assert status(context=context).plain() == {"going": [], "waiting": []}
    put_run(registry, RUNS[0], ended="2026-01-02T03:04:05.000Z")
    put_run(registry, RUNS[1], status="running")  # its runner is dead
    with registry.claim(RUNS[2]):
        put_run(registry, RUNS[2], status="running", name="alive")
        live = registry.live(RUNS[2])
        live.tell(Now(by="x", at="y", checkpoints=2, checkpoint="epoch 1"))
        live.ask_to_stop(StopRequest(by="you", at="now"))
        dead, alive = status(context=context).going
    assert (dead.run_id, dead.status, dead.by, dead.now, dead.stop) == (RUNS[1], "interrupted", None, None, None)
    assert (alive.run_id, alive.status, alive.name) == (RUNS[2], "running", "alive")
    assert alive.by is not None
    assert "@" in alive.by
    assert alive.now is not None
    assert alive.now.checkpoint == "epoch 1"
    assert alive.stop == StopRequest(by="you", at="now")


def test_what_is_still_to_be_stored(registry: LocalRegistry, tmp_path: Path) -> None:
    context = context_of(tmp_path, registry)
    held = Journal.create(context.home, RUNS[0])
    held.event("start", registry="s3://away/team", top_hash="0" * 64)
    left = Journal.create(context.home, RUNS[1])
    left.event("start", registry="s3://away/team", top_hash="0" * 64)
    left.leave()
    unsaved = context.home / "runs" / RUNS[2] / "unsaved"
    unsaved.mkdir(parents=True)
    (context.home / "runs" / "strange").mkdir()
    found = status(context=context).waiting
    assert [(one.run_id, one.registry) for one in found] == [(RUNS[1], "s3://away/team"), (RUNS[2], None)]
    held.leave()
    assert [one.run_id for one in status(context=context).waiting] == RUNS[:3]
    assert json.dumps(status(context=context).plain())
