"""The real quilt3 client reads what `push --layout quilt` wrote, and what it wrote is pulled with its own top hash."""

import hashlib
import json
import os
import random
import shutil

import pytest

from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.runs.transfer import pull, push

os.environ.setdefault("QUILT_DISABLE_USAGE_METRICS", "true")
os.environ.setdefault("QUILT_MINIMIZE_STDOUT", "true")
quilt3 = pytest.importorskip("quilt3", reason="the quilt3 extra is not installed")

MIB = 1024 * 1024
SIZES = {
    "empty": 0,
    "also.empty": 0,
    "plain.csv": 12,
    "with space/é 猫.txt": 30,
    "with space/100%.txt": 31,
    "odd/#hash": 32,
    "odd/a+b": 33,
    "odd/what?": 34,
    "odd/x;y&z=1": 35,
    "odd/%41": 36,
    'odd/it\'s "quoted"': 37,
    "odd/ends.": 38,
    "big/exact.bin": 8 * MIB,
    "big/over.bin": 20 * MIB,
}
FILES = {key: random.Random(size).randbytes(size) for key, size in SIZES.items()}
META = {"é": [1, 1.0, None, True, "猫"], "a": {"z": 1e-7}}


@pytest.fixture(autouse=True, scope="module")
def _no_telemetry():
    quilt3.telemetry.ApiTelemetry.telemetry_disabled = True


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return LocalRegistry(tmp_path_factory.mktemp("ours") / "registry")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    for key, data in FILES.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def older(source):
    return build({"facts.json": {"a": [1]}}, "team/data", registry=source).top_hash


@pytest.fixture(scope="module")
def newer(source, older, folder):
    labels = {"odd/#hash": {"user_meta": {"label": "猫"}}}
    return build(folder, "team/data", registry=source, message="été", meta=META, entry_meta=labels).top_hash


@pytest.fixture(scope="module")
def pushed(source, older, newer, tmp_path_factory):
    """A folder with both versions, `latest` at the newer one. Even its name must be quoted."""
    place = tmp_path_factory.mktemp("pushed") / "50% é #1?;x"
    push(f"team/data@{older}", source=source, target=QuiltWriter(place))
    assert quilt3.Package.browse("team/data", registry=str(place)).top_hash == older
    push("team/data", source=source, target=QuiltWriter(place))
    return place


class TestTheClientReadsWhatWasPushed:
    def test_it_lists_packages_and_versions(self, pushed, older, newer):
        assert list(quilt3.list_packages(str(pushed))) == ["team/data"]
        versions = dict(quilt3.list_package_versions("team/data", str(pushed)))
        assert versions.pop("latest") == newer
        assert [versions[seconds] for seconds in sorted(versions, key=int)] == [older, newer]

    def test_it_browses_the_latest_and_by_hash(self, pushed, older, newer):
        for top_hash, expected in ((None, newer), (newer, newer), (older, older), (older[:10], older)):
            package = quilt3.Package.browse("team/data", registry=str(pushed), top_hash=top_hash)
            assert package.top_hash == expected
        package = quilt3.Package.browse("team/data", registry=str(pushed))
        assert package.meta == META
        assert package["odd/#hash"].meta == {"label": "猫"}
        assert {key: entry.get_bytes() for key, entry in package.walk()} == FILES

    def test_it_reads_files_by_their_ending(self, pushed, older):
        assert quilt3.Package.browse("team/data", registry=str(pushed), top_hash=older)["facts.json"]() == {"a": [1]}

    def test_it_fetches_and_verifies(self, pushed, folder, tmp_path):
        package = quilt3.Package.browse("team/data", registry=str(pushed))
        for _ in range(2):  # once more over what was fetched
            package.fetch(str(tmp_path / "out"))
        assert package.verify(str(tmp_path / "out"))
        assert package.verify(str(folder))
        (tmp_path / "out" / "plain.csv").write_bytes(b"tampered....")
        assert not package.verify(str(tmp_path / "out"))

    def test_it_installs(self, pushed, tmp_path):
        quilt3.Package.install(
            "team/data", registry=str(pushed), dest=str(tmp_path / "out"), dest_registry=(tmp_path / "theirs").as_uri()
        )
        assert {key: (tmp_path / "out" / key).read_bytes() for key in FILES} == FILES

    def test_the_manifest_is_what_it_would_write(self, pushed, newer, tmp_path):
        package = quilt3.Package.browse("team/data", registry=str(pushed))
        with (tmp_path / "dumped").open("wb") as handle:
            package.dump(handle)
        ours = (pushed / ".quilt/packages" / newer).read_text().splitlines()
        theirs = (tmp_path / "dumped").read_text().splitlines()
        assert json.loads(ours[0]) == json.loads(theirs[0])
        quoted = [{**json.loads(line), "physical_keys": 0} for line in theirs[1:]]
        assert [{**json.loads(line), "physical_keys": 0} for line in ours[1:]] == quoted
        assert [list(json.loads(line)) for line in ours[1:]] == [list(json.loads(line)) for line in theirs[1:]]

    def test_it_rolls_back_and_deletes(self, pushed, older, newer, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(pushed, copy)
        quilt3.Package.rollback("team/data", str(copy), older)
        assert QuiltRegistry(copy).head("team/data").tags == {"latest": older}
        quilt3.delete_package("team/data", str(copy), older)
        assert QuiltRegistry(copy).top_hashes("team/data") == [newer]

    @pytest.mark.usefixtures("newer")
    def test_it_builds_into_what_was_pushed(self, source, tmp_path):
        copy = tmp_path / "copy"
        push("team/data", source=source, target=QuiltWriter(copy))
        package = quilt3.Package.browse("team/data", registry=str(copy))
        package.set_meta({"more": 1})
        theirs = package.build("team/data", registry=str(copy), message="theirs")
        registry = QuiltRegistry(copy)
        assert registry.head("team/data").tags == {"latest": theirs}
        target = LocalRegistry(tmp_path / "target")
        assert pull("team/data", source=registry, target=target)[0].top_hash == theirs
        assert verify_registry(target) == (1, [])

    def test_a_record_of_a_run_is_a_package_too(self, tmp_path):
        source = LocalRegistry(tmp_path / "source")
        build({"record.json": b"{}"}, "x/y", registry=source)
        source.publish("runs/20261123-101500-7c1e9f", source.read_manifest(source.top_hashes("x/y")[0]))
        push("runs/20261123-101500-7c1e9f", source=source, target=QuiltWriter(tmp_path / "quilt"))
        assert list(quilt3.list_packages(str(tmp_path / "quilt"))) == ["runs/20261123-101500-7c1e9f"]


@pytest.fixture
def ours(tmp_path):
    return LocalRegistry(tmp_path / "ours")


class TestWhatTheClientWroteIsPulled:
    """`Package.build` writes a manifest whose keys point at the source files, wherever they are."""

    @pytest.fixture
    def built(self, folder, tmp_path):
        package = quilt3.Package()
        package.set_dir("/", str(folder))
        package.set_dir("odd/", str(folder / "odd"), meta={"about": "odd names"})
        package["plain.csv"].set_meta({"rows": 1, "é": None})
        return package.build("team/data", registry=str(tmp_path / "theirs"), message=None)

    def test_with_its_top_hash_and_every_byte(self, built, folder, ours, tmp_path):
        registry = open_registry(str(tmp_path / "theirs"), outside=[folder])
        (done,) = pull("team/data", source=registry, target=ours)
        assert (done.top_hash, done.entries, done.size) == (built, len(FILES), sum(SIZES.values()))
        package = Package.open("team/data", registry=LocalRegistry(ours.root))
        assert package.manifest.header == {"version": "v0", "user_meta": None, "message": None}
        assert package.manifest.folders == (("odd/", {"about": "odd names"}),)
        assert {key: package[key].read() for key in package} == FILES
        assert package["plain.csv"].entry.meta == {"user_meta": {"rows": 1, "é": None}}

    def test_and_goes_back_to_it(self, built, folder, ours, tmp_path):
        pull("team/data", source=QuiltRegistry(tmp_path / "theirs", outside=[folder]), target=ours)
        push("team/data", source=ours, target=QuiltWriter(tmp_path / "back"))
        package = quilt3.Package.browse("team/data", registry=str(tmp_path / "back"))
        assert package.top_hash == built
        assert package["odd"].meta == {"about": "odd names"}
        assert {key: entry.get_bytes() for key, entry in package.walk()} == FILES

    def test_not_from_outside_unless_allowed(self, built, folder, ours, tmp_path):
        with pytest.raises(RefusedError) as caught:
            pull("team/data", source=QuiltRegistry(tmp_path / "theirs"), target=ours)
        assert caught.value.message == (
            f"also.empty of team/data@{built[:8]} is said to lie outside the registry {tmp_path / 'theirs'}, "
            f"at {folder / 'also.empty'}; nothing was read there."
        )
        assert list(ours.packages()) == []

    def test_not_if_a_source_file_changed_since(self, tmp_path, ours):
        file = tmp_path / "data" / "x"
        file.parent.mkdir()
        file.write_bytes(b"true")
        top_hash = quilt3.Package().set("x", str(file)).build("a/b", registry=str(tmp_path / "theirs"))
        file.write_bytes(b"fals")
        assert quilt3.Package.browse("a/b", registry=str(tmp_path / "theirs"))["x"].get_bytes() == b"fals"
        with pytest.raises(DataMismatchError) as caught:
            pull("a/b", source=QuiltRegistry(tmp_path / "theirs", outside=[tmp_path / "data"]), target=ours)
        assert caught.value.message.startswith(f"x of a/b@{top_hash[:8]} is corrupt: expected ")
        file.unlink()
        with pytest.raises(NotFoundError):
            pull("a/b", source=QuiltRegistry(tmp_path / "theirs", outside=[tmp_path / "data"]), target=ours)
        assert list(ours.packages()) == []

    def test_from_a_copy_of_a_bucket(self, folder, ours, tmp_path):
        """As `push` to S3 lays it out: `s3://bucket/<ns>/<name>/<logical key>?versionId=…`."""
        bucket = tmp_path / "bucket"
        shutil.copytree(folder, bucket / "team" / "data")
        package = quilt3.Package()
        for key in FILES:
            package.set(key, str(bucket / "team" / "data" / key))
        package.set_meta(META)
        package._set_commit_message("from S3")
        package._calculate_missing_hashes()
        for key, entry in package.walk():
            entry.physical_key = quilt3.util.PhysicalKey("bucket", f"team/data/{key}", "a.b+c/1")
        package._push_manifest("team/data", quilt3.backends.get_package_registry(str(bucket)), package.top_hash)
        assert (
            '"s3://bucket/team/data/odd/%23hash?versionId='
            in (bucket / ".quilt/packages" / package.top_hash).read_text()
        )
        (done,) = pull("team/data", source=QuiltRegistry(bucket), target=ours)
        assert done.top_hash == package.top_hash
        assert Package.open("team/data", registry=ours).verify() == []

    def test_plain_digests_of_older_clients(self, folder, ours, tmp_path):
        package = quilt3.Package()
        for key in FILES:
            package.set(key, str(folder / key))
            package[key].hash = {"type": "SHA256", "value": hashlib.sha256(FILES[key]).hexdigest()}
        top_hash = package.build("team/data", registry=str(tmp_path / "theirs"))
        pull("team/data", source=QuiltRegistry(tmp_path / "theirs", outside=[folder]), target=ours)
        found = Package.open(f"team/data@{top_hash}", registry=LocalRegistry(ours.root))
        assert found.verify() == []
        push("team/data", source=ours, target=QuiltWriter(tmp_path / "back"))
        assert quilt3.Package.browse("team/data", registry=str(tmp_path / "back")).verify(str(folder))
