"""The log of a package, entry by entry: what is one, what goes on from what, and what is remembered of it."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.canonical_json import canonical
from reprokit.errors import DataMismatchError, RefusedError
from reprokit.registry import package_log
from reprokit.registry.package_log import PackageLogs, Stamp, check_permanent
from reprokit.registry.seen import SeenLogs
from reprokit.store.storage import FolderStorage

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
FIRST: dict[str, Any] = {
    "package": "a/b", "seq": 1, "prev": None, "action": "publish", "top_hash": ONE, "time": 1, "writer": "u@h",
    "tags": {"latest": ONE}, "permanent": [], "note": None,
}  # fmt: skip


@pytest.fixture
def logs(tmp_path: Path) -> PackageLogs:
    return PackageLogs(FolderStorage(tmp_path), stamp=Stamp("uuid", 7, "u@h"))


def sealed(body: Any) -> bytes:
    text = canonical(body)
    return b"%s\n%s\n" % (text, hashlib.sha256(text).hexdigest().encode())


def folder_of(logs: PackageLogs) -> Path:
    return Path(logs.storage.url) / "log"


def put(logs: PackageLogs, *bodies: dict[str, Any], chained: bool = True) -> None:
    """Write entries as somebody would who seals what he likes; each names the one before it."""
    folder = folder_of(logs) / "a" / "b"
    folder.mkdir(parents=True, exist_ok=True)
    before = None
    for seq, body in enumerate(bodies, 1):
        raw = sealed({**body, "prev": before} if chained else body)
        (folder / f"{seq:010d}").write_bytes(raw)
        before = hashlib.sha256(raw).hexdigest()


def latest(top_hash: str) -> Any:
    return lambda tags: {**tags, "latest": top_hash}


def test_an_entry_says_what_it_was_written_as(logs: PackageLogs) -> None:
    put(logs, FIRST)
    for entry in (logs.head("a/b"), *logs.entries("a/b")):
        assert entry is not None
        assert (entry.seq, entry.prev, entry.action, entry.top_hash, entry.time) == (1, None, "publish", ONE, 1)
        assert (entry.writer, entry.tags, entry.permanent, entry.note) == ("u@h", {"latest": ONE}, (), None)
    assert logs.top_hashes("a/b") == [ONE]
    assert (logs.head("a/c"), logs.entries("a/c"), logs.top_hashes("a/c")) == (None, [], [])


@pytest.mark.parametrize(
    "lie",
    [
        {"package": 1}, {"package": None}, {"seq": "1"}, {"seq": True}, {"seq": 1.0}, {"prev": "1" * 63}, {"prev": 1},
        {"prev": ""}, {"action": "other"}, {"action": ["publish"]}, {"action": None}, {"top_hash": "1" * 65},
        {"top_hash": None}, {"top_hash": "A" * 64}, {"time": 1.5}, {"time": True}, {"time": None}, {"writer": 1},
        {"writer": None}, {"tags": ["latest"]}, {"tags": None}, {"tags": {"latest": "1"}}, {"tags": {"latest": None}},
        {"tags": {"latest": ONE, "x": "y"}}, {"permanent": {}}, {"permanent": None}, {"permanent": ["lost"]},
        {"permanent": [1]}, {"permanent": [["latest"]]}, {"permanent": ["latest", "lost"]},
        {"note": 1}, {"note": ["x"]}, {"more": 1},
    ],
)  # fmt: skip
def test_a_sealed_entry_of_another_form_is_malformed(logs: PackageLogs, lie: dict[str, Any]) -> None:
    put(logs, {**FIRST, **lie}, chained=False)
    for read in (logs.head, logs.entries, logs.top_hashes):
        with pytest.raises(DataMismatchError, match="Log entry 1 of a/b is malformed"):
            read("a/b")


@pytest.mark.parametrize("lacking", list(FIRST))
def test_every_field_of_an_entry_has_to_be_there(logs: PackageLogs, lacking: str) -> None:
    put(logs, {name: value for name, value in FIRST.items() if name != lacking}, chained=False)
    with pytest.raises(DataMismatchError, match="Log entry 1 of a/b is malformed"):
        logs.head("a/b")


@pytest.mark.parametrize("body", [[], "x", 1, None, {}])
def test_what_is_no_object_is_no_entry(logs: PackageLogs, body: Any) -> None:
    put(logs, FIRST)
    (folder_of(logs) / "a" / "b" / "0000000001").write_bytes(sealed(body))
    with pytest.raises(DataMismatchError, match="Log entry 1 of a/b is malformed"):
        logs.head("a/b")


@pytest.mark.parametrize("lie", [{"package": "a/c"}, {"seq": 2}])
def test_an_entry_lies_where_it_says(logs: PackageLogs, lie: dict[str, Any]) -> None:
    put(logs, {**FIRST, **lie}, chained=False)
    with pytest.raises(DataMismatchError, match="Log entry 1 of a/b is in the wrong place: it is entry "):
        logs.head("a/b")


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"\n", lambda raw: raw.replace(b"u@h", b"v@h")]
)
def test_an_entry_is_what_was_sealed(logs: PackageLogs, change: Any) -> None:
    put(logs, FIRST)
    file = folder_of(logs) / "a" / "b" / "0000000001"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataMismatchError, match="Log entry 1 of a/b is corrupt"):
        logs.head("a/b")


def test_entries_are_read_up_to_a_length(logs: PackageLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    put(logs, FIRST)
    size = (folder_of(logs) / "a" / "b" / "0000000001").stat().st_size
    monkeypatch.setattr(package_log, "_MAX_LOG_ENTRY", size)
    assert logs.head("a/b") is not None
    monkeypatch.setattr(package_log, "_MAX_LOG_ENTRY", size - 1)
    with pytest.raises(DataMismatchError, match=f"Log entry 1 of a/b is longer than {size - 1} bytes"):
        logs.head("a/b")


def test_each_entry_names_the_one_before_it(logs: PackageLogs) -> None:
    put(logs, FIRST, {**FIRST, "seq": 2, "top_hash": TWO, "tags": {"latest": TWO}})
    assert [entry.top_hash for entry in logs.entries("a/b")] == [ONE, TWO]
    for lie in (None, "0" * 64):
        put(logs, FIRST, {**FIRST, "seq": 2, "prev": lie}, chained=False)
        with pytest.raises(DataMismatchError, match="log entry 2 follows "):
            logs.entries("a/b")
        assert logs.top_hashes("a/b") == [ONE]  # of which the chain is not verified
    put(logs, {**FIRST, "prev": "0" * 64}, chained=False)
    (folder_of(logs) / "a" / "b" / "0000000002").unlink()
    with pytest.raises(DataMismatchError, match="log entry 1 follows 000000000000…"):
        logs.entries("a/b")


def test_a_gap_is_named(logs: PackageLogs) -> None:
    put(logs, FIRST, {**FIRST, "seq": 2}, {**FIRST, "seq": 3})
    (folder_of(logs) / "a" / "b" / "0000000002").unlink()
    for read in (logs.entries, logs.top_hashes):
        with pytest.raises(DataMismatchError, match="The log of a/b has a gap: entry 2 is missing"):
            read("a/b")


KEPT = {**FIRST, "tags": {"v1": ONE, "v2": ONE}, "permanent": ["v1", "v2"]}


@pytest.mark.parametrize(
    ("tags", "permanent", "tag"),
    [
        ({"v1": ONE, "v2": ONE}, ["v1", "v2"], None),
        ({"v1": ONE, "v2": ONE, "x": TWO}, ["v1", "v2", "x"], None),
        ({"v1": ONE, "v2": TWO}, ["v1", "v2"], "v2"),
        ({"v2": ONE}, ["v2"], "v1"),
        ({"v1": ONE, "v2": ONE}, ["v2"], "v1"),
        ({"v1": ONE, "v2": ONE}, [], "v1"),
        ({"v1": ONE, "v2": TWO}, ["v2"], "v2"),
    ],
)
def test_a_permanent_tag_that_was_moved_or_freed_shows(
    logs: PackageLogs, tags: dict[str, str], permanent: list[str], tag: str | None
) -> None:
    put(logs, KEPT, {**FIRST, "seq": 2, "top_hash": TWO, "tags": tags, "permanent": permanent})
    if tag is None:
        assert len(logs.entries("a/b")) == 2
        return
    with pytest.raises(DataMismatchError, match=f"log entry 2 moves the permanent tag '{tag}'"):
        logs.entries("a/b")


def test_versions_are_those_that_were_published_and_not_deleted_since(logs: PackageLogs) -> None:
    def entry(seq: int, action: str, top_hash: str) -> dict[str, Any]:
        return {**FIRST, "seq": seq, "action": action, "top_hash": top_hash, "tags": {}}

    put(
        logs, entry(1, "publish", ONE), entry(2, "publish", TWO), entry(3, "publish", ONE), entry(4, "tag", THREE),
        entry(5, "delete", TWO), entry(6, "delete", THREE),
    )  # fmt: skip
    assert logs.top_hashes("a/b") == [ONE]
    logs.append("a/b", "publish", TWO, latest(TWO))
    assert logs.top_hashes("a/b") == [ONE, TWO]


def test_what_is_appended_goes_on_from_what_is_there(logs: PackageLogs) -> None:
    one = logs.append("a/b", "publish", ONE, latest(ONE), note="first")
    assert (one.seq, one.prev, one.time, one.writer, one.note) == (1, None, 7, "u@h", "first")
    assert one.permanent == ()
    raw = (folder_of(logs) / "a" / "b" / "0000000001").read_bytes()

    def keep(tags: Mapping[str, str]) -> dict[str, str]:
        assert tags == {"latest": ONE}
        return {**tags, "b": TWO, "a": TWO}

    two = logs.append("a/b", "tag", TWO, keep, permanent=("b", "a"))
    assert (two.seq, two.prev) == (2, hashlib.sha256(raw).hexdigest())
    assert two.permanent == ("a", "b")
    assert logs.entries("a/b") == [one, two]
    with pytest.raises(RefusedError, match="The tag 'a' of a/b is permanent: it stays at 222222222222"):
        logs.append("a/b", "tag", THREE, lambda tags: {**tags, "a": THREE})
    with pytest.raises(RefusedError, match="permanent"):
        logs.append("a/b", "tag", ONE, lambda _: {})
    assert len(logs.entries("a/b")) == 2


def test_without_a_stamp_the_writer_and_the_time_are_told(tmp_path: Path) -> None:
    entry = PackageLogs(FolderStorage(tmp_path)).append("a/b", "publish", ONE, latest(ONE))
    assert entry.time > 10**18 and entry.writer.count("@") == 1


def test_each_entry_is_later_than_the_one_before_it_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = PackageLogs(FolderStorage(tmp_path))
    told = []
    for clock in (100, 200, 200, 50, 202, 300):
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        told.append(logs.append("a/b", "publish", ONE, latest(ONE)).time)
    assert told == [100, 200, 201, 202, 203, 300]
    assert [entry.time for entry in logs.entries("a/b")] == told


def test_a_permanent_tag_may_be_set_to_where_it_is(logs: PackageLogs) -> None:
    put(logs, KEPT)
    head = logs.head("a/b")
    assert head is not None
    check_permanent("a/b", head, ["v1", "free"], ONE)
    check_permanent("a/b", head, ["free"])
    for top_hash in (None, TWO):
        with pytest.raises(RefusedError, match="'v1' of a/b is permanent"):
            check_permanent("a/b", head, ["free", "v1"], top_hash)


def test_packages_are_folders_with_names_of_ours(logs: PackageLogs) -> None:
    for name in ("b/y", "b/x", "a/b", ".hidden/x", "b/.x", "not a name/x", "b/no name"):
        (folder_of(logs) / name).mkdir(parents=True)
    (folder_of(logs) / "file").write_bytes(b"")
    assert list(logs.packages()) == ["a/b", "b/x", "b/y"]
    assert list(logs.packages("b")) == ["b/x", "b/y"]
    assert list(logs.packages("c")) == list(logs.packages("file")) == []
    assert list(PackageLogs(FolderStorage(folder_of(logs) / "nowhere")).packages()) == []


def test_what_is_no_entry_in_a_log_is_left_alone(logs: PackageLogs) -> None:
    put(logs, FIRST)
    for name in ("00000000002", "000000002", "0000000002~", ".tmp", "x0000000002"):
        (folder_of(logs) / "a" / "b" / name).write_bytes(b"")
    assert [entry.seq for entry in logs.entries("a/b")] == [1]


def test_what_was_read_or_written_is_remembered(logs: PackageLogs, tmp_path: Path) -> None:
    file = tmp_path / "seen.sqlite"

    def remembered() -> list[tuple[int, str]]:
        return [(one.seq, one.digest) for one in SeenLogs(file, tmp_path).of("a/b")]

    def digest(seq: int) -> str:
        return hashlib.sha256((folder_of(logs) / "a" / "b" / f"{seq:010d}").read_bytes()).hexdigest()

    logs.seen = SeenLogs(file, tmp_path)
    logs.append("a/b", "publish", ONE, latest(ONE))
    assert remembered() == [(1, digest(1))]
    unseen = PackageLogs(FolderStorage(tmp_path))
    unseen.append("a/b", "publish", TWO, latest(TWO))
    assert remembered() == [(1, digest(1))]
    assert logs.head("a/b") is not None
    assert remembered() == [(2, digest(2))]
    unseen.append("a/b", "publish", THREE, latest(THREE))
    logs.entries("a/b")
    assert remembered() == [(3, digest(3))]
    (folder_of(logs) / "a" / "b" / "0000000003").unlink()
    with pytest.raises(DataMismatchError, match="got shorter"):
        logs.entries("a/b")
    head = logs.head("a/b")  # not refused: the whole log is what is held against it
    assert head is not None and head.seq == 2
    assert remembered()[0][0] == 3
    logs.append("a/b", "publish", ONE, latest(ONE))
    assert remembered()[0][0] == 3, "what does not go on from what was seen is not remembered in its place"
    with pytest.raises(DataMismatchError, match="was rewritten: entry 3 is another"):
        logs.entries("a/b")


def test_what_is_remembered_of_a_log_never_hides_what_others_did_to_it(tmp_path: Path) -> None:
    """Against one that remembers nothing: others append, take the newest away, and write it anew."""
    drawn = random.Random(11)
    logs = [PackageLogs(FolderStorage(tmp_path)) for _ in range(2)]
    folder = tmp_path / "log" / "a" / "b"
    published: list[str] = []
    for number in range(200):
        one = drawn.choice(logs)
        what = drawn.choice(("publish", "publish", "delete", "cut", "anew"))
        entries = sorted(folder.iterdir()) if folder.exists() else []
        if what == "publish" or not entries:
            published.append(f"{number:064x}")
            one.append("a/b", "publish", published[-1], dict)
        elif what == "delete":
            one.append("a/b", "delete", drawn.choice(published), dict)
        elif what == "cut":
            entries[-1].unlink()
        else:
            entries[-1].unlink()
            PackageLogs(FolderStorage(tmp_path)).append("a/b", "publish", f"{number + 1000:064x}", dict)
        fresh = PackageLogs(FolderStorage(tmp_path))
        for other in logs:
            assert other.top_hashes("a/b") == fresh.top_hashes("a/b"), (number, what)
            assert other.head("a/b") == fresh.head("a/b"), (number, what)


def test_a_head_in_a_long_log_lists_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path)
    logs = PackageLogs(storage)
    listed: list[str] = []
    names = storage.names
    monkeypatch.setattr(storage, "names", lambda folder, **options: listed.append(folder) or names(folder, **options))
    for number in range(20):
        logs.append("a/b", "publish", f"{number:064x}", dict)
        logs.head("a/b")
    assert listed == ["log/a/b"]
