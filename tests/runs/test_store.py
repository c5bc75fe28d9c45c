"""Runs are found by what a user types, read as they are, and listed with what their headers say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from reprokit.core.refs import parse_run
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.query import overview
from reprokit.runs.store import RunStore
from reprokit.schema.facts import meta_of
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import DataFacts
from tests.comparison.making import Save, locked, made
from tests.conftest import put_run

ONE, TWO, THREE = "20260102-030405-aaaaaa", "20260102-030405-bbbbbb", "20260103-000000-cccccc"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def runs(registry: LocalRegistry) -> RunStore:
    for run_id in (TWO, ONE, THREE):  # the second of one second began first
        made(registry, run_id)
    return RunStore(registry)


def test_a_run_is_found_by_its_id_a_part_of_it_and_its_age(runs: RunStore) -> None:
    assert runs.ids() == [TWO, ONE, THREE]
    for text, found in (
        (ONE, ONE),
        ("20260103", THREE),
        ("bbbbbb", TWO),
        ("latest", THREE),
        ("@{-1}", THREE),
        ("@{-2}", ONE),
        ("@{-3}", TWO),
    ):
        assert runs.find(text) == found, text


def test_a_name_is_the_newest_run_that_has_it_and_repeats_no_other(registry: LocalRegistry) -> None:
    for number, (name, reproduces) in enumerate(
        [("base", None), ("hot", None), ("base", None), ("base", ONE), ("again", ONE), ("cafe", None)]
    ):
        put_run(registry, f"20260101-00000{number}-abcde{number}", name=name, reproduces=reproduces)
    runs = RunStore(registry)
    named = {name: runs.find(name)[14] for name in ("base", "hot", "again", "cafe")}
    assert named == {"base": "2", "hot": "1", "again": "4", "cafe": "5"}
    put_run(registry, "20260101-000009-00cafe", name="other")
    assert runs.find("cafe") == "20260101-000009-00cafe"  # a part of an ID comes first
    with pytest.raises(NotFoundError, match=r"^No run bas in "):
        runs.find("bas")


def test_a_tag_of_a_run_is_a_name_of_that_run_alone(registry: LocalRegistry) -> None:
    first, second = "20260101-000000-abcde0", "20260101-000001-abcde1"
    for run_id in (first, second):
        put_run(registry, run_id, name="release")
    runs = RunStore(registry)
    assert runs.find("release") == second  # the newest of that name
    assert runs.tag(parse_run(first), "release") == (f"runs/{first}", runs.latest(first))
    assert runs.find("release") == first  # a tag comes before a name
    runs.tag(parse_run("@{-1}"), "release")
    assert runs.find("release") == second
    assert registry.head(f"runs/{first}").tags.keys() == {"latest"}  # type: ignore[union-attr]
    assert {row.run: row.tags for row in overview(runs)} == {first: (), second: ("release",)}
    runs.tag(parse_run(first), "audited", permanent=True)
    with pytest.raises(RefusedError, match=f"^audited is run {first} for good"):
        runs.tag(parse_run(second), "audited")
    registry.untag(f"runs/{second}", "release")
    assert runs.find("release") == second  # by its name again
    for name in ("latest", "abcde", "2026-01"):
        with pytest.raises(UsageError, match=r"^A run cannot be tagged"):
            runs.tag(parse_run(first), name)
    with pytest.raises(UsageError):
        runs.tag(parse_run(first), "no tag")
    with pytest.raises(NotFoundError):
        runs.tag(parse_run("nothing"), "x")


def test_a_run_without_a_recipe_is_the_latest_only_where_there_is_no_other(registry: LocalRegistry) -> None:
    runs = RunStore(registry)
    put_run(registry, "20260101-000000-abcde0", lock_hash=None)
    put_run(registry, "20260101-000001-abcde1", lock_hash=None)
    assert runs.find("latest") == runs.find("@{-1}") == "20260101-000001-abcde1"
    put_run(registry, "20260101-000002-abcde2", lock_hash="1" * 64)
    put_run(registry, "20260101-000003-abcde3", lock_hash=None)
    assert runs.find("latest") == "20260101-000002-abcde2"
    assert runs.find("@{-1}") == "20260101-000003-abcde3"


def test_what_fits_no_run_or_two_is_said(registry: LocalRegistry, runs: RunStore) -> None:
    for text in ("nothing", "20260102-030405-aaaaab", "aaaa-", ""):
        with pytest.raises((NotFoundError, UsageError)):
            runs.find(text)
    for text in ("@{-4}", "@{-0}"):
        with pytest.raises(NotFoundError) as caught:
            runs.find(text)
        assert caught.value.message == f"No run {text}: {registry.url} has 3 run(s)."
    with pytest.raises(UsageError) as refused:
        runs.find("20260102")
    assert refused.value.message == f"20260102 is ambiguous: it fits 2 runs ({TWO}, {ONE}…)."
    with pytest.raises(NotFoundError, match=r"^No run latest: .* has 0 run"):
        RunStore(LocalRegistry(registry.root.parent / "empty")).find("latest")


def test_a_deleted_run_is_not_the_latest_and_cannot_be_read(registry: LocalRegistry, runs: RunStore) -> None:
    registry.delete(f"runs/{THREE}", registry.top_hashes(f"runs/{THREE}")[0])
    assert not runs.has(THREE) and runs.has(ONE)
    assert runs.find("latest") == ONE
    with pytest.raises(NotFoundError, match=f"^Run {THREE} was deleted from "):
        runs.load(THREE)
    assert [one.run for one in runs.summaries()] == [TWO, ONE]
    with pytest.raises(NotFoundError, match=r"No run @\{-3\}: .* has 2 run"):
        runs.find("@{-3}")


def test_a_record_of_another_run_is_refused(registry: LocalRegistry, runs: RunStore) -> None:
    other = runs.load(ONE)
    registry.publish(f"runs/{TWO}", Manifest.make(list(other.manifest.entries), message="moved"))
    with pytest.raises(DataMismatchError) as caught:
        runs.load(TWO)
    assert caught.value.message == f"record.json of run {TWO} is the record of another run, {ONE}."


def test_a_run_that_nobody_runs_reads_as_interrupted_and_lists_what_it_saved(registry: LocalRegistry) -> None:
    run_id, other = ONE, TWO
    full = made(registry, run_id, [Save(place={"kind": "initial"}), Save(), Save()])
    made(registry, other, [Save(shift=5.0)])
    bare = {"initial": None, "checkpoints": [], "status": "running", "checkpoint_package": "t/model"}
    made(registry, run_id, **bare)
    runs = RunStore(registry)
    with registry.claim(run_id):
        assert runs.load(run_id).record.status == "running"
        assert [(one.status, one.checkpoints) for one in runs.summaries()] == [("finished", 1), ("running", 2)]
    record = runs.load(run_id).record
    assert record.status == "interrupted"
    assert [one.status for one in runs.summaries()] == ["finished", "interrupted"]
    assert (record.initial, record.checkpoints) == (full.record.initial, full.record.checkpoints)
    assert runs.load(other).record.status == "finished"
    made(registry, run_id, **{**bare, "checkpoint_package": None})
    assert runs.load(run_id).record.checkpoints == []
    made(registry, run_id, **{**bare, "checkpoint_package": "t/none"})
    assert runs.load(run_id).record.checkpoints == []


def test_what_a_running_run_saved_where_its_script_chose_is_listed(registry: LocalRegistry) -> None:
    bare = {"initial": None, "checkpoints": [], "status": "running", "checkpoint_package": None}
    made(registry, ONE, **bare)
    saved = made(registry, ONE, [Save(), Save()], fresh=False, status="running").record.checkpoints
    made(registry, ONE, fresh=False, **bare)
    runs = RunStore(registry)
    with registry.claim(ONE):
        assert runs.load(ONE).record.checkpoints == saved
        assert [one.checkpoints for one in runs.summaries()] == [2]


def test_who_used_made_and_needs_what(registry: LocalRegistry) -> None:
    top_hash = "6" * 64
    data = [
        DataFacts(name=name, package=f"t/{name}", top_hash=pin, path=name)
        for name, pin in (("in", top_hash), ("b", "8" * 64))
    ]
    maker = made(registry, ONE, [Save()])
    made(registry, TWO, data=data, status="running")
    of_one = DataFacts(name="r", package=f"runs/{ONE}", top_hash=maker.manifest.top_hash, path="in")
    made(registry, THREE, data=[of_one])
    repeats = "20260104-000000-dddddd"
    made(registry, repeats, reproduces=ONE)
    runs = RunStore(registry)
    (checkpoint,) = maker.record.checkpoints
    assert runs.users("t/in", top_hash) == [TWO]
    assert runs.users("t/in", "7" * 64) == runs.users("t/other", top_hash) == []
    assert runs.users("t/model", checkpoint.top_hash) == [ONE]
    assert runs.users(f"runs/{ONE}", maker.manifest.top_hash) == [THREE, ONE]
    assert runs.needing(ONE) == [THREE, repeats]
    assert runs.needing(TWO) == []
    assert runs.running_with({top_hash, "9" * 64}) == []
    with registry.claim(TWO), registry.claim(THREE):
        assert runs.running_with({top_hash, "9" * 64}) == [TWO]
        assert runs.running_with({maker.manifest.top_hash}) == []
    assert runs.maker("t/model", checkpoint.top_hash) == ONE
    assert runs.maker(f"runs/{ONE}", "x") == ONE
    assert runs.maker("runs/none", "x") is runs.maker("t/model", "0" * 64) is None
    assert runs.maker(f"verdicts/{ONE}", maker.manifest.top_hash) is None
    registry.delete(f"runs/{ONE}", maker.manifest.top_hash)
    assert runs.users("t/model", checkpoint.top_hash) == []


def with_lock(registry: LocalRegistry, run_id: str, kept: RunLock) -> None:
    run = RunStore(registry).load(run_id)
    with registry.staging() as sink:
        digest, size = sink.put_bytes(kept.encode())
    entries = [*run.manifest.entries, Entry("lock.json", size, digest)]
    registry.publish(f"runs/{run_id}", Manifest.make(entries, user_meta=meta_of(run.record.summary())))


def test_a_lock_is_the_one_that_the_record_names_or_none_at_all(registry: LocalRegistry) -> None:
    runs = RunStore(registry)
    made(registry, ONE)
    assert runs.find_lock(runs.load(ONE)) is None
    with pytest.raises(RefusedError, match=f"^Run {ONE} has no lock: it was not started from a recipe"):
        runs.lock(runs.load(ONE))
    made(registry, ONE, lock_hash=locked().hash)
    with_lock(registry, ONE, locked())
    assert runs.lock(runs.load(ONE)) == runs.find_lock(runs.load(ONE)) == locked()
    made(registry, ONE, lock_hash=locked().hash)
    other = locked(params={"rate": 1})
    with_lock(registry, ONE, other)
    with pytest.raises(DataMismatchError) as caught:
        runs.lock(runs.load(ONE))
    assert caught.value.message == (
        f"lock.json of run {ONE} was edited: expected {locked().hash[:12]}…, found {other.hash[:12]}…."
    )


def test_a_checkpoint_of_a_run_is_named_by_its_place_and_by_what_the_recipe_calls_best(registry: LocalRegistry) -> None:
    saves = [Save(metrics={"score": score, "loss": score}) for score in (1.0, 3.0, 2.0)]
    run = made(registry, ONE, saves, lock_hash=locked().hash)
    runs = RunStore(registry)
    assert runs.select(run, "best:loss").epoch == 0, "without a recipe a loss is best where it is least"
    with_lock(registry, ONE, locked())
    for selector, epoch in (
        (None, 2),
        ("last", 2),
        ("epoch=1", 1),
        ("step=10", 0),
        ("best", 1),
        ("best:loss", 0),
        ("best:score", 1),
    ):
        assert runs.select(runs.load(ONE), selector).epoch == epoch, selector
    assert runs.checkpoint(parse_run(f"{ONE}@epoch=1")).epoch == 1
    for selector in ("epoch=3", "step=11", "initial", "exception", "best:none"):
        with pytest.raises(NotFoundError, match=f"^Run {ONE} has no checkpoint '{selector}'"):
            runs.select(runs.load(ONE), selector)


def test_a_header_that_lies_about_its_run_is_not_listed_and_one_without_is_read(registry: LocalRegistry) -> None:
    run, other = made(registry, ONE, logged=[{"loss": 0.5}]), made(registry, TWO)
    runs = RunStore(registry)
    for meta in ({}, meta_of(other.record.summary()), {"reprokit": {"kind": "run", "run": ONE}}):
        registry.publish(f"runs/{ONE}", Manifest.make(list(run.manifest.entries), message=str(meta), user_meta=meta))
        first, second = runs.summaries()
        assert (first.run, first.metrics, second.run) == (ONE, {"loss": 0.5}, TWO)
    with registry.staging() as sink:
        digest, size = sink.put_bytes(b"{}")
    registry.publish(f"runs/{ONE}", Manifest.make([Entry("record.json", size, digest)]))
    assert [one.run for one in runs.summaries()] == [TWO]


def test_a_checkpoint_has_the_selector_that_finds_it_and_no_other(registry: LocalRegistry) -> None:
    places = [
        {"kind": "initial"},
        {"epoch": 0, "batch": 3, "step": 3},
        {"epoch": 0, "step": 10},
        {"epoch": 1, "step": 20},
        {"step": 25},
        {"kind": "exception", "step": 26},
    ]
    record = made(registry, ONE, [Save(place=place) for place in places]).record
    assert record.initial is not None
    told = [record.selector_of(entry) for entry in (record.initial, *record.checkpoints)]
    assert told == ["initial", "step=3", "epoch=0", "epoch=1", "step=25", "step=26"]
    for entry, selector in zip((record.initial, *record.checkpoints), told, strict=True):
        assert record.select(selector, best={}) == entry
    assert record.select("last", best={}).step == 25
    assert record.select("exception", best={}).step == 26
    stranger = msgspec.structs.replace(record.checkpoints[0], top_hash="0" * 64)
    assert record.selector_of(stranger) is None
