"""Registries of Quilt's: what is written for it, and what a hostile one can try. The real client: test_client."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.digest import CHUNKED, PLAIN, hash_bytes
from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError, RegistryError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.runs.transfer import pull, push
from reprokit.schema.manifest import Entry, Manifest

RUN = "20261123-101500-7c1e9f"


class Folder:
    """A Quilt registry that is written by hand, with one package a/b."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lines(self, *rows: dict[str, Any], header: dict[str, Any] | None = None) -> str:
        """Write a version and point at it; return its top hash."""
        header = header or {"version": "v0", "message": None}
        entries = [
            Entry(
                row["logical_key"],
                row["size"],
                hash_bytes(b"")._replace(type=row["hash"]["type"], value=row["hash"]["value"]),
                row.get("meta") or {},
            )
            for row in rows
            if row.get("physical_keys")
        ]
        ordered = sorted(entries, key=lambda entry: entry.logical_key.split("/"))
        top_hash = Manifest(header, ordered).top_hash
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (header, *rows))
        self.write(f".quilt/packages/{top_hash}", text.encode())
        self.write(".quilt/named_packages/a/b/1700000000", top_hash.encode())
        self.write(".quilt/named_packages/a/b/latest", top_hash.encode())
        return top_hash

    def row(self, key: str, data: bytes, place: str | None = None, **changes: Any) -> dict[str, Any]:
        """Return an entry, its object written to `data/<key>` unless it lies elsewhere."""
        if place is None:
            place = self.write(f"data/{key}", data).as_uri()
        digest = hash_bytes(data, changes.pop("type", CHUNKED))
        return {
            "logical_key": key,
            "physical_keys": [place],
            "size": len(data),
            "hash": {"type": digest.type, "value": digest.value},
            "meta": {},
            **changes,
        }

    def write(self, place: str, data: bytes) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


@pytest.fixture
def quilt(tmp_path):
    return Folder(tmp_path / "quilt")


@pytest.fixture
def ours(tmp_path):
    registry = LocalRegistry(tmp_path / "ours")
    build({"kept": b"kept"}, "a/b", registry=registry)
    return registry


@pytest.fixture
def refused(quilt, ours):
    """Pull a/b, which must fail, and return the error; nothing of it is published."""

    def attempt(**options: Any) -> Error:
        before = ours.log("a/b")
        with pytest.raises(Error) as caught:
            pull("a/b", source=QuiltRegistry(quilt.root, **options), target=ours)
        assert ours.log("a/b") == before
        assert verify_registry(LocalRegistry(ours.root)) == (1, [])
        return caught.value

    return attempt


class TestForms:
    """Manifests as quilt3 wrote them over the years: the top hash stays, and so do all bytes that it covers."""

    @pytest.mark.parametrize(
        "header",
        [
            {"version": "v0"},
            {"version": "v0", "message": None, "user_meta": None},
            {"user_meta": {"b": 1, "a": [1.0, 1, -0.0, 1e-7, "é\u2028"]}, "message": "m", "version": "v0"},
            {"version": "v0", "user_meta": {}, "message": "", "workflow": {"id": None, "config": "x"}},
        ],
    )
    def test_headers_are_kept(self, quilt, ours, header):
        top_hash = quilt.lines(quilt.row("x", b"1"), header=header)
        (done,) = pull("a/b", source=QuiltRegistry(quilt.root), target=ours)
        assert (done.top_hash, done.new_objects, done.new_bytes, done.tags) == (top_hash, 1, 1, ("latest",))
        assert LocalRegistry(ours.root).read_manifest(top_hash).header == header
        assert list(LocalRegistry(ours.root).read_manifest(top_hash).header) == list(header)

    def test_a_top_hash_in_the_header_is_not_hashed(self, quilt, ours):
        top_hash = quilt.lines(quilt.row("x", b"1"))
        path = quilt.root / ".quilt/packages" / top_hash
        header, rest = path.read_text().split("\n", 1)
        path.write_text(json.dumps({**json.loads(header), "top_hash": "old"}) + "\n" + rest)
        assert pull("a/b", source=QuiltRegistry(quilt.root), target=ours)[0].top_hash == top_hash

    def test_plain_digests_metadata_folders_and_null(self, quilt, ours):
        rows = [
            {"logical_key": "d/", "meta": {"user_meta": {"about": "d"}}},
            {"logical_key": "d/e/", "meta": None},
            quilt.row("d/plain", b"plain" * 1000, type=PLAIN),
            quilt.row("d/e/noted", b"2", meta={"user_meta": {"label": "猫", "z": 1, "a": None}, "version": 1}),
            quilt.row("null", b"3", meta=None),
            quilt.row("empty", b""),
            quilt.row("empty-plain", b"", type=PLAIN),
            quilt.row("large-plain", bytes(3 * 1024 * 1024), type=PLAIN),
        ]
        top_hash = quilt.lines(*rows)
        (done,) = pull("a/b", source=QuiltRegistry(quilt.root), target=ours)
        assert (done.top_hash, done.entries) == (top_hash, 6)
        again = Package.open("a/b", registry=LocalRegistry(ours.root))
        assert again.verify() == []
        assert again.manifest.folders == (("d/", {"user_meta": {"about": "d"}}), ("d/e/", None))
        assert again["d/e/noted"].entry.meta == {"user_meta": {"label": "猫", "z": 1, "a": None}, "version": 1}
        assert again["large-plain"].read() == bytes(3 * 1024 * 1024)

    def test_places(self, quilt, ours):
        named = quilt.write("data/ü 50% #?+&;x", b"named").as_uri()
        rows = [
            quilt.row("quoted", b"named", named),
            quilt.row("localhost", b"named", named.replace("file://", "file://localhost")),
            quilt.row("versioned", b"named", named + "?versionId=null"),
            quilt.row("path", b"named", str(quilt.root / "data/ü 50% #?+&;x")),
            quilt.row("bucket", b"named", "s3://bucket/data/%C3%BC%2050%25%20%23%3F%2B%26%3Bx?versionId=1.a"),
            quilt.row("dots", b"named", named.replace("/data/", "/data/../data/./")),
        ]
        (quilt.root / "link").symlink_to(quilt.root / "data")
        rows.append(quilt.row("link", b"named", named.replace("/data/", "/link/")))
        top_hash = quilt.lines(*rows)
        assert pull("a/b", source=QuiltRegistry(quilt.root), target=ours)[0].top_hash == top_hash
        assert {Package.open("a/b", registry=ours)[key].read() for key in top_keys(ours)} == {b"named"}

    def test_a_version_without_a_pointer_is_found_by_its_whole_hash(self, quilt):
        first, second = (quilt.lines(quilt.row("x", data)) for data in (b"1", b"2"))
        registry = QuiltRegistry(quilt.root)
        assert registry.top_hashes("a/b") == [second]
        assert registry.resolve(PackageRef("a/b", hash=first)) == first
        with pytest.raises(NotFoundError) as caught:
            registry.resolve(PackageRef("a/b", hash=first[:12]))
        assert caught.value.message == f"No version of a/b starts with {first[:12]} in {quilt.root}."

    def test_a_pointer_torn_for_a_moment_is_read_again(self, quilt):
        top_hash = quilt.lines(quilt.row("x", b"1"))
        quilt.write(".quilt/named_packages/a/b/latest", b"")
        mend = threading.Timer(0.05, quilt.write, (".quilt/named_packages/a/b/latest", top_hash.encode() + b"\n"))
        mend.start()
        assert QuiltRegistry(quilt.root).resolve(PackageRef("a/b")) == top_hash
        mend.join()

    def test_other_files_are_no_pointers_and_no_packages(self, quilt):
        top_hash = quilt.lines(quilt.row("x", b"1"))
        quilt.write(".quilt/named_packages/a/.DS_Store", b"")
        quilt.write(".quilt/named_packages/a/b/.tmp-1", b"")
        quilt.write(".quilt/named_packages/a/b/v1", top_hash.encode())
        registry = QuiltRegistry(quilt.root)
        assert list(registry.packages()) == ["a/b"]
        assert registry.head("a/b").tags == {"latest": top_hash, "v1": top_hash}


def top_keys(registry: LocalRegistry) -> list[str]:
    return list(Package.open("a/b", registry=registry))


class TestHostile:
    def test_a_tampered_object_is_refused(self, quilt, refused):
        row = quilt.row("x", b"true")
        quilt.lines(quilt.row("ok", b"1"), row)
        quilt.write("data/x", b"fals")
        error = refused()
        expected, found = hash_bytes(b"true").hex[:12], hash_bytes(b"fals").hex[:12]
        assert isinstance(error, DataMismatchError)
        version = str(Package.open("a/b", registry=QuiltRegistry(quilt.root)))
        assert error.message == f"x of {version} is corrupt: expected {expected}…, read {found}…."

    def test_a_tampered_large_object_is_refused(self, quilt, refused):
        data = bytes(2 * 1024 * 1024)
        quilt.lines(quilt.row("x", data))
        quilt.write("data/x", data[:-1] + b"1")
        assert refused().message.startswith("x of a/b@")

    @pytest.mark.parametrize("size", [3, 5])
    def test_an_object_of_another_size_is_refused(self, quilt, refused, size):
        top_hash = quilt.lines(quilt.row("x", b"true"))
        path = quilt.write("data/x", bytes(size))
        error = refused()
        assert isinstance(error, DataMismatchError)
        assert error.message == f"x of a/b@{top_hash[:8]} is corrupt: expected 4 bytes, {path} has {size}."

    def test_a_size_that_the_digest_denies_is_refused(self, quilt, refused):
        top_hash = quilt.lines({**quilt.row("x", b"true"), "size": 5})
        error = refused()
        assert error.message == f"x of a/b@{top_hash[:8]} is corrupt: expected 5 bytes, {quilt.root / 'data/x'} has 4."

    def test_a_missing_object_is_named(self, quilt, refused):
        top_hash = quilt.lines(quilt.row("x", b"true"))
        (quilt.root / "data/x").unlink()
        error = refused()
        assert isinstance(error, NotFoundError)
        assert error.message == f"x of a/b@{top_hash[:8]} is missing: there is no {quilt.root / 'data/x'}."

    @pytest.mark.parametrize("form", ["url", "path", "dots", "quoted dots", "bucket dots", "link", "folder link"])
    def test_a_key_that_leaves_the_folder_is_refused(self, quilt, refused, tmp_path, form):
        secret = tmp_path / "secret"
        secret.write_bytes(b"true")
        quilt.write("data/other", b"")
        root = quilt.root.as_uri()
        place = {
            "url": secret.as_uri(),
            "path": str(secret),
            "dots": f"{root}/data/../../secret",
            "quoted dots": f"{root}/data/%2e%2e/%2e%2e/secret",
            "bucket dots": "s3://bucket/data/../../secret",
            "link": f"{root}/data/link",
            "folder link": f"{root}/data/up/secret",
        }[form]
        (quilt.root / "data/link").symlink_to(secret)
        (quilt.root / "data/up").symlink_to(tmp_path)
        top_hash = quilt.lines(quilt.row("x", b"true", place))
        error = refused()
        assert isinstance(error, RefusedError)
        assert error.message == (
            f"x of a/b@{top_hash[:8]} is said to lie outside the registry {quilt.root}, at {secret}; "
            "nothing was read there."
        )
        assert error.hint == (
            f"If you trust that place, name a folder above it: `reprokit pull … --allow-outside {tmp_path}`."
        )

    def test_a_place_outside_that_is_allowed_is_read(self, quilt, ours, refused, tmp_path):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "x").write_bytes(b"true")
        quilt.lines(quilt.row("x", b"true", (tmp_path / "source" / "x").as_uri()))
        assert isinstance(refused(outside=[tmp_path / "sourc", tmp_path / "source" / "x"]), RefusedError)
        pull("a/b", source=QuiltRegistry(quilt.root, outside=[tmp_path / "source"]), target=ours)
        assert Package.open("a/b", registry=ours)["x"].read() == b"true"

    @pytest.mark.parametrize(
        "place",
        [
            "http://example.org/x",
            "file://example.org/x",
            "file:x",
            "x",
            "../x",
            "file:///x?y=1",
            "file:///x#y",
            "file:///x%00y",
            "/x\0y",
            "s3:///x",
            "file://[/x",
        ],
    )
    def test_a_key_that_is_no_place_is_refused(self, quilt, refused, place):
        top_hash = quilt.lines(quilt.row("x", b"true", place))
        error = refused()
        assert isinstance(error, DataMismatchError)
        assert error.message == f"x of a/b@{top_hash[:8]}: {place!r} is not a place that reprokit reads."

    def test_a_pipe_or_a_folder_is_no_object(self, quilt, refused):
        row = quilt.row("x", b"true")
        top_hash = quilt.lines(row)
        path = quilt.root / "data/x"
        path.unlink()
        for make in (os.mkfifo, os.mkdir):
            make(path)
            error = refused()
            assert isinstance(error, RefusedError)
            assert error.message == f"x of a/b@{top_hash[:8]}: {path} is not a file; nothing was read there."
            path.unlink() if make is os.mkfifo else path.rmdir()

    @pytest.mark.parametrize(
        ("second", "why"),
        [
            ("x", "Two logical keys cannot stand side by side: 'x' and 'x'."),
            ("X", "Two logical keys cannot stand side by side: 'X' and 'x'."),
            ("x/y", "Two logical keys cannot stand side by side: 'x' and 'x/y'."),
            ("../y", "Not a legal logical key: '../y' (it has the part '..')."),
            ("/y", "Not a legal logical key: '/y' (it is absolute)."),
            ("e\u0301", "Not a legal logical key: 'e\u0301' (it is not in Unicode NFC)."),
        ],
    )
    def test_keys_that_clash_or_leave_are_refused(self, quilt, refused, second, why):
        data = quilt.write("data/one", b"1").as_uri()
        top_hash = quilt.lines(quilt.row("x", b"1", data), quilt.row(second, b"1", data))
        error = refused()
        assert isinstance(error, DataMismatchError)
        assert error.message == f"Manifest {top_hash[:12]} of {quilt.root} is refused: {why}"

    def test_a_manifest_of_another_hash_is_refused(self, quilt, refused):
        top_hash = quilt.lines(quilt.row("x", b"1"))
        path = quilt.root / ".quilt/packages" / top_hash
        other = Folder(quilt.root / "other").lines(quilt.row("x", b"2"))
        path.write_bytes((quilt.root / "other/.quilt/packages" / other).read_bytes())
        assert refused().message == (
            f"Manifest {top_hash[:12]} of {quilt.root} is corrupt: "
            f"expected top hash {top_hash[:12]}…, its content has {other[:12]}…."
        )

    def test_a_huge_line_is_refused(self, quilt, refused):
        row = quilt.row("x", b"1", meta={"user_meta": "x" * (17 * 1024 * 1024)})
        top_hash = quilt.lines(row)
        length = len(json.dumps(row))
        assert refused().message == (
            f"Line 2 of Manifest {top_hash[:12]} of {quilt.root} is {length:,} bytes long; at most 16,777,216 are read."
        )

    def test_a_huge_header_is_refused(self, quilt, refused):
        header = {"version": "v0", "message": "x" * (17 * 1024 * 1024)}
        top_hash = quilt.lines(header=header)
        length = len(json.dumps(header))
        assert refused().message == (
            f"The header of Manifest {top_hash[:12]} of {quilt.root} is {length:,} bytes long; "
            "at most 16,777,216 are read."
        )

    def test_a_huge_manifest_is_refused_unread(self, quilt, refused):
        top_hash = quilt.lines()
        with (quilt.root / ".quilt/packages" / top_hash).open("ab") as handle:
            handle.truncate(3 * 1024**3)  # a hole; reading it would take 3 GiB of memory
        assert refused().message == (
            f"Manifest {top_hash[:12]} of {quilt.root} is 3,221,225,472 bytes long; at most 2,147,483,648 are read."
        )

    def test_an_unknown_digest_is_refused(self, quilt, refused):
        row = quilt.row("x", b"1", hash={"type": "CRC64NVME", "value": "AAAAAAAAAAA="})
        quilt.lines(row)
        assert refused().message == "Not a digest that reprokit reads: type 'CRC64NVME', value 'AAAAAAAAAAA='."

    def test_text_that_is_not_unicode_is_refused(self, quilt, refused):
        row = quilt.row("x", b"1", meta={"user_meta": "\ud800"})
        text = json.dumps({"version": "v0"}) + "\n" + json.dumps(row) + "\n"
        digest = hash_bytes(b"1")
        top_hash = Manifest({"version": "v0"}, [Entry("x", 1, digest, row["meta"])]).top_hash
        quilt.write(f".quilt/packages/{top_hash}", text.encode())
        quilt.write(".quilt/named_packages/a/b/latest", top_hash.encode())
        assert refused().message == (
            f"Line 2 of Manifest {top_hash[:12]} of {quilt.root} holds half of a surrogate pair, which is no character."
        )

    @pytest.mark.parametrize("content", [b"", b"0" * 63, b"../../../../etc/passwd", b"\xff" * 64])
    def test_a_pointer_that_is_no_hash_is_refused(self, quilt, refused, content):
        quilt.lines(quilt.row("x", b"1"))
        path = quilt.write(".quilt/named_packages/a/b/latest", content)
        error = refused()
        assert isinstance(error, DataMismatchError)
        assert error.message == f"{path} does not hold a top hash."

    def test_pointers_and_manifests_behind_a_link_are_not_there(self, quilt, refused, tmp_path):
        top_hash = quilt.lines(quilt.row("x", b"1"))
        path = quilt.root / ".quilt/packages" / top_hash
        path.rename(tmp_path / "manifest")
        path.symlink_to(tmp_path / "manifest")
        assert refused().message == f"No version {top_hash[:12]}… in {quilt.root}."

    def test_a_key_that_names_one_of_our_packs_leaves_no_trace(self, quilt, ours):
        """Where a manifest says that bytes lie is not taken over: gc goes by the keys in ours."""
        (pack,) = ours.objects.pack_names()
        row = quilt.row("x", b"true", f"packs/{pack}.zip#0,4")
        top_hash = quilt.lines(row)
        digest = hash_bytes(b"true")
        quilt.write(f"objects/{digest.type}/{digest.hex[:2]}/{digest.hex[2:]}", b"true")
        pull("a/b", source=QuiltRegistry(quilt.root), target=ours)
        (entry,) = LocalRegistry(ours.root).read_manifest(top_hash).entries
        assert entry.physical_keys[0].startswith("packs/")
        assert pack not in entry.physical_keys[0]


class TestReadOnly:
    def test_every_writing_method_refuses_by_name(self, quilt):
        top_hash = quilt.lines(quilt.row("x", b"1"))
        registry = open_registry(str(quilt.root))
        manifest = registry.read_manifest(top_hash)
        attempts = {
            "Nothing can be stored": lambda: registry.staging(),
            "a/b cannot be published": lambda: registry.publish("a/b", manifest),
            "a/b cannot be tagged": lambda: registry.tag("a/b", top_hash, ("v1",)),
            "The tag 'v1' cannot be taken from a/b": lambda: registry.untag("a/b", "v1"),
            "a/b cannot be rolled back": lambda: registry.rollback("a/b", top_hash),
            f"a/b@{top_hash[:12]} cannot be deleted": lambda: registry.delete("a/b", top_hash),
            f"Run {RUN} cannot be recorded": lambda: registry.claim(RUN),
        }
        for what, attempt in attempts.items():
            with pytest.raises(RefusedError) as caught:
                attempt()
            assert caught.value.message == f"{what} in the Quilt registry {quilt.root}: reprokit only reads it."
        registry.remember("x", b"y")
        assert registry.recall("x") is None

    def test_reading_writes_nothing(self, quilt, ours):
        quilt.lines(quilt.row("x", b"1"))
        before = tree(quilt.root)
        pull("a/b", source=open_registry(str(quilt.root)), target=ours)
        assert verify_registry(open_registry(str(quilt.root))) == (1, [])
        assert tree(quilt.root) == before


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(root.rglob("*"))}


PUSH_AND_DIE = """
import os, signal, sys
from reprokit.registry import open_registry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.runs.transfer import push
left = int(sys.argv[4])
module, name = (os, "fsync") if sys.argv[3] == "fsync" else (__import__("pathlib").Path, "replace")
real = getattr(module, name)
def die(*args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(module, name, die)
push("a/b", source=open_registry(sys.argv[1]), target=QuiltWriter(sys.argv[2]))
"""


def run_python(code: str, *arguments: object) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, timeout=60).returncode


class TestWriting:
    @pytest.fixture
    def source(self, tmp_path):
        registry = LocalRegistry(tmp_path / "source")
        build({"a.csv": b"1", "b.txt": b"1", "c.tar.gz": b"2", "d/é": bytes(2 * 1024 * 1024)}, "a/b", registry=registry)
        return registry

    def test_the_layout(self, source, tmp_path):
        folder = tmp_path / "quilt"
        before = int(time.time())
        (done,) = push("a/b", source=source, target=QuiltWriter(folder))
        assert (done.new_objects, done.new_bytes, done.published) == (3, 2 * 1024 * 1024 + 2, True)
        one, two, large = hash_bytes(b"1"), hash_bytes(b"2"), hash_bytes(bytes(2 * 1024 * 1024))
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        (seconds,) = {name.rpartition("/")[2] for name in files if "/named_packages/" in name} - {"latest"}
        assert files == {
            ".quilt/reprokit/lock",
            f".quilt/packages/{done.top_hash}",
            ".quilt/named_packages/a/b/latest",
            f".quilt/named_packages/a/b/{seconds}",
            f"objects/sha2-256-chunked/{one.hex[:2]}/{one.hex[2:]}.csv",
            f"objects/sha2-256-chunked/{one.hex[:2]}/{one.hex[2:]}.txt",
            f"objects/sha2-256-chunked/{two.hex[:2]}/{two.hex[2:]}.tar.gz",
            f"objects/sha2-256-chunked/{large.hex[:2]}/{large.hex[2:]}",
        }
        assert before <= int(seconds) <= time.time()
        for pointer in ("latest", seconds):
            assert (folder / ".quilt/named_packages/a/b" / pointer).read_bytes() == done.top_hash.encode()
        twins = [folder / f"objects/sha2-256-chunked/{one.hex[:2]}/{one.hex[2:]}{end}" for end in (".csv", ".txt")]
        assert twins[0].samefile(twins[1])
        lines = (folder / ".quilt/packages" / done.top_hash).read_text().splitlines()
        assert lines[0] == '{"version": "v0", "message": null}'
        assert json.loads(lines[1])["physical_keys"] == [twins[0].as_uri()]

    def test_pushing_again_changes_nothing_and_repairs_what_is_missing(self, source, tmp_path):
        folder = tmp_path / "quilt"
        push("a/b", source=source, target=QuiltWriter(folder))
        before = tree(folder)
        (done,) = push("a/b", source=source, target=QuiltWriter(folder))
        assert (done.new_objects, done.new_bytes, done.published) == (0, 0, False)
        assert tree(folder).keys() == before.keys()
        for path in (folder / "objects").rglob("*.gz"):
            path.unlink()
        (done,) = push("a/b", source=source, target=QuiltWriter(folder))
        assert (done.new_objects, done.new_bytes) == (1, 1)
        assert verify_registry(QuiltRegistry(folder)) == (1, [])
        assert len(QuiltRegistry(folder).log("a/b")) == 1

    def test_a_folder_that_moved_is_made_right_by_pushing_again(self, source, tmp_path):
        push("a/b", source=source, target=QuiltWriter(tmp_path / "before"))
        (tmp_path / "before").rename(tmp_path / "after")
        (done,) = push("a/b", source=source, target=QuiltWriter(tmp_path / "after"))
        assert (done.new_objects, done.published) == (0, True)
        text = (tmp_path / "after/.quilt/packages" / done.top_hash).read_text()
        assert "/before/" not in text
        assert "/after/" in text

    def test_pushes_within_a_second_are_all_kept(self, source, tmp_path):
        folder = tmp_path / "quilt"
        hashes = [build({"x": b"%d" % number}, "a/b", registry=source).top_hash for number in range(6)]
        writers = [
            threading.Thread(
                target=push, args=(f"a/b@{top_hash}",), kwargs={"source": source, "target": QuiltWriter(folder)}
            )
            for top_hash in hashes
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        registry = QuiltRegistry(folder)
        assert sorted(registry.top_hashes("a/b")) == sorted(hashes)
        assert registry.resolve(PackageRef("a/b")) == hashes[-1]
        assert verify_registry(registry) == (6, [])

    def test_latest_moves_forward_only(self, source, tmp_path):
        folder = tmp_path / "quilt"
        old = source.resolve(PackageRef("a/b"))
        new = build({"x": b"new"}, "a/b", registry=source).top_hash
        assert push("a/b", source=source, target=QuiltWriter(folder))[0].tags == ("latest",)
        assert push(f"a/b@{old}", source=source, target=QuiltWriter(folder))[0].tags == ()
        assert QuiltRegistry(folder).resolve(PackageRef("a/b")) == new
        assert sorted(QuiltRegistry(folder).top_hashes("a/b")) == sorted([old, new])
        (done,) = push(f"a/b@{old}", source=source, target=QuiltWriter(folder), tags=("latest",))
        assert done.tags == ("latest",)

    def test_tags_are_not_quilts(self, source, tmp_path):
        with pytest.raises(RefusedError) as caught:
            push("a/b", source=source, target=QuiltWriter(tmp_path / "quilt"), tags=("v1",))
        assert caught.value.message == (
            f"The tag 'v1' cannot be put on a/b in {tmp_path / 'quilt'}: Quilt has no tags but 'latest'."
        )
        assert not (tmp_path / "quilt").exists()

    def test_a_corrupt_object_is_not_pushed(self, source, tmp_path):
        for path in (source.root / "objects").rglob("*/*/*"):
            path.chmod(0o644)
            path.write_bytes(bytes(2 * 1024 * 1024 - 1) + b"1")
        with pytest.raises(DataMismatchError):
            push("a/b", source=source, target=QuiltWriter(tmp_path / "quilt"))
        assert list(QuiltRegistry(tmp_path / "quilt").packages()) == []
        assert os.listdir(tmp_path / "quilt/.quilt/reprokit/tmp") == []

    def test_other_folders_are_refused(self, source, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.jpg").touch()
        with pytest.raises(RegistryError) as caught:
            QuiltWriter(tmp_path / "photos")
        assert caught.value.message == (
            f"{tmp_path / 'photos'} is not a Quilt registry: it has no .quilt folder, but it holds 'a.jpg'."
        )
        with pytest.raises(RefusedError) as caught:
            QuiltWriter(source.root)
        assert caught.value.message == (
            f"{source.root} is a registry of reprokit's; one that Quilt reads needs a folder of its own."
        )
        with pytest.raises(RegistryError) as caught:
            QuiltWriter(tmp_path / "photos" / "a.jpg")
        assert caught.value.message == (f"{tmp_path / 'photos' / 'a.jpg'} is not a folder, so it cannot be a registry.")

    @pytest.mark.parametrize(
        ("function", "nth"), [*(("fsync", n) for n in range(0, 24, 2)), *(("replace", n) for n in range(6))]
    )
    def test_a_push_that_is_killed_leaves_nothing_wrong_and_the_next_completes(self, source, tmp_path, function, nth):
        folder = tmp_path / "quilt"
        old = source.resolve(PackageRef("a/b"))
        push("a/b", source=source, target=QuiltWriter(folder))
        new = build({"n.csv": b"n", "a.csv": b"1", "large": bytes(3 * 1024 * 1024)}, "a/b", registry=source).top_hash
        code = run_python(PUSH_AND_DIE, source.root, folder, function, nth)
        assert code in (-signal.SIGKILL, 0)
        seen = QuiltRegistry(folder)
        assert seen.resolve(PackageRef("a/b")) in (old, new)
        assert verify_registry(seen)[1] == []
        assert verify_registry(LocalRegistry(source.root)) == (2, [])
        push("a/b", source=source, target=QuiltWriter(folder))
        assert seen.top_hashes("a/b") == [old, new]
        assert seen.resolve(PackageRef("a/b")) == new
        assert len(seen.log("a/b")) == 2
        assert verify_registry(seen) == (2, [])
        assert os.listdir(folder / ".quilt/reprokit/tmp") == []
