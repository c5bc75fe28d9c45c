"""A verdict is a version of its own: who gave it, on what, and it stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.verdict_store import VERDICT_KEY, VerdictStore
from reprokit.schema.manifest import Manifest
from reprokit.schema.verdict import Rung, RunLink, Verdict, VerdictRecord
from tests.conftest import Project, lies_at, overwrite


def _reproduced(project: Project, *options: str, expect: int = 0) -> tuple[str, Any]:
    run = project.json("run", "recipe.yaml")["run_id"]
    return run, project.json("reproduce", run, *options, expect=expect)


def test_each_reproduction_adds_a_version_that_names_both_runs(project: Project) -> None:
    run, first = _reproduced(project)
    second = project.json("reproduce", run, "--with", "param.rate=0.2", expect=7)
    registry = LocalRegistry(project.registry)
    kept = VerdictStore(registry).of(run)
    assert [one.verdict.verdict for one in kept] == ["BITWISE", "DIVERGED"]
    assert [one.reproduction.run_id for one in kept] == [first["run_id"], second["run_id"]]
    for one in kept:
        assert registry.read_manifest(one.original.top_hash).user_meta["reprokit"]["run"] == run
        made = registry.read_manifest(one.reproduction.top_hash).user_meta["reprokit"]
        assert made["run"] == one.reproduction.run_id and made["reproduces"] == run
        assert "@" in one.by and one.at.endswith("Z") and one.machine["kernel"] and one.reprokit
        assert one.compared == {"checkpoints": 3, "outputs": 1, "metrics": 1}
    assert kept[0].original.lock_hash == kept[0].reproduction.lock_hash != kept[1].reproduction.lock_hash
    assert kept[1].command == ["reprokit", "reproduce", run, "--with", "param.rate=0.2", "--json"]
    assert kept[1].verdict.relaxed == ["param.rate=0.2"]
    assert kept[1].tolerance == {"weights": {"atol": 0.0, "rtol": 0.0}, "metrics": {}}
    assert kept[1].plain()["verdict"] == second


def test_a_rerun_that_fails_is_kept_as_inconclusive(project: Project) -> None:
    run, _ = _reproduced(project, "--with", "variable.MPLBACKEND=x", "--with", "param.epochs=text", expect=8)
    assert VerdictStore(LocalRegistry(project.registry)).of(run)[0].verdict.verdict == "INCONCLUSIVE"


def test_nobody_builds_a_verdict_by_hand_or_takes_one_back(project: Project) -> None:
    run, _ = _reproduced(project)
    assert "only ever added to" in project.reprokit("rm", f"verdicts/{run}:latest", "--force", expect=3).stderr
    done = project.reprokit("package", "build", str(project.base / "inputs"), "verdicts/mine", expect=3)
    assert "reprokit's own" in done.stderr


def test_a_verdict_goes_along_with_its_run(project: Project, tmp_path: Path) -> None:
    run, found = _reproduced(project)
    project.reprokit("push", run, str(tmp_path / "other"), "--all")
    other = VerdictStore(LocalRegistry(tmp_path / "other"))
    assert [one.reproduction.run_id for one in other.of(run)] == [found["run_id"]]
    project.reprokit("push", found["run_id"], str(tmp_path / "third"), "--all")
    assert len(VerdictStore(LocalRegistry(tmp_path / "third")).of(run)) == 1


def test_one_that_was_changed_is_refused(project: Project) -> None:
    run, _ = _reproduced(project)
    registry = LocalRegistry(project.registry)
    top_hash = registry.top_hashes(f"verdicts/{run}")[0]
    entry = registry.read_manifest(top_hash)[VERDICT_KEY]
    path, offset = lies_at(registry, entry)
    data = VerdictStore(registry).of(run)[0].encode()
    overwrite(path, offset, data.replace(b"BITWISE", b"bITWISE"))
    with pytest.raises(DataMismatchError, match="corrupt"):
        VerdictStore(registry).of(run)


RECORD = VerdictRecord(
    verdict=Verdict(run_id="20260102-030405-bbbbbb", reproduces="20260102-030405-aaaaaa", verdict="BITWISE"),
    original=RunLink(run_id="20260102-030405-aaaaaa", top_hash="1" * 64, lock_hash="3" * 64),
    reproduction=RunLink(run_id="20260102-030405-bbbbbb", top_hash="2" * 64, lock_hash=None),
    by="auditor@lab",
    at="2026-01-02T03:04:05Z",
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": None}, "has format None; this reprokit reads format 1."),
        ({"format": 2}, "has format 2; this reprokit reads format 1."),
        ({"extra": 1}, "is malformed: Object contains unknown field `extra`."),
        ({"verdict": "BITWISE"}, "is malformed: Expected `object`, got `str` - at `$.verdict`."),
        ({"by": None}, "is malformed: Expected `str`, got `null` - at `$.by`."),
        ({"compared": {"outputs": "1"}}, "is malformed: Expected `int`, got `str` - at `$.compared[...]`."),
        ({"original": {"run_id": "x"}}, "is malformed: Object missing required field `top_hash` - at `$.original`."),
        (
            {"reproduction": {"run_id": "x", "top_hash": "0", "lock_hash": None, "extra": 1}},
            "is malformed: Object contains unknown field `extra` - at `$.reproduction`.",
        ),
    ],
)
def test_malformed_ones_are_named_errors(change: dict[str, Any], said: str) -> None:
    plain = json.loads(RECORD.encode())
    assert VerdictRecord.decode(json.dumps(plain).encode(), what="verdict.json") == RECORD
    with pytest.raises(DataMismatchError) as caught:
        VerdictRecord.decode(json.dumps({**plain, **change}).encode(), what="verdict.json")
    assert caught.value.message == f"verdict.json {said}"


@pytest.mark.parametrize(
    ("data", "said"), [(b"[]", "is malformed: Expected `object`, got `array`."), (b"\xff", "is not JSON that ")]
)
def test_what_is_no_object_is_no_verdict(data: bytes, said: str) -> None:
    with pytest.raises(DataMismatchError) as caught:
        VerdictRecord.decode(data, what="verdict.json")
    assert caught.value.message.startswith(f"verdict.json {said}")


def test_a_rung_that_nobody_knows_is_refused() -> None:
    with pytest.raises(DataMismatchError, match=r"^verdict\.json is malformed: Invalid enum value 'PERFECT'"):
        VerdictRecord.decode(RECORD.encode().replace(b"BITWISE", b"PERFECT"), what="verdict.json")


def test_show_lists_reproductions_and_prints_a_verdict_and_experiments_are_none(project: Project) -> None:
    run, first = _reproduced(project)
    second = project.json("reproduce", run, "--with", "param.rate=0.2", expect=7)
    said = project.reprokit("show", run).stdout
    assert f"reproduced   {first['run_id']}  BITWISE  " in said
    assert f"repeated     {second['run_id']}  DIVERGED  " in said and "with param.rate=0.2" in said
    shown = project.json("show", run)["reproductions"]
    assert [one["reproduction"] for one in shown] == [first["run_id"], second["run_id"]]
    kept = project.reprokit("show", f"verdicts/{run}").stdout
    assert "command       reprokit reproduce" in kept and "relaxed" in kept
    assert project.json("show", f"verdicts/{run}")["verdict"]["verdict"] == "DIVERGED"
    assert project.json("ls", "--where", "reproduced")["runs"][0]["run_id"] == run
    alone = project.json("run", "recipe.yaml")["run_id"]
    project.reprokit("reproduce", alone, "--with", "threads=2")
    assert [one["run_id"] for one in project.json("ls", "--where", "reproduced")["runs"]] == [run]


# ── without a run ─────────────────────────────────────────────────────────────────────────────────────────────────────

ORIGINAL, REPETITION = RECORD.original.run_id, RECORD.reproduction.run_id


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(LocalRegistry(tmp_path / "registry"))


def of(original: str, reproduction: str, rung: Rung = "BITWISE") -> VerdictRecord:
    return msgspec.structs.replace(
        RECORD,
        verdict=msgspec.structs.replace(RECORD.verdict, run_id=reproduction, reproduces=original, verdict=rung),
        original=msgspec.structs.replace(RECORD.original, run_id=original),
        reproduction=msgspec.structs.replace(RECORD.reproduction, run_id=reproduction),
    )


def test_verdicts_are_listed_and_read_in_their_order(store: VerdictStore) -> None:
    assert store.of(ORIGINAL) == store.naming(ORIGINAL, None) == []
    given = [of(ORIGINAL, REPETITION), of(ORIGINAL, "20260102-030407-cccccc", "DIVERGED")]
    hashes = [store.add(one) for one in given]
    store.add(of(REPETITION, ORIGINAL))
    assert store.registry.top_hashes(f"verdicts/{ORIGINAL}") == hashes
    assert store.of(ORIGINAL) == given
    assert sorted(store.originals()) == sorted([ORIGINAL, REPETITION])
    header = store.registry.read_header(hashes[1])
    assert header["message"] == "DIVERGED: 20260102-030407-cccccc"


def test_a_run_is_named_by_verdicts_on_it_and_by_those_on_what_it_repeats(store: VerdictStore) -> None:
    third = "20260102-030407-cccccc"
    one, other = store.add(of(ORIGINAL, REPETITION)), store.add(of(ORIGINAL, third))
    own = store.add(of(REPETITION, third))
    assert store.naming(ORIGINAL, None) == [PackageRef(f"verdicts/{ORIGINAL}", hash=top) for top in (one, other)]
    assert store.naming(REPETITION, ORIGINAL) == [
        PackageRef(f"verdicts/{REPETITION}", hash=own),
        PackageRef(f"verdicts/{ORIGINAL}", hash=one),
    ]
    assert store.naming(third, ORIGINAL) == [PackageRef(f"verdicts/{ORIGINAL}", hash=other)]
    assert store.naming(third, None) == []


def test_a_verdict_on_another_run_and_what_is_none_are_refused(store: VerdictStore) -> None:
    registry = store.registry
    top_hash = store.add(of(ORIGINAL, REPETITION))
    moved = registry.read_manifest(top_hash)
    registry.publish(f"verdicts/{REPETITION}", moved)
    with pytest.raises(DataMismatchError, match=f"is a verdict on another run, {ORIGINAL}"):
        store.of(REPETITION)
    empty = Manifest.make([], message="nothing")
    registry.publish("verdicts/20260102-030407-cccccc", empty)
    with pytest.raises(DataMismatchError, match=r"holds no verdict\.json"):
        store.of("20260102-030407-cccccc")
    registry.publish("verdicts/none", empty)
    assert "none" not in list(store.originals())


def test_a_version_that_is_no_verdict_names_nobody(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    original, again = "20260101-000000-abcde0", "20260101-000001-abcde1"
    registry.publish(f"verdicts/{original}", Manifest.make([], message="by hand"))
    assert VerdictStore(registry).naming(again, original) == []
    assert [ref.name for ref in VerdictStore(registry).naming(original, None)] == [f"verdicts/{original}"]
