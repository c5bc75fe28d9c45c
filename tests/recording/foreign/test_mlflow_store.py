"""Runs of MLflow's two stores become records: listed, compared, never taken for runs that can be reproduced."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reprokit.comparison.compare_runs import compare_runs
from reprokit.errors import NotFoundError, RegistryError
from reprokit.recording.foreign.mlflow_store import import_mlflow
from reprokit.recording.foreign.runs import ImportedRuns
from reprokit.registry.local import LocalRegistry
from reprokit.runs.logged import read_logged
from reprokit.runs.query import choose
from reprokit.runs.store import RunStore
from tests.conftest import context_of

START = 1_790_000_000_123
GIVEN = "ghp_" + "0123456789abcdefghij"
RUNS: list[dict[str, Any]] = [
    {
        "id": "a" * 32, "name": "base", "status": "FINISHED", "params": {"lr": "0.1", "depth": "3", "model": "rf"},
        "metrics": {"loss": [(0, 1.0), (1, 0.5)], "val/acc": [(0, math.nan)]}, "tags": {"mlflow.user": "anna"},
    },
    {"id": "b" * 32, "name": "hot one", "status": "FAILED", "params": {"lr": "0.2"}, "metrics": {"loss": [(0, 2.0)]}},
    {"id": "c" * 32, "name": "", "status": "RUNNING", "params": {"api_token": GIVEN}},
    {"id": "d" * 32, "name": "gone", "status": "FINISHED", "stage": "deleted"},
]  # fmt: skip


def folder_store(root: Path, runs: list[dict[str, Any]]) -> Path:
    """Write what MLflow's file store has of some runs."""
    store = root / "mlruns"
    for number, run in enumerate(runs):
        place = store / "7" / run["id"]
        (place / "artifacts" / "notes").mkdir(parents=True)
        (place / "artifacts" / "notes" / "a.txt").write_text("note")
        meta = {
            "run_id": run["id"], "run_name": run["name"],
            "status": {"FINISHED": 3, "FAILED": 4, "RUNNING": 1}[run["status"]],
            "start_time": START + number, "end_time": START + 60_000, "lifecycle_stage": run.get("stage", "active"),
            "artifact_uri": (place / "artifacts").as_uri(),
        }  # fmt: skip
        (place / "meta.yaml").write_text(yaml.safe_dump(meta))
        for kind in ("params", "tags"):
            for name, value in run.get(kind, {}).items():
                (place / kind).mkdir(exist_ok=True)
                (place / kind / name).write_text(value)
        for name, values in run.get("metrics", {}).items():
            file = place / "metrics" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{START + step} {value} {step}\n" for step, value in values))
    (store / "7" / "meta.yaml").write_text("name: credit\n")
    return store


def sqlite_store(root: Path, runs: list[dict[str, Any]]) -> Path:
    """Write what MLflow's SQL store has of some runs, in the columns that are read."""
    folder_store(root, runs)
    with sqlite3.connect(root / "mlflow.db") as base:
        base.executescript(
            "CREATE TABLE experiments (experiment_id, name);"
            "CREATE TABLE runs (run_uuid, name, experiment_id, status, start_time, end_time, artifact_uri,"
            " lifecycle_stage);"
            "CREATE TABLE params (run_uuid, key, value); CREATE TABLE tags (run_uuid, key, value);"
            "CREATE TABLE metrics (run_uuid, key, value, step, timestamp, is_nan);"
            "INSERT INTO experiments VALUES (7, 'credit');"
        )
        for number, run in enumerate(runs):
            place = str(root / "mlruns" / "7" / run["id"] / "artifacts")
            row = (run["id"], run["name"], 7, run["status"], START + number, START + 60_000, place)
            base.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, run.get("stage", "active")))
            for item in run.get("params", {}).items():
                base.execute("INSERT INTO params VALUES (?, ?, ?)", (run["id"], *item))
            for item in run.get("tags", {}).items():
                base.execute("INSERT INTO tags VALUES (?, ?, ?)", (run["id"], *item))
            for name, values in run.get("metrics", {}).items():
                for step, value in values:
                    number_, bad = (0.0, 1) if math.isnan(value) else (value, 0)
                    metric = (run["id"], name, number_, step, START + step, bad)
                    base.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", metric)
    return root / "mlflow.db"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture(params=[folder_store, sqlite_store])
def make(request: pytest.FixtureRequest) -> Callable[[Path, list[dict[str, Any]]], Path]:
    made: Callable[[Path, list[dict[str, Any]]], Path] = request.param
    return made


def taken(store: Path, registry: LocalRegistry, **how: Any) -> ImportedRuns:
    return import_mlflow(store, context=context_of(registry.root.parent, registry), **how)


def test_what_was_logged_is_what_the_record_says(make: Any, registry: LocalRegistry, tmp_path: Path) -> None:
    made = taken(make(tmp_path, RUNS), registry)
    runs = RunStore(registry)
    base = runs.load(made.runs["a" * 32])
    assert (base.record.name, base.record.status, base.record.by) == ("base", "finished", "anna")
    assert base.record.params == {"lr": 0.1, "depth": 3, "model": "rf"}
    assert base.record.metrics["loss"] == 0.5 and math.isnan(base.record.metrics["val/acc"])
    assert read_logged(base, registry)["loss"] == {0: [1.0], 1: [0.5]}
    assert (base.record.started, base.record.ended) == ("2026-09-21T14:13:20.123Z", "2026-09-21T14:14:20.123Z")
    assert base.record.artifacts == ["artifacts/mlflow.json", "artifacts/notes/a.txt"]
    told = json.loads(registry.read_object(base.manifest["artifacts/mlflow.json"], what="it"))
    assert (told["run"], told["experiment"], told["tags"]) == ("a" * 32, "credit", {"mlflow.user": "anna"})
    assert base.record.lock_hash is None and "cannot be reproduced" in base.record.warnings[0]
    others = {runs.load(made.runs[one * 32]).record.name: runs.load(made.runs[one * 32]).record.status for one in "bc"}
    assert others == {"hot-one": "failed", "credit": "interrupted"}
    assert "d" * 32 not in made.runs


def test_a_secret_stays_where_it_is(make: Any, registry: LocalRegistry, tmp_path: Path) -> None:
    made = taken(make(tmp_path, RUNS), registry)
    (note,) = made.notes
    assert note.endswith("left out api_token, which looks like a secret")
    assert RunStore(registry).load(made.runs["c" * 32]).record.params == {}
    assert not any(GIVEN.encode() in file.read_bytes() for file in registry.root.rglob("*") if file.is_file())


def test_importing_again_takes_what_is_new(make: Any, registry: LocalRegistry, tmp_path: Path) -> None:
    first = taken(make(tmp_path / "one", RUNS[:1]), registry)
    again = taken(make(tmp_path / "two", RUNS), registry)
    assert again.known == ["a" * 32]
    assert again.runs["a" * 32] == first.runs["a" * 32]
    assert len(again.runs) == 3


def test_they_are_found_and_compared_and_no_sameness_is_claimed(
    make: Any, registry: LocalRegistry, tmp_path: Path
) -> None:
    made = taken(make(tmp_path, RUNS), registry)
    runs = RunStore(registry)
    assert [row.run for row in choose("params.lr == 0.2", runs)] == [made.runs["b" * 32]]
    more = [{**RUNS[1], "id": "e" * 32, "status": "FINISHED"}]
    made.runs.update(taken(make(tmp_path / "more", more), registry).runs)
    verdict = compare_runs(*(runs.load(made.runs[one * 32]) for one in "ae"), registry=registry)
    assert verdict.verdict == "DIVERGED"
    assert [(cause.what, cause.weight, cause.factor) for cause in verdict.explanations] == [
        ("params.lr", "possible", None)
    ]
    same = compare_runs(*(runs.load(made.runs[one * 32]) for one in "ac"), registry=registry)
    assert not any("are the same" in cause.text for cause in same.explanations)


def test_one_experiment_alone(make: Any, registry: LocalRegistry, tmp_path: Path) -> None:
    store = make(tmp_path, RUNS)
    assert len(taken(store, registry, experiment="credit").runs) == 3
    with pytest.raises(NotFoundError, match="has no run of an experiment 'other'"):
        taken(store, registry, experiment="other")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("meta.yaml", "run_id: x\nstart_time: soon\n"),
        ("meta.yaml", "run_id: x\nstart_time: 99999999999999999\n"),
        ("meta.yaml", "a: *b\n"),
        ("meta.yaml", "run_id: x\nstart_time: .inf\n"),
        ("metrics/loss", "not a number\n"),
        ("metrics/loss", "1\n"),
    ],
)
def test_a_malformed_run_costs_no_other(registry: LocalRegistry, tmp_path: Path, file: str, text: str) -> None:
    store = folder_store(tmp_path, RUNS[:2])
    (store / "7" / ("a" * 32) / file).write_text(text)
    made = taken(store, registry)
    assert list(made.runs) == ["b" * 32]
    assert "was left out, for it is malformed" in made.notes[0]


def test_what_is_no_store_is_said(registry: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No store of MLflow's at"):
        taken(tmp_path / "nothing", registry)
    (tmp_path / "a.db").write_text("no database at all, but a text")
    with pytest.raises(RegistryError, match="cannot be read as a store of MLflow's"):
        taken(tmp_path / "a.db", registry)


def test_artifacts_elsewhere_are_named_and_left(registry: LocalRegistry, tmp_path: Path) -> None:
    store = folder_store(tmp_path, RUNS[:1])
    meta = store / "7" / ("a" * 32) / "meta.yaml"
    meta.write_text(meta.read_text().replace("file://", "s3://"))
    (note,) = taken(store, registry).notes
    assert note.endswith("its artifacts are at s3://, and were not taken")
