"""What this machine saw of a registry's logs: what got shorter or was rewritten since is said, and nothing else is."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError
from reprokit.packages.package import verify_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.seen import SeenLogs
from tests.registry.contract import store


def opened(base: Path, place: str = "registry") -> LocalRegistry:
    return LocalRegistry(base / place, home=base / "home")


def grown(registry: LocalRegistry, *contents: bytes) -> None:
    for data in contents:
        registry.publish("a/b", store(registry, {"x": data}))


def entries(base: Path, place: str = "registry") -> list[Path]:
    return sorted((base / place / "log" / "a" / "b").iterdir())


def test_what_this_machine_wrote_it_has_seen(tmp_path: Path) -> None:
    grown(opened(tmp_path), b"1", b"2", b"3")
    entries(tmp_path)[-1].unlink()
    with pytest.raises(DataMismatchError) as caught:
        opened(tmp_path).log("a/b")
    assert caught.value.message.startswith(
        "The history of a/b got shorter: it ends with entry 2; this machine saw entry 3"
    )
    assert str(tmp_path / "home" / "seen") in str(caught.value.hint)
    assert [problem.message for problem in verify_registry(opened(tmp_path))[1]] == [caught.value.message]


def test_what_was_only_looked_at_was_seen(tmp_path: Path) -> None:
    grown(LocalRegistry(tmp_path / "registry"), b"1", b"2")
    assert opened(tmp_path).resolve(PackageRef("a/b"))
    entries(tmp_path)[-1].unlink()
    with pytest.raises(DataMismatchError, match="got shorter: it ends with entry 1; this machine saw entry 2"):
        opened(tmp_path).log("a/b")


def test_what_another_machine_wrote_is_seen_when_the_log_is_read(tmp_path: Path) -> None:
    grown(opened(tmp_path), b"1")
    grown(LocalRegistry(tmp_path / "registry", home=tmp_path / "elsewhere"), b"2", b"3")
    grown(opened(tmp_path), b"4")
    assert len(opened(tmp_path).log("a/b")) == 4
    for file in entries(tmp_path)[1:]:
        file.unlink()
    grown(LocalRegistry(tmp_path / "registry"), b"5", b"6", b"7", b"8")
    with pytest.raises(DataMismatchError, match="was rewritten: entry 4 is another; this machine saw entry 4"):
        opened(tmp_path).log("a/b")
    grown(opened(tmp_path), b"9")  # written on top of what it was not seen as
    with pytest.raises(DataMismatchError, match="was rewritten: entry 4 is another"):
        opened(tmp_path).log("a/b")


def test_a_package_that_is_gone_is_named(tmp_path: Path) -> None:
    grown(opened(tmp_path), b"1")
    shutil.rmtree(tmp_path / "registry" / "log" / "a")
    assert [problem.message[:36] for problem in verify_registry(opened(tmp_path))[1]] == [
        "The history of a/b is gone; this mac"
    ]


def test_copies_go_their_own_ways_and_an_older_one_is_said(tmp_path: Path) -> None:
    grown(opened(tmp_path), b"1", b"2")
    shutil.copytree(tmp_path / "registry", tmp_path / "copy")
    grown(opened(tmp_path, "copy"), b"3")
    grown(opened(tmp_path), b"4", b"5")
    shutil.copytree(tmp_path / "copy", tmp_path / "third")
    for place in ("registry", "copy", "third"):
        assert verify_registry(opened(tmp_path, place))[1] == []
    shutil.copytree(tmp_path / "copy", tmp_path / "older")
    entries(tmp_path, "older")[-1].unlink()
    entries(tmp_path, "older")[-1].unlink()
    with pytest.raises(
        DataMismatchError, match=r"got shorter: it ends with entry 1; this machine saw entry 4, .*/registry"
    ):
        opened(tmp_path, "older").log("a/b")


def test_without_a_file_that_can_be_read_nothing_is_remembered_and_all_goes_on(tmp_path: Path) -> None:
    registry = opened(tmp_path)
    grown(registry, b"1")
    (file,) = (tmp_path / "home" / "seen").iterdir()
    assert file.name == f"{registry.uuid}.sqlite"
    with sqlite3.connect(file) as database:
        assert database.execute("select package, seq from seen").fetchall() == [("a/b", 1)]
    file.write_bytes(b"no database" * 100)
    grown(opened(tmp_path), b"2")
    assert len(opened(tmp_path).log("a/b")) == 2
    (tmp_path / "file").write_bytes(b"")
    grown(LocalRegistry(tmp_path / "registry", home=tmp_path / "file"), b"3")


# What is remembered, and what a log is held against: by the digests of its entries


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "seen" / "uuid.sqlite"


def logs(file: Path, place: str = "here") -> SeenLogs:
    return SeenLogs(file, file.parent / place)


def remembered(seen: SeenLogs, package: str = "a/b") -> list[tuple[int, str]]:
    return [(one.seq, one.digest) for one in seen.of(package)]


def held(seen: SeenLogs, *digests: str) -> list[tuple[int, str]]:
    seen.check("a/b", digests, seen.of("a/b"))
    return remembered(seen)


def test_the_end_of_a_log_is_remembered_and_what_goes_on_from_it_is_fine(file: Path) -> None:
    assert held(logs(file)) == []  # nothing was there to be seen
    assert not file.exists() or remembered(logs(file)) == []
    assert held(logs(file), "1", "2") == [(2, "2")]
    assert held(logs(file), "1", "2") == [(2, "2")]
    assert held(logs(file), "1", "2", "3", "4") == [(4, "4")]
    assert remembered(logs(file), "other/one") == []


@pytest.mark.parametrize(
    ("digests", "how"),
    [
        (["1"], "got shorter: it ends with entry 1; this machine saw entry 2"),
        ([], "got shorter: it ends with entry 0; this machine saw entry 2"),
        (["1", "X"], "was rewritten: entry 2 is another; this machine saw entry 2"),
        (["1", "X", "3"], "was rewritten: entry 2 is another; this machine saw entry 2"),
    ],
)
def test_a_log_that_does_not_go_on_is_refused_and_not_remembered(file: Path, digests: list[str], how: str) -> None:
    seen = logs(file)
    assert held(seen, "1", "2") == [(2, "2")]
    for again in (seen, logs(file)):
        with pytest.raises(DataMismatchError) as caught:
            held(again, *digests)
        assert caught.value.message.startswith(f"The history of a/b {how}, on ")
        assert caught.value.message.endswith(f" in {file.parent / 'here'}.")
        assert remembered(again) == [(2, "2")]
    assert held(seen, "X", "2") == [(2, "2")]  # its end is what is known: the chain in it is the registry's to check


def test_what_was_read_before_others_wrote_is_no_reason(file: Path) -> None:
    seen = logs(file)
    before = seen.of("a/b")
    logs(file).check("a/b", ["1", "2", "3"], [])
    seen.check("a/b", ["1", "2"], before)
    assert remembered(seen) == [(3, "3")]  # another process was faster


def test_in_a_new_place_a_log_goes_on_from_one_of_the_others(file: Path) -> None:
    held(logs(file, "one"), "1", "2")
    logs(file, "two").check("a/b", ["1", "B", "C"], [])
    new = logs(file, "new")
    assert sorted(remembered(new)) == [(2, "2"), (3, "C")]
    for digests in (["1"], ["1", "X"], ["X", "Y", "Z"]):
        with pytest.raises(DataMismatchError, match=r"this machine saw entry 3, on .*/two"):
            held(new, *digests)
    assert held(new, "1", "2", "9", "10") == [(4, "10")]  # from here on its own
    with pytest.raises(DataMismatchError, match="was rewritten: entry 4 is another"):
        held(new, "1", "B", "C", "D")
    assert held(logs(file, "two"), "1", "B", "C", "D") == [(4, "D")]


def test_the_newest_entry_is_remembered_where_it_goes_on(file: Path) -> None:
    now = {1: "1", 2: "2", 3: "3"}
    asked: list[int] = []

    def at(seq: int) -> str | None:
        asked.append(seq)
        return now.get(seq)

    seen = logs(file)
    seen.extend("a/b", 1, "1", at)
    assert (remembered(seen), asked) == ([(1, "1")], [])
    seen.extend("a/b", 1, "1", at)
    assert asked == []  # it knows
    seen.extend("a/b", 3, "3", at)
    assert (remembered(seen), asked) == ([(3, "3")], [1])
    now.update({3: "X", 4: "4"})
    for again in (seen, logs(file)):
        again.extend("a/b", 4, "4", at)  # from another history: what was seen stays, and is held against the next
        assert remembered(again) == [(3, "3")]
    now.clear()
    seen.extend("a/b", 1, "1", at)
    assert remembered(seen) == [(3, "3")]


def test_the_newest_entry_in_a_new_place_goes_on_from_one_of_the_others(file: Path) -> None:
    for place, digest in (("one", "2"), ("two", "B")):
        logs(file, place).check("a/b", ["1", digest], [])
    new = logs(file, "new")
    new.extend("a/b", 3, "3", {2: "X", 3: "3"}.get)
    assert sorted(remembered(new)) == [(2, "2"), (2, "B")]
    new.extend("a/b", 3, "3", {2: "B", 3: "3"}.get)
    assert remembered(new) == [(3, "3")]
    same = logs(file, "same")  # the entry that was seen elsewhere is seen here too, from now on
    same.extend("a/b", 3, "3", {2: "B", 3: "3"}.get)
    assert same.of("a/b")[0].place == str(file.parent / "same")


def test_packages_that_are_gone_are_those_that_were_seen_in_this_place(file: Path) -> None:
    for place, packages in (("here", ("b/b", "a/a", "c/c")), ("there", ("d/d",))):
        for package in packages:
            logs(file, place).check(package, ["1"], [])
    seen = logs(file)
    assert [one.split()[3] for one in seen.gone(lambda: ["c/c"])] == ["a/a", "b/b"]
    assert seen.gone(lambda: ["a/a", "b/b", "c/c", "e/e"]) == []
    assert [one.split()[3] for one in logs(file, "new").gone(lambda: ["d/d", "c/c"])] == ["a/a", "b/b"]
    (told,) = logs(file, "there").gone(list)
    assert told.startswith("The history of d/d is gone; this machine saw entry 1, on ")


def test_a_fork_opens_the_file_itself(file: Path) -> None:
    seen = logs(file)
    held(seen, "1")
    child = os.fork()
    if not child:
        seen.check("a/b", ["1", "2"], [])
        os._exit(0 if remembered(seen) == [(2, "2")] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert remembered(seen) == [(2, "2")]
