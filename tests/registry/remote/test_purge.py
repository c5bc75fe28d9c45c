"""What is purged is gone from every pack and object of the bucket, and comes into none again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError, Error, NotFoundError, PurgedError, RefusedError, RegistryError
from reprokit.packages.package import verify_registry
from reprokit.packages.purge import purge
from reprokit.registry.remote import registry
from reprokit.registry.remote.condemned import COMMIT_WITHIN
from reprokit.registry.remote.gc import collect_remote_garbage
from reprokit.registry.remote.purge import erase_purged, purge_remote_objects
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.registry.uses import find_objects
from reprokit.store import remote_objects, remote_places, upload
from tests.conftest import SCALE
from tests.registry.contract import store

from .interleaving import Memory, Scheduler, clock_of

ERASED = b"31415926535897932384626.43383279\n"
LARGE = b"27182818284590452353602.87471352" * 50_000
Machine = Callable[[str], RemoteRegistry]


def holding(storage: Memory, data: bytes) -> list[str]:
    return [key for key, (kept, _) in storage._data.items() if data in kept and not key.startswith("tombstones/")]


def near(base: Path, data: bytes) -> list[Path]:
    return [path for path in base.rglob("*") if path.is_file() and data in path.read_bytes()]


def test_what_is_purged_is_nowhere_and_the_rest_is_whole(machine: Machine, storage: Memory, tmp_path: Path) -> None:
    one = machine("one")
    files = {"erased": ERASED, "large": LARGE, **{str(n): b"%d" % n for n in range(20)}}
    manifest = store(one, files)
    one.publish("a/b", manifest)
    one.publish("a/c", store(one, {"again": ERASED, "other": b"other"}))
    digests = {manifest["erased"].digest, manifest["large"].digest}
    assert holding(storage, ERASED)
    assert near(tmp_path, ERASED)
    done = purge(one, digests, cache=tmp_path / "one", reason="a person asked")
    assert {(use.package, use.logical_key) for use in done.affected} == {
        ("a/b", "erased"), ("a/b", "large"), ("a/c", "again"),
    }  # fmt: skip
    assert holding(storage, ERASED) == holding(storage, LARGE[:64]) == []
    assert near(tmp_path, ERASED) == near(tmp_path, LARGE[:64]) == []
    two = machine("two")
    found = two.read_manifest(manifest.top_hash)
    for entry in found.entries:
        if entry.digest in digests:
            with pytest.raises(PurgedError, match=r"purged on .* a person asked"):
                two.read_object(entry, what="x")
        else:
            assert two.read_object(entry, what="x") == files[entry.logical_key]
    with pytest.raises(RefusedError, match="is not stored again"):
        store(two, {"back": ERASED})
    with pytest.raises(RefusedError, match="is not stored again"):
        store(two, {"back": LARGE})
    assert holding(storage, ERASED) == holding(storage, LARGE[:64]) == []


def test_large_objects_in_parts_and_of_later_generations_go(
    machine: Machine, storage: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (remote_objects, remote_places, upload):
        monkeypatch.setattr(module, "PART", 1024 * 1024)
    one = machine("one")
    manifest = store(one, {"large": LARGE, "x": b"x"})
    one.publish("a/b", manifest)
    entry = manifest["large"]
    for key, offset, length in one.objects.parts(entry.digest, entry.size, 3):
        storage.put(key, LARGE[offset : offset + length])
    storage.put(one.objects.object_key(hash_bytes(b"another")), b"another")
    assert len(holding(storage, LARGE[:64])) == 4
    purge_remote_objects(one, {entry.digest}, reason="r")
    assert holding(storage, LARGE[:64]) == []
    assert holding(storage, b"another")


def test_objects_are_found_as_people_name_them(machine: Machine) -> None:
    one = machine("one")
    manifest = store(one, {"erased": ERASED})
    one.publish("a/b", manifest)
    digest = manifest["erased"].digest
    assert find_objects(one, [digest.hex[:10]]) == find_objects(one, [], ["a/b:erased"]) == {digest}
    with pytest.raises(NotFoundError):
        find_objects(one, ["ffff"])


def test_who_had_looked_before_is_cleaned_up_after_by_gc(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    one.publish("a/x", store(one, {"x": b"x"}))
    slow = machine("slow")
    store(slow, {"y": b"y"})  # it has looked: there is no tombstone, and no secret
    manifest = store(one, {"erased": ERASED})
    one.publish("a/b", manifest)
    purge_remote_objects(one, {manifest["erased"].digest}, reason="r")
    assert holding(storage, ERASED) == []
    slow.publish("a/c", store(slow, {"back": ERASED, "more": b"more"}))
    assert holding(storage, ERASED)
    collect_remote_garbage(machine("keeper"))
    assert holding(storage, ERASED) == []
    found = machine("reader")
    listed = found.read_manifest(found.top_hashes("a/c")[0])
    assert found.read_object(listed["more"], what="x") == b"more"


def test_a_pack_whose_directory_is_damaged_is_named(machine: Machine, storage: Memory) -> None:
    one = machine("one")
    manifest = store(one, {"erased": ERASED})
    one.publish("a/b", manifest)
    storage.put(f"packs/{'0' * 64}.zip", b"no pack")
    with pytest.raises(DataMismatchError, match="directory of 1 pack"):
        purge_remote_objects(one, {manifest["erased"].digest}, reason="r")
    assert holding(storage, ERASED) == []
    assert "directory of 1 pack" in " ".join(collect_remote_garbage(machine("keeper")).notes)


def test_nothing_is_done_where_nothing_was_purged(machine: Machine) -> None:
    one = machine("one")
    one.publish("a/b", store(one, {"x": b"x"}))
    assert erase_purged(one) == 0


def test_in_no_order_of_requests_does_what_was_purged_stay_or_the_rest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two purges, two who publish what they erase, and gc. REPROKIT_TEST_SCALE=50 tries 1,000 orders."""
    erased = [ERASED + b"%d" % number for number in range(2)]
    small = {str(n): b"small %d" % n for n in range(5)}
    for seed in range(max(1, round(20 * SCALE))):
        drawn = random.Random(seed)
        scheduler = Scheduler(seed, longest=60.0)
        monkeypatch.setattr(registry, "time", clock_of(scheduler))
        storage = Memory(scheduler)

        def machine(name: str, storage: Memory = storage, seed: int = seed) -> RemoteRegistry:
            return RemoteRegistry(storage, cache=tmp_path / f"{seed}" / name)

        first = machine("first")
        first.publish("a/b", store(first, {**small, "one": erased[0], "two": erased[1]}))
        first.publish("a/c", store(first, {"0": small["0"], "large": LARGE, "one": erased[0]}))

        def publishing(name: str, machine: Machine = machine, drawn: random.Random = drawn) -> None:
            team = machine(name)
            for number in range(3):
                files = {"own": b"%s %d" % (name.encode(), number), "1": small["1"], "2": small["2"]}
                team.publish("a/d", store(team, {**files, **({"one": drawn.choice(erased)} if number else {})}))

        def purging(name: str, data: bytes, machine: Machine = machine) -> None:
            purge_remote_objects(machine(name), {hash_bytes(data)}, reason="r")

        def collecting(name: str, machine: Machine = machine) -> None:
            collect_remote_garbage(machine(name), grace=2 * COMMIT_WITHIN)

        scheduler.run(
            {
                "one": lambda: publishing("one"),
                "two": lambda: publishing("two"),
                "purge one": lambda: purging("purge one", erased[0]),
                "purge two": lambda: purging("purge two", erased[1]),
                "gc": lambda: collecting("gc"),
            }
        )
        for name, error in scheduler.errors:
            assert isinstance(error, Error), f"seed {seed}: {name}: {error!r}"
            assert isinstance(error, RegistryError | RefusedError | NotFoundError), f"seed {seed}: {name}: {error!r}"
        collect_remote_garbage(machine("keeper"), grace=2 * COMMIT_WITHIN)  # after whoever had looked before
        assert holding(storage, ERASED) == [], f"seed {seed}"
        reader = machine("reader")
        problems = [one for one in verify_registry(reader)[1] if "purged on" not in str(one)]
        assert problems == [], f"seed {seed}"
        shutil.rmtree(tmp_path / f"{seed}")


def test_of_two_purges_at_once_each_erases_what_the_other_brought_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased = [ERASED + b"%d" % number for number in range(2)]
    for seed in range(40):
        scheduler = Scheduler(seed, longest=60.0)
        monkeypatch.setattr(registry, "time", clock_of(scheduler))
        storage = Memory(scheduler)
        first = RemoteRegistry(storage, cache=tmp_path / f"{seed}")
        first.publish("a/b", store(first, {"one": erased[0], "two": erased[1], "rest": b"rest"}))

        def purging(data: bytes, storage: Memory = storage, seed: int = seed) -> None:
            team = RemoteRegistry(storage, cache=tmp_path / f"{seed}-{data[-1]}")
            purge_remote_objects(team, {hash_bytes(data)}, reason="r")

        scheduler.run({str(data): lambda data=data: purging(data) for data in erased})  # type: ignore[misc]
        assert scheduler.errors == []
        assert holding(storage, ERASED) == [], f"seed {seed}"
        assert len(holding(storage, b"rest")) >= 1
