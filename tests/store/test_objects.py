"""An object is whole, durable and named by its bytes, or it is not there."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from reprokit.digest import PLAIN, hash_bytes
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.store.objects import ObjectStore


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "objects")


def put(store, *objects):
    with store.staging() as staging:
        return [staging.put_bytes(data)[0] for data in objects]


def files(store):
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_an_object_lies_under_its_digest_and_reads_back(store):
    (digest,) = put(store, b"hello\n")
    assert files(store) == [f"sha2-256-chunked/{digest.hex[:2]}/{digest.hex[2:]}"]
    assert store.read(digest, 6, what="x") == b"hello\n"
    assert store.read_range(digest, 1, 3) == b"ell"
    assert store.path(digest).stat().st_mode & 0o777 == 0o444


def test_nothing_has_a_name_before_the_staging_ends(store):
    with store.staging() as staging:
        digest, size = staging.put_bytes(b"x")
        assert not store.has(digest, size)
    assert store.has(digest, size)


def test_a_failed_staging_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.staging() as staging:
        staging.put_bytes(b"x")
        raise RuntimeError
    assert files(store) == []
    assert os.listdir(store.root) == []


def test_equal_bytes_are_stored_once(store):
    with store.staging() as staging:
        staging.put_bytes(b"same")
        staging.put_stream(io.BytesIO(b"same"), 4)
        assert staging.new_bytes == 4
    with store.staging() as staging:
        staging.put_bytes(b"same")
        assert staging.new_bytes == 0
    assert len(files(store)) == 1


def test_many_threads_share_a_staging(store):
    objects = [bytes([n % 100]) * 10 for n in range(400)]
    with store.staging() as staging, ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda data: staging.put_stream(io.BytesIO(data), 10)[0], objects))
    assert digests == [hash_bytes(data) for data in objects]
    assert len(files(store)) == 100


@pytest.mark.parametrize("damage", [b"jello\n", b"hello", b"hello\nmore", b""])
def test_damage_is_noticed_however_it_is_read(store, damage):
    (digest,) = put(store, b"hello\n")
    path = store.path(digest)
    path.unlink()
    path.write_bytes(damage)
    for read in (lambda: store.read(digest, 6, what="x"), lambda: store.copy_to(digest, 6, io.BytesIO(), what="x")):
        with pytest.raises(DataMismatchError) as caught:
            read()
        assert caught.value.message.startswith(f"x is corrupt: expected {digest.hex[:12]}…, read ")


def test_a_missing_object_is_named(store):
    digest = hash_bytes(b"never stored")
    assert not store.has(digest, 12)
    with pytest.raises(NotFoundError) as caught:
        store.read(digest, 12, what="x")
    assert caught.value.message == f"Object {digest.hex[:12]}… is missing from {store.root}."


def test_an_object_from_elsewhere_must_be_what_it_is_called(store):
    plain = hash_bytes(b"old", PLAIN)
    with store.staging() as staging:
        staging.put_known(io.BytesIO(b"old"), plain, 3, what="old")
    assert store.read(plain, 3, what="old") == b"old"
    with pytest.raises(DataMismatchError), store.staging() as staging:
        staging.put_known(io.BytesIO(b"false"), hash_bytes(b"true"), 4, what="x")
    assert len(files(store)) == 1
