"""Two runs and two checkpoints side by side, of real trainings; by default without an object of a checkpoint."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.reader import Checkpoint
from reprokit.cli.text.run_diff import checkpoint_diff_text, run_diff_text
from reprokit.comparison.run_diff import diff_checkpoints, diff_runs
from reprokit.errors import DataMismatchError
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import CheckpointEntry
from tests.checkpoint.making import make
from tests.comparison.making import Save, made
from tests.conftest import RECIPE, Project, lies_at, put_run

_CHANGE = "weights = weights + (epoch == 1) * 1e-9"  # at the end of epoch 1, after its checkpoint


class Pair(Project):
    """Two runs of a project: the second with another line of code, another rate and another byte of data."""

    first: str
    second: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    made = Pair(tmp_path_factory.mktemp("pair"))
    made.build()
    made.first = made.json("run", "recipe.yaml")["run_id"]
    made.hook(_CHANGE)
    made.second = made.json("run", "recipe.yaml")["run_id"]
    return made


@pytest.fixture
def without_checkpoints(pair: Pair, tmp_path: Path) -> Iterator[Path]:
    """A copy of the registry in which no object of a checkpoint is left."""
    copy = tmp_path / "registry"
    shutil.copytree(pair.registry, copy)
    registry = LocalRegistry(copy)
    for run in (pair.first, pair.second):
        record = RunStore(registry).load(run).record
        for checkpoint in (record.initial, *record.checkpoints):
            if checkpoint is not None:
                for entry in registry.read_manifest(checkpoint.top_hash).entries:
                    lies_at(registry, entry)[0].unlink(missing_ok=True)
    yield copy


def test_two_runs_are_laid_side_by_side(pair: Pair) -> None:
    found = pair.json("diff", pair.first, pair.second)
    assert (found["reproduces"], found["run_id"], found["verdict"]) == (pair.first, pair.second, "DIVERGED")
    assert found["first_divergence"]["what"] == "epoch 2"
    assert (found["first_divergence"]["elements"], found["first_divergence"]["max_abs"]) == (12, None)
    assert found["code"]["changed"] == ["train.py"]
    assert found["code"]["left"] != found["code"]["right"]
    assert found["environment"]["changes"] == [] and found["environment"]["left"] == found["environment"]["right"]
    assert [(data["name"], data["equal"]) for data in found["data"]] == [("in", True)]
    assert (found["params"], found["execution"]) == ({}, {})
    assert found["outputs"] == [{"path": "metrics.json", "how": "differs"}]
    checkpoints = found["checkpoints"]
    assert (checkpoints["compared"], checkpoints["equal"], checkpoints["first"]) == (3, 2, "epoch 2")
    assert (checkpoints["only_left"], checkpoints["only_right"]) == ([], [])
    tensors = found["tensors"]
    assert (tensors["tensors"], tensors["differing"], tensors["first"]) == (2, 1, "layer.weight")
    assert [(row["name"], row["how"]) for row in tensors["rows"]] == [
        ("layer.steps", "equal"), ("layer.weight", "differs"),
    ]  # fmt: skip
    assert not found["values"]


def test_no_object_of_a_checkpoint_is_read(pair: Pair, without_checkpoints: Path) -> None:
    """Of runs; of two checkpoints, only what is not a tensor: that it differs is said, not where."""
    option = ("--registry", str(without_checkpoints))
    assert pair.json("diff", pair.first, pair.second, *option) == pair.json("diff", pair.first, pair.second)
    said = pair.reprokit("diff", pair.first, pair.second, *option).stdout
    assert "layer.weight  F64 [4, 3]  differs" in said
    assert said.endswith("DIVERGED; from metadata alone, --tensors says by how much\n")
    found = pair.json("diff", f"{pair.first}@epoch=1", f"{pair.first}@epoch=2", *option)
    assert (found["state"], found["equal"], found["tensors"]["differing"]) == (None, False, 2)
    missing = pair.reprokit("diff", pair.first, pair.second, "--tensors", *option, expect=10).stderr
    assert "model.safetensors.index.json of t/model@" in missing and "is missing from" in missing


def test_values_are_read_when_they_are_asked_for(pair: Pair) -> None:
    found = pair.json("diff", pair.first, pair.second, "--tensors")
    row = found["tensors"]["rows"][1]
    assert row["distance"]["tensor"] == "layer.weight"
    assert row["distance"]["differing"] == 12
    assert row["distance"]["max_abs"] == found["first_divergence"]["max_abs"] == pytest.approx(9e-10, rel=1e-6)
    assert row["distance"]["ulp"] > 0 and len(row["distance"]["index"]) == 2
    assert found["values"]
    said = pair.reprokit("diff", pair.first, pair.second, "--tensors").stdout
    assert "layer.weight [4, 3], 12 of 12 elements differ, max |Δ| 9e-10 at [" in said


def test_the_lines_of_the_code_are_shown(pair: Pair) -> None:
    found = pair.json("diff", pair.first, pair.second, "--content")
    lines = found["code"]["content"]["train.py"]
    assert "-    pass" in lines and f"+    {_CHANGE}" in lines
    assert f"+    {_CHANGE}" in pair.reprokit("diff", pair.first, pair.second, "--content").stdout


def test_two_checkpoints_of_one_run_and_of_two(pair: Pair) -> None:
    found = pair.json("diff", f"{pair.first}@epoch=0", f"{pair.first}@epoch=1", "--tensors")
    assert [(found[side]["facts"]["run"], found[side]["facts"]["epoch"]) for side in ("left", "right")] == [
        (pair.first, 0), (pair.first, 1),
    ]  # fmt: skip
    assert {row["name"]: row["how"] for row in found["tensors"]["rows"]} == {
        "layer.steps": "differs", "layer.weight": "differs",
    }  # fmt: skip
    steps = next(row for row in found["tensors"]["rows"] if row["name"] == "layer.steps")
    assert (steps["distance"]["max_abs"], steps["distance"]["ulp"]) == (1, None)
    assert "epoch" in found["state"]
    assert found["metrics"]["loss"]["left"] != found["metrics"]["loss"]["right"]
    same = pair.json("diff", f"{pair.first}@epoch=1", f"{pair.second}@epoch=1")
    assert (same["equal"], same["state"], same["tensors"]["differing"]) == (True, [], 0)
    said = pair.reprokit("diff", f"{pair.first}@epoch=1", f"{pair.second}@epoch=1").stdout
    assert "equal in everything that a state digest covers" in said


def test_tied_weights_that_were_untied_are_named(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    weight = np.arange(6, dtype="<f4")
    tied = make(registry, {"a": weight, "b": weight}, aliases={"head": "a"})
    other = make(registry, {"a": weight, "b": weight}, aliases={"head": "b"})
    loose = make(registry, {"a": weight, "b": weight, "head": weight})
    moved = diff_checkpoints(tied, other)
    assert (moved.equal, moved.tensors.differing) == (False, 0)
    assert moved.plain()["aliases"] == {"model": {"head": {"left": "a", "right": "b"}}}
    untied = diff_checkpoints(tied, loose)
    assert untied.plain()["aliases"] == {"model": {"head": {"left": "a"}}}
    assert [(row.name, row.how) for row in untied.tensors.unequal] == [("head", "only right")]


def test_versions_of_checkpoints_are_compared_as_such_and_their_files_on_demand(pair: Pair) -> None:
    record = pair.json("show", pair.first)
    one, other = (f"t/model@{checkpoint['top_hash']}" for checkpoint in record["checkpoints"][:2])
    assert pair.json("diff", one, other) == pair.json("diff", f"{pair.first}@epoch=0", f"{pair.first}@epoch=1")
    assert pair.json("diff", one, f"{pair.first}@epoch=0")["equal"]
    assert pair.json("diff", one, other, "state.json")["changed"] == ["state.json"]
    files = pair.json("diff", f"{pair.first}@epoch=0", f"{pair.first}@epoch=1", "--content")
    assert "model/layer.trainable.safetensors" in files["changed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FIRST", "SECOND@epoch=1"), "SECOND@epoch=1 is a checkpoint or package: only like is compared with like."),
        (("FIRST", "t/in"), "FIRST is a run, t/in is a checkpoint or package: only like is compared with like."),
        (("FIRST@last", "t/in"), "t/in is no checkpoint, but what it is compared with is one."),
        (("FIRST", "FIRST"), "FIRST and FIRST are one run, FIRST: it equals itself, which shows nothing."),
        (("FIRST", "SECOND", "train.py"), "Files are compared between versions, not between runs"),
        (("FIRST@last", "SECOND@last", "state.json", "--tensors"), "--tensors compares checkpoints, not the files"),
        (("t/in", "t/in", "--tensors"), "--tensors compares checkpoints, not the files of versions."),
    ],
)
def test_what_cannot_be_compared_is_named(pair: Pair, arguments: tuple[str, ...], message: str) -> None:
    def named(text: str) -> str:
        return text.replace("FIRST", pair.first).replace("SECOND", pair.second)

    assert named(message) in pair.reprokit("diff", *map(named, arguments), expect=2).stderr


def test_params_metrics_data_and_execution_that_differ_are_said_with_both_values(project: Project) -> None:
    project.write("recipe.yaml", RECIPE + "tolerance: {weights: {atol: 1.0e-3}}\n")
    project.commit()
    first = project.json("run", "recipe.yaml")
    (project.base / "inputs" / "1.txt").write_text("1.0001\n")
    project.build()
    project.write("recipe.yaml", RECIPE.replace("seed: 7", "seed: 7, inputs: off"))
    project.commit()
    second = project.json("run", "recipe.yaml", "-p", "rate=0.1000001")
    found = project.json("diff", first["run_id"], second["run_id"])
    assert found["params"] == {"rate": {"left": 0.1, "right": 0.1000001}}
    assert found["execution"] == {"inputs": {"left": "warn", "right": "off"}}
    assert [(data["equal"], data["changed"]) for data in found["data"]] == [(False, ["1.txt"])]
    assert found["metrics"]["loss"] == {"left": first["metrics"]["loss"], "right": second["metrics"]["loss"]}
    assert found["values"], "a tolerance of weights is judged by values"
    assert found["first_divergence"]["max_abs"] > 0
    said = project.reprokit("diff", first["run_id"], second["run_id"]).stdout
    assert "rate  0.1 → 0.1000001" in said
    assert f"loss  {first['metrics']['loss']!r} → {second['metrics']['loss']!r}" in said


def test_of_runs_whose_tensors_are_equal_the_files_beside_them_are_named(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    for tensors, counted in (({}, False), ({"w": np.ones(3)}, True)):
        one, other = (
            made(registry, run_id, [Save(tensors=tensors, more={"files": {"model.joblib": content}})])
            for run_id, content in (("20260102-030405-aaaaaa", b"one"), ("20260102-030406-bbbbbb", b"two"))
        )
        said = run_diff_text(diff_runs(one, other, registry=registry))
        assert "file         model.joblib  differs in epoch 0" in said
        assert ("0 of 1 differ in epoch 0" in said) is counted
        assert "of 0 differ" not in said


def test_runs_that_have_nothing_to_compare_are_said_to(tmp_path: Path) -> None:
    project = Project(tmp_path)
    registry = LocalRegistry(project.registry)
    hostile: dict[str, Any] = {"params": {"a\x1b[2J": "\x1b[31m"}, "metrics": {"only": 1.0, "loss": math.nan}}
    one = put_run(registry, "20260102-030405-aaaaaa", **hostile)
    other = put_run(registry, "20260102-030405-bbbbbb", status="failed", metrics={"loss": math.nan})
    found = project.json("diff", one.run_id, other.run_id)
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["metrics"] == {"only": {"left": 1.0}, "loss": {"left": "nan", "right": "nan"}}
    assert (found["tensors"], found["checkpoints"]["first"]) == (None, None)
    said = project.reprokit("diff", one.run_id, other.run_id).stdout
    assert "\x1b" not in said and "none to compare" in said and "loss  nan  equal" in said


@pytest.mark.parametrize("top_hash", ["\0", "../../reprokit-registry", "0" * 64])
def test_a_record_that_names_no_version_is_an_error_by_name_or_tells_what_it_can(tmp_path: Path, top_hash: str) -> None:
    project = Project(tmp_path)
    runs = [
        put_run(
            LocalRegistry(project.registry),
            f"20260102-030405-aaaaa{side}",
            checkpoints=[CheckpointEntry(package="t/m", top_hash=top_hash, state_digest=str(side), epoch=0)],
        ).run_id
        for side in range(2)
    ]
    if top_hash.isalnum():
        assert "its version was deleted" in str(project.json("diff", *runs)["comparisons"])
        return
    said = project.reprokit("diff", *runs, expect=4).stderr
    assert said.startswith("error: ") and "ersion" in said


@pytest.mark.parametrize(
    "lie", [{"metrics": [1]}, {"run": ["\x1b"]}, {"epoch": "\x1b"}, {"step": True}, {"colour": 1}, {"inputs": [{}]}]
)
def test_a_header_of_a_checkpoint_with_another_form_is_refused(tmp_path: Path, lie: dict[str, Any]) -> None:
    registry = LocalRegistry(tmp_path)
    honest = make(registry, {"a": np.ones(3)}).package.manifest
    facts = {**honest.user_meta["reprokit"], **lie}
    lying = Manifest.make(honest.entries, user_meta={"reprokit": facts})
    with pytest.raises(DataMismatchError, match=r"^What the header of t/m@\w{8} says of it is malformed: "):
        diff_checkpoints(*(Checkpoint(Package("t/m", manifest, registry)) for manifest in (honest, lying)))


def test_names_in_a_checkpoint_are_anybodys(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    honest = make(registry, {"a\x1b[2J": np.ones(3)}, framework="torch").package.manifest
    facts = {**honest.user_meta["reprokit"], "run": "\x1b[2J", "batch": 10**18}
    lying = Manifest.make((make(registry, {"b": np.ones(3)}).package.manifest).entries, user_meta={"reprokit": facts})
    found = diff_checkpoints(*(Checkpoint(Package("t/m", manifest, registry)) for manifest in (honest, lying)))
    said = checkpoint_diff_text(found)
    assert "\x1b" not in said and f"batch {10**18}" in said
    assert [(row.how, row.renamed) for row in found.tensors.rows] == [("renamed", "b")]
