"""How logs end, as listings are told: always as the logs are, and without a file being opened for each."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from reprokit.registry import heads as module
from reprokit.registry.base import Head, Registry
from reprokit.registry.heads import heads_by_log
from reprokit.registry.local import LocalRegistry
from reprokit.schema.facts import RunSummary, facts_in, meta_of, packed, unpacked
from reprokit.schema.manifest import Manifest

FIRST, SECOND, THIRD = (f"2026010{day}-000000-aaaaa{day}" for day in (1, 2, 3))


def summary(run: str, status: str = "finished", **facts: object) -> RunSummary:
    given = {"run": run, "name": "made", "status": status, "started": "2026-01-02T03:04:05.000Z", **facts}
    return RunSummary(**given)  # type: ignore[arg-type]


def publish(registry: Registry, run: str, status: str = "finished", **facts: object) -> str:
    """Publish a version of a run's record that has a header alone, and return its top hash."""
    manifest = Manifest.make([], message=None, user_meta=meta_of(summary(run, status, **facts)))
    registry.publish(f"runs/{run}", manifest)
    return manifest.top_hash


def as_the_logs_are(registry: Registry) -> list[tuple[str, int, str | None, int, bytes]]:
    return [bare(head) for head in heads_by_log(registry, "runs")]


def bare(head: Head) -> tuple[str, int, str | None, int, bytes]:
    return head.name, head.seq, head.latest, head.began, head.facts


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def settle(registry: LocalRegistry) -> None:
    """Let the folders of logs be as old as those are that nobody writes to."""
    past = time.time() - 60
    for path in (registry.root / "log" / "runs").iterdir():
        os.utime(path, (past, past))


def test_nothing_is_there_before_the_first(registry: LocalRegistry) -> None:
    assert registry.heads("runs") == []


def test_heads_are_as_the_logs_are_whatever_happens(registry: LocalRegistry, tmp_path: Path) -> None:
    """Seen by one that listed before, by one that lists for the first time, and by one whose cache is another's."""
    drawn = random.Random(7)
    runs = [FIRST, SECOND, THIRD]
    made: dict[str, list[str]] = {run: [publish(registry, run, "running")] for run in runs}
    other = LocalRegistry(registry.root, cache=tmp_path / "cache")
    for number in range(60):
        run = drawn.choice(runs)
        what = drawn.choice(("publish", "tag", "delete", "rollback", "age"))
        there = registry.top_hashes(f"runs/{run}")
        if what == "publish" or not there:
            made[run].append(publish(drawn.choice((registry, other)), run, metrics={"loss": float(number)}))
        elif what == "tag":
            registry.tag(f"runs/{run}", there[0], ("kept",))
        elif what == "delete":
            registry.delete(f"runs/{run}", drawn.choice(there))
        elif what == "rollback":
            other.rollback(f"runs/{run}", there[0])
        else:
            settle(registry)
        for one in (registry, other, LocalRegistry(registry.root, cache=tmp_path / drawn.choice(("cache", "new")))):
            assert [bare(head) for head in one.heads("runs")] == as_the_logs_are(registry), (number, what)


def test_what_did_not_change_is_not_opened(registry: LocalRegistry, tmp_path: Path) -> None:
    for run in (FIRST, SECOND):
        publish(registry, run)
    settle(registry)
    before = registry.heads("runs")
    publish(registry, THIRD)
    again = LocalRegistry(registry.root, cache=tmp_path / "cache")
    opened: list[str] = []
    read = again.storage.read
    again.storage.read = lambda key, **options: opened.append(key) or read(key, **options)  # type: ignore[method-assign, func-returns-value]
    found = again.heads("runs")
    assert found[:2] == before
    assert [head.name for head in found] == [f"runs/{run}" for run in (FIRST, SECOND, THIRD)]
    assert [key for key in opened if FIRST in key or SECOND in key] == []


def test_a_log_that_grows_within_one_tick_of_the_clock_is_read_again(registry: LocalRegistry) -> None:
    """The folder's time stamp stays: only that it is of this moment says that it may not be believed."""
    publish(registry, FIRST, "running")
    folder = registry.root / "log" / "runs" / FIRST
    stamp = folder.stat()
    assert unpacked(registry.heads("runs")[0].facts, RunSummary) == summary(FIRST, "running")
    publish(registry, FIRST)
    os.utime(folder, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert unpacked(registry.heads("runs")[0].facts, RunSummary) == summary(FIRST)


@pytest.mark.parametrize("kept", [b"", b"no heads", b"\x93\x01\x90\x90", b"\x93\x02\x90\x90", b"\xc1" * 9])
def test_what_was_kept_is_made_anew_if_it_is_unreadable(registry: LocalRegistry, tmp_path: Path, kept: bytes) -> None:
    publish(registry, FIRST)
    LocalRegistry(registry.root, cache=tmp_path / "cache").remember("heads:runs", kept)
    found = LocalRegistry(registry.root, cache=tmp_path / "cache").heads("runs")
    assert [bare(head) for head in found] == as_the_logs_are(registry)


def test_a_run_whose_header_is_gone_is_looked_at_again(registry: LocalRegistry) -> None:
    path = registry.manifest_path(publish(registry, FIRST))
    kept = path.read_bytes()
    path.unlink()
    settle(registry)
    assert [(head.facts, head.stamp) for head in registry.heads("runs")] == [(b"", "")]
    path.write_bytes(kept)
    assert unpacked(registry.heads("runs")[0].facts, RunSummary) == summary(FIRST)


def test_what_is_no_run_is_left_out(registry: LocalRegistry) -> None:
    publish(registry, FIRST)
    log = registry.root / "log" / "runs"
    (log / "file").write_text("x")
    (log / "not a name!").mkdir()
    (log / "empty").mkdir()
    assert [head.name for head in registry.heads("runs")] == [f"runs/{FIRST}"]


def test_facts_pass_through_whole(registry: LocalRegistry) -> None:
    params = {"rate": 0.1, "deep": {"a": [1, None, True]}, "name": "😀", "low": -(2**63), "high": 2**64 - 1}
    told = summary(FIRST, metrics={"loss": float("inf"), "acc": 0.5}, params=params, inputs=[("a/b", "0" * 64)])
    assert unpacked(packed(meta_of(told)), RunSummary) == facts_in(meta_of(told), RunSummary) == told
    large = summary(FIRST, params={"seed": 10**30})
    assert unpacked(packed(meta_of(large)), RunSummary) == summary(FIRST, params=None)
    assert packed({"reprokit": {"kind": "checkpoint"}}) == packed(None) == packed({}) == b""
    assert unpacked(b"\xc1", RunSummary) is None
    assert unpacked(b"", RunSummary) is None


def test_a_folder_that_changed_a_moment_ago_is_not_sure(registry: LocalRegistry) -> None:
    publish(registry, FIRST)
    assert registry.heads("runs")[0].stamp == ""
    settle(registry)
    assert registry.heads("runs")[0].stamp != ""
    assert module._UNSURE >= 1
