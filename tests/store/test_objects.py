"""An object is whole, durable and named by its bytes, or it is not there."""

import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from reprokit.core.digest import PLAIN, hash_bytes
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.schema.manifest import Entry
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore, hint_of, parse_hint
from reprokit.store.packs import SMALL, Member
from reprokit.store.staging import stage

LARGE = bytes(range(256)) * (SMALL // 256)


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "registry", Index(tmp_path / "cache" / "index.sqlite"))


def put(store, *objects):
    with stage(store) as staging:
        return [Entry("x", len(data), staging.put_bytes(data)[0]) for data in objects]


def files(store):
    return sorted(
        str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file() and path.name != "lock"
    )


def test_a_large_object_lies_under_its_digest(store):
    (entry,) = put(store, LARGE)
    digest = entry.digest
    assert files(store) == [f"objects/sha2-256-chunked/{digest.hex[:2]}/{digest.hex[2:]}"]
    assert store.read(entry, what="x") == LARGE
    assert store.read_range(entry, 255, 3, what="x") == b"\xff\x00\x01"
    assert store.loose_path(digest).stat().st_mode & 0o777 == 0o444
    assert list(store.loose()) == [(digest, store.loose_path(digest))]


def test_small_objects_of_a_commit_lie_in_one_zip_that_any_tool_reads(store):
    entries = put(store, b"one", b"", b"three", LARGE[:-1])
    (name,) = store.pack_names()
    path = store.pack_path(name)
    assert hash_bytes(path.read_bytes()).hex == name
    assert path.stat().st_mode & 0o777 == 0o444
    with zipfile.ZipFile(path) as pack:
        assert pack.testzip() is None
        assert {info.filename: pack.read(info) for info in pack.infolist()} == {
            entry.digest.hex: store.read(entry, what="x") for entry in entries
        }


def test_equal_commits_give_equal_packs(tmp_path):
    stores = [ObjectStore(tmp_path / name, Index(None)) for name in ("a", "b")]
    for store in stores:
        put(store, b"one", b"two")
    assert stores[0].pack_names() == stores[1].pack_names()


def test_nothing_has_a_name_before_the_staging_ends(store):
    with stage(store) as staging:
        small, large = staging.put_bytes(b"x"), staging.put_bytes(LARGE)
        assert not store.has(*small)
        assert not store.has(*large)
    assert store.has(*small)
    assert store.has(*large)


def test_a_failed_staging_leaves_nothing(store):
    with pytest.raises(RuntimeError), stage(store) as staging:
        staging.put_bytes(b"x")
        staging.put_bytes(LARGE)
        raise RuntimeError
    assert files(store) == []
    assert os.listdir(store.root / "tmp") == []


def test_equal_bytes_are_stored_once(store):
    for data in (b"same", LARGE):
        with stage(store) as staging:
            staging.put_bytes(data)
            staging.put_stream(io.BytesIO(data), len(data))
            assert staging.new_bytes == len(data)
        with stage(store) as staging:
            staging.put_bytes(data)
            staging.put_stream(io.BytesIO(data), len(data))
            assert staging.new_bytes == 0
    assert len(files(store)) == 2


def test_a_stream_that_is_not_as_long_as_was_said_shows_it_and_does_not_go_on_for_ever(store):
    endless = LARGE * 20
    for said, data in ((3, b"longer"), (3, LARGE), (SMALL - 1, LARGE), (SMALL, b"short"), (9 << 20, endless)):
        with stage(store) as staging:
            digest, size = staging.put_stream(io.BytesIO(data), said)
        taken = data[: said + 1]
        assert (digest, size) == (hash_bytes(taken), len(taken))
        assert store.read(Entry("x", size, digest), what="x") == taken


def test_many_threads_share_a_staging(store):
    objects = [bytes([n % 100]) * 10 for n in range(400)]
    with stage(store) as staging, ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda data: staging.put_stream(io.BytesIO(data), 10)[0], objects))
    assert digests == [hash_bytes(data) for data in objects]
    assert len(store.find(digests)) == 100


@pytest.mark.parametrize("trouble", ["deleted", "garbage", "lies"])
def test_the_index_is_never_needed(store, tmp_path, trouble):
    entries = put(store, b"one", b"two")
    file = tmp_path / "cache" / "index.sqlite"
    if trouble == "deleted":
        for path in file.parent.iterdir():
            path.unlink()
    elif trouble == "garbage":
        file.write_bytes(b"no database" * 1000)
    else:
        liar = Index(file)
        (name,) = store.pack_names()
        liar.drop_packs([name])
        liar.add_pack(name, {entries[0].digest.raw: Member(5, 3), entries[1].digest.raw: Member(0, 99)})
        del liar
    again = ObjectStore(store.root, Index(file))
    assert [again.read(entry, what="x") for entry in entries] == [b"one", b"two"]
    with stage(again) as staging:
        staging.put_bytes(b"one")
        assert staging.new_bytes == 0


def test_an_object_is_found_where_its_key_lies_or_is_out_of_date(store):
    (entry,) = put(store, b"hello")
    (name,) = store.pack_names()
    offset = store.find([entry.digest])[entry.digest][1].offset
    for place in (hint_of(name, Member(offset, 5)), hint_of(name, Member(0, 5)), hint_of("0" * 64, Member(0, 5)), "?"):
        assert store.read(entry._replace(physical_keys=(place,)), what="x") == b"hello"


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "packs/../../x.zip#0,1",
        f"packs/{'a' * 64}.zip",
        f"packs/{'a' * 64}.zip#-1,2",
        f"packs/{'A' * 64}.zip#1,2",
        "x",
    ],
)
def test_what_is_no_place_in_a_pack_is_no_hint(hint):
    assert parse_hint(hint) is None


@pytest.mark.parametrize("damage", [b"jello\n", b"hello", b"hello\nmore", b""])
@pytest.mark.parametrize("size", [6, SMALL])
def test_damage_of_a_loose_object_is_noticed_however_it_is_read(store, damage, size):
    data = b"hello\n".ljust(size, b".")
    entry = Entry("x", size, hash_bytes(data, PLAIN if size < SMALL else "sha2-256-chunked"))
    with stage(store) as staging:
        staging.put_known(io.BytesIO(data), entry.digest, size, what="x")
    path = store.loose_path(entry.digest)
    path.unlink()
    path.write_bytes(damage if size < SMALL else damage.ljust(size - 1, b"."))
    for read in (lambda: store.read(entry, what="x"), lambda: store.copy_to(entry, io.BytesIO(), what="x")):
        with pytest.raises(DataMismatchError) as caught:
            read()
        assert caught.value.message.startswith(f"x is corrupt: expected {entry.digest.hex[:12]}…, read ")


def test_every_flipped_byte_of_a_pack_is_noticed_or_harmless(store):
    entries = put(store, b"hello", b"world!")
    (name,) = store.pack_names()
    path = store.pack_path(name)
    whole = path.read_bytes()
    path.chmod(0o644)
    noticed = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        fresh = ObjectStore(store.root, Index(None))
        assert hash_bytes(path.read_bytes()).hex != name
        for entry, data in zip(entries, (b"hello", b"world!"), strict=True):
            try:
                assert fresh.read(entry, what="x") == data
            except (DataMismatchError, NotFoundError):
                noticed += 1
    assert noticed > len(b"helloworld!")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        fresh = ObjectStore(store.root, Index(None))
        with pytest.raises((DataMismatchError, NotFoundError)):
            fresh.read(entries[0], what="x")


def test_a_missing_object_is_named(store):
    digest = hash_bytes(b"never stored")
    assert not store.has(digest, 12)
    with pytest.raises(NotFoundError) as caught:
        store.read(Entry("x", 12, digest), what="x")
    assert caught.value.message == f"x: its object {digest.hex[:12]}… is missing from {store.root}."


def test_an_object_from_elsewhere_must_be_what_it_is_called(store):
    plain = hash_bytes(b"old", PLAIN)
    with stage(store) as staging:
        staging.put_known(io.BytesIO(b"old"), plain, 3, what="old")
        staging.put_known(io.BytesIO(b"new"), hash_bytes(b"new"), 3, what="new")
    assert store.read(Entry("x", 3, plain), what="old") == b"old"
    for size in (4, SMALL):
        false = b"false".ljust(size)[:size]
        with pytest.raises(DataMismatchError), stage(store) as staging:
            staging.put_known(io.BytesIO(false), hash_bytes(b"true".ljust(size)), size, what="x")
    assert len(files(store)) == 2


def test_only_folders_whose_owner_died_are_abandoned(store):
    with stage(store):
        assert list(store.abandoned()) == []
        left = store.root / "tmp" / "left"
        left.mkdir()
        (left / "owner").touch()
        assert list(store.abandoned()) == [left]
