"""What somebody wrote to harm is refused by name, in bounded memory and time, and the registry goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError, Error, NotFoundError, RegistryError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.packages.purge import purge
from reprokit.packages.tree_cache import lay_out
from reprokit.registry.gc import collect_garbage
from reprokit.registry.local import LocalRegistry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import SMALL
from tests.conftest import ROOT, lies_at, overwrite
from tests.faults.audit import garbage

HEADER = b'{"version": "v0", "message": null}'
RESTORE = "Restore it from another copy of the registry; nothing of it was used."
ANY_COPY = "Nothing of it was used. Restore it from another copy."
FULL = "The disk is full: free some space and repeat the command; what was published is intact."
MANY = {f"{number:03d}": b"%d" % number for number in range(100)}


@pytest.fixture
def registry(tmp_path):
    made = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    build({"fine": b"fine"}, "good/package", registry=made)
    return made


def usable(registry: LocalRegistry) -> None:
    """Assert that the registry is unharmed and goes on: what was there reads, and a new version is built."""
    fresh = LocalRegistry(registry.root)
    assert Package.open("good/package", registry=fresh).entry("fine").read() == b"fine"
    made = build({"fine": b"fine", "new": os.urandom(8)}, "good/package", registry=fresh)
    assert Package.open("good/package", registry=fresh).top_hash == made.top_hash
    assert Package.open("good/package", registry=fresh).verify() == []


def line(key: str, data: bytes = b"fine", **changed: Any) -> bytes:
    digest = hash_bytes(data)
    entry = {
        "logical_key": key,
        "physical_keys": ["nowhere"],
        "size": len(data),
        "hash": {"type": digest.type, "value": digest.value},
        "meta": {},
    }
    return json.dumps(entry | changed, ensure_ascii=False).encode()


def packed(*lines: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(b"".join(line + b"\n" for line in lines)) + packer.flush()


def top_hash_of(*lines: bytes) -> str:
    """Return the top hash that lines have, whatever is wrong with them."""

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    state = hashlib.sha256(canonical(json.loads(lines[0])))
    entries = [json.loads(line) for line in lines[1:]]
    for entry in sorted(entries, key=lambda entry: entry["logical_key"].split("/")):
        state.update(canonical({key: entry[key] for key in ("hash", "logical_key", "meta", "size")}))
    return state.hexdigest()


def plant(registry: LocalRegistry, data: bytes, top_hash: str = "a" * 64) -> str:
    """Put a manifest into a registry as somebody with write access could, and a package that names it."""
    registry.manifest_path(top_hash).write_bytes(data)
    body = {"package": "bad/package", "seq": 1, "prev": None, "action": "publish", "top_hash": top_hash, "time": 1}
    body |= {"writer": "x@y", "tags": {"latest": top_hash}, "permanent": [], "note": None}
    text = json.dumps(body).encode()
    folder = registry.root / "log" / "bad" / "package"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0000000001").write_bytes(b"%s\n%s\n" % (text, hashlib.sha256(text).hexdigest().encode()))
    return top_hash


def refusal(registry: LocalRegistry, top_hash: str) -> Error:
    """Return how a planted version is refused; nothing else comes to harm, and gc removes nothing."""
    with pytest.raises(DataMismatchError) as caught:
        LocalRegistry(registry.root).read_manifest(top_hash)
    problems = verify_registry(LocalRegistry(registry.root))[1]
    assert [(problem.package, problem.message) for problem in problems] == [("bad/package", caught.value.message)]
    with pytest.raises(DataMismatchError) as swept:
        collect_garbage(LocalRegistry(registry.root), grace=0)
    assert swept.value.message == (
        f"What bad/package@{top_hash[:12]} uses is not known, so nothing was removed. {caught.value.message}"
    )
    usable(registry)
    return caught.value


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["../x"], "Not a legal logical key: '../x' (it has the part '..')."),
        (["a/../../x"], "Not a legal logical key: 'a/../../x' (it has the part '..')."),
        (["a/./x"], "Not a legal logical key: 'a/./x' (it has the part '.')."),
        (["a//x"], "Not a legal logical key: 'a//x' (it has the part '')."),
        (["a/"], "Not a legal logical key: 'a/' (it has the part '')."),
        (["/etc/passwd"], "Not a legal logical key: '/etc/passwd' (it is absolute)."),
        (["C:/x"], "Not a legal logical key: 'C:/x' (it starts with a drive letter)."),
        (["c:x"], "Not a legal logical key: 'c:x' (it starts with a drive letter)."),
        (["..\\x"], "Not a legal logical key: '..\\\\x' (it holds a backslash)."),
        (["a\0b"], "Not a legal logical key: 'a\\x00b' (it holds a NUL)."),
        ([""], "Not a legal logical key: '' (it is empty)."),
        (["e\u0301"], "Not a legal logical key: 'e\u0301' (it is not in Unicode NFC)."),
        (["x" * 256], f"Not a legal logical key: {'x' * 200!r} (a part is longer than 255 bytes)."),
        (["a", "a"], "Two logical keys cannot stand side by side: 'a' and 'a'."),
        (["A/x", "a/x"], "Two logical keys cannot stand side by side: 'A/x' and 'a/x'."),
        (["STRASSE", "straße"], "Two logical keys cannot stand side by side: 'STRASSE' and 'straße'."),
        (["a", "a/b"], "Two logical keys cannot stand side by side: 'a' and 'a/b'."),
    ],
)
def test_keys_that_could_leave_their_folder_or_clash_are_refused(registry, keys, why):
    lines = [HEADER, *(line(key) for key in keys)]
    top_hash = plant(registry, packed(*lines), top_hash_of(*lines))
    error = refusal(registry, top_hash)
    assert error.message == f"Manifest {top_hash[:12]} of {registry.root} is refused: {why}"
    assert error.hint == ANY_COPY


def in_little_memory(registry: LocalRegistry, top_hash: str, megabytes: int = 600) -> tuple[str, float]:
    """Return how a version is refused by a process with little memory, and how long that took."""
    code = """
import sys, time
from pathlib import Path
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
registry = LocalRegistry(Path(sys.argv[1]))
began = time.process_time()
try:
    registry.read_manifest(sys.argv[2])
except DataMismatchError as error:
    print(time.process_time() - began, error.message)
"""
    limit = megabytes * 1024 * 1024
    done = subprocess.run(
        [sys.executable, "-c", code, str(registry.root), top_hash],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, _, message = done.stdout.rstrip("\n").partition(" ")
    return message, float(seconds)


def bomb(first: bytes, block: bytes, count: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([packer.compress(first), *(packer.compress(block) for _ in range(count)), packer.flush()])


def test_a_manifest_of_ten_million_lines_is_refused_in_little_memory(registry):
    block = (line("x") + b"\n") * 10_000
    top_hash = plant(registry, bomb(HEADER + b"\n", block, 1000))
    message, _ = in_little_memory(registry, top_hash)
    assert message == f"Manifest aaaaaaaaaaaa of {registry.root} is corrupt: it has more than 5,000,000 entries."
    usable(registry)


def test_a_manifest_that_unpacks_to_gigabytes_is_refused_in_little_memory(registry):
    top_hash = plant(registry, bomb(HEADER + b"\n", b" " * (1024 * 1024), 2049))
    message, _ = in_little_memory(registry, top_hash)
    expected = f"Manifest aaaaaaaaaaaa of {registry.root} is corrupt: it unpacks to more than 2,147,483,648 bytes."
    assert message == expected
    usable(registry)


def difference(registry: LocalRegistry, *told: bytes, base: str | None = None) -> str:
    """Plant a difference to a version of 100 entries, or to another."""
    whole = build(MANY, "t/base", registry=registry).top_hash
    return plant(registry, packed(HEADER, json.dumps({"base": base or whole}, separators=(",", ":")).encode(), *told))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([b"[0,101]"], "is malformed: it copies lines that its base does not have."),
        ([b"[101,0]", b"[100,1]"], "is malformed: it copies lines that its base does not have."),
        ([b"[0,100]"] * 2, "is malformed: it copies more lines than its base has."),
        ([b"[0,1]"] * 1_000_000, "is malformed: it copies more lines than its base has."),
        ([b"[-1,1]"], "is corrupt: expected top hash aaaaaaaaaaaa…, its content has "),
        ([b"[0,99]"], "is corrupt: expected top hash aaaaaaaaaaaa…, its content has "),
    ],
    ids=["beyond", "behind", "twice", "bomb", "negative", "other"],
)
def test_a_difference_that_copies_what_it_may_not_is_refused(registry, told, why):
    error = refusal(registry, difference(registry, *told))
    start = "Line 2 of " if told == [b"[-1,1]"] else ""
    assert error.message.startswith((f"Manifest aaaaaaaaaaaa of {registry.root} {why}", start or "\0"))
    assert error.hint in (ANY_COPY, RESTORE)


def test_a_difference_to_a_difference_or_to_nothing_is_refused(registry):
    base = build(MANY, "t/base", registry=registry).top_hash
    small = build({**MANY, "007": b"new"}, "t/base", registry=registry).top_hash
    assert registry.manifests.base_of(small) == base
    error = refusal(registry, difference(registry, b"[0,2]", base=small))
    assert error.message == (f"Manifest {small[:12]} of {registry.root} is itself a difference, which no base may be.")
    plant(registry, packed(HEADER, b'{"base":"%s"}' % (b"b" * 64), b"[0,2]"))
    with pytest.raises(NotFoundError) as caught:
        registry.read_manifest("a" * 64)
    assert caught.value.message == f"No version bbbbbbbbbbbb… in {registry.root}."
    usable(registry)


DEEP = b'{"a":' * 70 + b"1" + b"}" * 70


@pytest.mark.parametrize("depth", [70, 100_000])
@pytest.mark.parametrize("place", ["header", "entry", "huge entry"])
def test_a_deep_bomb_of_metadata_is_refused(registry, depth, place):
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    entry = line("x").replace(b'"meta": {}', b'"meta": ' + deep)
    header = HEADER[:-1] + b', "user_meta": ' + deep + b"}"
    error = refusal(registry, plant(registry, packed(header) if place == "header" else packed(HEADER, entry)))
    what = "The header" if place == "header" else "Line 2"
    if depth == 70:
        assert error.message == f"{what} of Manifest aaaaaaaaaaaa of {registry.root} nests deeper than 64 levels."
    else:
        start = f"{what} of Manifest aaaaaaaaaaaa of {registry.root} is not JSON that reprokit reads: "
        assert error.message.startswith(start)
    assert error.hint == ANY_COPY


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        (nested(64), "it nests deeper than 64 levels."),
        (nested(5000), "maximum recursion depth exceeded while encoding a JSON object."),
        ({1: "x", "1": "y"}, "'<' not supported between instances of 'str' and 'int'."),
        ({"x": "y" * (16 * 1024 * 1024)}, " bytes long; at most 15,728,640 are read."),
    ],
    ids=["deep", "deeper", "twice", "long"],
)
@pytest.mark.parametrize("place", ["meta", "entry_meta"])
def test_what_could_not_be_read_again_is_not_built(registry, meta, why, place):
    with pytest.raises(UsageError) as caught:
        build({"x": b"1"}, "a/b", registry=registry, **{place: {"x": meta} if place == "entry_meta" else meta})
    what = "The message or metadata" if place == "meta" else "The metadata of 'x'"
    assert caught.value.message.startswith(f"{what} cannot be stored: ")
    assert caught.value.message.endswith(why)
    assert registry.head("a/b") is None
    usable(registry)


@pytest.mark.parametrize("place", ["meta", "entry_meta"])
def test_metadata_as_deep_as_may_be_is_read_again(registry, place):
    meta = nested(62)
    build({"x": b"1"}, "a/b", registry=registry, **{place: {"x": meta} if place == "entry_meta" else meta})
    found = Package.open("a/b", registry=registry).manifest
    assert (found.user_meta if place == "meta" else found["x"].meta) == meta


def rewritten(path: Path, change: Any) -> None:
    """Change the records of a pack's directory; each is a list of the fields of PKWARE's section 4.3.12."""
    record = struct.Struct("<4s6H3I5H2I64s")
    data = path.read_bytes()
    count, length, start = struct.unpack("<H2I", data[-12:-2])
    records = [list(fields) for fields in record.iter_unpack(data[start : start + length])]
    assert len(records) == count
    change(records)
    overwrite(path, start, b"".join(record.pack(*fields) for fields in records))


def lie_about_offset(records: list[list[Any]]) -> None:
    records[0][16], records[1][16] = records[1][16], records[0][16]


def lie_about_size(records: list[list[Any]]) -> None:
    records[0][8] = records[0][9] = 3


def overlap(records: list[list[Any]]) -> None:
    records[1][16] = records[0][16]


def point_outside(records: list[list[Any]]) -> None:
    records[0][16] = 0xFFFFFFF0


def claim_a_giant(records: list[list[Any]]) -> None:
    records[0][8] = records[0][9] = 0xFFFFFFF0


@pytest.mark.parametrize("lie", [lie_about_offset, lie_about_size, overlap, point_outside, claim_a_giant])
@pytest.mark.parametrize("hinted", [True, False])
def test_a_pack_whose_directory_lies_gives_no_wrong_data(registry, lie, hinted):
    values = {"a": b"aaaaa", "b": b"bbbbbb", "c": b"cc"}
    package = Package.open(f"t/x@{build(values, 't/x', registry=registry).top_hash}", registry=registry)
    path, _ = lies_at(registry, package.manifest["a"])
    rewritten(path, lie)
    fresh = LocalRegistry(registry.root)
    for key, data in values.items():
        entry = package.manifest[key] if hinted else package.manifest[key]._replace(physical_keys=())
        try:
            assert fresh.read_object(entry, what=key) == data
        except (DataMismatchError, NotFoundError) as error:
            assert not hinted
            assert error.message.startswith((f"{key} is corrupt: expected ", f"{key}: its object "))
            assert error.hint
    problems = verify_registry(fresh)[1]
    read = hash_bytes(path.read_bytes()).hex[:12]
    assert [problem.message for problem in problems] == [
        f"Pack {path.stem[:12]}… is damaged: its bytes have the hash {read}… ({path})."
    ]
    collect_garbage(fresh, grace=0, thorough=True)
    assert Package.open("t/x", registry=fresh).verify() == []  # by the keys of its manifest, still
    usable(registry)


@pytest.mark.parametrize("length", [0, 10, 21, 22, 98, -1])
def test_a_truncated_pack_is_named(registry, length):
    made = build({"a": b"aaaaa"}, "t/x", registry=registry)
    package = Package.open("t/x", registry=registry)
    path, _ = lies_at(registry, package.manifest["a"])
    data = path.read_bytes()
    path.chmod(0o644)
    os.truncate(path, len(data) + length if length < 0 else length)
    fresh = LocalRegistry(registry.root)
    problems = [problem.message for problem in verify_registry(fresh)[1]]
    assert any(message.startswith(f"Pack {path.stem[:12]}… is damaged: ") for message in problems)
    if length >= 0:
        with pytest.raises((DataMismatchError, NotFoundError)) as caught:
            fresh.read_object(package.manifest["a"], what="a")
        assert caught.value.hint
    usable(registry)
    build({"a": b"aaaaa", "more": b"1"}, "t/x", registry=LocalRegistry(registry.root))
    assert made.top_hash in registry.top_hashes("t/x")


def test_a_pack_that_shrinks_while_it_is_open_does_not_kill_its_reader(registry):
    code = """
import os, sys
from pathlib import Path
from reprokit.packages.build import build
from reprokit.errors import Error
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
registry = LocalRegistry(Path(sys.argv[1]))
values = {f"{number}": os.urandom(5000) for number in range(10)}
build(values, "t/x", registry=registry)
package = Package.open("t/x", registry=LocalRegistry(registry.root))
assert package.entry("0").read() == values["0"]
(path,) = [path for path in (registry.root / "packs").iterdir() if path.stat().st_size > 5000]
path.chmod(0o644)
os.truncate(path, 100)
for key in values:
    for read in (package.entry(key).read, lambda: package.registry.read_object(package.manifest[key], what=key)):
        try:
            read()
        except Error as error:
            print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(registry.root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-1000:])
    assert len(done.stdout.splitlines()) == 20


@pytest.mark.parametrize(
    ("data", "size"),
    [
        *((b"fine", size) for size in (0, 3, 5, SMALL, SMALL + 1, 10**17, 10**30)),
        *((b"l" * SMALL, size) for size in (0, 3, 5, SMALL - 1, SMALL + 1, 10**17, 10**30)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "small" if len(value) < SMALL else "large",
)
def test_an_object_of_another_size_than_its_manifest_says_is_refused(registry, size, data):
    made = build({"x": data}, "t/x", registry=registry)
    honest = registry.read_manifest(made.top_hash)["x"]
    lines = [HEADER, line("x", data, size=size, physical_keys=list(honest.physical_keys))]
    top_hash = plant(registry, packed(*lines), top_hash_of(*lines))
    if size >= 10**18:
        assert refusal(registry, top_hash).message == (
            f"Line 2 of Manifest {top_hash[:12]} of {registry.root}: size must be a number of bytes, not {size}."
        )
        return
    fresh = LocalRegistry(registry.root)
    manifest = fresh.read_manifest(top_hash)
    entry = manifest["x"]
    for read in (
        lambda: fresh.read_object(entry, what="x"),
        lambda: fresh.copy_object(entry, None, what="x"),
        lambda: fresh.reader(manifest, what="v").read(0),
        lambda: fresh.reader(manifest, what="v").view(0),
    ):
        with pytest.raises((DataMismatchError, NotFoundError)) as caught:
            read()
        assert caught.value.message.startswith(
            ("x is corrupt: ", "x of v is corrupt: ", "x: its object ", "x of v: its")
        )
        assert caught.value.hint
    usable(registry)


def test_a_registry_of_a_newer_format_is_refused_and_untouched(registry):
    marker = registry.root / "reprokit-registry.json"
    text = marker.read_bytes()
    marker.write_bytes(text.replace(b'"format":3', b'"format":4'))
    with pytest.raises(RegistryError) as caught:
        LocalRegistry(registry.root)
    assert caught.value.message == f"{registry.root} is a registry of format 4; this reprokit reads format 3."
    assert caught.value.hint == "Use the release of reprokit that wrote it, or a newer one."
    marker.write_bytes(text)
    usable(registry)


def test_what_is_no_package_in_the_log_is_named_and_the_rest_verified(registry):
    (registry.root / "log" / "good" / "notes.txt").write_text("hello")
    (registry.root / "log" / "readme").write_text("hello")
    (registry.root / "log" / "good" / "No Name").mkdir()
    seen, problems = verify_registry(LocalRegistry(registry.root))
    assert seen == 1
    assert all(problem.message for problem in problems)
    collect_garbage(LocalRegistry(registry.root), grace=0)
    usable(registry)


WRITE = """
import os, sys
from pathlib import Path
from reprokit.packages.build import build
from reprokit.errors import Error
from reprokit.packages.package import Package, verify_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.gc import collect_garbage
from reprokit.packages.purge import purge
if sys.argv[2] == "nobody":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
registry = LocalRegistry(Path(sys.argv[1]))
package = Package.open("good/package", registry=registry)
assert {key: package.entry(key).read() for key in package} == {"fine": b"fine"}
assert verify_registry(registry) == (1, [])
digest = package.manifest["fine"].digest
for act in (
    lambda: build({"new": b"1"}, "good/package", registry=registry),
    lambda: registry.publish("a/b", package.manifest),
    lambda: registry.tag("good/package", package.top_hash, ("x",)),
    lambda: registry.delete("good/package", package.top_hash),
    lambda: collect_garbage(registry, grace=0),
    lambda: purge(registry, {digest}, cache=Path("/nowhere"), reason="x"),
    lambda: registry.claim("20261123-101500-7c1e9f").__enter__(),
):
    try:
        act()
    except Error as error:
        print(error.message.replace(str(registry.root), "R"), error.hint, sep="|")
"""


def reading_only(registry: LocalRegistry, user: str) -> list[str]:
    """Return how every way to write is refused to a user who may only read, with the hints."""
    code = [sys.executable, "-c", WRITE, str(registry.root), user]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [re.sub(r"R/(tmp|running)/?[^)]*\)", r"R/\1)", line) for line in done.stdout.splitlines()]


def refusals(why: str, hint: str) -> list[str]:
    top_hash = Manifest.make([Entry("fine", 4, hash_bytes(b"fine"))]).top_hash[:12]
    return [
        f"{what} failed: {why} (R/{place}).|{hint}"
        for what, place in (
            ("Storing objects in R", "tmp"),
            ("Publishing a/b to R", "lock"),
            ("Tagging good/package in R", "lock"),
            (f"Deleting good/package@{top_hash} in R", "lock"),
            ("Collecting garbage in R", "lock"),
            ("Purging in R", "lock"),
            ("Marking run 20261123-101500-7c1e9f as running in R", "running"),
        )
    ]


def stamps(root: Path) -> dict[Path, tuple[int, int]]:
    """Return what changes with every change of a file or folder: reading is none."""
    return {path: ((seen := path.lstat()).st_mtime_ns, seen.st_ctime_ns) for path in root.rglob("*")}


@pytest.fixture
def open_to_all(room) -> LocalRegistry:
    """A registry that everybody may reach and read."""
    room.chmod(0o755)
    made = LocalRegistry(room / "registry")
    build({"fine": b"fine"}, "good/package", registry=made)
    with suppress(OSError):
        command = [
            shutil.which("setpriv") or "",
            "--reuid=65534",
            "--clear-groups",
            sys.executable,
            "-c",
            "import msgspec",
        ]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return made
    pytest.skip("nobody else can run this Python here")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root only")
def test_a_registry_of_somebody_else_is_read_and_whom_to_ask_is_said(open_to_all):
    hint = "You lack the permission: ask the owner, or choose another place with --registry or REPROKIT_HOME."
    before = stamps(open_to_all.root)
    assert reading_only(open_to_all, "nobody") == refusals("Permission denied", hint)
    assert stamps(open_to_all.root) == before
    usable(open_to_all)


@pytest.mark.skipif(os.geteuid() != 0, reason="a read-only mount can be had by root only")
def test_a_registry_on_a_read_only_file_system_is_read_and_nothing_else(open_to_all):
    root = open_to_all.root
    if subprocess.run(["mount", "--bind", root, root], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        hint = "The file system is read-only: choose another registry with --registry."
        assert reading_only(open_to_all, "root") == refusals("Read-only file system", hint)
    finally:
        subprocess.run(["umount", "-l", root], check=True)
    usable(open_to_all)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield mounted
    subprocess.run(["umount", "-l", mounted], check=True)


def stuff(disk: Path, *, leave: int) -> Path:
    """Fill a file system but for `leave` bytes, in whole pages."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as handle:
        try:
            while handle.write(bytes(64 * 1024)) == 64 * 1024:
                pass
        except OSError:
            pass
    if leave:
        os.truncate(filler, filler.stat().st_size - leave)
    return filler


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 65536])
def test_a_disk_that_fills_while_building_keeps_what_was_published(small_disk, leave):
    registry = LocalRegistry(small_disk / "registry")
    build({"fine": b"fine"}, "good/package", registry=registry)
    filler = stuff(small_disk, leave=leave)
    values = {"fine": b"fine", **{f"{number}": os.urandom(1000) for number in range(100)}}
    with pytest.raises(RegistryError) as caught:
        build(values, "good/package", registry=LocalRegistry(registry.root))
    assert re.sub(r" \(.*\)", "", caught.value.message) in (
        f"Storing objects in {registry.root} failed: No space left on device.",
        f"Publishing good/package to {registry.root} failed: No space left on device.",
    )
    assert caught.value.hint == FULL
    assert verify_registry(LocalRegistry(registry.root)) == (1, [])
    filler.unlink()
    usable(registry)
    collect_garbage(LocalRegistry(registry.root), grace=0)
    assert garbage(registry.root) == []


def test_a_disk_that_fills_while_garbage_is_collected_loses_nothing(small_disk):
    registry = LocalRegistry(small_disk / "registry")
    build({"fine": b"fine"}, "good/package", registry=registry)
    values = {f"{number}": os.urandom(10_000) for number in range(100)}
    gone = build(values, "t/x", registry=registry).top_hash
    kept = {key: data for key, data in values.items() if int(key) % 2}
    build(kept, "t/x", registry=registry)
    registry.delete("t/x", gone)
    filler = stuff(small_disk, leave=0)
    with pytest.raises(RegistryError) as caught:
        collect_garbage(LocalRegistry(registry.root), grace=0)
    assert re.sub(r" \(.*\)", "", caught.value.message) == (
        f"Collecting garbage in {registry.root} failed: No space left on device."
    )
    assert caught.value.hint == FULL
    assert verify_registry(LocalRegistry(registry.root)) == (2, [])
    filler.unlink()
    collect_garbage(LocalRegistry(registry.root), grace=0)
    assert garbage(registry.root) == []
    package = Package.open("t/x", registry=LocalRegistry(registry.root))
    assert {key: package.entry(key).read() for key in package} == kept
    usable(registry)


def test_leftovers_of_the_dead_are_removed_from_a_full_disk_before_packs_are_written_anew(small_disk):
    registry = LocalRegistry(small_disk / "registry")
    values = {f"{number}": os.urandom(10_000) for number in range(100)}
    build({"fine": b"fine"}, "good/package", registry=registry)
    gone = build(values, "t/x", registry=registry).top_hash
    build({"1": values["1"]}, "t/x", registry=registry)
    registry.delete("t/x", gone)
    dead = registry.root / "tmp" / "dead"
    dead.mkdir()
    (dead / "owner").touch()
    stuff(small_disk, leave=0).rename(dead / "half")
    collect_garbage(LocalRegistry(registry.root), grace=0)
    assert garbage(registry.root) == []
    usable(registry)


@pytest.mark.parametrize("leave", [0, 4096])
def test_a_disk_that_fills_while_purging_has_purged_all_or_nothing(small_disk, tmp_path, leave):
    registry = LocalRegistry(small_disk / "registry")
    build({"fine": b"fine"}, "good/package", registry=registry)
    values = {f"{number}": os.urandom(10_000) for number in range(100)}
    build(values, "t/x", registry=registry)
    digest = registry.read_manifest(registry.head("t/x").top_hash)["1"].digest
    filler = stuff(small_disk, leave=leave)
    with pytest.raises(RegistryError) as caught:
        purge(LocalRegistry(registry.root), {digest}, cache=tmp_path / "cache", reason="asked to")
    assert (
        re.sub(r" \(.*\)", "", caught.value.message) == f"Purging in {registry.root} failed: No space left on device."
    )
    assert caught.value.hint == FULL
    assert verify_registry(LocalRegistry(registry.root)) == (2, [])
    filler.unlink()
    purge(LocalRegistry(registry.root), {digest}, cache=tmp_path / "cache", reason="asked to")
    problems = verify_registry(LocalRegistry(registry.root))[1]
    assert [(problem.logical_key, problem.purged) for problem in problems] == [("1", True)]
    collect_garbage(LocalRegistry(registry.root), grace=0)
    assert garbage(registry.root) == []
    usable(registry)


@pytest.mark.parametrize("size", [1000, SMALL + 1])
def test_a_disk_that_fills_while_installing_or_laying_out_leaves_nothing_half(small_disk, tmp_path, size):
    registry = LocalRegistry(tmp_path / "registry")
    build({"fine": b"fine"}, "good/package", registry=registry)
    values = {f"d/{number}": os.urandom(size) for number in range(5 * SMALL // size)}
    build(values, "t/x", registry=registry)
    package = Package.open("t/x", registry=registry)
    stuff(small_disk, leave=4 * SMALL // 3).rename(small_disk / "other")
    for act, what in (
        (lambda: package.install(small_disk / "out"), f"Installing {package} to {small_disk / 'out'}"),
        (
            lambda: lay_out(package.manifest, registry=registry, cache=small_disk / "cache", what="v"),
            f"Laying out v in {small_disk / 'cache' / 'trees'}",
        ),
    ):
        with pytest.raises(RegistryError) as caught:
            act()
        message = re.sub(r" \(.*\)", "", caught.value.message)
        entry = re.sub(r"d/\d+ of .* failed", "ENTRY failed", message)
        assert entry in (f"{what} failed: No space left on device.", "Copying ENTRY failed: No space left on device.")
        assert caught.value.hint == FULL
        assert {name for name in contents(small_disk) if not name.endswith(".lock")} == {"other"}  # locks are empty
    usable(registry)
