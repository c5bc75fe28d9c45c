"""What the index says is what it was told, and any trouble with its file costs time alone."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from reprokit.store import index as module
from reprokit.store.index import Index
from reprokit.store.packs import Member

A, B = "a" * 64, "b" * 64
ONE, TWO, THREE = (bytes([number]) * 32 for number in range(3))


@pytest.fixture(params=["a file", "memory"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    return Index(tmp_path / "cache" / "index.sqlite" if request.param == "a file" else None)


def test_places_are_those_of_packs_that_exist(index: Index) -> None:
    index.add_pack(A, {ONE: Member(94, 3), TWO: Member(200, 5)})
    index.add_pack(B, {TWO: Member(94, 5)})
    assert index.packs() == {A, B}
    assert index.places([ONE, TWO, THREE], {A}) == {ONE: (A, Member(94, 3)), TWO: (A, Member(200, 5))}
    assert index.places([TWO], {B}) == {TWO: (B, Member(94, 5))}
    assert index.places([ONE, TWO], set()) == index.places([], {A, B}) == {}
    index.add_pack(A, {ONE: Member(1, 1)})
    assert index.places([ONE], {A}) == {ONE: (A, Member(94, 3))}, "one that is known stays as it is"
    index.drop_packs([])
    index.drop_packs([A, "c" * 64])
    assert index.packs() == {B}
    assert index.places([ONE, TWO], {A, B}) == {TWO: (B, Member(94, 5))}
    index.clear()
    assert (index.packs(), index.places([TWO], {B})) == (set(), {})


def test_what_lies_in_each_pack_is_known_pack_by_pack(index: Index) -> None:
    assert index.members() == {}
    index.add_pack(A, {ONE: Member(94, 3), TWO: Member(200, 5)})
    index.add_pack(B, {TWO: Member(94, 5)})
    index.add_pack("c" * 64, {})
    assert index.members() == {A: {ONE: (94, 3), TWO: (200, 5)}, B: {TWO: (94, 5)}, "c" * 64: {}}
    assert all(isinstance(member, Member) for members in index.members().values() for member in members.values())


def test_threads_share_what_is_known(index: Index) -> None:
    index.add_pack(A, {})
    with ThreadPoolExecutor(1) as other:
        assert other.submit(index.packs).result() == {A}
        other.submit(index.add_pack, B, {}).result()
    assert index.packs() == {A, B}


def test_more_is_asked_at_once_than_sqlite_takes(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    raws = [bytes([number]) * 32 for number in range(10)]
    index.add_pack(A, {raw: Member(number, number) for number, raw in enumerate(raws)})
    assert index.places(raws, {A}) == {raw: (A, Member(number, number)) for number, raw in enumerate(raws)}
    index.keep_verified({str(number): f"stamp {number}" for number in range(10)})
    assert index.verified(map(str, range(20))) == {str(number): f"stamp {number}" for number in range(10)}


def test_what_was_verified_and_seen_of_sources_is_kept_and_replaced(index: Index) -> None:
    assert index.source("folder") is None
    index.keep_source("folder", b"facts")
    index.keep_source("folder", b"others")
    index.keep_source("more", b"")
    assert (index.source("folder"), index.source("more"), index.source("none")) == (b"others", b"", None)
    index.keep_verified({"x": "1", "y": "2"})
    index.keep_verified({"x": "3"})
    assert index.verified(["x", "z"]) == {"x": "3"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "cache" / "index.sqlite"
    index = Index(made)
    index.add_pack(A, {ONE: Member(94, 3)})
    index.keep_source("folder", b"facts")
    return made


def test_another_process_finds_what_was_kept(file: Path) -> None:
    again = Index(file)
    assert (again.packs(), again.source("folder")) == ({A}, b"facts")


def test_facts_that_were_changed_are_none(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("update sources set facts = ?", (b"other",))
    database.close()
    assert Index(file).source("folder") is None


def test_an_index_of_another_form_is_made_anew(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("drop table verified")
        database.execute("pragma user_version = 2")
    database.close()
    again = Index(file)
    assert (again.packs(), again.source("folder"), again.verified(["x"])) == (set(), None, {})
    again.add_pack(B, {})
    assert Index(file).packs() == {B}


def test_a_file_that_is_no_index_is_removed_and_a_sound_one_is_not(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no database" * 1000)
    index = Index(broken)
    index.add_pack(B, {TWO: Member(1, 2)})
    assert index.places([TWO], {B}) == {TWO: (B, Member(1, 2))}
    assert not broken.exists()
    Index(broken).add_pack(A, {})
    assert Index(broken).packs() == {A}, "the next one begins anew"
    lacking = tmp_path / "lacking.sqlite"
    Index(lacking).add_pack(A, {})
    with sqlite3.connect(lacking) as database:
        database.execute("drop table packs")
    database.close()
    assert Index(lacking).packs() == set()
    assert not lacking.exists()
    other = Index(file)
    other._give_up()
    assert file.exists(), "it is sound: somebody else was writing it"
    assert other.packs() == set()
    assert Index(file).packs() == {A}


def test_a_forked_child_opens_its_own(file: Path) -> None:
    index = Index(file)
    assert index.packs() == {A}
    mine = index._database
    child = os.fork()
    if not child:
        fine = index.packs() == {A} and index._database is not mine
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert index._open() is mine


def test_what_a_damaged_index_adds_is_not_found(tmp_path, monkeypatch):
    registry = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    build({"a": b"1", "b": b"2"}, "a/b", registry=registry)
    entry, other = registry.read_manifest(registry.top_hashes("a/b")[0]).entries
    places = registry.objects.index.places

    def more(wanted, there):
        found = places([entry.digest.raw, other.digest.raw], there)
        assert len(found) == 2
        return found

    monkeypatch.setattr(registry.objects.index, "places", more)
    assert list(registry.objects.find([entry.digest])) == [entry.digest]
