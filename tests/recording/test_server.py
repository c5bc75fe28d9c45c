"""What processes of a run hand over reaches the runner, however short they live; what others say does not."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprokit.client.connection import Connection
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.journal import Journal, read_lines
from reprokit.recording.listener import DEAF, Listener, Unfailing
from reprokit.recording.server import Session
from reprokit.registry.local import LocalRegistry

TOKEN = bytes(range(16))


@contextlib.contextmanager
def listening(folder: Path, listener: Listener = DEAF) -> Iterator[tuple[Session, Path, Journal]]:
    policy = SavingPolicy(run_id="20261123-101500-7c1e9f", name="t", package=None, best={}, inputs=[], lock_hash=None)
    registry = LocalRegistry(folder / "registry")
    journal = Journal.create(folder, policy.run_id)
    saver = Saver(registry=registry, journal=journal, policy=policy, listener=listener)
    session = Session(registry=registry, journal=journal, saver=saver, token=TOKEN.hex())
    session.listen(folder / "socket")
    yield session, folder / "socket", journal
    session.finish()
    journal.close(keep_workspace=False)


def line(address: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.connect(str(address))
    return channel


def metrics(name: str) -> dict[str, object]:
    return {"type": "metrics", "step": 0, "values": {name: 1.0}}


def test_who_is_gone_before_its_line_was_seen_is_heard(tmp_path: Path) -> None:
    for attempt in range(20):
        (tmp_path / str(attempt)).mkdir()
        with listening(tmp_path / str(attempt)) as (session, address, _):
            for number in range(30):
                with line(address) as channel:
                    Connection(channel, TOKEN).send(metrics(f"m{number}"))
        assert sorted(session.collected.metrics) == sorted(f"m{number}" for number in range(30))
        assert session.collected.warnings == []


@pytest.mark.parametrize("token", [b"", bytes(16), TOKEN[:-1] + b"\0"], ids=["none", "zeros", "near"])
def test_what_a_stranger_says_is_not_kept_and_noted(tmp_path: Path, token: bytes) -> None:
    with listening(tmp_path) as (session, address, journal):
        with line(address) as channel:
            Connection(channel, token).send(metrics("forged"))
            with contextlib.suppress(ConnectionResetError):  # it hangs up on what it has not read
                assert channel.recv(1) == b""
        with line(address) as channel:
            Connection(channel, TOKEN).send(metrics("loss"))
        noted = [event["process"] for event in read_lines(journal.file("journal.jsonl")) if "process" in event]
    assert list(session.collected.metrics) == ["loss"]
    assert noted == [os.getpid()]  # so that a record made from the journal says it too
    assert session.collected.warnings == [
        "A process that does not belong to the run spoke to its runner 1 time(s) "
        f"(process {os.getpid()}): nothing of it was kept."
    ]


def test_a_stranger_that_keeps_its_line_open_is_not_waited_for(tmp_path: Path) -> None:
    with listening(tmp_path) as (session, address, _):
        silent, begun = line(address), line(address)
        begun.sendall(TOKEN[:5])
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert len(session.collected.strangers) == 1  # who said nothing said nothing
    silent.close()
    begun.close()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ([1], "A message to the runner is no JSON object."),
        ({"type": "nonsense", "answer": True}, "A message to the runner is malformed: Invalid value 'nonsense'"),
        ({"type": "metrics", "values": [], "answer": True}, "A message to the runner is malformed: Expected `object`"),
        ({**metrics("\ud800"), "answer": True}, "A message to the runner holds half of a surrogate pair"),
        ({"type": "epochs", "total": float("inf"), "answer": True}, "A message to the runner is malformed: Expected"),
        ({"type": "snapshot", "buffer": 0, "size": 0, "offset": 0, "length": 0, "answer": True}, "A snapshot came wit"),
    ],
)
def test_what_is_no_message_is_refused_and_no_thread_dies_of_it(tmp_path, monkeypatch, message, told) -> None:
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with listening(tmp_path) as (session, address, _), line(address) as channel:
        channel.settimeout(10)
        body = json.dumps(message).encode()
        channel.sendall(TOKEN + len(body).to_bytes(4, "big") + body)
        if isinstance(message, dict):
            answer = json.loads(channel.recv(65536)[4:])
            assert answer["error"].startswith(told)
        else:
            assert channel.recv(1) == b""
    assert not died
    assert session.collected.metrics == {}
    assert session.collected.warnings[0].startswith(f"Not stored: {told}")


@pytest.mark.parametrize("name", ["Plots/a", "plots", "plots/a/b", "plots/A"])
def test_an_artifact_whose_name_clashes_is_refused_and_costs_no_other(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with listening(tmp_path) as (session, address, _), line(address) as channel:
        connection = Connection(channel, TOKEN)
        for fine in ("plots/a", "plots/a"):  # again: it replaces the first
            connection.request({"type": "artifact", "path": str(tmp_path / "file"), "name": fine})
        with pytest.raises(RuntimeError, match="cannot stand side by side"):
            connection.request({"type": "artifact", "path": str(tmp_path / "file"), "name": name})
    assert list(session.collected.artifacts) == ["artifacts/plots/a"]


def test_a_pipe_is_no_artifact(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    message = {"type": "artifact", "path": str(tmp_path / "pipe"), "name": "pipe"}
    with (
        listening(tmp_path) as (session, address, _),
        line(address) as channel,
        pytest.raises(RuntimeError, match="pipe is no regular file"),
    ):
        Connection(channel, TOKEN).request(message)
    assert session.collected.artifacts == {}


def test_where_a_training_is_is_passed_on(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Hears(Listener):
        def epoch(self, epoch: int) -> None:
            heard.append(epoch)

        def batch(self, epoch: int | None, batch: int, total: int | None) -> None:
            heard.append((epoch, batch, total))

    with listening(tmp_path, Unfailing(Hears())) as (session, address, _), line(address) as channel:
        connection = Connection(channel, TOKEN)
        connection.send({"type": "batch", "epoch": 2, "batch": 3, "total": 40})
        connection.send({"type": "batch", "batch": 4})
        connection.request({"type": "epoch", "epoch": 2})
        with pytest.raises(RuntimeError, match="malformed"):
            connection.request({"type": "batch", "epoch": 0, "batch": -1, "total": 40})
    assert heard == [(2, 3, 40), (None, 4, None), 2]
    assert len(session.collected.warnings) == 1
