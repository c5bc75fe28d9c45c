"""The registry in a folder: the contract, and what only a folder can suffer."""

import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, NotFoundError, RegistryError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import verify_registry
from reprokit.registry import open_registry
from reprokit.registry.local import LocalRegistry

from .contract import RegistryContract, store

BUILD_FIVE = """
import sys
from pathlib import Path
from reprokit.packages.build import build
from reprokit.registry import open_registry
root, worker = Path(sys.argv[1]), sys.argv[2]
for number in range(5):
    folder = root / f"{worker}-{number}"
    folder.mkdir()
    (folder / "x").write_text(folder.name)
    print(build(folder, "a/b", registry=open_registry(str(root / "registry")), tags=(folder.name,)).top_hash)
"""

BUILD_AND_DIE = """
import os, sys
from pathlib import Path
from reprokit.packages.build import build
from reprokit.registry import open_registry
left = int(sys.argv[4])
real = getattr(os, sys.argv[3])
def die(*args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return real(*args, **kwargs)
setattr(os, sys.argv[3], die)
build(Path(sys.argv[2]), "a/b", registry=open_registry(sys.argv[1]))
"""


def sealed(body: bytes) -> bytes:
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def registry(tmp_path):
    return LocalRegistry(tmp_path / "registry")


class TestLocalRegistry(RegistryContract):
    def test_opening_and_reading_create_nothing(self, registry):
        registry.head("a/b")
        list(registry.packages())
        assert not registry.root.exists()

    def test_paths_and_file_urls_open_alike_and_other_schemes_are_refused(self, tmp_path):
        assert open_registry(f"file://{tmp_path}/r").url == open_registry(f"{tmp_path}/r").url == f"{tmp_path}/r"
        with pytest.raises(UsageError) as caught:
            open_registry("ftp://bucket")
        assert caught.value.message == "Registries at ftp:// are not read by this release (ftp://bucket)."

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        (tmp_path / "photo.jpg").touch()
        with pytest.raises(RegistryError) as caught:
            LocalRegistry(tmp_path)
        assert caught.value.message == (
            f"{tmp_path} is not a reprokit registry: it has no reprokit-registry.json, but it holds 'photo.jpg'."
        )

    def test_one_that_another_process_is_making_can_be_opened(self, tmp_path, monkeypatch):
        root, exists = tmp_path / "new", Path.exists

        def made_after_the_first_look(path, **options):
            found = exists(path, **options)
            if path == root:
                root.mkdir(exist_ok=True)
            return found

        monkeypatch.setattr(Path, "exists", made_after_the_first_look)
        assert LocalRegistry(root).exists() is False

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "f").touch()
        with pytest.raises(RegistryError) as caught:
            LocalRegistry(tmp_path / "f")
        assert caught.value.message == f"{tmp_path / 'f'} is not a folder, so it cannot be a registry."

    def test_an_unknown_format_is_refused(self, registry):
        store(registry, {"x": b"1"})
        (registry.root / "reprokit-registry.json").write_text('{"format": 4}')
        with pytest.raises(RegistryError) as caught:
            LocalRegistry(registry.root)
        assert caught.value.message == f"{registry.root} is a registry of format 4; this reprokit reads format 3."

    def test_a_rewritten_history_is_noticed(self, registry):
        for data in (b"1", b"2"):
            registry.publish("a/b", store(registry, {"x": data}))
        first = registry.root / "log" / "a" / "b" / "0000000001"
        value = json.loads(first.read_bytes().splitlines()[0])
        first.unlink()
        first.write_bytes(sealed(json.dumps({**value, "writer": "somebody@else"}).encode()))
        with pytest.raises(DataMismatchError, match="The history of a/b was rewritten: log entry 2 follows "):
            registry.log("a/b")
        assert [problem.package for problem in verify_registry(registry)[1]] == ["a/b"]

    def test_a_gap_in_the_history_is_noticed(self, registry):
        for data in (b"1", b"2"):
            registry.publish("a/b", store(registry, {"x": data}))
        folder = registry.root / "log" / "a" / "b"
        (folder / "0000000001").unlink()
        with pytest.raises(DataMismatchError) as caught:
            registry.log("a/b")
        assert caught.value.message == f"The log of a/b has a gap: entry 1 is missing from {folder}."

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"prev": null, "top_hash": "../x"}'])
    def test_a_malformed_log_entry_is_refused(self, registry, content):
        registry.publish("a/b", store(registry, {"x": b"1"}))
        path = registry.root / "log" / "a" / "b" / "0000000001"
        path.unlink()
        for written in (content, sealed(content)):
            path.write_bytes(written)
            with pytest.raises(DataMismatchError, match="Log entry 1 of a/b is "):
                registry.head("a/b")

    def test_log_entries_in_each_others_place_are_noticed(self, registry):
        for name, data in (("a/b", b"1"), ("a/b", b"2"), ("c/d", b"3")):
            registry.publish(name, store(registry, {"x": data}))
        log = registry.root / "log"
        for ours, theirs, what in (
            ("a/b/0000000002", "a/b/0000000001", "entry 1 of a/b"),
            ("a/b/0000000001", "c/d/0000000001", "entry 1 of c/d"),
        ):
            kept, other = (log / ours).read_bytes(), (log / theirs).read_bytes()
            (log / ours).write_bytes(other)
            with pytest.raises(DataMismatchError) as caught:
                registry.top_hashes("a/b")
            number = int(ours[-1])
            assert caught.value.message == (
                f"Log entry {number} of a/b is in the wrong place: it is {what} ({log / 'a' / 'b'})."
            )
            (log / ours).write_bytes(kept)

    def test_a_sealed_entry_with_a_field_that_nobody_knows_is_refused(self, registry):
        """Of another release, or another's making: what the field means is not known, so neither is the entry."""
        registry.publish("a/b", store(registry, {"x": b"1"}))
        path = registry.root / "log" / "a" / "b" / "0000000001"
        value = json.loads(path.read_bytes().splitlines()[0])
        path.unlink()
        for changed, sound in (
            ({}, True),
            ({"also": 1}, False),
            ({"time": True}, False),
            ({"permanent": ["v9"]}, False),
        ):
            path.write_bytes(sealed(json.dumps({**value, **changed}).encode()))
            if sound:
                assert registry.head("a/b").top_hash == value["top_hash"]
                continue
            with pytest.raises(DataMismatchError) as caught:
                registry.head("a/b")
            assert caught.value.message == f"Log entry 1 of a/b is malformed ({path.parent})."

    def test_a_file_in_the_log_that_is_no_entry_is_left_alone(self, registry):
        entry = registry.publish("a/b", store(registry, {"x": b"1"}))
        (registry.root / "log" / "a" / "b" / ("²" * 10)).touch()
        assert registry.head("a/b") == entry

    def test_when_the_newest_version_is_deleted_latest_is_the_one_before_it(self, registry):
        one, two, three = (store(registry, {"x": data}).top_hash for data in (b"1", b"2", b"3"))
        for data in (b"1", b"2", b"3"):
            registry.publish("a/b", store(registry, {"x": data}))
        assert registry.delete("a/b", three).tags == {"latest": two}
        assert registry.delete("a/b", one).tags == {"latest": two}
        assert registry.delete("a/b", two).tags == {}

    def test_concurrent_builds_are_all_in_the_log(self, registry):
        workers = [python(BUILD_FIVE, registry.root.parent, worker) for worker in range(4)]
        hashes = [line for worker in workers for line in worker.communicate(timeout=60)[0].split()]
        assert [worker.returncode for worker in workers] == [0] * 4
        log = registry.log("a/b")
        assert [entry.seq for entry in log] == list(range(1, 21))
        assert sorted(entry.top_hash for entry in log) == sorted(hashes)
        assert len(set(hashes)) == 20
        assert len(log[-1].tags) == 21
        assert verify_registry(registry) == (20, [])

    @pytest.mark.parametrize(
        ("function", "nth", "committed"),
        [
            pytest.param("fsync", 0, False, id="before the object is durable"),
            pytest.param("replace", 0, False, id="before the object has its name"),
            pytest.param("link", 0, False, id="before the manifest has its name"),
            pytest.param("link", 1, False, id="before the log entry"),
            pytest.param("fsync", 5, True, id="before the folder of the log is durable"),
        ],
    )
    def test_interrupted_publish_leaves_the_previous_version(self, registry, tmp_path, function, nth, committed):
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "x").write_text("old")
        old = build(folder, "a/b", registry=registry).top_hash
        (folder / "x").write_text("new")
        assert python(BUILD_AND_DIE, registry.root, folder, function, nth).wait(60) == 9
        again = LocalRegistry(registry.root)
        assert (again.resolve(PackageRef("a/b")) == old) is not committed
        assert verify_registry(again) == (1 + committed, [])
        new = build(folder, "a/b", registry=again).top_hash
        assert again.resolve(PackageRef("a/b")) == new

    def test_a_registry_that_cannot_be_created_says_so(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(RegistryError) as caught, LocalRegistry(tmp_path / "file" / "registry").staging():
            pass
        assert caught.value.message.startswith(f"Creating the registry {tmp_path / 'file' / 'registry'} failed: ")

    @pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
    def test_a_read_only_registry_says_whom_to_ask(self, registry):
        store(registry, {"x": b"1"})
        objects = registry.root / "objects"
        objects.chmod(0o555)
        try:
            with pytest.raises(RegistryError) as caught:
                store(registry, {"x": b"2"})
        finally:
            objects.chmod(0o755)
        assert caught.value.message.startswith(f"Storing objects in {registry.root} failed: Permission denied (")
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("You lack the permission")

    def test_a_file_in_the_place_of_a_folder_is_a_registry_error(self, registry):
        store(registry, {"x": b"1"})
        (registry.root / "log").write_text("not a folder")
        with pytest.raises(RegistryError) as caught:
            registry.publish("a/b", store(registry, {"x": b"1"}))
        assert caught.value.message.startswith(("Publishing a/b to ", "Reading the log of a/b"))

    def test_a_full_disk_keeps_what_was_published(self, tmp_path):
        mounted = tmp_path / "small"
        mounted.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mounted]).returncode:
            pytest.skip("a small file system can be mounted by root only")
        try:
            self.fill(LocalRegistry(mounted / "registry"), tmp_path / "data")
        finally:
            gc.collect()  # mapped packs keep the file system busy
            subprocess.run(["umount", mounted], check=True)

    def fill(self, registry: LocalRegistry, folder: Path) -> None:
        folder.mkdir()
        (folder / "x").write_bytes(b"x")
        old = build(folder, "a/b", registry=registry).top_hash
        (folder / "big").write_bytes(os.urandom(3 * 1024 * 1024))
        with pytest.raises(RegistryError) as caught:
            build(folder, "a/b", registry=registry)
        assert caught.value.message == f"Storing objects in {registry.root} failed: No space left on device."
        assert caught.value.hint == (
            "The disk is full: free some space and repeat the command; what was published is intact."
        )
        assert [entry.top_hash for entry in registry.log("a/b")] == [old]
        assert verify_registry(registry) == (1, [])
        (folder / "big").write_bytes(b"small")
        build(folder, "a/b", registry=registry)


class TestLogEntries:
    FINE: ClassVar[dict[str, Any]] = {"note": None, "permanent": ["v1"], "prev": None}

    @pytest.mark.parametrize(
        "change",
        [
            {"package": 1},
            {"seq": True},
            {"seq": "1"},
            {"prev": "x"},
            {"prev": "A" * 64},
            {"action": "steal"},
            {"top_hash": "0" * 63},
            {"top_hash": None},
            {"time": 1.0},
            {"time": None},
            {"writer": None},
            {"tags": []},
            {"tags": {"latest": "x"}},
            {"tags": {"latest": None}},
            {"tags": None},
            {"permanent": "latest"},
            {"permanent": ["none"]},
            {"permanent": None},
            {"note": 1},
        ],
    )
    def test_one_that_is_malformed_is_refused(self, registry, change):
        registry.publish("a/b", store(registry, {"x": b"1"}), tags=("v1",))
        path = registry.root / "log" / "a" / "b" / "0000000001"
        value = {**json.loads(path.read_bytes().splitlines()[0]), **self.FINE}
        path.unlink()
        path.write_bytes(sealed(json.dumps(value).encode()))
        assert registry.head("a/b").permanent == ("v1",)
        path.write_bytes(sealed(json.dumps({**value, **change}).encode()))
        with pytest.raises(DataMismatchError) as caught:
            registry.head("a/b")
        assert caught.value.message == f"Log entry 1 of a/b is malformed ({path.parent})."

    def test_a_package_whose_latest_was_made_permanent_is_used_again(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one, tags=("v1",))
        path = registry.root / "log" / "a" / "b" / "0000000001"
        value = json.loads(path.read_bytes().splitlines()[0])
        path.unlink()
        path.write_bytes(sealed(json.dumps({**value, "permanent": ["latest", "v1"]}).encode()))
        assert registry.head("a/b").permanent == ("v1",)
        registry.publish("a/b", two)
        registry.rollback("a/b", one.top_hash)
        registry.publish("a/b", two)
        assert [entry.permanent for entry in registry.log("a/b")] == [("v1",)] * 4
        assert registry.resolve(PackageRef("a/b")) == two.top_hash

    def test_one_that_would_not_be_read_is_not_written(self, registry, monkeypatch):
        registry.publish("a/b", store(registry, {"x": b"1"}))
        monkeypatch.setattr("reprokit.registry.package_log._MAX_LOG_ENTRY", 1000)
        with pytest.raises(UsageError, match="The log of a/b takes entries of 1,000 bytes at most, not of"):
            registry.rollback("a/b", registry.head("a/b").top_hash, note="x" * 1000)
        registry.rollback("a/b", registry.head("a/b").top_hash, note="x" * 300)
        assert [entry.seq for entry in registry.log("a/b")] == [1, 2]

    def test_one_in_another_place_and_one_that_is_missing_are_named(self, registry):
        for data in (b"1", b"2", b"3"):
            registry.publish("a/b", store(registry, {"x": data}))
        registry.publish("a/c", store(registry, {"x": b"1"}))
        folder = registry.root / "log" / "a" / "b"
        second = (folder / "0000000002").read_bytes()
        (folder / "0000000002").unlink()
        with pytest.raises(DataMismatchError, match="The log of a/b has a gap: entry 2 is missing"):
            registry.log("a/b")
        (folder / "0000000002").write_bytes((folder / "0000000001").read_bytes())
        for read in (registry.log, registry.top_hashes):
            with pytest.raises(DataMismatchError, match="2 of a/b is in the wrong place: it is entry 1 of a/b"):
                read("a/b")
        (folder / "0000000002").write_bytes(second)
        assert len(registry.log("a/b")) == 3
        other = registry.root / "log" / "a" / "c" / "0000000001"
        other.unlink()
        other.write_bytes((folder / "0000000001").read_bytes())
        with pytest.raises(DataMismatchError, match="it is entry 1 of a/b"):
            registry.head("a/c")

    def test_a_history_that_was_rewritten_is_noticed(self, registry):
        for data in (b"1", b"2"):
            registry.publish("a/b", store(registry, {"x": data}))
        path = registry.root / "log" / "a" / "b" / "0000000001"
        value = json.loads(path.read_bytes().splitlines()[0])
        path.unlink()
        path.write_bytes(sealed(json.dumps({**value, "writer": "somebody@else"}).encode()))
        with pytest.raises(DataMismatchError, match="The history of a/b was rewritten: log entry 2 follows"):
            registry.log("a/b")

    def test_what_is_not_there_cannot_be_tagged_deleted_or_rolled_back_to(self, registry):
        there = store(registry, {"x": b"1"})
        registry.publish("a/b", there)
        gone = store(registry, {"x": b"2"})
        registry.publish("a/b", gone)
        registry.delete("a/b", gone.top_hash)
        before = registry.log("a/b")
        for top_hash in ("0" * 64, gone.top_hash):
            for act in (
                lambda top: registry.delete("a/b", top),
                lambda top: registry.rollback("a/b", top),
                lambda top: registry.tag("a/b", top, ("v1",)),
            ):
                with pytest.raises(NotFoundError, match=f"^a/b has no version {top_hash[:12]} in "):
                    act(top_hash)
        assert registry.log("a/b") == before


@pytest.mark.parametrize("uuid", [None, 5, "", "not a uuid"])
def test_a_registry_without_its_uuid_is_refused(tmp_path, uuid):
    build({"x": b"1"}, "a/b", registry=LocalRegistry(tmp_path / "registry"))
    marker = next(path for path in (tmp_path / "registry").iterdir() if path.is_file() and b"uuid" in path.read_bytes())
    value = json.loads(marker.read_bytes())
    marker.chmod(0o644)
    marker.write_text(json.dumps({**value, "uuid": uuid}))
    with pytest.raises(RegistryError, match="names no UUID"):
        LocalRegistry(tmp_path / "registry").head("a/b")


def test_a_project_s_own_registry_is_nothing_that_git_sees(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "project"], check=True)
    own = tmp_path / "project" / ".reprokit" / "registry"
    registry = LocalRegistry(own, cache=tmp_path / "cache")
    build({"a": b"1"}, "t/x", registry=registry)
    said = subprocess.run(
        ["git", "-C", tmp_path / "project", "status", "--porcelain"], capture_output=True, check=True
    ).stdout
    assert said == b""
    assert (own / ".gitignore").read_text() == "*\n"
    assert list(registry.damage()) == []
    other = LocalRegistry(tmp_path / "shared", cache=tmp_path / "cache")
    build({"a": b"1"}, "t/x", registry=other)
    assert not (tmp_path / "shared" / ".gitignore").exists()
