"""A version is read back from whatever form it is stored in, or refused by name, in little memory."""

import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry.local import LocalRegistry

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
    registry.manifests.path(base).write_bytes(b"damaged")
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
