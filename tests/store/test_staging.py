"""A name never stands for bytes that a crash could lose: content is durable first, then it is named."""

from __future__ import annotations

import io
import json
import os
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.digest import PLAIN, Digest, hash_bytes
from reprokit.errors import DataMismatchError, RefusedError
from reprokit.schema.manifest import Entry
from reprokit.store.index import Index
from reprokit.store.objects import TEMPORARY, ObjectStore, hint_of
from reprokit.store.packs import SMALL
from reprokit.store.staging import Staging, stage

LARGE = b"l" * SMALL


def _hashed(staging: Staging) -> None:
    parts = [memoryview(LARGE)[:1000], memoryview(LARGE)[1000:-5], memoryview(LARGE)[-5:]]
    staging.put_hashed(hash_bytes(LARGE), parts, SMALL)


WAYS: dict[str, Callable[[Staging], object]] = {
    "a small object": lambda staging: staging.put_bytes(b"small"),
    "a large object": lambda staging: staging.put_bytes(LARGE),
    "a large object whose digest is known": _hashed,
    "a large stream": lambda staging: staging.put_stream(io.BytesIO(LARGE), SMALL),
    "an imported stream": lambda staging: staging.put_known(io.BytesIO(b"old"), hash_bytes(b"old", PLAIN), 3, what="x"),
    "a large stream of a known digest": lambda staging: staging.put_known(
        io.BytesIO(LARGE), hash_bytes(LARGE), SMALL, what="x"
    ),
    "a small object once more": lambda staging: staging.put_again(hash_bytes(b"again").raw, b"again"),
}


@pytest.mark.parametrize("way", WAYS)
def test_content_is_durable_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    synced: set[tuple[int, int, int]] = set()  # inodes with the length that they had
    folders: set[int] = set()
    named: list[Path] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        seen = os.fstat(descriptor)
        synced.add((seen.st_dev, seen.st_ino, seen.st_size))
        folders.add(seen.st_ino)

    def note_name(self: Path, target: Path) -> Path:
        seen = self.stat()
        assert (seen.st_dev, seen.st_ino, seen.st_size) in synced, f"{target} is named before its content is durable"
        assert seen.st_mode & 0o222 == 0
        folders.discard(target.parent.stat().st_ino)
        named.append(target)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_name)
    store = ObjectStore(tmp_path / "registry", Index(None))
    with stage(store) as staging:
        WAYS[way](staging)
        assert named == []
    assert len(named) == 1
    assert named[0].parent.stat().st_ino in folders, "the folder was not synced after it got the name"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "registry", Index(None))


def waiting(store: ObjectStore) -> list[int]:
    """Return the sizes of the large objects that wait for their names."""
    files = [path for path in (store.root / TEMPORARY).rglob("*") if path.is_file()]
    return [path.stat().st_size for path in files if path.name != "owner" and not path.name.startswith("pack-")]


def test_what_is_there_or_is_too_short_takes_no_room_while_others_wait(store: ObjectStore) -> None:
    with stage(store) as staging:
        for _ in range(2):
            staging.put_stream(io.BytesIO(LARGE), SMALL)
            assert waiting(store) == [SMALL]
        staging.put_stream(io.BytesIO(b"short"), SMALL)
        assert waiting(store) == [SMALL]
    with stage(store) as staging:
        staging.put_stream(io.BytesIO(LARGE), SMALL)
        assert (waiting(store), staging.new_bytes) == ([], 0)


@pytest.mark.parametrize("way", ["a large object", "a large stream", "a large stream of a known digest"])
def test_what_another_thread_was_faster_with_is_stored_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    sync = os.fsync

    def be_faster(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        staging.put_bytes(LARGE)
        sync(descriptor)

    with stage(store) as staging:
        monkeypatch.setattr(os, "fsync", be_faster)
        WAYS[way](staging)
        assert (waiting(store), staging.new_bytes) == ([SMALL], SMALL)
    assert store.has(hash_bytes(LARGE), SMALL)


@pytest.mark.parametrize("size", [4, SMALL])
def test_what_is_not_what_it_is_called_is_not_among_what_is_stored(store: ObjectStore, size: int) -> None:
    false = b"false".ljust(size)[:size]
    with stage(store) as staging:
        with pytest.raises(DataMismatchError, match=r"^x is corrupt: expected "):
            staging.put_known(io.BytesIO(false), hash_bytes(b"true".ljust(size)), size, what="x")
        staging.put_bytes(b"beside it")
    assert staging.new_bytes == len(b"beside it")
    assert not store.has(hash_bytes(false), size)


class Endless(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return len(buffer)


@pytest.mark.parametrize("known", [False, True])
def test_a_large_stream_is_never_all_in_memory(store: ObjectStore, known: bool) -> None:
    size = 6 * SMALL
    digest = hash_bytes(bytes(size))
    with stage(store) as staging:
        source = io.BufferedReader(Endless())
        source.peek()
        tracemalloc.start()
        try:
            if known:
                with pytest.raises(DataMismatchError):
                    staging.put_known(source, digest, size, what="x")
            else:
                assert staging.put_stream(source, size)[1] == size + 1
            assert tracemalloc.get_traced_memory()[1] < size
        finally:
            tracemalloc.stop()


def test_a_cache_waits_for_no_disk_to_keep_what_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store = ObjectStore(tmp_path / "cache", Index(None), durable=False)
    with stage(store) as staging:
        staging.put_bytes(b"small")
    assert store.has(hash_bytes(b"small"), 5)
    assert synced == []


@pytest.mark.parametrize("way", [way for way in WAYS if "large" in way])
def test_a_cache_waits_for_no_disk_to_keep_what_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store = ObjectStore(tmp_path / "cache", Index(None), durable=False)
    with stage(store) as staging:
        WAYS[way](staging)
    assert store.has(hash_bytes(LARGE), SMALL)
    assert synced == []


# What was purged, and who has the store alone


NEW: dict[str, bytes] = {  # what is not there yet, by how it comes; beside it come objects that are written anew
    "a small object": b"small",
    "a large object": LARGE,
    "a large object whose digest is known": LARGE,
    "a large stream": LARGE,
    "an imported stream": b"old",
    "a large stream of a known digest": LARGE,
}


def entry_of(way: str) -> Entry:
    digest = hash_bytes(NEW[way], PLAIN) if "imported" in way else hash_bytes(NEW[way])
    return Entry("x", len(NEW[way]), digest)


def bury(store: ObjectStore, digest: Digest) -> None:
    stone = store.tombstone_path(digest)
    stone.parent.mkdir(parents=True, exist_ok=True)
    stone.write_text(json.dumps({"time": "T", "writer": "W", "reason": "R"}))


def names(store: ObjectStore) -> list[str]:
    return sorted(
        path.name for kind in ("packs", "objects") for path in (store.root / kind).rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("way", NEW)
def test_what_was_purged_is_refused_at_once_and_all_else_is_stored(store: ObjectStore, way: str) -> None:
    digest = entry_of(way).digest
    bury(store, digest)
    said = rf"^Object {digest.hex[:12]}… is not stored again\. It was purged on T by W: R\."
    with stage(store) as staging:
        with pytest.raises(RefusedError, match=said):
            WAYS[way](staging)
        staging.put_all([b"beside it", b"o" * SMALL])
    assert store.has(hash_bytes(b"beside it"), 9) and store.has(hash_bytes(b"o" * SMALL), SMALL)
    assert len(names(store)) == 2 and staging.new_bytes == 9 + SMALL


@pytest.mark.parametrize("way", NEW)
def test_what_is_purged_before_it_has_its_name_gets_none(store: ObjectStore, way: str) -> None:
    bury(store, hash_bytes(b"of others"))
    with pytest.raises(RefusedError, match="is not stored again"), stage(store) as staging:
        WAYS[way](staging)
        bury(store, entry_of(way).digest)
    assert names(store) == []
    for other in (b"more of others", b"still more"):  # by which nobody else is held up
        with stage(store) as staging:
            staging.put_all([b"beside it", b"o" * SMALL])
            bury(store, hash_bytes(other))
    assert len(names(store)) == 2


@contextmanager
def held_off(store: ObjectStore, work: Callable[[], object]) -> Iterator[None]:
    """Do work in a thread while somebody else has the store alone: it waits for that one."""
    done = threading.Thread(target=work)
    with ObjectStore(store.root, Index(None)).alone():
        done.start()
        done.join(0.2)
        assert done.is_alive()
        yield
    done.join(30)
    assert not done.is_alive()


@pytest.mark.parametrize("way", NEW)
def test_nothing_new_is_named_while_somebody_has_the_store_alone(store: ObjectStore, way: str) -> None:
    def put() -> None:
        with stage(store) as staging:
            WAYS[way](staging)

    store.root.mkdir()
    with held_off(store, put):
        assert names(store) == []
    assert len(names(store)) == 1


@pytest.mark.parametrize("way", ["a small object", "a large object", "a large stream"])
def test_nothing_is_used_again_while_somebody_has_the_store_alone(store: ObjectStore, way: str) -> None:
    with stage(store) as staging:
        WAYS[way](staging)
    with stage(store) as staging:
        with held_off(store, lambda: WAYS[way](staging)):
            for path in (*store.root.glob("packs/*.zip"), *store.root.glob("objects/*/*/*")):
                path.unlink()  # it was garbage
        assert staging.new_bytes == len(NEW[way])
    assert store.read(entry_of(way), what="x") == NEW[way]


def test_who_has_the_store_alone_writes_what_is_in_it_anew(store: ObjectStore) -> None:
    store.root.mkdir()
    with store.alone(), stage(store) as staging:
        staging.put_again(hash_bytes(b"again").raw, b"again")
    assert store.read(Entry("x", 5, hash_bytes(b"again")), what="x") == b"again"


# What is told of them, and what is used again


def test_it_is_told_where_small_objects_lie_and_which_large_ones_are_new(store: ObjectStore) -> None:
    digests = [hash_bytes(data) for data in (b"one", b"two", LARGE)]
    for times in (1, 2):
        with stage(store) as staging:
            assert staging.put_all([b"one", b"two", LARGE, b"one"]) == [*digests, digests[0]]
        there = store.find(digests)
        assert staging.places == {digest.value: hint_of(*there[digest]) for digest in digests[:2]}
        assert staging.loose == ({digests[2]} if times == 1 else set())
        assert staging.written == (list(store.pack_names()) if times == 1 else [])
    assert store.pack(staging.places[digests[0].value][6:70]).members.keys() == {digest.raw for digest in digests[:2]}


def test_what_was_named_has_its_name_before_the_end_and_more_may_come(store: ObjectStore) -> None:
    with stage(store) as staging:
        staging.put_all([b"one", LARGE])
        staging.settle()
        assert store.has(hash_bytes(b"one"), 3) and store.has(hash_bytes(LARGE), SMALL)
        staging.put_all([b"two", b"o" * SMALL])
    assert store.has(hash_bytes(b"two"), 3) and store.has(hash_bytes(b"o" * SMALL), SMALL)
    assert staging.new_bytes == 6 + 2 * SMALL


def test_what_is_hashed_already_is_stored_once_whatever_its_size(store: ObjectStore) -> None:
    small = [memoryview(b"sm"), memoryview(b"all")]
    with stage(store) as staging:
        for _ in range(2):
            staging.put_hashed(hash_bytes(b"small"), small, 5)
            _hashed(staging)
        assert (waiting(store), staging.new_bytes) == ([SMALL], 5 + SMALL)
    for data in (b"small", LARGE):
        assert store.read(Entry("x", len(data), hash_bytes(data)), what="x") == data


def test_a_stream_has_the_kind_of_digest_that_was_asked_for(store: ObjectStore) -> None:
    for data in (b"old", LARGE):
        for kind in (PLAIN, "sha2-256-chunked"):
            with stage(store) as staging:
                digest, size = staging.put_stream(io.BytesIO(data), len(data), kind)
            assert (digest, size) == (hash_bytes(data, kind), len(data))
            assert store.read(Entry("x", size, digest), what="x") == data


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_what_is_longer_than_it_is_called_is_not_it(store: ObjectStore, data: bytes) -> None:
    with stage(store) as staging, pytest.raises(DataMismatchError, match=r"^x is corrupt: expected "):
        staging.put_known(io.BytesIO(data + b"more"), hash_bytes(data), len(data), what="x")
    assert names(store) == []


@pytest.mark.parametrize(("data", "kind"), [(b"small", "sha2-256-chunked"), (LARGE, "sha2-256-chunked"), (b"o", PLAIN)])
def test_what_is_there_is_not_fetched_again(store: ObjectStore, data: bytes, kind: str) -> None:
    digest, source = hash_bytes(data, kind), io.BytesIO(data)
    with stage(store) as staging:
        staging.put_known(source, digest, len(data), what="x")
        if len(data) == SMALL or kind == PLAIN:
            source.seek(0)
            staging.put_known(source, digest, len(data), what="x")
            assert source.tell() == 0
    source.seek(0)
    with stage(store) as staging:
        staging.put_known(source, digest, len(data), what="x")
    assert (source.tell(), staging.new_bytes) == (0, 0)


def test_a_large_object_that_was_cut_is_stored_anew(store: ObjectStore) -> None:
    with stage(store) as staging:
        staging.put_bytes(LARGE)
    path = store.loose_path(hash_bytes(LARGE))
    path.chmod(0o644)
    os.truncate(path, SMALL - 1)
    with stage(store) as staging:
        staging.put_bytes(LARGE)
    assert staging.new_bytes == SMALL
    assert path.read_bytes() == LARGE


@pytest.mark.parametrize("again", [False, True])
def test_of_two_threads_one_waits_while_the_other_writes_a_pack(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    checksum, others = zlib.crc32, []

    def put(data: bytes) -> None:
        staging.put_again(hash_bytes(data).raw, data) if again else staging.put_bytes(data)

    def meet(data: bytes) -> int:
        monkeypatch.setattr(zlib, "crc32", checksum)
        others.append(threading.Thread(target=put, args=[b"two"]))
        others[0].start()
        others[0].join(0.2)
        return checksum(data)

    with stage(store) as staging:
        monkeypatch.setattr(zlib, "crc32", meet)
        put(b"one")
        others[0].join(30)
    for data in (b"one", b"two"):
        assert store.read(Entry("x", 3, hash_bytes(data)), what="x") == data
