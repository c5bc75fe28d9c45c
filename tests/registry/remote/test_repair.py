"""What is damaged in a bucket is set aside, what is sound stays, and building again restores the rest."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reprokit.comparison.verify import verify
from reprokit.packages.package import verify_registry
from reprokit.registry.context import Context
from reprokit.registry.remote.gc import collect_remote_garbage
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.registry.remote.repair import set_aside_damaged_far
from reprokit.schema.manifest import Manifest
from reprokit.store import remote_objects, remote_places, upload
from tests.registry.contract import store

from .interleaving import Memory, Scheduler

FILES = {"large": random.Random(1).randbytes(1_300_000), **{str(n): b"small %d" % n * 20 for n in range(12)}}
Machine = Callable[[str], RemoteRegistry]


@pytest.fixture
def storage() -> Memory:
    return Memory(Scheduler(0, longest=0.0))


@pytest.fixture
def machine(storage: Memory, tmp_path: Path) -> Machine:
    return lambda name: RemoteRegistry(storage, cache=tmp_path / name)


@pytest.fixture
def manifest(machine: Machine) -> Manifest:
    one = machine("one")
    made = store(one, FILES)
    one.publish("a/b", made)
    return one.read_manifest(made.top_hash)


def damage(storage: Memory, key: str, at: int) -> None:
    data = bytearray(storage.read(key, max_bytes=1 << 30))
    data[at] ^= 1
    storage.put(key, bytes(data))


def key_of(storage: Memory, folder: str) -> str:
    return next(iter(storage.walk(folder))).key


def test_what_is_sound_is_left_alone(machine: Machine, manifest: Manifest, storage: Memory) -> None:
    before = dict(storage._data)
    assert set_aside_damaged_far(machine("keeper")) == []
    assert storage._data == before
    assert set_aside_damaged_far(RemoteRegistry(Memory(Scheduler(0, longest=0.0)), cache=Path("none"))) == []


@pytest.mark.parametrize("which", ["pack", "large"])
def test_building_again_restores_what_was_damaged(
    machine: Machine, manifest: Manifest, storage: Memory, which: str
) -> None:
    """On a machine that has nothing near of it."""
    key = key_of(storage, "packs" if which == "pack" else "objects")
    kept = storage.read(key, max_bytes=1 << 30)
    offset = int(manifest["3"].physical_keys[0].rpartition("#")[2].partition(",")[0]) if which == "pack" else 70_000
    damage(storage, key, offset)
    keeper = machine("keeper")
    (moved,) = set_aside_damaged_far(keeper)
    assert (moved.file, moved.kept) == (key, len(FILES) - 2 if which == "pack" else 0)
    aside = storage.read(moved.moved_to, max_bytes=1 << 30)
    assert len(aside) == len(kept)
    assert aside != kept
    lost = "3" if which == "pack" else "large"
    assert [one.logical_key for one in verify_registry(machine("reader"))[1]] == [lost]
    again = machine("builder")
    again.publish("a/b", store(again, FILES))
    assert verify_registry(machine("another"))[1] == []


@pytest.mark.parametrize("which", ["pack", "large"])
def test_what_is_near_is_sent_at_once(machine: Machine, manifest: Manifest, storage: Memory, which: str) -> None:
    damage(storage, key_of(storage, "packs" if which == "pack" else "objects"), 70)
    (moved,) = set_aside_damaged_far(machine("one"))
    assert moved.file.startswith("packs/" if which == "pack" else "objects/")
    assert verify_registry(machine("reader"))[1] == []


def test_a_pack_without_its_directory_is_set_aside_whole(machine: Machine, manifest: Manifest, storage: Memory) -> None:
    key = key_of(storage, "packs")
    storage.put(key, storage.read(key, max_bytes=1 << 30)[:-5])
    (moved,) = set_aside_damaged_far(machine("keeper"))
    assert moved.kept == 0
    assert len(verify_registry(machine("reader"))[1]) == len(FILES) - 1


def test_a_large_object_in_parts_is_set_aside_in_parts(
    machine: Machine, storage: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from reprokit.registry.remote import repair

    for module in (remote_objects, remote_places, upload, repair):
        monkeypatch.setattr(module, "PART", 1024 * 1024)
    one = machine("one")
    one.publish("a/b", store(one, FILES))
    first, second = (stored.key for stored in storage.walk("objects"))
    assert set_aside_damaged_far(machine("keeper")) == []
    damage(storage, second, 5)
    shutil.rmtree(tmp_path / "one")
    assert [moved.file for moved in set_aside_damaged_far(machine("keeper"))] == [first, second]
    assert list(storage.walk("objects")) == []
    again = machine("builder")
    again.publish("a/b", store(again, FILES))
    assert verify_registry(machine("reader"))[1] == []


def test_names_that_are_no_objects_are_left_alone(machine: Machine, manifest: Manifest, storage: Memory) -> None:
    strange = ["packs/x.zip", "objects/x", "objects/sha2-256-chunked/ab/c", f"objects/sha2-256-chunked/ab/{'c' * 62}~9"]
    for key in strange:
        storage.put(key, b"strange")
    assert set_aside_damaged_far(machine("keeper")) == []
    collect_remote_garbage(machine("keeper"))
    assert all(storage.stat(key) is not None for key in strange)


def test_the_command_repairs_and_says_what_is_left(
    machine: Machine, manifest: Manifest, storage: Memory, tmp_path: Path
) -> None:
    damage(storage, key_of(storage, "objects"), 5)
    context = Context(home=tmp_path / "home", cache=tmp_path / "cache", registry=machine("keeper"))
    found = verify(context=context, everything=True, repair=True)
    assert [one.file for one in found.set_aside or []] == [remote_objects_key(manifest)]
    assert [one.logical_key for one in found.problems] == ["large"]


def remote_objects_key(manifest: Manifest) -> str:
    return str(manifest["large"].physical_keys[0])
