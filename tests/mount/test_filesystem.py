"""What a mount serves, without a mount: the tree that keys imply, and parts of files that were verified whole."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reprokit.core.digest import Digest
from reprokit.errors import DataMismatchError
from reprokit.mount.filesystem import Contents, PackageSource, Tree
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.registry import open_registry
from reprokit.schema.manifest import Entry, Manifest

KEYS = ["a-b/x", "a.txt", "a/b/c/d", "a/b/e", "a/b.c", "a/c", "ab", "b/\U0010ffff/x", "z", "é/猫"]


def spoil(registry, data):
    """Flip one bit of `data` wherever a registry's files hold it, as a failing disk would."""
    spoilt = 0
    for path in registry.rglob("*"):
        if path.is_file() and data in (stored := path.read_bytes()):
            path.chmod(0o644)
            path.write_bytes(stored.replace(data, bytes([data[0] ^ 1]) + data[1:]))
            spoilt += 1
    assert spoilt


def tree(keys):
    return Tree(Manifest.make([Entry(key, len(key), Digest.chunked(bytes(32))) for key in keys]).entries)


def walk(served, folder):
    found = {}
    for name, node, _ in served.children(folder):
        assert node.path.rpartition("/")[2] == name
        assert served.find(node.path) == node
        found[node.path] = node
        if node.entry is None:
            found |= walk(served, node)
    return found


def test_the_tree_is_that_of_the_keys():
    served = tree(KEYS)
    found = walk(served, served.root)
    assert sorted(path for path, node in found.items() if node.entry) == sorted(KEYS)
    folders = {"a-b", "a", "a/b", "a/b/c", "b", "b/\U0010ffff", "é"}
    assert {path for path, node in found.items() if not node.entry} == folders
    assert len({node.inode for node in found.values()} | {1}) == len(found) + 1


@pytest.mark.parametrize("path", ["c", "a/", "a/b/c/d/e", "a/b/c/", "zz", "A", "a/b/cc", "\udcff", "a//b"])
def test_what_is_not_there_is_not_found(path):
    assert tree(KEYS).find(path) is None


def test_an_empty_version_is_an_empty_folder():
    served = tree([])
    assert list(served.children(served.root)) == []
    assert (served.find(""), served.find("a")) == (served.root, None)


def test_a_listing_goes_on_from_every_place():
    served = tree(KEYS)
    whole = list(served.children(served.root))
    for number, (_, _, following) in enumerate(whole):
        assert list(served.children(served.root, following)) == whole[number + 1 :]


def test_a_folder_of_many_is_found_in_few_steps():
    looked = 0

    class Counting(list):
        def __getitem__(self, index):
            nonlocal looked
            looked += 1
            return super().__getitem__(index)

    keys = [f"{folder:03d}/{number:04d}" for folder in range(100) for number in range(1000)]
    served = Tree(Counting(Entry(key, 1, Digest.chunked(bytes(32))) for key in keys))
    assert served.find("050/0500").entry.logical_key == "050/0500"
    assert looked < 25
    assert len(list(served.children(served.root))) == 100
    assert looked < 2500


class Counted:
    """A source that counts its readings."""

    def __init__(self, files):
        self.files = files
        self.readings = []

    def size(self, key):
        return len(self.files[key])

    def read(self, key):
        self.readings.append(key)
        return self.files[key]


class Chunked(Counted):
    def chunk_size(self, _key):
        return 10

    def chunk(self, key, index):
        self.readings.append((key, index))
        return self.files[key][index * 10 : index * 10 + 10]


@pytest.mark.parametrize("source", [Counted, Chunked])
def test_every_part_of_a_file_is_that_part(source):
    data = os.urandom(95)
    contents = Contents(source({"k": data, "empty": b""}))
    for offset in range(0, 110, 3):
        for size in (0, 1, 9, 10, 11, 25, 200):
            assert contents.read("k", offset, size) == data[offset : offset + size]
    assert contents.read("empty", 0, 10) == b""


def test_a_part_reads_its_chunks_alone():
    source = Chunked({"k": bytes(95)})
    contents = Contents(source)
    contents.read("k", 15, 10)
    contents.read("k", 10, 20)
    assert source.readings == [("k", 1), ("k", 2)]


def test_contents_are_kept_up_to_a_bound_and_one_always():
    source = Counted({"a": bytes(60), "b": bytes(60), "c": bytes(200)})
    contents = Contents(source, capacity=100)
    for key in "aabbaacca":
        contents.read(key, 1, 10)
    assert "".join(source.readings) == "abaca"


def test_a_file_taken_whole_does_not_push_others_out():
    source = Counted({"big": bytes(60), **{str(number): bytes(60) for number in range(5)}})
    contents = Contents(source, capacity=100)
    contents.read("big", 10, 10)
    for number in range(5):
        contents.read(str(number), 0, 4096)
    contents.read("big", 20, 10)
    assert source.readings == ["big", "0", "1", "2", "3", "4"]


def test_threads_that_want_one_file_wait_for_one_reading():
    started, go = threading.Event(), threading.Event()

    class Slow(Counted):
        def read(self, key):
            started.set()
            assert go.wait(10)
            return super().read(key)

    source = Slow({"k": b"0123456789"})
    contents = Contents(source)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(contents.read, "k", 1, 2)
        assert started.wait(10)
        others = [pool.submit(contents.read, "k", 2, 3) for _ in range(3)]
        go.set()
        assert first.result() == b"12"
        assert [other.result() for other in others] == [b"234"] * 3
    assert source.readings == ["k"]


def test_a_failed_reading_is_tried_again():
    source = Counted({"k": b"0123456789"})

    def refuse(_key):
        raise DataMismatchError("corrupt")

    contents = Contents(source)
    source.read = refuse
    with pytest.raises(DataMismatchError):
        contents.read("k", 1, 2)
    del source.read
    assert contents.read("k", 1, 2) == b"12"


def test_a_package_hands_out_nothing_of_a_corrupt_object(tmp_path):
    registry = open_registry(str(tmp_path / "registry"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "k").write_bytes(b"0123456789")
    build(tmp_path / "data", "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    contents = Contents(PackageSource(package))
    assert contents.read("k", 2, 3) == b"234"
    spoil(tmp_path / "registry", b"0123456789")
    with pytest.raises(DataMismatchError, match="is corrupt"):
        Contents(PackageSource(package)).read("k", 2, 3)


@pytest.mark.parametrize("damage", ["rewritten", "truncated"])
def test_what_changed_on_disk_after_it_was_verified_is_not_handed_out(tmp_path, damage):
    registry = open_registry(str(tmp_path / "registry"))
    (tmp_path / "data").mkdir()
    data = bytes(range(256)) * 8192
    (tmp_path / "data" / "k").write_bytes(data)
    build(tmp_path / "data", "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    contents = Contents(PackageSource(package))
    assert contents.read("k", 2, 3) == data[2:5]
    (path,) = [path for path in (tmp_path / "registry" / "objects").rglob("*") if path.is_file()]
    seen = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        if damage == "truncated":
            file.truncate(4096)
        else:
            file.seek(1_000_000)
            file.write(b"other")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    for offset in (1_000_000, 2):
        with pytest.raises(DataMismatchError, match=r"^k of a/b@.* is corrupt"):
            contents.read("k", offset, 5)
    with path.open("r+b") as file:
        file.write(data)
    assert contents.read("k", 1_000_000, 5) == data[1_000_000:1_000_005]
