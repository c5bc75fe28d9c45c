"""gc without a lock: nothing that a version names is ever swept, in whatever order the requests come."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError, RegistryError
from reprokit.packages.package import verify_registry
from reprokit.registry.remote import condemned, gc, registry
from reprokit.registry.remote.condemned import COMMIT_WITHIN, condemned_lists
from reprokit.registry.remote.gc import collect_remote_garbage
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import PackWriter
from tests.conftest import SCALE
from tests.registry.contract import store

from .interleaving import Memory, Scheduler, clock_of

HOUR = 3600.0
DRAWS = max(1, round(20 * SCALE))
LARGE = {name: name.encode() * 300_000 for name in ("left", "right")}


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Memory:
    scheduler = Scheduler(0, longest=COMMIT_WITHIN)
    monkeypatch.setattr(registry, "time", clock_of(scheduler))
    return Memory(scheduler)


@pytest.fixture
def later(storage: Memory) -> Callable[[float], None]:
    """Let time pass for the store."""

    def wait(seconds: float) -> None:
        storage.scheduler.time += seconds

    return wait


@pytest.fixture
def machine(storage: Memory, tmp_path: Path) -> Callable[[str], RemoteRegistry]:
    return lambda name: RemoteRegistry(storage, cache=tmp_path / name)


@pytest.fixture
def team(machine: Callable[[str], RemoteRegistry]) -> RemoteRegistry:
    return machine("one")


def keys(team: RemoteRegistry) -> set[str]:
    return {one.key for folder in ("manifests", "packs", "objects") for one in team.bare.walk(folder)}


def test_what_nothing_uses_is_condemned_and_swept_after_the_grace_period(
    team: RemoteRegistry, later: Callable[[float], None]
) -> None:
    one = team.publish("a/b", store(team, {"x": b"1", "large": LARGE["left"]})).top_hash
    team.publish("a/b", store(team, {"y": b"2"}))
    team.delete("a/b", one)
    before = keys(team)
    assert collect_remote_garbage(team, grace=HOUR).kept == 3
    assert list(condemned_lists(team.bare)) == []
    later(HOUR + 1)
    dry = collect_remote_garbage(team, grace=HOUR, dry_run=True)
    assert "3 objects, packs and versions" in dry.notes[0]
    assert list(condemned_lists(team.bare)) == []
    collect_remote_garbage(team, grace=HOUR)
    (told,) = condemned_lists(team.bare)
    assert keys(team) == before
    assert len(told.keys) == 3
    assert not collect_remote_garbage(team, grace=HOUR).packs, "its time has not come"
    later(HOUR + 1)
    swept = collect_remote_garbage(team, grace=HOUR)
    assert (swept.versions, swept.packs, swept.objects) == (1, 1, 1)
    assert keys(team) == before - told.keys
    assert verify_registry(team) == (1, [])
    assert [one.swept for one in condemned_lists(team.bare)] == [True]
    later(31 * 24 * HOUR)
    collect_remote_garbage(team, grace=HOUR)
    assert list(condemned_lists(team.bare)) == []


def test_what_was_condemned_is_stored_anew_by_who_needs_it(
    team: RemoteRegistry, later: Callable[[float], None], machine: Callable[[str], RemoteRegistry]
) -> None:
    files = {"x": b"1", "y": b"2", "large": LARGE["left"]}
    one = store(team, files)
    team.publish("a/b", one)
    team.publish("a/b", store(team, {"z": b"3"}))
    team.delete("a/b", one.top_hash)
    later(HOUR + 1)
    collect_remote_garbage(team, grace=HOUR)
    (told,) = condemned_lists(team.bare)
    other = machine("other")
    again = store(other, files)
    assert again.top_hash == one.top_hash
    other.publish("a/b", again)
    later(HOUR + 1)
    assert collect_remote_garbage(team, grace=HOUR).packs == 1
    assert keys(team).isdisjoint(key for key in told.keys if key.startswith("packs/"))
    reader = machine("reader")
    assert verify_registry(reader) == (2, [])
    found = reader.read_manifest(one.top_hash)
    assert {entry.logical_key: reader.read_object(entry, what="x") for entry in found.entries} == files
    later(31 * 24 * HOUR)
    for team in (machine("third"), machine("fourth")):
        collect_remote_garbage(team, grace=HOUR)
        assert team.holds(found), "also when the lists are forgotten"
        before = keys(team)
        team.publish("a/b", store(team, files))
        assert keys(team) == before


def test_two_that_sweep_at_once_do_not_count_on_each_other(
    team: RemoteRegistry, later: Callable[[float], None], machine: Callable[[str], RemoteRegistry], tmp_path: Path
) -> None:
    """Of an object in two packs each of two gcs has condemned one, since the other was there."""
    team.publish("a/b", store(team, {"x": b"1"}))
    writer = PackWriter(tmp_path / "pack")
    for data in (b"1", b"2"):
        writer.add(hash_bytes(data).raw, data)
    team.bare.put(f"packs/{writer.finish()}.zip", (tmp_path / "pack").read_bytes())
    packs = {key for key in keys(team) if key.startswith("packs/")}
    assert len(packs) == 2
    for key in packs:
        condemned.condemn(team.bare, [key])
    later(HOUR + 1)
    collect_remote_garbage(machine("gc"), grace=HOUR)
    assert packs <= keys(team)
    assert verify_registry(machine("reader")) == (1, [])


def test_a_list_is_never_longer_than_is_read(
    team: RemoteRegistry, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condemned, "_LONGEST", 2)
    team.publish("a/b", store(team, {"x": b"1", **LARGE}))
    team.delete("a/b", team.top_hashes("a/b")[0])
    later(HOUR + 1)
    collect_remote_garbage(team, grace=HOUR)
    assert sorted(len(one.keys) for one in condemned_lists(team.bare)) == [2, 2]
    known: dict[str, frozenset[str]] = {}
    assert condemned.condemned_keys(team.bare, known) == keys(team)
    monkeypatch.setattr(team.bare, "read", None)
    assert condemned.condemned_keys(team.bare, known) == keys(team), "a list is read once"


def test_what_was_found_there_and_condemned_before_the_commit_is_sent_again(
    team: RemoteRegistry, later: Callable[[float], None], machine: Callable[[str], RemoteRegistry]
) -> None:
    files = {"x": b"1", "large": LARGE["right"]}
    one = store(team, files)
    team.publish("a/b", one)
    team.delete("a/b", one.top_hash)
    late = machine("late")
    manifest = store(late, files, "late")  # nothing is sent: all is there
    later(HOUR + 1)
    collect_remote_garbage(team, grace=HOUR)
    late.publish("a/b", manifest)
    later(HOUR + 1)
    collect_remote_garbage(team, grace=HOUR)
    assert verify_registry(machine("reader")) == (1, [])


def test_who_takes_too_long_to_commit_publishes_nothing(
    team: RemoteRegistry, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store(team, {"x": b"1"})
    write = team.manifests.write

    def slowly(*arguments: Any, **options: Any) -> None:
        later(COMMIT_WITHIN + 1)
        write(*arguments, **options)

    monkeypatch.setattr(team.manifests, "write", slowly)
    with pytest.raises(RegistryError) as caught:
        team.publish("a/b", manifest)
    assert "nothing was published" in caught.value.message
    assert team.head("a/b") is None


def test_a_short_grace_period_is_refused(team: RemoteRegistry) -> None:
    with pytest.raises(RefusedError) as caught:
        collect_remote_garbage(team, grace=60)
    assert "is too short where nobody holds a lock" in caught.value.message


def test_what_is_not_understood_is_left_alone(team: RemoteRegistry, later: Callable[[float], None]) -> None:
    team.publish("a/b", store(team, {"x": b"1"}))
    strange = ["packs/readme.txt", f"packs/{'0' * 64}.zip", "objects/x", "manifests/notes.txt", "elsewhere/x"]
    for key in strange:
        team.bare.put(key, b"?")
    for _ in range(2):
        later(HOUR + 1)
        collect_remote_garbage(team, grace=HOUR)
    assert all(team.bare.stat(key) is not None for key in strange)


def _versions() -> list[dict[str, bytes]]:
    """Files that share objects with one another: what one lets go another takes up."""
    small = {f"{n}": b"small %d" % n for n in range(4)}
    return [
        small,
        {"0": small["0"], "large": LARGE["left"]},
        {"1": small["1"], "large": LARGE["left"], "more": LARGE["right"]},
        {**small, "more": LARGE["right"]},
    ]


def test_no_order_of_requests_loses_what_a_version_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REPROKIT_TEST_SCALE=500 tries 10,000 orders."""
    what: Counter[str] = Counter()
    for seed in range(DRAWS):
        drawn = random.Random(seed)
        scheduler = Scheduler(seed, longest=COMMIT_WITHIN)
        monkeypatch.setattr(registry, "time", clock_of(scheduler))
        storage = Memory(scheduler)
        versions = _versions()

        def machine(name: str, storage: Memory = storage, seed: int = seed) -> RemoteRegistry:
            return RemoteRegistry(storage, cache=tmp_path / f"{seed}" / name)

        first = machine("first")
        first.publish("a/b", store(first, versions[0]))
        first.publish("a/b", store(first, {"other": b"kept"}))
        first.delete("a/b", first.top_hashes("a/b")[0])
        scheduler.time += 2 * COMMIT_WITHIN
        collect_remote_garbage(first, grace=2 * COMMIT_WITHIN)
        scheduler.time += drawn.uniform(0.3, 1.0) * 2 * COMMIT_WITHIN  # it is soon, or in a while, that it is swept

        def publishing(name: str, drawn: random.Random = drawn, versions: list[dict[str, bytes]] = versions) -> None:
            team = machine(name)
            for number in range(2):
                team.publish("a/b", store(team, drawn.choice(versions), f"{name} {number}"))

        def taking_away(name: str, drawn: random.Random = drawn) -> None:
            team = machine(name)
            for _ in range(2):
                there = team.top_hashes("a/b")
                if not there:
                    return
                chosen = drawn.choice(there)
                drawn.choice((team.delete, lambda n, h: team.tag(n, h, ("kept",))))("a/b", chosen)

        def collecting(name: str) -> None:
            team = machine(name)
            for _ in range(3):
                swept = collect_remote_garbage(team, grace=2 * COMMIT_WITHIN)
                what["swept"] += swept.versions + swept.packs + swept.objects

        scheduler.run(
            {
                "one": lambda: publishing("one"),
                "two": lambda: publishing("two"),
                "three": lambda: taking_away("three"),
                "gc": lambda: collecting("gc"),
                "gc two": lambda: collecting("gc two"),
            }
        )
        for name, error in scheduler.errors:
            assert isinstance(error, Error), f"seed {seed}: {name}: {error!r}"
            assert isinstance(error, RegistryError | RefusedError | NotFoundError), f"seed {seed}: {name}: {error!r}"
            what[f"{type(error).__name__} {name}"] += 1
        reader = machine("reader")
        count, problems = verify_registry(reader)
        assert problems == [], f"seed {seed}"
        head = reader.head("a/b")
        assert head is not None
        for top_hash in head.tags.values():
            manifest: Manifest = reader.read_manifest(top_hash)
            entry: Entry
            for entry in manifest.entries:
                reader.read_object(entry, what=f"seed {seed}")
        what["versions"] += count
        what["steps"] += scheduler.steps
        shutil.rmtree(tmp_path / f"{seed}")
    assert what["swept"] > 0
    print(dict(what))


@pytest.mark.parametrize("looks_again", [True, False])
def test_what_a_version_names_since_it_was_condemned_is_spared_by_the_second_look(
    team: RemoteRegistry,
    later: Callable[[float], None],
    machine: Callable[[str], RemoteRegistry],
    monkeypatch: pytest.MonkeyPatch,
    looks_again: bool,
) -> None:
    """And without that look it is lost: it is the look that spares it."""
    files = {"x": b"1", "large": LARGE["left"]}
    one = store(team, files)
    team.publish("a/b", one)
    team.delete("a/b", one.top_hash)
    later(HOUR + 1)
    other = machine("other")
    again = store(other, files)
    commits = other._commits

    def condemned_meanwhile() -> None:
        collect_remote_garbage(team, grace=HOUR)
        commits()

    monkeypatch.setattr(other, "_commits", condemned_meanwhile)
    other.publish("a/b", again)
    (told,) = condemned_lists(team.bare)
    assert len(told.keys) == 3
    later(HOUR + 1)
    if not looks_again:
        monkeypatch.setattr(gc._Used, "needs", lambda *_: False)
    with contextlib.suppress(DataMismatchError):  # it sees at once that a version is gone
        collect_remote_garbage(team, grace=HOUR)
    assert (verify_registry(machine("reader"))[1] == []) is looks_again
