"""Quilt in a bucket: the real quilt3 client reads what was pushed there, and what it pushed is pulled."""

from __future__ import annotations

import json
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.registry import open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.bucket import QuiltBucket, QuiltBucketWriter
from reprokit.runs.transfer import pull, push
from reprokit.store.object_storage import open_storage
from tests.object_stores import Server

os.environ.setdefault("QUILT_DISABLE_USAGE_METRICS", "true")
os.environ.setdefault("QUILT_MINIMIZE_STDOUT", "true")
quilt3 = pytest.importorskip("quilt3", reason="the quilt3 extra is not installed")

MIB = 1024 * 1024
SIZES = {
    "empty": 0,
    "plain.csv": 12,
    "with space/é 猫.txt": 30,
    "odd/#hash": 32,
    "odd/a+b": 33,
    "odd/what?": 34,
    "odd/%41": 36,
    "big/exact.bin": 8 * MIB,
    "big/over.bin": 20 * MIB,
}
FILES = {key: random.Random(size).randbytes(size) for key, size in SIZES.items()}


@pytest.fixture(autouse=True, scope="module")
def _no_telemetry() -> None:
    quilt3.telemetry.ApiTelemetry.telemetry_disabled = True


@pytest.fixture(params=["moto_server", "weed"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket that keeps every version of an object, as Quilt asks for, where the server can do so."""
    server: Server = request.getfixturevalue(request.param)
    server.used_by(monkeypatch)
    name = f"quilt-{uuid.uuid4()}"
    server.make_bucket(name)
    client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    yield name


def client() -> Any:
    return boto3.client("s3")


@pytest.fixture
def ours(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "ours")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    for key, data in FILES.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


def writer(bucket: str) -> QuiltBucketWriter:
    return QuiltBucketWriter(open_storage(f"s3://{bucket}"))


def test_the_client_reads_what_was_pushed(bucket: str, ours: LocalRegistry, folder: Path, tmp_path: Path) -> None:
    older = build({"facts.json": {"a": [1]}}, "team/data", registry=ours).top_hash
    (first,) = push("team/data", source=ours, target=writer(bucket))
    newer = build(folder, "team/data", registry=ours, message="été", meta={"é": [1, "猫"]}).top_hash
    (done,) = push("team/data", source=ours, target=writer(bucket))
    assert (first.published, done.published, done.new_objects, done.tags) == (True, True, len(FILES), ("latest",))
    (again,) = push("team/data", source=ours, target=writer(bucket))
    assert (again.published, again.new_objects) == (False, 0)

    place = f"s3://{bucket}"
    assert list(quilt3.list_packages(place)) == ["team/data"]
    versions = dict(quilt3.list_package_versions("team/data", place))
    assert versions.pop("latest") == newer
    assert [versions[seconds] for seconds in sorted(versions, key=int)] == [older, newer]
    package = quilt3.Package.browse("team/data", registry=place)
    assert package.top_hash == newer
    assert package.meta == {"é": [1, "猫"]}
    package.fetch(str(tmp_path / "fetched"))
    assert package.verify(str(tmp_path / "fetched"))
    assert {key: (tmp_path / "fetched" / key).read_bytes() for key in FILES} == FILES
    old = quilt3.Package.browse("team/data", registry=place, top_hash=older[:10])
    assert old["facts.json"]() == {"a": [1]}


@pytest.mark.parametrize("bucket", ["weed"], indirect=True)  # moto answers uploads in parts without their checksum
def test_what_the_client_pushed_is_pulled_in_its_own_versions(
    bucket: str, ours: LocalRegistry, folder: Path, tmp_path: Path
) -> None:
    package = quilt3.Package()
    package.set_dir("/", str(folder))
    first = package.push("team/data", registry=f"s3://{bucket}", message="first", force=True).top_hash
    (folder / "plain.csv").write_bytes(b"other bytes!")
    package = quilt3.Package()
    package.set_dir("/", str(folder))
    second = package.push("team/data", registry=f"s3://{bucket}", message="second", force=True).top_hash

    registry = open_registry(f"s3://{bucket}")
    assert isinstance(registry, QuiltBucket)
    assert list(registry.packages()) == ["team/data"]
    assert registry.top_hashes("team/data") == [first, second]
    (done,) = pull("team/data", source=registry, target=ours)
    assert (done.top_hash, done.entries) == (second, len(FILES))
    pull(f"team/data@{first}", source=registry, target=ours)
    for top_hash, csv in ((second, b"other bytes!"), (first, FILES["plain.csv"])):
        there = Package.open(f"team/data@{top_hash}", registry=LocalRegistry(ours.root))
        assert {key: there[key].read() for key in there} == {**FILES, "plain.csv": csv}
    assert Package.open("team/data", registry=registry)["big/over.bin"].read() == FILES["big/over.bin"]
    with pytest.raises(RefusedError, match="reprokit only reads it"):
        registry.tag("team/data", first, ("x",))


def test_nothing_of_another_bucket_is_read_unless_it_is_named(
    bucket: str, ours: LocalRegistry, folder: Path, request: pytest.FixtureRequest
) -> None:
    other = f"other-{uuid.uuid4()}"
    client().create_bucket(Bucket=other)
    client().put_object(Bucket=other, Key="data/rows é.csv", Body=b"a,b\n")
    package = quilt3.Package()
    package.set("rows.csv", f"s3://{other}/data/rows é.csv")
    package.build("team/rows", registry=f"s3://{bucket}")
    with pytest.raises(RefusedError, match=f"outside the registry s3://{bucket}, at s3://{other}/data/rows é.csv"):
        pull("team/rows", source=open_registry(f"s3://{bucket}"), target=ours)
    assert list(ours.packages()) == []
    with pytest.raises(RefusedError):
        pull("team/rows", source=open_registry(f"s3://{bucket}", outside=[f"s3://{other}/dat"]), target=ours)
    pull("team/rows", source=open_registry(f"s3://{bucket}", outside=[f"s3://{other}/data"]), target=ours)
    assert Package.open("team/rows", registry=ours)["rows.csv"].read() == b"a,b\n"


@pytest.mark.parametrize("bucket", ["moto_server"], indirect=True)
@pytest.mark.parametrize(
    "key",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "https://x/y",
        "s3://",
        "s3://{0}/",
        "s3://{0}/x?other=1",
        "s3://{0}/x#y",
        "",
        "[",
    ],
)
def test_a_physical_key_that_is_no_place_in_a_bucket_is_refused(bucket: str, ours: LocalRegistry, key: str) -> None:
    top_hash = build({"a.txt": b"secret"}, "t/a", registry=ours).top_hash
    row = {"logical_key": "a.txt", "physical_keys": [key.format(bucket)], "size": 6}
    header, line = ours.read_manifest(top_hash).encode().decode().splitlines()
    text = f"{header}\n{json.dumps({**json.loads(line), **row})}\n"
    client().put_object(Bucket=bucket, Key=f".quilt/packages/{top_hash}", Body=text.encode())
    client().put_object(Bucket=bucket, Key=".quilt/named_packages/t/a/latest", Body=top_hash.encode())
    source = open_registry(f"s3://{bucket}")
    with pytest.raises(DataMismatchError, match="is not a place that reprokit reads in a bucket"):
        pull("t/a", source=source, target=LocalRegistry(ours.root.with_name("target")))


@pytest.mark.parametrize("bucket", ["moto_server"], indirect=True)
def test_damage_is_named_and_nothing_is_published(bucket: str, ours: LocalRegistry, tmp_path: Path) -> None:
    build({"a.txt": b"a" * 20, "b.bin": b"b" * MIB * 2}, "t/a", registry=ours)
    push("t/a", source=ours, target=writer(bucket))
    source = open_registry(f"s3://{bucket}")
    manifest = source.read_manifest(source.top_hashes("t/a")[0])
    assert source.holds(manifest)
    assert all(source.has_object(entry.digest, entry.size) for entry in manifest.entries)
    key = next(entry.physical_keys[0] for entry in manifest.entries if entry.logical_key == "b.bin")
    key = key.removeprefix(f"s3://{bucket}/")
    for body, error, told in (
        (b"x" * MIB * 2, DataMismatchError, "corrupt"),
        (b"b", DataMismatchError, "expected 2,097,152 bytes"),
        (None, NotFoundError, "b.bin of t/a"),
    ):
        if body is None:
            client().delete_object(Bucket=bucket, Key=key)
        else:
            client().put_object(Bucket=bucket, Key=key, Body=body)
        with pytest.raises(error, match=told):
            pull("t/a", source=open_registry(f"s3://{bucket}"), target=LocalRegistry(tmp_path / "target"))
        assert list(LocalRegistry(tmp_path / "target").packages()) == []
    assert not source.holds(manifest)
    (done,) = push("t/a", source=ours, target=writer(bucket))
    assert done.new_objects == 1
    assert source.holds(manifest)


@pytest.mark.parametrize("bucket", ["moto_server"], indirect=True)
def test_a_registry_of_ours_is_not_written_over(bucket: str, ours: LocalRegistry) -> None:
    build({"a.txt": b"a"}, "t/a", registry=ours)
    push("t/a", source=ours, target=open_registry(f"s3://{bucket}"))
    with pytest.raises(RefusedError, match="is a registry of reprokit's"):
        writer(bucket)
    with pytest.raises(RefusedError, match="no bucket that quilt3 reads"):
        QuiltBucketWriter(open_storage("memory://nothing"))
