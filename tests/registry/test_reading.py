"""What every registry promises to who only reads it, whether it can be written or not."""

import io
import random
import shutil
from pathlib import Path

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.core.refs import PackageRef
from reprokit.errors import NotFoundError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import Registry, open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.runs.transfer import push

MIB = 1024 * 1024
SIZES = {"empty": 0, "d/one": 1, "d/é 100% #?+&;.csv": 5000, "under": MIB - 1, "exact": MIB, "over": 9 * MIB}
FILES = {key: random.Random(size).randbytes(size) for key, size in SIZES.items()}


class ReadingContract:
    """The fixture `registry` holds a/b: `older`, then `newer`, the latest; and b/c: `newer` again."""

    registry: Registry

    def test_references_resolve(self, registry, older, newer):
        assert registry.resolve(PackageRef("a/b")) == registry.resolve(PackageRef("a/b", tag="latest")) == newer
        assert registry.resolve(PackageRef("a/b", hash=older)) == older
        assert registry.resolve(PackageRef("a/b", hash=older[:12])) == older

    def test_what_is_missing_is_named(self, registry):
        with pytest.raises(NotFoundError) as caught:
            registry.resolve(PackageRef("a/bb"))
        assert caught.value.message == f"No package a/bb in {registry.url}."
        assert caught.value.hint == "Did you mean a/b? `reprokit ls` lists all."
        with pytest.raises(NotFoundError) as caught:
            registry.resolve(PackageRef("a/b", tag="v9"))
        assert caught.value.message == f"No tag 'v9' on a/b in {registry.url}."
        with pytest.raises(NotFoundError) as caught:
            registry.read_manifest("0" * 64)
        assert caught.value.message == f"No version 000000000000… in {registry.url}."
        with pytest.raises(UsageError):
            registry.head("../../etc")

    def test_packages_and_history(self, registry, older, newer):
        assert list(registry.packages()) == ["a/b", "b/c"]
        assert list(registry.packages("a")) == ["a/b"]
        assert registry.top_hashes("a/b") == [older, newer]
        log = registry.log("a/b")
        assert [(entry.seq, entry.action, entry.top_hash) for entry in log] == [
            (1, "publish", older),
            (2, "publish", newer),
        ]
        assert log[0].time <= log[1].time
        assert registry.head("a/b") == log[-1]
        assert log[-1].tags == {"latest": newer}
        assert (registry.head("x/y"), registry.log("x/y"), registry.top_hashes("x/y")) == (None, [], [])

    def test_manifests_and_headers(self, registry, newer):
        manifest = registry.read_manifest(newer)
        assert manifest.top_hash == newer
        assert manifest.keys == sorted(FILES, key=lambda key: key.split("/"))
        assert registry.read_header(newer) == manifest.header == {
            "version": "v0", "user_meta": {"k": [1, 1.5, None, "猫"]}, "message": "été",
        }  # fmt: skip
        assert registry.holds(manifest)

    @pytest.mark.parametrize("key", SIZES)
    def test_objects_of_every_size(self, registry, newer, key):
        manifest = registry.read_manifest(newer)
        entry, data = manifest[key], FILES[key]
        assert registry.read_object(entry, what=key) == data
        copy = io.BytesIO()
        registry.copy_object(entry, copy, what=key)
        registry.copy_object(entry, None, what=key)
        assert copy.getvalue() == data
        middle = len(data) // 2
        assert registry.read_range(entry, middle, 5, what=key) == data[middle : middle + 5]
        reader = registry.reader(manifest, what="v")
        assert reader.read(manifest.position(key)) == data
        assert registry.has_object(entry.digest, entry.size)
        assert not registry.has_object(entry.digest, entry.size + 1)

    def test_what_is_lacking(self, registry, newer):
        manifest = registry.read_manifest(newer)
        assert registry.lacking(manifest.entries) == []
        one = manifest.entries[0]
        strange = [one._replace(digest=hash_bytes(b"nowhere"), size=7)] * 2
        assert registry.lacking([*manifest.entries, *strange]) == strange[:1]
        assert registry.lacking([one._replace(size=one.size + 1)]) == [one._replace(size=one.size + 1)]

    def test_it_installs_and_verifies(self, registry, tmp_path):
        package = Package.open("a/b", registry=registry)
        assert package["d/one"].read() == FILES["d/one"]
        package.install(tmp_path / "out")
        for key, data in FILES.items():
            assert (tmp_path / "out" / key).read_bytes() == data
        assert verify_registry(registry) == (3, [])

    def test_nobody_runs(self, registry):
        assert not registry.is_claimed("20261123-101500-7c1e9f")


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> LocalRegistry:
    registry = LocalRegistry(tmp_path_factory.mktemp("local") / "registry")
    build({"empty": b"", "d/one": b"1"}, "a/b", registry=registry)
    meta = {"k": [1, 1.5, None, "猫"]}
    for name in ("a/b", "b/c"):
        build(FILES, name, registry=registry, message="été", meta=meta)
    return registry


@pytest.fixture(scope="module")
def older(local) -> str:
    return local.top_hashes("a/b")[0]


@pytest.fixture(scope="module")
def newer(local) -> str:
    return local.top_hashes("a/b")[1]


@pytest.fixture(scope="module")
def pulled(local, older, tmp_path_factory) -> LocalRegistry:
    target = LocalRegistry(tmp_path_factory.mktemp("pulled") / "registry")
    for ref in (f"a/b@{older}", "a/b", "b/c"):
        push(ref, source=local, target=target)
    return LocalRegistry(target.root)


@pytest.fixture(scope="module")
def quilt(local, older, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quilt") / "50% é #1?"
    for ref in (f"a/b@{older}", "a/b", "b/c"):
        push(ref, source=local, target=QuiltWriter(folder))
    return folder


@pytest.fixture(scope="module")
def moved(quilt, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moved") / "quilt"
    shutil.copytree(quilt, folder)
    for manifest in (folder / ".quilt" / "packages").iterdir():
        manifest.write_text(manifest.read_text().replace(quilt.as_uri(), "file:///gone"))
    return folder


class TestLocalRegistryRead(ReadingContract):
    @pytest.fixture
    def registry(self, local):
        return local


class TestLocalRegistryPulled(ReadingContract):
    @pytest.fixture
    def registry(self, pulled):
        return pulled


class TestQuiltRegistryRead(ReadingContract):
    @pytest.fixture
    def registry(self, quilt):
        registry = open_registry(str(quilt))
        assert isinstance(registry, QuiltRegistry)
        return registry


class TestQuiltRegistryMoved(ReadingContract):
    """Its physical keys are those of where it was written; objects are found by their digests."""

    @pytest.fixture
    def registry(self, moved):
        return QuiltRegistry(moved)
