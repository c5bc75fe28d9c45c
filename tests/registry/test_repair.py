"""What a disk damaged is set aside, what is sound stays, and building again restores the rest."""

import os
import threading

import pytest

from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.packages.purge import purge
from reprokit.registry.local import LocalRegistry
from reprokit.registry.repair import set_aside_damaged
from reprokit.store.packs import SMALL
from tests.conftest import lies_at, overwrite

VALUES = {"a": b"one" * 100, "b": b"two" * 100, "large": b"l" * SMALL}


@pytest.fixture
def registry(tmp_path):
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def test_a_sound_registry_is_left_alone(registry):
    assert set_aside_damaged(registry) == []
    assert not registry.root.exists()
    build(VALUES, "a/b", registry=registry)
    assert set_aside_damaged(registry) == []
    assert verify_registry(registry) == (1, [])


@pytest.mark.parametrize("key", ["a", "large"])
def test_building_again_restores_what_was_damaged(registry, tmp_path, key):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, data in VALUES.items():
        (folder / name).write_bytes(data)
    build(folder, "a/b", registry=registry)
    entry = Package.open("a/b", registry=registry).manifest[key]
    path, offset = lies_at(registry, entry)
    overwrite(path, offset, b"X")
    build(folder, "a/b", registry=LocalRegistry(registry.root, cache=tmp_path / "cache"))
    assert verify_registry(registry)[1]  # it was there by its name
    (moved,) = set_aside_damaged(registry)
    assert (registry.root / moved.moved_to).is_file()
    assert (moved.file, moved.kept) == (str(path.relative_to(registry.root)), 1 if key == "a" else 0)
    assert [problem.logical_key for problem in verify_registry(registry)[1]] == [key]
    build(folder, "a/b", registry=LocalRegistry(registry.root, cache=tmp_path / "cache"))
    assert verify_registry(LocalRegistry(registry.root)) == (1, [])


def test_all_that_is_damaged_is_set_aside_at_once_and_one_after_the_other(registry):
    build(VALUES, "a/b", registry=registry)
    build({"c": b"c" * SMALL}, "a/c", registry=registry)
    version, other = (Package.open(name, registry=registry).manifest for name in ("a/b", "a/c"))
    wanted = []
    for entries in ([version["a"], version["large"]], [other["c"]]):
        for entry in entries:
            path, offset = lies_at(registry, entry)
            overwrite(path, offset, b"X")
            wanted.append(str(path.relative_to(registry.root)))
        moved = set_aside_damaged(LocalRegistry(registry.root))
        assert sorted(one.file for one in moved) == sorted(wanted[-len(entries) :])
        assert all((registry.root / one.moved_to).is_file() for one in moved)
    assert {problem.logical_key for problem in verify_registry(LocalRegistry(registry.root))[1]} == {"a", "large", "c"}


def test_a_pack_without_its_directory_is_set_aside_whole(registry):
    build(VALUES, "a/b", registry=registry)
    path, _ = lies_at(registry, Package.open("a/b", registry=registry).manifest["a"])
    os.truncate(path, path.stat().st_size - 5)
    fresh = LocalRegistry(registry.root)
    (moved,) = set_aside_damaged(fresh)
    assert moved.kept == 0
    assert {problem.logical_key for problem in verify_registry(fresh)[1]} == {"a", "b"}
    build(VALUES, "a/b", registry=fresh)
    assert verify_registry(LocalRegistry(registry.root)) == (1, [])


def test_what_was_set_aside_is_purged_too(registry, tmp_path):
    build(VALUES, "a/b", registry=registry)
    entry = Package.open("a/b", registry=registry).manifest["a"]
    path, _ = lies_at(registry, entry)
    overwrite(path, 0, b"X")  # in the zip, not in the object
    set_aside_damaged(registry)
    purge(registry, {entry.digest}, cache=tmp_path / "cache", reason="asked")
    for file in registry.root.rglob("*"):
        assert not file.is_file() or VALUES["a"] not in file.read_bytes()


def test_nothing_is_set_aside_while_somebody_publishes(tmp_path):
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": b"1"}, "a/b", registry=registry)
    (name,) = registry.objects.pack_names()
    path = registry.objects.pack_path(name)
    overwrite(path, 100, b"?")
    repairing = threading.Thread(target=lambda: set_aside_damaged(LocalRegistry(registry.root)))
    with registry.objects.shared():
        repairing.start()
        repairing.join(0.3)
        assert repairing.is_alive() and path.exists()
    repairing.join(30)
    assert not repairing.is_alive() and not path.exists()
