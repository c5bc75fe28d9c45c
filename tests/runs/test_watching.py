"""Runs that go on elsewhere: what they wrote is read from the registry, and they are asked to stop through it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.errors import NotFoundError, RefusedError
from reprokit.registry.live import LiveRun, Now
from reprokit.registry.local import LocalRegistry
from reprokit.runs.watching import follow, logs, stop
from reprokit.schema.manifest import Entry, Manifest
from tests.conftest import put_run

RUN = "20260101-000000-aaaaa1"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


@pytest.fixture
def running(registry: LocalRegistry) -> Iterator[LiveRun]:
    """A run that goes on somewhere, until the test is over."""
    with registry.claim(RUN):
        put_run(registry, RUN, status="running")
        yield registry.live(RUN)


def end(registry: LocalRegistry, log: bytes, status: str = "finished") -> None:
    """Publish the run's end with its log."""
    record = put_run(registry, RUN, status=status)
    with registry.staging() as sink:
        digest, size = sink.put_bytes(log)
        found, length = sink.put_bytes(record.encode())
    entries = [Entry("log.txt", size, digest), Entry("record.json", length, found)]
    head = registry.head(f"runs/{RUN}")
    assert head is not None
    meta = registry.read_manifest(head.top_hash).user_meta
    registry.publish(f"runs/{RUN}", Manifest.make(entries, message=None, user_meta=meta))
    assert hash_bytes(log) == digest


def test_what_a_run_elsewhere_wrote_so_far(registry: LocalRegistry, running: LiveRun, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no log yet: it is running elsewhere"):
        logs(RUN, registry=registry, journals=tmp_path)
    running.add_log(0, b"one\n")
    assert logs(RUN, registry=registry, journals=tmp_path) == (RUN, b"one\n")
    journal = tmp_path / RUN / "log.txt"
    journal.parent.mkdir()
    journal.write_bytes(b"one\ntwo\n")  # the run is this machine's: its journal says more
    assert logs("latest", registry=registry, journals=tmp_path) == (RUN, b"one\ntwo\n")


def test_a_run_is_followed_to_its_end_and_nothing_is_missing(
    registry: LocalRegistry, running: LiveRun, tmp_path: Path
) -> None:
    pieces = follow(RUN, registry=registry, journals=tmp_path, pause=0.01)
    running.add_log(0, b"one\n")
    assert next(pieces) == b"one\n"
    running.add_log(4, b"two\n")
    assert next(pieces) == b"two\n"
    end(registry, b"one\ntwo\nthree\n")
    assert list(pieces) == [b"three\n"]


def test_following_a_run_that_has_ended_says_all_of_it(registry: LocalRegistry, tmp_path: Path) -> None:
    put_run(registry, RUN)
    assert list(follow(RUN, registry=registry, journals=tmp_path, pause=0.01)) == []
    end(registry, b"all\n")
    assert list(follow(RUN, registry=registry, journals=tmp_path, pause=0.01)) == [b"all\n"]


def test_following_ends_where_the_runner_died(registry: LocalRegistry, tmp_path: Path) -> None:
    with registry.claim(RUN):
        put_run(registry, RUN, status="running")
        registry.live(RUN).add_log(0, b"one\n")
    assert list(follow(RUN, registry=registry, journals=tmp_path, pause=0.01)) == [b"one\n"]


def test_a_stop_is_asked_again_until_the_run_has_ended(registry: LocalRegistry, running: LiveRun) -> None:
    """Its runner may clear what an earlier attempt left at the moment in which it is asked first."""
    given: list[str] = []

    def runner() -> None:
        while running.asked_to_stop() is None:
            time.sleep(0.01)
        running.clear()
        while (request := running.asked_to_stop()) is None:
            time.sleep(0.01)
        given.append(str(request.why))
        end(registry, b"saved\n", status="interrupted")

    thread = threading.Thread(target=runner)
    thread.start()
    record = stop(RUN, registry=registry, why="too slow", wait=30, pause=0.01)
    thread.join()
    assert (record.status, given) == ("interrupted", ["too slow"])


def test_one_that_is_not_waited_for_is_only_asked(registry: LocalRegistry, running: LiveRun) -> None:
    assert stop(RUN, registry=registry, wait=0).status == "running"
    request = running.asked_to_stop()
    assert request is not None
    assert "@" in request.by


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted", "running"])
def test_what_does_not_go_on_cannot_be_stopped(registry: LocalRegistry, status: str) -> None:
    put_run(registry, RUN, status=status)
    told = "interrupted" if status == "running" else status  # nobody holds its sign
    with pytest.raises(RefusedError, match=f"does not go on: it is {told}"):
        stop(RUN, registry=registry)
    assert registry.live(RUN).asked_to_stop() is None


def test_a_secret_is_no_reason_to_stop(registry: LocalRegistry, running: LiveRun) -> None:
    secret = "".join(("ghp_", "a1B2c3D4e5" * 4))[:40]
    with pytest.raises(RefusedError, match="It is not kept"):
        stop(RUN, registry=registry, why=f"the token {secret} is out")
    assert running.asked_to_stop() is None


def test_a_runner_that_cannot_pass_it_on_is_named(registry: LocalRegistry, running: LiveRun) -> None:
    running.tell(Now(by="me@here, process 7", at="", stoppable=False))
    with pytest.raises(RefusedError) as caught:
        stop(RUN, registry=registry)
    assert caught.value.hint is not None
    assert "me@here, process 7" in caught.value.hint
    with contextlib.suppress(RefusedError):
        stop(RUN, registry=registry, wait=0)
    assert running.asked_to_stop() is None


def test_one_that_says_later_that_it_cannot_be_stopped_is_not_waited_for(
    registry: LocalRegistry, running: LiveRun
) -> None:
    def runner() -> None:
        while running.asked_to_stop() is None:
            time.sleep(0.01)
        running.tell(Now(by="a notebook", at="", stoppable=False))

    thread = threading.Thread(target=runner)
    thread.start()
    with pytest.raises(RefusedError, match="no runner that passes it on"):
        stop(RUN, registry=registry, pause=0.01)
    thread.join()
