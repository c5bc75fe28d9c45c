"""Whoever may write to a registry can publish another record: what it claims is held against what it points to."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.record_check import contradictions, stored_digest
from reprokit.core.canonical_json import canonical
from reprokit.core.refs import PackageRef
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Record
from tests.conftest import Project


class _Forger:
    """Has the right to write, and publishes records and checkpoints whose hashes are all valid."""

    def __init__(self, project: Project) -> None:
        self.registry = LocalRegistry(project.registry)
        self.runs = RunStore(self.registry)

    def load(self) -> StoredRun:
        return self.runs.load(next(iter(self.runs.ids())))

    def publish(self, name: str, old: Manifest, changed: dict[str, bytes], meta: dict[str, Any]) -> Manifest:
        entries = {entry.logical_key: entry for entry in old.entries}
        with self.registry.staging() as sink:
            for key, data in changed.items():
                digest, size = sink.put_bytes(data)
                entries[key] = Entry(key, size, digest, entries[key].meta)
        manifest = Manifest.make(list(entries.values()), message=old.message, user_meta=meta)
        self.registry.publish(name, manifest)
        return manifest

    def record(self, record: Record, **changed: bytes) -> None:
        files = {name.replace("_", "."): data for name, data in changed.items()} | {"record.json": record.encode()}
        self.publish(f"runs/{record.run_id}", self.load().manifest, files, meta_of(record.summary()))

    def checkpoint(self, epoch: int) -> tuple[Checkpoint, int]:
        record = self.load().record
        at = next(at for at, one in enumerate(record.checkpoints) if one.epoch == epoch)
        entry = record.checkpoints[at]
        return Checkpoint(Package.open(PackageRef(entry.package, hash=entry.top_hash), registry=self.registry)), at


@pytest.fixture
def forger(project: Project) -> _Forger:
    project.reprokit("run", "recipe.yaml", "-q")
    return _Forger(project)


def refused(project: Project, run_id: str) -> str:
    """Return what `reproduce` says, which executes nothing: there is no other run."""
    said = project.reprokit("reproduce", run_id, expect=4)
    assert f"The record of run {run_id} is not borne out, so nothing of it was executed: " in said.stderr
    assert f"`reprokit verify {run_id}` says all that is wrong." in said.stderr
    assert RunStore(LocalRegistry(project.registry)).ids()[0] == run_id
    return said.stderr


def test_a_metric_that_was_edited_in_the_record_is_found(project: Project, forger: _Forger) -> None:
    record = forger.load().record
    forger.record(msgspec.structs.replace(record, metrics={"loss": 0.001}))
    assert "other metrics than the finished record before it; and 1 more." in refused(project, record.run_id)
    assert len(forger.runs.ids()) == 1
    found = contradictions(forger.load(), None, forger.registry)[-1]
    assert found[0] == "metric loss" and found[1].startswith("the record says 0.001, the run logged 0.")


def test_one_that_was_edited_everywhere_is_not_what_comes_out(project: Project, forger: _Forger) -> None:
    record = forger.load().record
    logged = b"".join(canonical({"step": None, "time": 1.0, "values": {"loss": 0.001}}) + b"\n" for _ in range(3))
    forger.record(msgspec.structs.replace(record, metrics={"loss": 0.001}), metrics_jsonl=logged)
    assert "other metrics, metrics.jsonl than the finished record before it" in refused(project, record.run_id)


def test_an_epochs_metric_that_was_edited_is_found(project: Project, forger: _Forger) -> None:
    record = forger.load().record
    edited = [*record.checkpoints]
    edited[1] = msgspec.structs.replace(edited[1], metrics={"loss": 0.001})
    forger.record(msgspec.structs.replace(record, checkpoints=edited))
    assert "nothing of it was executed: epoch 1: loss is 0.001 in the record, and " in refused(project, record.run_id)
    said = project.reprokit("verify", record.run_id, expect=4).stdout
    assert "record.json: epoch 1: loss is 0.001 in the record, and " in said


def test_no_run_takes_code_or_environment_of_a_record_that_is_not_borne_out(project: Project, forger: _Forger) -> None:
    forged = forger.load().record
    other = project.json("run", "recipe.yaml")["run_id"]
    forger.record(msgspec.structs.replace(forged, metrics={"loss": 0.001}))
    for what in ("code", "env"):
        said = project.reprokit("reproduce", other, "--with", f"{what}={forged.run_id}", expect=4).stderr
        assert f"The record of run {forged.run_id} is not borne out, so nothing of it was executed: " in said
    said = project.reprokit("env", "check", forged.run_id, "--env", "exact", expect=4).stderr
    assert f"The record of run {forged.run_id} is not borne out" in said
    said = project.reprokit("env", "build", forged.run_id, expect=4).stderr
    assert f"The record of run {forged.run_id} is not borne out" in said
    forger.record(msgspec.structs.replace(forged, metrics={"loss": 0.001}, status="interrupted"))
    said = project.reprokit("resume", forged.run_id, expect=4).stderr
    assert f"The record of run {forged.run_id} is not borne out, so nothing of it was executed: " in said


@pytest.mark.parametrize("dropped", [False, True])
def test_weights_that_are_not_those_of_their_digest_are_found(project: Project, forger: _Forger, dropped: bool) -> None:
    """The version claims the honest state digest, and the tensors' own digests, and holds other bytes."""
    checkpoint, at = forger.checkpoint(1)
    manifest, record = checkpoint.package.manifest, forger.load().record
    assert stored_digest(checkpoint) == record.checkpoints[at].state_digest
    stored = checkpoint.stored("layer.weight")
    data = bytearray(checkpoint.package.entry(stored.key).read())
    weights = np.frombuffer(data, "<f8", 12, stored.offset)
    weights[0] = np.nextafter(weights[0], 9)
    name = checkpoint.package.name
    forged = forger.publish(name, manifest, {stored.key: bytes(data)}, dict(manifest.user_meta))
    edited = [*record.checkpoints]
    edited[at] = msgspec.structs.replace(edited[at], top_hash=forged.top_hash, dropped=dropped)
    again = project.json("reproduce", record.run_id)["run_id"]
    forger.record(msgspec.structs.replace(record, checkpoints=edited))
    assert "is not borne out, so nothing" in project.reprokit("reproduce", record.run_id, expect=4).stderr
    verdict = project.json("diff", record.run_id, again)
    assert verdict["verdict"] == "DIVERGED"
    assert verdict["first_divergence"]["epoch"] == 1
    found = "record: epoch 1: what the original stored has the state digest "
    assert any(cause.startswith(found) for cause in verdict["causes"][:2])
    if dropped:
        return
    said = project.reprokit("verify", record.run_id, expect=4).stdout
    assert "layer.weight in model/layer.trainable.safetensors of t/model@" in said
    stolen = f"t/model@{forged.top_hash}"
    assert "is not what the version says" in project.reprokit("checkpoint", "get", stolen, "out", expect=4).stderr


def test_a_record_that_names_another_runs_checkpoint_is_found(project: Project, forger: _Forger) -> None:
    record = forger.load().record
    other = project.json("run", "recipe.yaml")
    edited = [*record.checkpoints]
    edited[0] = msgspec.structs.replace(edited[0], top_hash=other["checkpoints"][0]["top_hash"])
    forger.record(msgspec.structs.replace(record, checkpoints=edited))
    said = project.reprokit("reproduce", record.run_id, expect=4).stderr
    assert f"executed: epoch 0: run is {record.run_id} in the record, and {other['run_id']}" in said


def test_an_output_that_was_exchanged_is_found(project: Project, forger: _Forger) -> None:
    stored = forger.load()
    (facts,) = stored.record.outputs
    kept = forger.registry.read_object(stored.manifest["outputs/metrics.json"], what="metrics.json")
    other = kept[:-2] + (b"1" if kept[-2:-1] == b"2" else b"2") + kept[-1:]
    assert (len(other), json.loads(other).keys()) == (facts.size, {"loss"})
    forger.publish(
        f"runs/{stored.record.run_id}", stored.manifest, {"outputs/metrics.json": other},
        dict(stored.manifest.user_meta),
    )  # fmt: skip
    said = refused(project, stored.record.run_id)
    assert "executed: metrics.json: what is kept of it is not what the record says" in said


def test_metrics_that_are_no_numbers_are_kept_and_equal_themselves(project: Project) -> None:
    project.hook('reprokit.log(bad=float("nan"), worse=float("-inf"))')
    record = project.json("run", "recipe.yaml")
    assert record["metrics"]["bad"] == "nan"
    assert record["metrics"]["worse"] == "-inf"
    assert "bad=nan" in project.reprokit("show", "latest").stdout
    assert project.json("reproduce", "latest")["verdict"] == "BITWISE"


def test_a_metric_that_is_the_time_diverges_until_it_is_declared(project: Project) -> None:
    project.hook("reprokit.log(seconds=time.time())")
    project.reprokit("run", "recipe.yaml", "-q")
    verdict = project.json("reproduce", "latest", expect=7)
    assert verdict["verdict"] == "DIVERGED"
    assert verdict["first_divergence"]["what"] == "metric seconds"
    assert "such as the time" in verdict["explanations"][0]["why"]
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", recipe + "tolerance: {metrics: {seconds: ignore}}\n")
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    assert project.json("reproduce", "latest")["verdict"] == "BITWISE"


def test_a_declared_metric_beyond_its_tolerance_diverges_whatever_the_tensors_do(project: Project) -> None:
    project.hook("reprokit.log(share=float(os.times().elapsed))")
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", recipe + "tolerance: {metrics: {share: 1.0e-9}}\n")
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    assert project.json("reproduce", "latest", expect=7)["verdict"] == "DIVERGED"


def test_a_checkpoint_that_was_deleted_leaves_its_digest(project: Project, forger: _Forger) -> None:
    record = forger.load().record
    deleted = record.checkpoints[1]
    project.reprokit("rm", f"{deleted.package}@{deleted.top_hash}", "--force")
    project.reprokit("gc", "--grace", "0")
    again = project.json("reproduce", record.run_id)
    assert again["verdict"] == "BITWISE"
    said = next(one["detail"] for one in again["comparisons"] if one["what"] == "checkpoints")
    assert said == "3 of 3 equal in every bit; 1 by its digest alone, for its version was deleted"
    verdict = project.json("reproduce", record.run_id, "--with", "param.rate=0.2", expect=7)
    assert verdict["first_divergence"]["tensor"] == "layer.weight"
    other = verdict["run_id"]
    assert project.json("diff", record.run_id, other)["verdict"] == "DIVERGED"
    first = record.checkpoints[0]
    project.reprokit("rm", f"{first.package}@{first.top_hash}", "--force")
    project.reprokit("gc", "--grace", "0")
    compared = project.json("diff", record.run_id, other, "--tensors")
    assert (compared["verdict"], compared["tensors"]) == ("DIVERGED", None)
