"""What processes of a run hand over reaches the runner, however short they live."""

from __future__ import annotations

import socket
from pathlib import Path

from reprokit.client.connection import Connection
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.journal import Journal
from reprokit.recording.server import Session
from reprokit.registry.local import LocalRegistry


def test_who_is_gone_before_its_line_was_seen_is_heard(tmp_path: Path) -> None:
    policy = SavingPolicy(run_id="20261123-101500-7c1e9f", name="t", package=None, best={}, inputs=[], lock_hash=None)
    registry = LocalRegistry(tmp_path / "registry")
    for attempt in range(20):
        journal = Journal.create(tmp_path / str(attempt), policy.run_id)
        session = Session(
            registry=registry, journal=journal, saver=Saver(registry=registry, journal=journal, policy=policy)
        )
        address = tmp_path / f"socket{attempt}"
        session.listen(address)
        for number in range(30):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.connect(str(address))
                Connection(channel).send({"type": "metrics", "step": 0, "values": {f"m{number}": 1.0}})
        session.finish()
        assert sorted(session.collected.metrics) == sorted(f"m{number}" for number in range(30))
        journal.close(keep_workspace=False)
