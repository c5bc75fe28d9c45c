"""How logs end in an object store, as listings are told: nothing that was committed before is missed."""

from __future__ import annotations

import hashlib
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from reprokit.errors import Error
from reprokit.registry import open_registry
from reprokit.registry.base import Head, Registry
from reprokit.registry.remote import heads, registry
from reprokit.registry.remote.condemned import COMMIT_WITHIN
from reprokit.registry.remote.gc import collect_remote_garbage
from reprokit.registry.remote.registry import RemoteRegistry
from tests.conftest import SCALE
from tests.object_stores import Server
from tests.registry.test_heads import as_the_logs_are, bare, publish

from .interleaving import Memory, Scheduler, clock_of

RUNS = [f"20260101-0000{second:02d}-aaaaaa" for second in range(40)]
Machine = Callable[[str], RemoteRegistry]


def told(team: Registry) -> list[tuple[str, int, str | None, int, bytes]]:
    return [bare(head) for head in team.heads("runs")]


def keys(storage: Memory, folder: str) -> list[str]:
    return [stored.key for stored in storage.walk(folder)]


def test_what_one_machine_commits_another_is_told_at_once(machine: Machine) -> None:
    one, two = machine("one"), machine("two")
    for run in RUNS[:5]:
        publish(one, run, "running")
        assert told(two) == as_the_logs_are(one)
        publish(one, run)
        assert told(two) == told(machine("new")) == as_the_logs_are(one)


def test_folds_say_what_was_announced_and_announcements_go(machine: Machine, storage: Memory) -> None:
    one, two = machine("one"), machine("two")
    for run in RUNS:
        publish(one, run, "running")
    assert len(told(two)) == len(RUNS)
    one.ends.fold("runs", least=len(RUNS) + 1)
    assert len(keys(storage, "recent")) == len(RUNS)
    one.ends.fold("runs", least=len(RUNS))
    assert (len(keys(storage, "recent")), len(keys(storage, "heads"))) == (0, 1)
    publish(two, RUNS[3])
    assert told(one) == told(two) == told(machine("new")) == as_the_logs_are(one)


def test_many_folds_are_joined(machine: Machine, storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_FEW", 3)
    monkeypatch.setattr(heads, "_LONGEST", 25)
    one, two = machine("one"), machine("two")
    counts = []
    for run in RUNS:
        publish(one, run)
        one.ends.fold("runs", least=1)
        counts.append(len(keys(storage, "heads")))
        assert told(two) == as_the_logs_are(one)
    assert counts[:24] == [1, 2, 3, 4] * 6
    assert set(counts[28:]) == {2, 3, 4, 5}  # one is full, and stays so
    assert told(machine("new")) == as_the_logs_are(one)


def test_heads_with_much_to_say_are_folded_in_several(
    machine: Machine, storage: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_LARGEST", 1000)
    one = machine("one")
    for run in RUNS[:9]:
        publish(one, run, params={"text": "x" * 400})
    one.ends.fold("runs", least=1)
    assert len(keys(storage, "heads")) == 5
    assert told(machine("two")) == as_the_logs_are(one)


def test_a_listing_asks_for_what_is_new_alone(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    for run in RUNS:
        publish(one, run)
    one.ends.fold("runs", least=1)
    told(machine("two"))
    two = machine("two")
    storage.scheduler.steps = 0
    asked: list[str] = []
    step = storage.scheduler.step
    storage.scheduler.step = lambda: asked.append("") or step()  # type: ignore[method-assign, func-returns-value]
    assert len(told(two)) == len(RUNS)
    assert len(asked) == 2  # what is recent, and the names of the folds
    asked.clear()
    assert len(told(machine("three"))) == len(RUNS)
    assert len(asked) == 4  # the marker, those two, and the fold


def test_an_announcement_of_which_nothing_came_goes_when_nothing_can_come(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    publish(one, RUNS[0])
    one.ends.announce(f"runs/{RUNS[0]}", 2)
    one.ends.announce(f"runs/{RUNS[1]}", 1)
    assert told(one) == told(machine("two")) == as_the_logs_are(one)
    one.ends.fold("runs", least=1)
    assert len(keys(storage, "recent")) == 2
    publish(one, RUNS[1])  # it was only slow
    assert told(machine("two")) == as_the_logs_are(one)
    storage.scheduler.time += 2 * COMMIT_WITHIN + 1
    one.ends.fold("runs", least=1)
    assert keys(storage, "recent") == []
    assert told(machine("three")) == as_the_logs_are(one)


def _fold(found: list[Head]) -> tuple[str, bytes]:
    data = zlib.compress(msgspec.msgpack.encode(found))
    return f"heads/runs/{hashlib.sha256(data).hexdigest()}", data


@pytest.mark.parametrize(
    "fold",
    [
        ("heads/runs/" + "0" * 64, b"other bytes"),
        (f"heads/runs/{hashlib.sha256(b'no heads').hexdigest()}", b"no heads"),
        _fold([Head("runs/../x", "1", 1, None, 0)]),
        _fold([Head("a/b", "1", 1, None, 0)]),
        _fold([Head(f"runs/{RUNS[0]}", "2", 1, None, 0)]),
        _fold([Head(f"runs/{RUNS[0]}", "-1", -1, None, 0)]),
        (lambda data: (f"heads/runs/{hashlib.sha256(data).hexdigest()}", data))(zlib.compress(bytes(300_000_000))),
    ],
)
def test_a_fold_that_is_none_is_not_believed_and_said_by_verify(
    machine: Machine, storage: Memory, fold: tuple[str, bytes]
) -> None:
    one = machine("one")
    for run in RUNS[:3]:
        publish(one, run)
    one.ends.fold("runs", least=1)
    assert one.damage() == []
    storage.put(*fold)
    publish(machine("two"), RUNS[3])
    assert told(one) == told(machine("new")) == as_the_logs_are(one)
    assert "gc" in " ".join(one.damage())
    collect_remote_garbage(one)
    assert one.damage() == []
    assert told(machine("newer")) == as_the_logs_are(one)


@pytest.mark.parametrize(
    "lie",
    [
        Head(f"runs/{RUNS[0]}", "900", 900, None, 0),
        Head(f"runs/{RUNS[0]}", "1", 1, None, 0),
        Head(f"runs/{RUNS[0]}", "1", 1, "0" * 64, 0, b"\x00"),
        Head(f"runs/{RUNS[9]}", "1", 1, "0" * 64, 0, b""),
    ],
)
def test_a_fold_that_lies_is_said_by_verify_and_mended_by_gc(machine: Machine, storage: Memory, lie: Head) -> None:
    one = machine("one")
    for run in RUNS[:3]:
        publish(one, run)
    for key in keys(storage, "recent"):
        storage.delete(key)
    honest = [head for head in one.heads("runs") if head.name != lie.name]
    storage.put(*_fold([*honest, lie]))
    believer = machine("believer")
    assert told(believer) != as_the_logs_are(one)
    assert lie.name in " ".join(machine("auditor").damage())
    collect_remote_garbage(machine("keeper"))
    assert machine("auditor").damage() == []
    assert told(believer) == told(machine("believer")) == as_the_logs_are(one)
    assert told(machine("newer")) == as_the_logs_are(one)


def test_a_run_that_no_fold_and_no_announcement_tells_is_said_by_verify(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    publish(one, RUNS[0])
    one.ends.fold("runs", least=1)
    publish(one, RUNS[1])
    for key in keys(storage, "recent"):
        storage.delete(key)
    assert RUNS[1] in " ".join(machine("auditor").damage())


def test_without_folds_and_announcements_the_logs_are_listed(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    for run in RUNS[:3]:
        publish(one, run)
    for key in keys(storage, "recent"):
        storage.delete(key)
    assert told(machine("two")) == as_the_logs_are(one)


def test_a_fold_that_is_listed_and_not_there_holds_nobody_up(
    machine: Machine, storage: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    publish(one, RUNS[0])
    names = storage.names
    stale = {"heads/runs": ["0" * 64]}
    monkeypatch.setattr(storage, "names", lambda folder, **rest: [*names(folder, **rest), *stale.get(folder, [])])
    assert told(machine("two")) == as_the_logs_are(one)


def test_in_no_order_of_requests_is_a_commit_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REPROKIT_TEST_SCALE=50 tries 1,000 orders."""
    monkeypatch.setattr(heads, "_FEW", 2)
    looks = folds = 0
    for seed in range(max(1, round(20 * SCALE))):
        scheduler = Scheduler(seed, longest=60.0)
        monkeypatch.setattr(registry, "time", clock_of(scheduler))
        storage = Memory(scheduler)

        def machine(name: str, storage: Memory = storage, seed: int = seed) -> RemoteRegistry:
            return RemoteRegistry(storage, cache=tmp_path / f"{seed}" / name)

        publish(machine("first"), RUNS[0])
        committed: dict[str, int] = {}

        def writing(name: str, start: int, committed: dict[str, int] = committed, machine: Machine = machine) -> None:
            team = machine(name)
            for run in (*RUNS[start : start + 3], RUNS[0]):
                for status in ("running", "finished"):
                    publish(team, run, status, metrics={name: float(start)})
                    entry = team.head(f"runs/{run}")
                    assert entry is not None
                    committed[run] = max(committed.get(run, 0), entry.seq)

        def looking(name: str, committed: dict[str, int] = committed, machine: Machine = machine) -> None:
            nonlocal looks
            team = machine(name)
            for _ in range(6):
                before = dict(committed)
                found = {head.name: head.seq for head in team.heads("runs")}
                missed = {run: seq for run, seq in before.items() if found.get(f"runs/{run}", 0) < seq}
                assert not missed, missed
                looks += 1

        def folding(name: str, machine: Machine = machine) -> None:
            nonlocal folds
            team = machine(name)
            for _ in range(5):
                team.ends.fold("runs", least=1)
                folds += 1

        def rebuilding(name: str, machine: Machine = machine) -> None:
            team = machine(name)
            for _ in range(2):
                team.ends.rebuild("runs")

        scheduler.run(
            {
                "one": lambda: writing("one", 1),
                "two": lambda: writing("two", 4),
                "reader": lambda: looking("reader"),
                "another": lambda: looking("another"),
                "folder": lambda: folding("folder"),
                "second": lambda: folding("second"),
                "keeper": lambda: rebuilding("keeper"),
            }
        )
        for name, error in scheduler.errors:
            assert isinstance(error, Error), f"seed {seed}: {name}: {error!r}"
        reader = machine("last")
        assert told(reader) == as_the_logs_are(reader), f"seed {seed}"
        assert reader.damage() == [], f"seed {seed}"
        shutil.rmtree(tmp_path / f"{seed}")
    assert looks
    assert folds


def test_a_server_tells_what_another_machine_did(weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.used_by(monkeypatch)
    url = f"s3://bucket/heads-{random.randrange(10**9)}"
    one, two = (open_registry(url, cache=tmp_path / name) for name in ("one", "two"))
    assert isinstance(one, RemoteRegistry)
    for run in RUNS[:5]:
        publish(one, run)
    two = open_registry(url, cache=tmp_path / "two")
    assert told(two) == as_the_logs_are(one)
    one.ends.fold("runs", least=1)
    publish(one, RUNS[5])
    assert told(two) == told(open_registry(url, cache=tmp_path / "three")) == as_the_logs_are(one)
    assert one.damage() == []


def test_a_commit_whose_writer_died_at_once_is_told(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    publish(one, RUNS[0], "running")
    create = storage.create

    def dies(key: str, data: bytes) -> None:
        create(key, data)
        if key.startswith("log/runs"):
            raise KeyboardInterrupt

    storage.create = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        publish(one, RUNS[0])
    two = machine("two")
    assert two.heads("runs")[0].seq == 2
    assert told(two) == as_the_logs_are(two)
