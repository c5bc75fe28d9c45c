"""The registry in a folder: the contract, and what only a folder can suffer."""

import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, RegistryError, UsageError
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
            open_registry("s3://bucket")
        assert caught.value.message == "Registries at s3:// are not read by this release (s3://bucket)."

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        (tmp_path / "photo.jpg").touch()
        with pytest.raises(RegistryError) as caught:
            LocalRegistry(tmp_path)
        assert caught.value.message == (
            f"{tmp_path} is not a reprokit registry: it has no reprokit-registry.json, but it holds 'photo.jpg'."
        )

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "f").touch()
        with pytest.raises(RegistryError) as caught:
            LocalRegistry(tmp_path / "f")
        assert caught.value.message == f"{tmp_path / 'f'} is not a folder, so it cannot be a registry."

    def test_an_unknown_format_is_refused(self, registry):
        store(registry, {"x": b"1"})
        (registry.root / "reprokit-registry.json").write_text('{"format": 3}')
        with pytest.raises(RegistryError) as caught:
            LocalRegistry(registry.root)
        assert caught.value.message == f"{registry.root} is a registry of format 3; this reprokit reads format 2."

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

    def test_a_file_in_the_log_that_is_no_entry_is_left_alone(self, registry):
        entry = registry.publish("a/b", store(registry, {"x": b"1"}))
        (registry.root / "log" / "a" / "b" / ("²" * 10)).touch()
        assert registry.head("a/b") == entry

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
