"""What a run tells while it goes on: read in order, never believed, taken back at its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from reprokit.errors import UsageError
from reprokit.registry.live import LiveRun, Now, StopRequest, sweep_live
from reprokit.store.storage import FolderStorage, Storage
from tests.registry.remote.interleaving import Memory, Scheduler

RUN, OTHER = "20260101-000000-aaaaa1", "20260101-000000-aaaaa2"


@pytest.fixture(params=["folder", "store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path) if request.param == "folder" else Memory(Scheduler(0, longest=0.0))


def test_a_log_is_what_came_up_to_the_first_gap(storage: Storage) -> None:
    live = LiveRun(storage, RUN)
    assert live.log() == b""
    live.add_log(0, b"one\n")
    live.add_log(4, b"two\n")
    live.add_log(20, b"after a gap\n")
    assert [live.log(), live.log(4), live.log(6), live.log(8)] == [b"one\ntwo\n", b"two\n", b"o\n", b""]
    live.add_log(2, b"e\ntwo\nthree\n")  # told again, as by a runner that did not hear that it was kept
    assert live.log() == b"one\ntwo\nthree\n"


def test_what_is_told_reads_back(storage: Storage) -> None:
    live = LiveRun(storage, RUN)
    assert live.now() is None
    now = Now(by="me@here, process 1", at="now", checkpoints=3, checkpoint="epoch 2", metrics={"loss": float("inf")})
    live.tell(now)
    assert live.now() == now
    request = StopRequest(by="you@there", at="now", why="too slow")
    assert live.asked_to_stop() is None
    assert live.ask_to_stop(request)
    assert not live.ask_to_stop(StopRequest(by="somebody", at="later"))
    assert live.asked_to_stop() == request
    assert (str(request), str(StopRequest(by="you", at="now"))) == ("you@there: too slow", "you")
    assert LiveRun(storage, OTHER).now() is None


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\xc1", b"{}", msgspec.msgpack.encode({"by": "x" * 1001, "at": ""}), b"\x00" * 70_000,
        msgspec.msgpack.encode({"by": "x", "at": "y", "metrics": {str(n): 0.0 for n in range(101)}}),
        msgspec.msgpack.encode({"by": 1, "at": "y"}),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_as_if_it_were_not_there(storage: Storage, said: bytes) -> None:
    live = LiveRun(storage, RUN)
    storage.put(f"live/{RUN}/now", said)
    storage.put(f"live/{RUN}/log/no-offset", b"text")
    assert (live.now(), live.asked_to_stop(), live.log()) == (None, None, b"")


def test_a_request_that_cannot_be_read_is_one_all_the_same(storage: Storage) -> None:
    storage.put(f"live/{RUN}/stop", b"\xc1")
    live = LiveRun(storage, RUN)
    assert not live.ask_to_stop(StopRequest(by="me", at=""))
    assert live.asked_to_stop() == StopRequest(by="somebody", at="")


def test_nothing_is_left_of_it(storage: Storage, tmp_path: Path) -> None:
    live = LiveRun(storage, RUN)
    live.add_log(0, b"x\n")
    live.tell(Now(by="", at=""))
    LiveRun(storage, OTHER).tell(Now(by="", at=""))
    live.clear()
    assert [stored.key for stored in storage.walk("live")] == [f"live/{OTHER}/now"]
    assert not (tmp_path / "live" / RUN).exists()
    live.clear()


def test_no_other_folder_can_be_meant(storage: Storage) -> None:
    with pytest.raises(UsageError):
        LiveRun(storage, "../log")


def test_what_the_dead_told_is_swept_when_it_is_old(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    for run in (RUN, OTHER):
        LiveRun(storage, run).tell(Now(by="", at=""))
    sweep_live(storage, is_alive=lambda _: False, before=time.time() - 60)
    assert len(list(storage.walk("live"))) == 2
    for path in (tmp_path / "live").rglob("now"):
        os.utime(path, (0, 0))
    sweep_live(storage, is_alive=lambda run: run == OTHER, before=time.time() - 60)
    assert [stored.key for stored in storage.walk("live")] == [f"live/{OTHER}/now"]
