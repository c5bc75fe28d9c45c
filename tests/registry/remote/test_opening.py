"""A registry that is known is opened beside the first request; nothing of another one is shown or written to."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from reprokit.errors import RegistryError
from reprokit.registry.remote.opening import CheckedStorage
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.store.storage import FolderStorage
from tests.registry.contract import store


class Meeting(FolderStorage):
    """The first two requests end only when both are under way."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.meet = threading.Barrier(2, timeout=30)

    def read(self, key: str, *, max_bytes: int) -> bytes:
        self.meet.wait()
        return super().read(key, max_bytes=max_bytes)

    def names(self, folder: str, *, after: str = "") -> list[str]:
        self.meet.wait()
        return super().names(folder, after=after)


class Machine:
    def __init__(self, base: Path) -> None:
        self.place = base / "bucket"
        self.base = base

    def open(self, storage: FolderStorage | None = None) -> RemoteRegistry:
        place = storage or FolderStorage(self.place)
        return RemoteRegistry(place, cache=self.base / "cache", home=self.base / "home")

    def publish(self) -> None:
        registry = self.open()
        registry.publish("a/b", store(registry, {"a": b"1"}, "one"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.publish()
    made.open()
    return made


def test_what_says_that_it_is_a_registry_is_read_beside_the_first_request(machine: Machine) -> None:
    assert machine.open(Meeting(machine.place)).namespaces() == ["a"]


def test_another_registry_in_its_place_is_said_once_and_nothing_of_it_is_shown(machine: Machine) -> None:
    known = machine.open().uuid
    shutil.rmtree(machine.place)
    other = RemoteRegistry(FolderStorage(machine.place), cache=machine.base / "cache")
    other.publish("x/y", store(other, {"a": b"2"}, "two"))
    for look in (lambda: list(machine.open().packages()), lambda: machine.open().head("a/b")):
        with pytest.raises(RegistryError, match="is another registry than this machine saw there last") as caught:
            look()
        assert known in caught.value.message
        assert list(machine.open().packages()) == ["x/y"]
        (machine.base / "home" / "registries").joinpath(*_name_of_known(machine)).write_text(known)


def _name_of_known(machine: Machine) -> list[str]:
    return [path.name for path in (machine.base / "home" / "registries").iterdir()]


def test_a_place_that_was_emptied_is_said_and_may_begin_anew(machine: Machine) -> None:
    shutil.rmtree(machine.place)
    with pytest.raises(RegistryError, match="There is no registry at "):
        machine.open().head("a/b")
    assert machine.open().head("a/b") is None
    machine.publish()


@pytest.mark.parametrize("replaced", [True, False])
def test_nothing_is_written_before_the_place_is_known(machine: Machine, replaced: bool) -> None:
    registry = machine.open()
    list(registry.packages())
    shutil.rmtree(machine.place)
    if replaced:
        other = RemoteRegistry(FolderStorage(machine.place), cache=machine.base / "other")
        other.publish("x/y", store(other, {"a": b"2"}, "two"))
    before = sorted(machine.place.rglob("*"))
    late = machine.open()
    with pytest.raises(RegistryError):
        late.note("a/b", "a word")
    assert sorted(machine.place.rglob("*")) == before


def test_whatever_goes_wrong_meanwhile_is_raised_and_nothing_passes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "key").write_bytes(b"data")
    gate = threading.Event()

    def check() -> None:
        gate.wait(5)
        raise ValueError("odd")

    checked = CheckedStorage(FolderStorage(tmp_path), check)
    gate.set()
    for ask in (
        lambda: checked.read("folder/key", max_bytes=9),
        lambda: checked.read_range("folder/key", 0, 2),
        lambda: checked.open("folder/key").__enter__(),
        lambda: checked.stat("folder/key"),
        lambda: checked.names("folder"),
        lambda: list(checked.walk("folder")),
        lambda: checked.create("folder/new", b""),
        lambda: checked.put("folder/new", b""),
        lambda: checked.delete("folder/key"),
        lambda: checked.now(),
    ):
        with pytest.raises(ValueError, match="odd"):
            ask()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["key"]


def test_a_check_that_passes_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "key").write_bytes(b"data")
    checked = CheckedStorage(FolderStorage(tmp_path), lambda: None)
    assert checked.read("folder/key", max_bytes=9) == b"data"
    assert checked.read_range("folder/key", 1, 2) == b"at"
    with checked.open("folder/key") as handle:
        assert handle.read(9) == b"data"
    assert [one.key for one in checked.walk("folder")] == ["folder/key"]
    assert list(checked.walk("nothing")) == []
    assert checked.names("folder") == ["key"]
    assert checked.stat("folder/other") is None
    with pytest.raises(FileNotFoundError):
        checked.read("folder/other", max_bytes=9)
    checked.create("folder/other", b"x")
    with pytest.raises(FileExistsError):
        checked.create("folder/other", b"x")
    checked.delete("folder/other")
    checked.delete("folder/key")
    checked.prune("folder")
    assert not (tmp_path / "folder").exists()
