"""What every storage promises, in a folder, in memory and on a real server; and what is kept near of one."""

import threading
import uuid
from pathlib import Path

import pytest

from reprokit.store.cached_storage import CachedStorage
from reprokit.store.object_storage import open_storage
from reprokit.store.storage import FolderStorage, Storage
from tests.object_stores import AzureServer, CloudServer, Server


class StorageContract:
    def test_what_was_put_is_read_whole_in_part_and_from_its_beginning(self, storage: Storage) -> None:
        storage.put("a/b", b"0123456789")
        assert storage.read("a/b", max_bytes=10) == b"0123456789"
        assert storage.read("a/b", max_bytes=3) == b"0123"
        assert storage.read_range("a/b", 2, 3) == b"234"
        assert storage.read_range("a/b", 8, 5) == b"89"
        assert storage.read_range("a/b", 10, 5) == b""
        assert storage.read_range("a/b", 3, 0) == b""
        with storage.open("a/b") as handle:
            assert (handle.read(4), handle.read(100), handle.read(1)) == (b"0123", b"456789", b"")
        stored = storage.stat("a/b")
        assert stored is not None
        assert (stored.key, stored.size) == ("a/b", 10)
        storage.put("a/b", b"other")
        assert storage.read("a/b", max_bytes=10) == b"other"

    def test_what_is_not_there_is_told(self, storage: Storage) -> None:
        storage.put("a/b", b"")
        assert storage.read("a/b", max_bytes=1) == b""
        for key in ("a/c", "b", "a/b2"):
            assert storage.stat(key) is None
            with pytest.raises(FileNotFoundError):
                storage.read(key, max_bytes=1)
            with pytest.raises(FileNotFoundError):
                storage.read_range(key, 0, 1)
        assert storage.names("nowhere") == []
        assert list(storage.walk("nowhere")) == []
        storage.delete("a/b")
        storage.delete("a/b")
        assert storage.stat("a/b") is None

    def test_one_of_many_creates(self, storage: Storage) -> None:
        won: list[bytes] = []

        def create(data: bytes) -> None:
            try:
                storage.create("log/1", data)
            except FileExistsError:
                return
            won.append(data)

        threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read("log/1", max_bytes=10) == won[0]

    def test_listing_is_by_folders_and_from_a_key_on(self, storage: Storage) -> None:
        keys = ["x/a/1", "x/a/2", "x/b", "x/b c%20ü", "x/c/d/e", "xy/1"]
        for key in keys:
            storage.put(key, key.encode())
        assert sorted(storage.names("x")) == ["a", "b", "b c%20ü", "c"]
        assert sorted(storage.names("x", after="b")) == ["b c%20ü", "c"]
        assert sorted(storage.names("x/a", after="1")) == ["2"]
        assert [(one.key, one.size) for one in storage.walk("x")] == [(key, len(key.encode())) for key in keys[:5]]
        assert [one.key for one in storage.walk("x", after="x/b")] == keys[3:5]

    def test_time_is_that_of_the_place(self, storage: Storage) -> None:
        storage.put("a", b"")
        stored = storage.stat("a")
        assert stored is not None
        assert 0 <= storage.now() - stored.modified < 60
        assert list(storage.walk("clock")) == []


class TestFolder(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return FolderStorage(tmp_path / "there")


class TestInMemory(StorageContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return open_storage(f"memory://{uuid.uuid4()}")


class TestOnSeaweedFS(StorageContract):
    @pytest.fixture
    def storage(self, weed: Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
        weed.used_by(monkeypatch)
        return open_storage(f"s3://bucket/{uuid.uuid4()}")


class TestOnMoto(StorageContract):
    @pytest.fixture
    def storage(self, moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
        moto_server.used_by(monkeypatch)
        return open_storage(f"s3://bucket/{uuid.uuid4()}")


class TestOnAzurite(StorageContract):
    @pytest.fixture
    def storage(self, azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
        azure.used_by(monkeypatch)
        return open_storage(f"az://bucket/{uuid.uuid4()}")


class TestOnGoogleCloudsStandIn(StorageContract):
    @pytest.fixture
    def storage(self, cloud: CloudServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
        cloud.used_by(monkeypatch)
        return open_storage(f"gs://bucket/{uuid.uuid4()}")


class TestNear(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return CachedStorage(FolderStorage(tmp_path / "there"), tmp_path / "near")


def test_manifests_and_entries_of_logs_are_asked_for_once(tmp_path: Path) -> None:
    there = FolderStorage(tmp_path / "there")
    for key in ("manifests/x", "log/a/b/0000000001", "tombstones/x"):
        there.put(key, b"1")
    near = CachedStorage(there, tmp_path / "near")
    for key in ("manifests/x", "log/a/b/0000000001", "tombstones/x"):
        assert near.read(key, max_bytes=9) == b"1"
        there.delete(key)
    for key in ("manifests/x", "log/a/b/0000000001"):
        assert near.read(key, max_bytes=9) == b"1"
    with pytest.raises(FileNotFoundError):
        near.read("tombstones/x", max_bytes=9)
    near.forget("manifests/x")
    with pytest.raises(FileNotFoundError):
        near.read("manifests/x", max_bytes=9)


def test_a_log_whose_end_is_gone_is_listed_as_it_is(tmp_path: Path) -> None:
    there = FolderStorage(tmp_path / "there")
    near = CachedStorage(there, tmp_path / "near")
    names = [f"{number:010d}" for number in range(1, 5)]
    for name in names:
        near.create(f"log/a/b/{name}", b"")
    assert sorted(near.names("log/a/b")) == names
    there.put("log/a/b/0000000005", b"")
    near.look_again()
    assert sorted(near.names("log/a/b")) == [*names, "0000000005"]
    for name in (*names[2:], "0000000005"):
        there.delete(f"log/a/b/{name}")
    near.look_again()
    assert sorted(near.names("log/a/b")) == names[:2]
