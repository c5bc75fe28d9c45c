"""The registry in an object store: the contract, on servers that other people wrote, and what only a network does."""

import io
import random
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, RegistryError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import Registry, open_registry
from reprokit.registry.remote import signs
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.schema.manifest import Entry
from reprokit.store import remote_objects, remote_places, upload
from tests.object_stores import AzureServer, CloudServer, Server, rclone
from tests.registry.contract import RegistryContract, store


class TestInMemory(RegistryContract):
    @pytest.fixture
    def registry(self, tmp_path: Path) -> Registry:
        return open_registry(f"memory://{uuid.uuid4()}", cache=tmp_path / "cache")


class TestOnSeaweedFS(RegistryContract):
    @pytest.fixture
    def registry(self, weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        weed.used_by(monkeypatch)
        return open_registry(f"s3://bucket/{uuid.uuid4()}", cache=tmp_path / "cache")


class TestOnMoto(RegistryContract):
    @pytest.fixture
    def registry(self, moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        moto_server.used_by(monkeypatch)
        return open_registry(f"s3://bucket/{uuid.uuid4()}", cache=tmp_path / "cache")


class TestOnGoogleCloudsStandIn(RegistryContract):
    @pytest.fixture
    def registry(self, cloud: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        cloud.used_by(monkeypatch)
        return open_registry(f"gs://bucket/{uuid.uuid4()}", cache=tmp_path / "cache")


class TestOnAzurite(RegistryContract):
    @pytest.fixture
    def registry(self, azure: AzureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        azure.used_by(monkeypatch)
        return open_registry(f"az://bucket/{uuid.uuid4()}", cache=tmp_path / "cache")


Opener = Callable[[str], RemoteRegistry]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Return the same registry as it is opened on the machine of that name: with a home and a cache of its own."""
    url = f"memory://{uuid.uuid4()}"

    def opened(name: str) -> RemoteRegistry:
        monkeypatch.setenv("REPROKIT_HOME", str(tmp_path / name / "home"))
        registry = open_registry(url, cache=tmp_path / name / "cache")
        assert isinstance(registry, RemoteRegistry)
        return registry

    return opened


def folder_of(base: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return base


def test_what_one_machine_built_another_installs(machine: Opener, tmp_path: Path) -> None:
    files = {f"{n % 7}/{n}": b"%d" % n * n for n in range(300)} | {"large": random.randbytes(3_000_000), "empty": b""}
    made = build(folder_of(tmp_path / "data", files), "a/b", registry=machine("one"))
    assert made.new_bytes == sum(map(len, files.values())) - len(files["0/0"])  # that one is empty too
    there = Package.open("a/b", registry=machine("two"))
    there.install(tmp_path / "out")
    found = {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert found == files


def test_the_same_again_sends_nothing(machine: Opener, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", {str(n): random.randbytes(1000) for n in range(50)})
    first = build(data, "a/b", registry=machine("one"))
    again = build(data, "a/b", registry=machine("one"))
    elsewhere = build(data, "a/c", registry=machine("two"))
    assert (first.new_bytes, again.new_bytes, elsewhere.new_bytes) == (50_000, 0, 0)
    assert len({first.top_hash, again.top_hash, elsewhere.top_hash}) == 1
    assert len(machine("three").objects.pack_names()) == 1


def test_a_pack_near_that_is_not_all_lacking_is_not_sent_whole(machine: Opener) -> None:
    one, two = machine("one"), machine("two")
    old, new = ({f"{part}{n}": random.randbytes(1000) for n in range(20)} for part in "ab")
    two.publish("a/b", store(two, old))
    with one.staging() as sink:  # near on this machine, and there already in part
        for data in [*old.values(), *new.values()]:
            sink.put_bytes(data)
    assert sink.new_bytes == 20_000
    assert sum(stored.size for stored in one.storage.walk("packs")) < 2 * 20 * (1000 + 64 + 30 + 110 + 64) + 1000


def test_a_large_object_rests_in_parts_and_one_that_is_there_is_not_sent_again(
    machine: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (remote_objects, remote_places, upload):
        monkeypatch.setattr(module, "PART", 1024 * 1024)
    data = random.randbytes(3_500_000)
    one = machine("one")
    sent: list[str] = []
    put = one.bare.put
    lost = {"left": 1}

    def breaking(key: str, part: bytes | memoryview) -> None:
        if key.endswith("/00002") and lost["left"]:
            lost["left"] = 0
            raise RegistryError("The connection broke.")
        sent.append(key)
        put(key, part)

    monkeypatch.setattr(one.bare, "put", breaking)
    for _ in range(2):
        try:
            manifest = store(one, {"x": data})
        except RegistryError as error:
            assert error.message == "The connection broke."
    one.publish("a/b", manifest)
    names = [key.rpartition("/")[2] for key in sent]
    assert sorted(names) == ["00000", "00001", "00002", "00003"], "what arrived is not sent again"
    two = machine("two")
    entry = two.read_manifest(manifest.top_hash)["x"]
    assert two.read_object(entry, what="x") == data
    assert two.read_range(entry, 1_000_000, 2_000_000, what="x") == data[1_000_000:3_000_000]
    sink = io.BytesIO()
    two.copy_object(entry, sink, what="x")
    assert sink.getvalue() == data
    assert two.has_object(entry.digest, entry.size)
    two.bare.delete(f"{two.objects.object_key(entry.digest)}/00003")
    assert not machine("three").has_object(entry.digest, entry.size)


def test_what_is_wrong_in_the_store_is_found_and_nothing_near_hides_it(machine: Opener) -> None:
    one = machine("one")
    files = {"small": b"small", "other": b"other", "large": random.randbytes(1_500_000)}
    manifest = one.read_manifest(one.publish("a/b", store(one, files)).top_hash)
    two = machine("two")
    for entry in manifest.entries:
        assert two.read_object(entry, what="x") == files[entry.logical_key]
    assert verify_registry(two) == (1, [])
    (pack,) = two.objects.pack_names()
    data = bytearray(two.bare.read(two.objects.pack_key(pack), max_bytes=10_000))
    at = data.index(b"small")
    data[at : at + 5] = b"SMALL"
    two.bare.put(two.objects.pack_key(pack), bytes(data))
    two.bare.put(
        two.objects.object_key(manifest["large"].digest), files["large"][:-1] + bytes([files["large"][-1] ^ 1])
    )
    for one in (two, machine("three")):
        count, problems = verify_registry(one)
        assert count == 1
        assert sorted(str(problem.logical_key) for problem in problems) == ["large", "small"]
        assert all("corrupt" in problem.message for problem in problems)
    with pytest.raises(DataMismatchError):
        machine("three").read_object(manifest["small"], what="x")
    two.bare.delete(two.objects.object_key(manifest["large"].digest))
    with pytest.raises(NotFoundError) as caught:
        machine("four").read_object(manifest["large"], what="x")
    assert f"is missing from {two.url}" in caught.value.message


def test_a_place_that_lies_is_looked_up(machine: Opener) -> None:
    one = machine("one")
    manifest = store(one, {"x": b"one", "y": b"two"})
    one.publish("a/b", manifest)
    (pack,) = one.objects.pack_names()
    for place in (f"packs/{pack}.zip#0,3", f"packs/{'0' * 64}.zip#94,3", "packs/../../x.zip#1,3", ""):
        entry = manifest["x"]._replace(physical_keys=(place,))
        assert machine("two").read_object(entry, what="x") == b"one"


def test_writers_on_many_machines_lose_nothing(machine: Opener) -> None:
    registries = [machine(f"m{number}") for number in range(4)]
    errors: list[BaseException] = []

    def write(registry: RemoteRegistry, who: int) -> None:
        try:
            for number in range(6):
                registry.publish("a/b", store(registry, {"x": b"%d %d" % (who, number)}), tags=(f"t{who}-{number}",))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=write, args=(one, who)) for who, one in enumerate(registries)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    other = machine("other")
    assert [entry.seq for entry in other.log("a/b")] == list(range(1, 25))
    assert len(set(other.top_hashes("a/b"))) == 24
    assert len(other.head("a/b").tags) == 25  # type: ignore[union-attr]


def test_a_log_that_got_shorter_is_noticed(machine: Opener) -> None:
    one = machine("one")
    for number in range(3):
        one.publish("a/b", store(one, {"x": b"%d" % number}))
    assert len(one.log("a/b")) == 3
    one.bare.delete("log/a/b/0000000003")
    with pytest.raises(DataMismatchError) as caught:
        machine("one").log("a/b")
    assert "got shorter" in caught.value.message
    assert len(machine("two").log("a/b")) == 2, "who never saw the third cannot know"


def test_a_run_is_claimed_by_one_and_a_dead_one_is_taken_over(machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    run = "20261123-101500-7c1e9f"
    one, two = machine("one"), machine("two")
    with one.claim(run):
        assert two.is_claimed(run)
        with pytest.raises(RefusedError) as caught, two.claim(run):
            pass
        assert "is executed already by" in caught.value.message
        monkeypatch.setattr(signs, "STALE", -1.0)  # nothing was heard of it for long
        assert not two.is_claimed(run)
        with two.claim(run):
            assert [key.key.rpartition("/")[2] for key in two.storage.walk(f"running/{run}")] == ["000002"]
    assert list(one.storage.walk("running")) == []
    assert list(one.storage.walk("clock")) == []


def test_a_sign_of_life_is_renewed(machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "RENEWED", 0.05)
    one = machine("one")
    renewed = threading.Event()
    put = one.bare.put

    def noted(key: str, data: bytes | memoryview) -> None:
        put(key, data)
        if key.startswith("running/"):
            renewed.set()

    monkeypatch.setattr(one.bare, "put", noted)
    with one.claim("20261123-101500-7c1e9f"):
        assert renewed.wait(10)


def test_a_store_that_ignores_conditions_is_read_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rclone(tmp_path / "rclone") as server:
        server.used_by(monkeypatch)
        server.make_bucket("bucket")
        registry = open_registry("s3://bucket/team", cache=tmp_path / "cache")
        with pytest.raises(RegistryError) as caught:
            store(registry, {"x": b"1"})
        assert caught.value.message == (
            "s3://bucket/team is not written to: its store overwrites what was to be created only if it is not there "
            "(`If-None-Match: *`), so of two who publish at once one would be lost."
        )
        assert list(registry.packages()) == []
        assert [path for path in (tmp_path / "rclone" / "root").rglob("*") if path.is_file()] == []


def test_how_a_store_behaves_is_asked_once_by_each_machine(machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("one")
    one.publish("a/b", store(one, {"x": b"1"}))
    asked: list[str] = []
    monkeypatch.setattr(RemoteRegistry, "_probe", lambda self: asked.append(self.url))
    for name in ("one", "two", "two"):
        registry = machine(name)
        registry.publish("a/b", store(registry, {"x": name.encode()}))
    assert len(asked) == 1


def test_reading_one_entry_asks_for_its_bytes_alone(machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("one")
    one.publish("a/b", store(one, {f"{n:03d}": random.randbytes(10_000) for n in range(100)}))
    two = machine("two")
    package = Package.open("a/b", registry=two)
    asked: list[int] = []
    read_range = two.bare.read_range

    def noted(key: str, offset: int, length: int) -> bytes:
        asked.append(length)
        return read_range(key, offset, length)

    monkeypatch.setattr(two.bare, "read_range", noted)
    entry = package.manifest["050"]
    for _ in range(2):
        assert hash_bytes(two.read_object(entry, what="x")) == entry.digest
    assert asked == [10_000]


def test_many_that_are_read_one_by_one_come_in_few_requests(machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{n:03d}": random.randbytes(10_000) for n in range(500)}
    one = machine("one")
    one.publish("a/b", store(one, files))
    two = machine("two")
    package = Package.open("a/b", registry=two)
    asked: list[str] = []
    read_range = two.bare.read_range
    monkeypatch.setattr(two.bare, "read_range", lambda key, *place: asked.append(key) or read_range(key, *place))
    assert {key: package.entry(key).read() for key in files} == files
    assert len(asked) <= 3
    again = Package.open(PackageRef("a/b"), registry=machine("two"))
    assert {key: again.entry(key).read() for key in files} == files
    assert len(asked) <= 3, "what is near is not asked for again"


def test_what_is_near_and_was_changed_is_not_given_out(machine: Opener, tmp_path: Path) -> None:
    one = machine("one")
    files = {"x": b"honest", "y": b"other", "large": b"honest" * 300_000}
    manifest = one.read_manifest(one.publish("a/b", store(one, files)).top_hash)
    two = machine("two")
    two.fetch(manifest.entries, what="x")
    (pack,) = two.objects.near.pack_names()
    path = two.objects.near.pack_path(pack)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"honest", b"forged"))
    large = two.objects.near.loose_path(manifest["large"].digest)
    large.chmod(0o644)
    large.write_bytes(b"forged" * 300_000)
    again = machine("two")
    assert again.read_object(manifest["x"], what="x") == b"honest"
    for read in ("read", "view"):
        reader = again.reader(manifest, what="x")
        assert {key: bytes(getattr(reader, read)(manifest.position(key))) for key in files} == files
    for own in (False, True):
        views = again.reader(manifest, what="x").views(range(len(files)), own=own)
        assert [bytes(view) for view in views] == [files[key] for key in manifest.keys]


@pytest.mark.parametrize("name", ["small", "large"])
def test_what_was_damaged_near_before_it_was_sent_is_not_sent(
    machine: Opener, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = {"small": b"honest", "large": b"honest" * 300_000}
    one = machine("one")
    one.publish("a/b", store(one, {"other": b"1"}))
    with monkeypatch.context() as broken:
        broken.setattr(one.bare, "put", lambda *_: (_ for _ in ()).throw(RegistryError("The connection broke.")))
        with pytest.raises(RegistryError):
            store(one, files)
    near = one.objects.near
    digest = hash_bytes(files[name])
    path = near.loose_path(digest) if name == "large" else near.pack_path(near.find([digest])[digest][0])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"honest", b"forged"))
    with pytest.raises(DataMismatchError) as caught:
        store(machine("one"), files)
    assert caught.value.message == f"{path} was damaged, so nothing of it was sent."
    again = machine("one")
    again.publish("a/b", store(again, files))
    assert verify_registry(machine("two")) == (2, [])


def test_an_entry_that_never_was_is_not_found(machine: Opener) -> None:
    entry = Entry("x", 3, hash_bytes(b"abc"))
    with pytest.raises(NotFoundError):
        machine("one").read_object(entry, what="x")
    one = machine("one")
    one.publish("a/b", store(one, {"y": b"1"}))
    with pytest.raises(NotFoundError) as caught:
        one.read_object(entry, what="x of a/b")
    assert caught.value.message == f"x of a/b: its object {entry.digest.hex[:12]}… is missing from {one.url}."


def test_a_large_object_of_a_later_generation_is_found_where_it_lies(machine: Opener) -> None:
    """gc had condemned the first one; who comes later does not send it again."""
    one, two = machine("one"), machine("two")
    data = random.randbytes(1_500_000)
    manifest = store(one, {"large": data})
    one.publish("a/b", manifest)
    digest = manifest["large"].digest
    for key, offset, length in one.objects.parts(digest, len(data), 3):
        one.bare.put(key, data[offset : offset + length])
    for key, _, _ in one.objects.parts(digest, len(data)):
        one.bare.delete(key)
    assert two.objects.stored([(digest, len(data))]) == {(digest, len(data)): 3}
    assert two.lacking(manifest.entries) == []
    assert two.read_object(manifest["large"], what="x") == data
