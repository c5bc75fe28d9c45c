"""A verdict is a version of its own: who gave it, on what, and it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.verdict_store import VERDICT_KEY, VerdictStore
from reprokit.schema.verdict import VerdictRecord
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
    assert VerdictStore(LocalRegistry(project.registry)).summaries(run)[0]["verdict"] == "INCONCLUSIVE"


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


@pytest.mark.parametrize(
    "data",
    [b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "verdict": "BITWISE"}', b"\xff", b'{"format": 1, "extra": 1}'],
)
def test_malformed_ones_are_named_errors(data: bytes) -> None:
    with pytest.raises(DataMismatchError):
        VerdictRecord.decode(data, what="verdict.json")


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
    assert project.json("ls", "--where", "reproduced")["runs"][0]["run"] == run
    alone = project.json("run", "recipe.yaml")["run_id"]
    project.reprokit("reproduce", alone, "--with", "threads=2")
    assert [one["run"] for one in project.json("ls", "--where", "reproduced")["runs"]] == [run]
