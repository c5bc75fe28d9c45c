"""A top hash of ours is quilt3's for the same content, message and metadata."""

import io
import random

import pytest

from reprokit.packages.build import build
from reprokit.registry import open_registry

quilt3 = pytest.importorskip("quilt3", reason="the quilt3 extra is not installed")

MIB = 1024 * 1024
SIZES = {
    "empty": 0,
    "a-b": 1,
    "a/b": 2,
    "a.b": 3,
    "é/猫.txt": 10,
    "Ünïcode/ß": 0,
    "big/under": 8 * MIB - 1,
    "big/exact": 8 * MIB,
    "big/over": 20 * MIB,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for key, size in SIZES.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(random.Random(size).randbytes(size))
    return root


def theirs(folder, message, meta):
    package = quilt3.Package()
    for key in SIZES:
        package.set(key, str(folder / key))
    if meta is not None:
        package.set_meta(meta)
    package._set_commit_message(message)
    package._calculate_missing_hashes()
    return package


@pytest.mark.parametrize(
    ("message", "meta"),
    [
        (None, None),
        ("premier été", None),
        ("", {}),
        ("m", {"é": [1, 1.0, None, True, "猫"], "a": {"z": 1e-7, "b": -0.0}}),
    ],
)
def test_quilt_computes_the_same_top_hash(folder, tmp_path, message, meta):
    ours = build(folder, "a/b", registry=open_registry(str(tmp_path / "r")), message=message, meta=meta)
    assert ours.top_hash == theirs(folder, message, meta).top_hash


def test_quilt_reads_a_manifest_of_ours(folder, tmp_path):
    registry = open_registry(str(tmp_path / "r"))
    ours = build(folder, "a/b", registry=registry, message="m", meta={"k": 1})
    manifest = registry.read_manifest(ours.top_hash)
    text = manifest.placed([(folder / key).as_uri() for key in manifest.keys]).encode().decode()
    package = quilt3.Package.load(io.StringIO(text))
    assert package.top_hash == ours.top_hash
    assert sorted(key for key, _ in package.walk()) == sorted(SIZES)
    assert package["é/猫.txt"].get_bytes() == (folder / "é/猫.txt").read_bytes()
