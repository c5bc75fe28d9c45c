"""How far a run is, told while it goes on, by the process that runs it; and a stop, passed on to it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reprokit.errors import RegistryError
from reprokit.recording import broadcast as module
from reprokit.recording.broadcast import Broadcast
from reprokit.recording.checkpoint_saver import Collected
from reprokit.registry.live import LiveRun, StopRequest
from reprokit.store.storage import FolderStorage

RUN = "20260101-000000-aaaaa1"


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveRun:
    for name, value in {"_LOOKS": 0.01, "_TELLS": 0.05, "_FIRST": 0.02, "_SHARE": 1000}.items():
        monkeypatch.setattr(module, name, value)
    return LiveRun(FolderStorage(tmp_path / "registry"), RUN)


@pytest.fixture
def signals() -> Iterator[list[int]]:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_log_comes_in_whole_lines_and_goes_at_the_end(live: LiveRun, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"one\nhalf of")
    collected = Collected(metrics={f"m{n}": float(n) for n in range(50)})
    telling = Broadcast(live, log, collected)
    with telling.on():
        wait_for(lambda: live.log() == b"one\n")
        with log.open("ab") as handle:
            handle.write(b" a line\n")
        wait_for(lambda: live.log() == b"one\nhalf of a line\n")
        wait_for(live.now)
    now = live.now()
    assert now is not None
    assert (now.checkpoints, now.checkpoint, len(now.metrics)) == (0, None, 20)
    telling.clear()
    assert (live.now(), live.log()) == (None, b"")


def test_a_stop_is_passed_on_once(live: LiveRun, tmp_path: Path, signals: list[int]) -> None:
    telling = Broadcast(live, tmp_path / "log.txt", Collected())
    with telling.on():
        time.sleep(0.05)
        assert signals == []
        live.ask_to_stop(StopRequest(by="me@here", at=""))
        wait_for(lambda: signals)
        time.sleep(0.05)
    assert signals == [signal.SIGTERM]
    assert telling.stopped == StopRequest(by="me@here", at="")


def test_a_stop_that_an_earlier_attempt_was_asked_is_over(live: LiveRun, tmp_path: Path, signals: list[int]) -> None:
    live.ask_to_stop(StopRequest(by="me@here", at=""))
    live.add_log(0, b"of the attempt before\n")
    with Broadcast(live, tmp_path / "log.txt", Collected()).on():
        time.sleep(0.1)
    assert signals == []
    assert live.log() == b""


def test_without_a_handler_nobody_is_killed(live: LiveRun, tmp_path: Path) -> None:
    assert not callable(signal.getsignal(signal.SIGTERM))
    telling = Broadcast(live, tmp_path / "log.txt", Collected())
    with telling.on():
        live.ask_to_stop(StopRequest(by="me@here", at=""))
        wait_for(live.now)
    now = live.now()
    assert now is not None
    assert not now.stoppable
    assert telling.stopped is None


def test_a_registry_that_is_away_costs_nothing_and_misses_nothing(
    live: LiveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"one\n")
    add, away = live.add_log, [True]

    def add_log(offset: int, data: bytes) -> None:
        if away[0]:
            raise RegistryError("away")
        add(offset, data)

    monkeypatch.setattr(live, "add_log", add_log)
    with Broadcast(live, log, Collected()).on():
        time.sleep(0.1)
        away[0] = False
        wait_for(lambda: live.log() == b"one\n")


def test_without_a_place_nothing_is_told(tmp_path: Path) -> None:
    telling = Broadcast(None, tmp_path / "log.txt", Collected())
    with telling.on():
        pass
    telling.clear()
