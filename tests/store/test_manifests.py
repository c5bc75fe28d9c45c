"""A version is read back from whatever form it is stored in, or refused by name, in little memory."""

import gzip
import hashlib
import re
import tracemalloc
import zlib

import pytest

from reprokit.core.digest import Digest
from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, NotFoundError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry.local import LocalRegistry
from reprokit.schema.manifest import MAX_LINE, Entry, Manifest
from reprokit.store import manifests
from reprokit.store.manifests import GENERATIONS, ManifestStore
from reprokit.store.storage import FolderStorage

VALUES = {f"{number:03d}": b"%d" % number for number in range(100)}


@pytest.fixture
def registry(tmp_path):
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def test_publishing_a_base_again_keeps_what_differs_from_it(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry).top_hash
    assert registry.manifests.base_of(small) == base
    build({**VALUES, **{f"more/{number}": b"%d" % number for number in range(40)}}, "a/b", registry=registry)
    build(VALUES, "a/b", registry=registry)  # much like the one before, which is whole
    assert registry.manifests.base_of(base) is None
    assert verify_registry(registry) == (3, [])
    assert Package.open(PackageRef("a/b", hash=small), registry=registry).entry("007").read() == b"new"


def test_publishing_again_repairs_a_damaged_base(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry).top_hash
    registry.manifest_path(base).write_bytes(b"damaged")
    build(VALUES, "a/b", registry=registry)
    assert registry.manifests.base_of(base) is None
    assert registry.read_manifest(small).top_hash == small
    assert verify_registry(registry) == (2, [])


@pytest.mark.parametrize("name", ["", "\0", "../" * 3 + "etc/passwd", "/etc/passwd", "a" * 5000, "A" * 64, "0" * 63])
def test_what_is_no_top_hash_names_no_file(registry, name):
    build(VALUES, "a/b", registry=registry)
    for read in (registry.read_manifest, registry.read_header):
        with pytest.raises(DataMismatchError, match="names no version: a top hash has 64 hexadecimal digits"):
            read(name)


def test_a_version_that_is_there_stays_as_it_is(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    path = registry.manifest_path(base)
    seen = path.stat()
    registry.manifests.write(registry.read_manifest(base), near=None)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns)


def test_what_lies_there_and_is_no_manifest_is_no_version(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    folder = registry.root / "manifests"
    for name in (f"{base}.jsonl", "x.jsonl.gz", f".tmp-{base}.jsonl.gz", f"{'0' * 63}.jsonl.gz", "f" * 64):
        (folder / name).write_bytes(b"")
    assert registry.manifests.names() == {base}


def _repacked(registry, top_hash, change):
    path = registry.manifest_path(top_hash)
    text = gzip.decompress(path.read_bytes())
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    head = path.read_bytes()[:10]
    path.chmod(0o644)
    path.write_bytes(head + (packer.compress(change(text)) + packer.flush())[10:])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (rb"\[0,7\]", b"[0,7]\n[0,7]\n[0,90]", "is malformed: it copies more lines than its base has."),
        (rb"\[0,7\]", b"[95,7]", "is malformed: it copies lines that its base does not have."),
        (rb"\[0,7\]", b"[0,6]", "is corrupt: expected top hash"),
        (rb'"base":"[0-9a-f]{64}"', b'"base":"' + b"0" * 63 + b'"', "is malformed: its second line names no base."),
    ],
)
def test_a_difference_that_is_none_is_refused(registry, old, new, said):
    build(VALUES, "a/b", registry=registry)
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry).top_hash
    _repacked(registry, small, lambda text: re.sub(old, new, text, count=1))
    with pytest.raises(DataMismatchError) as caught:
        LocalRegistry(registry.root).read_manifest(small)
    assert caught.value.message.startswith(f"Manifest {small[:12]} of {registry.root} {said}")


def test_a_difference_to_a_difference_is_refused(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry).top_hash
    other = build({**VALUES, "008": b"new"}, "a/b", registry=registry).top_hash
    assert registry.manifests.base_of(other) == base, "of the whole one, not of the one before"
    _repacked(registry, other, lambda text: text.replace(base.encode(), small.encode()))
    with pytest.raises(DataMismatchError, match="is itself a difference, which no base may be"):
        LocalRegistry(registry.root).read_manifest(other)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data + b"x", "it is truncated, or something follows its end"),
        (lambda data: data + data, "it is truncated, or something follows its end"),
        (lambda data: data[:-1], "it is truncated, or something follows its end"),
        (lambda data: b"\x1f\x8b\x08\0\0\0\0\1" + data[8:], "it does not start as gzip without name and time does"),
        (lambda data: data[:40] + bytes([data[40] ^ 0xFF]) + data[41:], ""),
    ],
)
def test_a_damaged_file_is_named(registry, damage, said):
    base = build(VALUES, "a/b", registry=registry).top_hash
    path = registry.manifest_path(base)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(damage(data))
    with pytest.raises(DataMismatchError) as caught:
        LocalRegistry(registry.root).read_manifest(base)
    assert caught.value.message.startswith(f"Manifest {base[:12]} of {registry.root} is corrupt: {said}")


def test_what_unpacks_to_too_much_is_never_in_memory(registry, monkeypatch):
    base = build(VALUES, "a/b", registry=registry).top_hash
    size = len(gzip.decompress(registry.manifest_path(base).read_bytes()))
    monkeypatch.setattr(manifests, "_AT_ONCE", 1024)
    monkeypatch.setattr(manifests, "_BLOCK", 1024)
    monkeypatch.setattr(manifests, "MAX_MANIFEST", size)
    assert len(LocalRegistry(registry.root).read_manifest(base).entries) == 100
    monkeypatch.setattr(manifests, "MAX_MANIFEST", size - 1)
    with pytest.raises(DataMismatchError, match=f"it unpacks to more than {size - 1:,} bytes"):
        LocalRegistry(registry.root).read_manifest(base)
    monkeypatch.setattr(manifests, "MAX_MANIFEST", size)
    monkeypatch.setattr(manifests, "MAX_ENTRIES", 100)
    assert len(LocalRegistry(registry.root).read_manifest(base).entries) == 100
    monkeypatch.setattr(manifests, "MAX_ENTRIES", 98)
    with pytest.raises(DataMismatchError, match="it has more than 98 entries"):
        LocalRegistry(registry.root).read_manifest(base)


def test_only_what_saves_something_is_stored_as_a_difference(registry):
    few = {f"{number:03d}": b"%d" % number for number in range(63)}
    build(few, "a/few", registry=registry)
    other = build({**few, "007": b"new"}, "a/few", registry=registry).top_hash
    assert registry.manifests.base_of(other) is None, "of few lines"
    more = {**few, "063": b"63"}
    more_base = build(more, "a/more", registry=registry).top_hash
    registry.manifests.write(version := build_of(registry, {**more, "007": b"new"}), near=more_base)
    assert registry.manifests.base_of(version.top_hash) == more_base
    base = build(VALUES, "a/b", registry=registry).top_hash
    for changed, near in ((25, base), (26, None)):
        new = {f"{number:03d}": b"new%d" % number for number in range(changed)}
        top_hash = build({**VALUES, **new}, f"a/{changed}", registry=registry).top_hash
        assert registry.manifests.base_of(top_hash) is None, "nothing is near"
        registry.delete(f"a/{changed}", top_hash)
        registry.manifest_path(top_hash).unlink()
        registry.manifests.write(build_of(registry, {**VALUES, **new}), near=base)
        assert registry.manifests.base_of(top_hash) == near
        assert registry.read_manifest(top_hash).top_hash == top_hash


def build_of(registry, values):
    with registry.staging() as sink:
        entries = [Entry(key, len(data), sink.put_bytes(data)[0]) for key, data in values.items()]
    return registry.objects.locate(Manifest.make(entries))


def test_a_listing_reads_the_first_line_alone_and_names_what_is_not_there(registry):
    base = build(VALUES, "a/b", registry=registry, message="é", meta={"k": 1}).top_hash
    assert registry.read_header(base) == {"version": "v0", "message": "é", "user_meta": {"k": 1}}
    for read in (registry.read_header, registry.read_manifest, registry.manifests.base_of):
        with pytest.raises(NotFoundError, match=r"^No version 000000000000… in "):
            read("0" * 64)
    path = registry.manifest_path(base)
    path.chmod(0o644)
    for data, said in (
        (b"", "its first line does not end"),
        (path.read_bytes()[:10], "its first line does not end"),
        (b"no gzip", "incorrect header check"),
    ):
        path.write_bytes(data)
        for read in (registry.read_header, registry.manifests.base_of):
            with pytest.raises(DataMismatchError, match=f"^Manifest {base[:12]} of .* is corrupt: .*{said}"):
                read(base)


def test_a_manifest_that_would_not_be_read_is_not_written(tmp_path, monkeypatch):
    store = ManifestStore(FolderStorage(tmp_path))
    fits = Manifest.make([], user_meta={"m": "x" * 15_000_000})
    store.write(fits, near=None)
    assert store.read(fits.top_hash).user_meta == fits.user_meta
    assert store.header(fits.top_hash) == fits.header
    digest = Digest.chunked(bytes(32))
    for too_long in (
        Manifest.make([], user_meta={"m": "x" * MAX_LINE}),
        Manifest.make([Entry("a", 1, digest, {"m": "x" * MAX_LINE})]),
    ):
        with pytest.raises(UsageError, match="of them in one line, is not published"):
            store.write(too_long, near=None)
        assert too_long.top_hash not in store.names()


def test_a_listing_is_the_same_however_a_version_is_stored(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    small = build({**VALUES, "007": b"new", "new": b"1"}, "a/b", registry=registry).top_hash
    assert registry.manifests.base_of(small) == base
    listed = registry.manifests.listing(small)
    assert listed == registry.read_manifest(small).encode().partition(b"\n")[2] != registry.manifests.listing(base)
    assert listed.count(b"\n") == 101 and listed.endswith(b"\n") and b'"base"' not in listed
    described = Manifest.make(list(registry.read_manifest(small).entries), message="other words")
    registry.manifests.write(described, near=None)
    assert described.top_hash != small and registry.manifests.base_of(described.top_hash) is None
    assert registry.manifests.listing(described.top_hash) == listed  # of the entries alone


@pytest.mark.parametrize("limit", ["_AT_ONCE", "_BLOCK"])
def test_a_long_text_is_unpacked_in_parts_and_is_the_same(registry, monkeypatch, limit):
    top_hash = build(VALUES, "a/b", registry=registry).top_hash
    before = registry.manifests.listing(top_hash)
    monkeypatch.setattr(manifests, "_AT_ONCE", 100)
    monkeypatch.setattr(manifests, limit, 7)
    assert registry.manifests.listing(top_hash) == before
    assert registry.read_manifest(top_hash).top_hash == top_hash


def test_a_difference_whose_second_line_names_no_base_is_refused_in_a_listing_too(registry):
    build(VALUES, "a/b", registry=registry)
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry).top_hash
    _repacked(registry, small, lambda text: re.sub(rb'"base":"[0-9a-f]', b'"base":"', text, count=1))
    for read in (registry.manifests.listing, registry.read_manifest):
        with pytest.raises(DataMismatchError, match=r"is malformed: its second line names no base\."):
            read(small)


def test_a_version_that_only_adds_to_its_base_copies_all_of_it(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    more = build({**VALUES, "zzz": b"more"}, "a/b", registry=registry).top_hash
    assert registry.manifests.base_of(more) == base
    assert registry.read_manifest(more).top_hash == more
    assert len(registry.read_manifest(more).entries) == 101


def test_publishing_again_repairs_a_damaged_version_of_few_lines(registry):
    top_hash = build({"a": b"1"}, "a/b", registry=registry).top_hash
    version = registry.read_manifest(top_hash)
    registry.manifest_path(top_hash).write_bytes(b"damaged")
    registry.publish("a/b", version)
    assert registry.read_manifest(top_hash).top_hash == top_hash


def _version(keys):
    return Manifest.make([Entry(key, 1, Digest.chunked(bytes(32)), {}, ("objects/x",)) for key in keys], message="m")


def test_a_manifest_that_is_too_long_as_a_whole_is_not_written(tmp_path, monkeypatch):
    store = ManifestStore(FolderStorage(tmp_path))
    version = _version("abc")
    size = len(version.encode())
    monkeypatch.setattr(manifests, "MAX_MANIFEST", size - 1)
    with pytest.raises(UsageError, match=f"^A version whose manifest has {size:,} bytes, .* is not published"):
        store.write(version, near=None)
    assert store.names() == set()
    monkeypatch.setattr(manifests, "MAX_MANIFEST", size)
    longest = max(map(len, version.encode().splitlines()))
    monkeypatch.setattr(manifests, "MAX_LINE", longest - 1)
    with pytest.raises(UsageError, match=f", {longest:,} of them in one line, is not published"):
        store.write(version, near=None)
    monkeypatch.setattr(manifests, "MAX_LINE", longest)
    store.write(version, near=None)
    assert store.read(version.top_hash).keys == ["a", "b", "c"]


@pytest.mark.parametrize("entries", [0, 64])
@pytest.mark.parametrize("generation", [0, 1, GENERATIONS - 1])
def test_a_version_whose_key_is_condemned_lies_under_the_next_one(tmp_path, entries, generation):
    store = ManifestStore(FolderStorage(tmp_path))
    store.many = True
    version = _version(f"{number:02d}" for number in range(entries))
    keys = [store.key(version.top_hash, number) for number in range(GENERATIONS)]
    assert len(set(keys)) == GENERATIONS and not store.has(version.top_hash)
    store.write(version, near=None, avoid=keys[:generation])
    assert [key for key in keys if store.storage.stat(key) is not None] == [keys[generation]]
    assert store.has(version.top_hash) and store.names() == {version.top_hash}
    assert store.read(version.top_hash).header == store.header(version.top_hash) == version.header
    assert store.base_of(version.top_hash) is None
    plain = ManifestStore(FolderStorage(tmp_path))
    assert plain.has(version.top_hash) is (generation == 0), "where gc has a lock there is one key"


@pytest.mark.parametrize("entries", [0, 64])
def test_where_nobody_is_locked_out_a_damaged_version_is_repaired_and_a_sound_one_stays(tmp_path, entries):
    store = ManifestStore(FolderStorage(tmp_path))
    store.many = True
    version = _version(f"{number:02d}" for number in range(entries))
    store.write(version, near=None)
    path = tmp_path / store.key(version.top_hash)
    seen = path.stat()
    store.write(version, near=None)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns)
    path.write_bytes(b"damaged")
    store.write(version, near=None)
    assert store.read(version.top_hash).header == version.header


def test_where_nobody_is_locked_out_a_damaged_difference_is_written_anew_whole(registry):
    base = build(VALUES, "a/b", registry=registry).top_hash
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry).top_hash
    version, store = registry.read_manifest(small), registry.manifests
    store.many = True
    store.write(version, near=base)
    assert store.base_of(small) == base
    registry.manifest_path(small).write_bytes(b"damaged")
    store.write(version, near=base)
    assert store.base_of(small) is None and store.read(small).top_hash == small


@pytest.mark.parametrize(("of", "lacking", "saves"), [(8, [3], True), (3, [2], True), (2, [1], False)])
def test_what_lacks_many_lines_of_another_is_a_difference_if_it_takes_half_the_lines(registry, of, lacking, saves):
    many = {f"{number:03d}": b"%d" % number for number in range(198)}
    base = build(many, "a/b", registry=registry).top_hash
    kept = {key: data for key, data in many.items() if int(key) % of not in lacking}
    top_hash = build(kept, "a/b", registry=registry).top_hash
    assert registry.manifests.base_of(top_hash) == (base if saves else None)
    assert registry.read_manifest(top_hash).keys == list(kept)


@pytest.mark.parametrize("ends", [None, 64 * 1024 - 50, 64 * 1024 - 1, 64 * 1024])
def test_the_second_line_is_found_however_long_the_first_is(registry, ends):
    base = build(VALUES, "a/b", registry=registry).top_hash
    if ends is None:
        said = "".join(hashlib.sha256(b"%d" % number).hexdigest() for number in range(3000))
    else:
        said = "x" * (ends - len(Manifest.make([], message="").encode()))
    small = build({**VALUES, "007": b"new"}, "a/b", registry=registry, message=said).top_hash
    if ends is not None:
        assert len(registry.read_manifest(small).encode().partition(b"\n")[0]) == ends - 1
    assert registry.manifests.base_of(small) == base
    assert registry.read_header(small)["message"] == said


def test_a_first_line_without_end_is_never_in_memory(registry, monkeypatch):
    top_hash = build(VALUES, "a/b", registry=registry).top_hash
    _repacked(registry, top_hash, lambda _: bytes(16 * 1024 * 1024))
    monkeypatch.setattr(manifests, "MAX_LINE", 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataMismatchError, match="its first line does not end"):
            registry.read_header(top_hash)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
