"""An object is whole, durable and named by its bytes, or it is not there."""

import io
import os
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from reprokit.core.digest import CHUNKED, PLAIN, Digest, hash_bytes
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store import objects
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore, hint_of, is_digest_of, parse_hint
from reprokit.store.packs import SMALL, Member
from reprokit.store.reader import PackReader
from reprokit.store.staging import stage

LARGE = bytes(range(256)) * (SMALL // 256)


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "registry", Index(tmp_path / "cache" / "index.sqlite"))


def put(store, *contents):
    with stage(store) as staging:
        return [Entry("x", len(data), staging.put_bytes(data)[0]) for data in contents]


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
    contents = [bytes([n % 100]) * 10 for n in range(400)]
    with stage(store) as staging, ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda data: staging.put_stream(io.BytesIO(data), 10)[0], contents))
    assert digests == [hash_bytes(data) for data in contents]
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


DAMAGES = {
    "its first byte": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "its last byte": lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
    "two bytes exchanged": lambda data: data[1::-1] + data[2:],
    "one byte fewer": lambda data: data[:-1],
    "one byte more": lambda data: data + b".",
    "nothing left": lambda data: data[:0],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("size", [6, SMALL])
def test_damage_of_a_loose_object_is_noticed_however_it_is_read(store, damage, size):
    data = b"hello\n".ljust(size, b".")
    entry = Entry("x", size, hash_bytes(data, PLAIN if size < SMALL else "sha2-256-chunked"))
    with stage(store) as staging:
        staging.put_known(io.BytesIO(data), entry.digest, size, what="x")
    path = store.loose_path(entry.digest)
    assert store.read(entry, what="x") == data
    path.unlink()
    path.write_bytes(DAMAGES[damage](data))
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


@pytest.mark.parametrize("kind", [CHUNKED, PLAIN])
@pytest.mark.parametrize("data", [b"", b"x", LARGE[:-1], LARGE], ids=["empty", "one byte", "small", "large"])
def test_bytes_have_the_digest_of_each_kind_that_is_theirs(kind, data):
    digest = hash_bytes(data, kind)
    assert is_digest_of(data, digest) and is_digest_of(memoryview(data), digest)
    assert not is_digest_of(data + b"x", digest)


def test_only_folders_whose_owner_died_are_abandoned(store):
    with stage(store):
        assert list(store.abandoned()) == []
        left = store.root / "tmp" / "left"
        left.mkdir()
        (left / "owner").touch()
        assert list(store.abandoned()) == [left]


# ── where an object is ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hint_is_what_it_was_made_from():
    assert parse_hint(hint_of("a" * 64, Member(50, 7))) == ("a" * 64, Member(50, 7))
    for hint in (
        "packs/{}.zip#\u0663,2",
        "packs/{}.zip#1,\u0663",
        "packs/{}.zip#,2",
        "packs/{}.zip#1",
        "packs/{}.zap#1,2",
    ):
        assert parse_hint(hint.format("a" * 64)) is None


def test_an_imported_digest_names_no_object_of_a_pack(store):
    """SHA-256 of the content, and of its chunks' hashes: one hex number may stand for either."""
    (entry,) = put(store, b"hello")
    alias = Digest(PLAIN, entry.digest.raw.hex())
    assert store.find([alias, entry.digest]).keys() == {entry.digest}
    assert store.find([alias]) == {}
    assert not store.has(alias, 5)
    with pytest.raises(NotFoundError, match=r"^x: its object .* is missing from "):
        store.read(entry._replace(digest=alias), what="x")


def test_a_version_is_given_the_places_of_its_objects(store):
    small, large = put(store, b"hello", LARGE)
    (name,) = store.pack_names()
    known = Manifest.make([small._replace(logical_key="a"), large._replace(logical_key="b")])
    placed = store.locate(known)
    there = store.find([small.digest])[small.digest]
    assert there == (name, Member(there[1].offset, 5))
    loose = f"objects/sha2-256-chunked/{large.digest.hex[:2]}/{large.digest.hex[2:]}"
    assert list(placed.places) == [hint_of(*there), loose]
    assert placed.top_hash == known.top_hash
    assert list(store.locate(placed).places) == list(placed.places)
    gone = placed.placed([hint_of("0" * 64, Member(1, 5)), "objects/nowhere"])
    assert list(store.locate(gone).places) == list(placed.places)


@pytest.mark.parametrize("size", [5, SMALL])
def test_a_version_that_names_what_is_not_there_has_no_places(store, size):
    put(store, b"hello", LARGE)
    there = Entry("a", 5, hash_bytes(b"hello"))
    for entry in (
        Entry("b", size, hash_bytes(b"never stored")),
        Entry("b", 6, hash_bytes(b"hello")),
        Entry("b", SMALL + 1, hash_bytes(LARGE)),
    ):
        with pytest.raises(NotFoundError) as caught:
            store.locate(Manifest.make([there, entry]))
        assert caught.value.message == (
            f"The object of 'b' ({entry.digest.hex[:12]}…, {entry.size:,} bytes) is not in {store.root}."
        )


def test_what_is_used_again_looks_new_and_what_is_new_is_left_alone(store):
    small, large = put(store, b"hello", LARGE)
    (name,) = store.pack_names()
    paths = [store.pack_path(name), store.loose_path(large.digest)]
    version = Manifest.make([small._replace(logical_key="a"), large._replace(logical_key="b")])
    placed = store.locate(version)
    for use in (
        lambda: store.locate(placed),
        lambda: put(ObjectStore(store.root, Index(None)), b"hello", LARGE),
    ):
        for path in paths:
            os.utime(path, (1, 1))
        use()
        assert [path.stat().st_mtime > time.time() - 60 for path in paths] == [True, True]
    for path in paths:
        os.utime(path, (time.time() - 60,) * 2)
    before = [path.stat().st_mtime_ns for path in paths]
    store.locate(version)
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert not store.freshen(store.pack_path("0" * 64))


def test_a_pack_that_was_restored_is_opened_again(store):
    (entry,) = put(store, b"hello")
    (name,) = store.pack_names()
    path = store.pack_path(name)
    whole = path.read_bytes()

    def put_there(data):
        other = path.with_suffix(".new")
        other.write_bytes(data)
        other.replace(path)

    put_there(whole.replace(b"hello", b"jello"))
    fresh = ObjectStore(store.root, Index(None))
    with pytest.raises(DataMismatchError, match="x is corrupt"):
        fresh.read(entry, what="x")
    put_there(whole)
    assert fresh.read(entry, what="x") == b"hello"


def test_no_more_packs_are_open_than_a_process_may_have(store, monkeypatch):
    monkeypatch.setattr(objects, "_OPEN_PACKS", 3)
    entries = [put(store, b"%d" % number)[0] for number in range(6)]
    for entry in entries + entries:
        assert store.read(entry, what="x") == b"%d" % entries.index(entry)
        assert len(store._open) <= 3
    assert list(store._open) == [store.find([entry.digest])[entry.digest][0] for entry in entries[-3:]]
    newest = list(store._open)[-1]
    assert store.pack(next(iter(store._open))) is not None
    assert list(store._open)[-1] != newest, "what was used last goes last"


def test_a_purged_object_says_so_even_where_its_stone_says_nothing(store):
    (large,) = put(store, LARGE)
    path = store.tombstone_path(large.digest)
    assert store.tombstone(large.digest) is None
    path.parent.mkdir()
    for stone, said in (
        (b"[]", "It was purged on None by None: None."),
        (b'{"time": "T", "writer": "W", "reason": "R"}', "It was purged on T by W: R."),
    ):
        path.write_bytes(stone)
        assert store.tombstone(large.digest) == said
    assert store.purged() == {("sha2-256-chunked", large.digest.hex)}
    store.loose_path(large.digest).unlink()
    with pytest.raises(PurgedError, match=r"is gone\. It was purged on T by W: R\."):
        store.read(large, what="x")


def test_a_part_of_an_object_is_that_part(store):
    small, large = put(store, b"hello", LARGE)
    assert store.read_range(small, 1, 3, what="x") == b"ell"
    assert store.read_range(large, SMALL - 2, 9, what="x") == LARGE[-2:]
    copied = io.BytesIO()
    store.copy_to(small, copied, what="x")
    store.copy_to(large, copied, what="x")
    store.copy_to(small, None, what="x")
    assert copied.getvalue() == b"hello" + LARGE


def test_what_lies_in_the_folders_and_is_no_object_is_none(store):
    (large,) = put(store, LARGE)
    put(store, b"hello")
    (name,) = store.pack_names()
    folder = store.loose_path(large.digest).parent
    (folder / "notes.txt").write_bytes(b"")
    (folder.parent / "README").write_bytes(b"")
    for other in (f"{name}.zip.tmp", "x.zip", f"{name}.txt", f"{name}0.zip"):
        (store.root / "packs" / other).write_bytes(b"")
    assert store.pack_names() == {name}
    assert [digest for digest, _ in store.loose()] == [large.digest]


def test_only_folders_whose_owner_is_gone_are_abandoned(store):
    with stage(store) as staging:
        staging.put_bytes(b"x")
        (mine,) = os.listdir(store.root / "tmp")
        (store.root / "tmp" / "dead").mkdir()
        (store.root / "tmp" / "file").write_bytes(b"")
        assert [folder.name for folder in store.abandoned()] == ["dead"]
        assert mine != "dead"
    assert store.has(hash_bytes(b"x"), 1)


def test_a_reader_reads_straight_from_packs_and_maps_what_lies_loose(store, monkeypatch):
    contents = [b"hello", b"!", b"world", LARGE]
    entries = [entry._replace(logical_key=str(n)) for n, entry in enumerate(put(store, *contents))]
    placed = store.locate(Manifest.make(entries))
    reader = PackReader(store, placed, what="v")
    monkeypatch.setattr(store, "read", None)
    for _ in range(2):
        for position, data in enumerate(contents):
            assert type(reader.read(position)) is bytes
            assert reader.read(position) == bytes(reader.view(position)) == data
    assert [bytes(view) for view in reader.views([3, 0, 1])] == [LARGE, b"hello", b"!"]
    own = reader.views([0, 3], own=True)
    own[0][0] = own[1][0] = 7
    assert (reader.read(0), reader.read(3)) == (b"hello", LARGE)


@pytest.mark.parametrize(
    "place",
    [
        "",
        "packs/{other}.zip#94,5",
        "packs/{name}.zip#0,5",
        "packs/{name}.zip#x,5",
        "packs/{name}.zap#94,5",
        "objects/{name}.zip#94,5",
        "packs/../{name}.zip#94,5",
        "packs/{name}.zip#99999999999999999999999,5",
    ],
)
def test_a_reader_finds_what_lies_elsewhere_than_its_key_says(store, place):
    (entry,) = put(store, b"hello")
    (name,) = store.pack_names()
    version = Manifest.make([entry]).placed([place.format(name=name, other="0" * 64)])
    assert PackReader(store, version, what="v").read(0) == b"hello"


def test_a_reader_says_what_is_damaged_however_it_is_asked(store):
    small, large = put(store, b"hello", LARGE)
    version = store.locate(Manifest.make([small._replace(logical_key="a"), large._replace(logical_key="b")]))
    (name,) = store.pack_names()
    for path, whole in ((store.pack_path(name), b"hello"), (store.loose_path(large.digest), LARGE)):
        data = path.read_bytes()
        path.chmod(0o644)
        at = data.index(whole) + 1
        path.write_bytes(data[:at] + b"\x00" + data[at + 1 :])
    for position in (0, 1):
        reader = PackReader(ObjectStore(store.root, Index(None)), version, what="v")
        for read in (reader.read, reader.view, lambda position, reader=reader: reader.views([position])):
            with pytest.raises(DataMismatchError, match=f"^{'ab'[position]} of v is corrupt: expected "):
                read(position)


def test_what_vanishes_between_being_found_and_used_is_stored_again(store, monkeypatch):
    put(store, b"hello", LARGE)
    monkeypatch.setattr(ObjectStore, "freshen", lambda *_: False)
    with stage(ObjectStore(store.root, Index(None))) as staging:
        staging.put_bytes(b"hello")
        staging.put_bytes(LARGE)
        assert staging.new_bytes == 5 + SMALL


def test_what_changes_after_it_was_mapped_is_read_again_and_refused(store):
    (large,) = put(store, LARGE)
    reader = PackReader(store, store.locate(Manifest.make([large])), what="v")
    assert bytes(reader.view(0)) == LARGE
    path = store.loose_path(large.digest)
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.write(b"?")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataMismatchError, match=r"^x of v is corrupt: expected "):
        reader.view(0)


def test_what_changes_in_a_pack_after_it_was_read_is_refused(store):
    (small,) = put(store, b"hello")
    reader = PackReader(store, store.locate(Manifest.make([small])), what="v")
    assert reader.read(0) == reader.read(0) == b"hello"
    (name,) = store.pack_names()
    path = store.pack_path(name)
    data = path.read_bytes()
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(data.index(b"hello"))
        handle.write(b"j")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataMismatchError, match=r"^x of v is corrupt: expected "):
        reader.read(0)


def test_a_pack_that_cannot_be_read_hides_no_other(store):
    (entry,) = put(store, b"hello")
    store.pack_path("0" * 64).write_bytes(b"x")
    fresh = ObjectStore(store.root, Index(None))
    assert fresh.find([entry.digest]).keys() == {entry.digest}
    assert fresh.read(entry, what="x") == b"hello"


def test_the_catalogue_has_the_packs_that_are_there_and_can_be_read(store):
    assert store.catalogue() == set()
    put(store, b"hello")
    (one,) = store.pack_names()
    put(store, b"world")
    store.pack_path("0" * 64).write_bytes(b"x")
    (two,) = store.pack_names() - {one, "0" * 64}
    fresh = ObjectStore(store.root, Index(None))
    assert fresh.catalogue() == {one, two} == fresh.index.packs()
    assert fresh.catalogue() == {one, two}
    store.pack_path(one).unlink()
    assert fresh.catalogue() == {two} == fresh.index.packs()


@pytest.mark.parametrize(("first", "second"), [("alone", "shared"), ("shared", "alone"), ("alone", "alone")])
def test_who_wants_the_store_alone_has_it_alone(store, first, second):
    store.root.mkdir()
    entered, other = threading.Event(), ObjectStore(store.root, Index(None))

    def enter():
        with getattr(other, second)():
            entered.set()

    waiting = threading.Thread(target=enter)
    with getattr(store, first)():
        waiting.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    waiting.join(30)


def test_who_shares_the_store_waits_for_nobody_who_does(store):
    store.root.mkdir()
    with store.shared(), ObjectStore(store.root, Index(None)).shared():
        pass
