"""Whoever may write to a registry can publish another record: what it claims is held against what it points to."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.record_check import (
    check_alike,
    check_record,
    contradictions,
    same_number,
    stored_digest,
    unlike,
)
from reprokit.core.canonical_json import canonical
from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.bounds import LeftOut
from reprokit.schema.facts import meta_of
from reprokit.schema.lock import CodeIdentity, DataPin
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Record
from tests.checkpoint.making import Files, files_of, make, store
from tests.comparison.making import Save, locked, made
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


# ── without a run ─────────────────────────────────────────────────────────────────────────────────────────────────────

RUN = "20260102-030405-aaaaaa"
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's tree of no files
LOCK = locked(recipe={"outputs": ["a", "b"]}, code=CodeIdentity(tree=EMPTY))


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def honest(registry: LocalRegistry, loss: float = 0.5, **more: Any) -> StoredRun:
    """Return a run of a lock with three checkpoints, two outputs and what it logged."""
    saves = [Save(metrics={"loss": 1.0 - epoch / 4}) for epoch in range(3)]
    return made(registry, RUN, saves, lock=LOCK, outputs={"a": b"1", "b": b"2"}, logged=[{"loss": loss}], **more)


def lied(run: StoredRun, **changed: Any) -> StoredRun:
    return StoredRun(msgspec.structs.replace(run.record, **changed), run.manifest)


def test_a_record_that_is_not_borne_out_is_refused_with_what_is_wrong_first_and_how_much_more_is(
    registry: LocalRegistry,
) -> None:
    run = honest(registry)
    check_record(run, LOCK, registry)
    forged = [msgspec.structs.replace(entry, batch=7) for entry in run.record.checkpoints]
    for count, more in ((1, ""), (2, "; and 1 more"), (3, "; and 2 more")):
        checkpoints = [*forged[:count], *run.record.checkpoints[count:]]
        with pytest.raises(DataMismatchError) as caught:
            check_record(lied(run, checkpoints=checkpoints), LOCK, registry)
        assert caught.value.message == (
            f"The record of run {RUN} is not borne out, so nothing of it was executed: epoch 0, batch 7: batch is 7 in "
            f"the record, and None in the version{more}."
        )
        hint = f"`reprokit verify {RUN}` says all that is wrong. Get the run anew from where it was made."
        assert caught.value.hint == hint


def test_headers_of_checkpoints_are_verified_where_it_is_to_be_thorough(registry: LocalRegistry) -> None:
    """What is stored as a version says now what the record was made to say, under the hash that it had."""
    run = honest(registry)
    entry = run.record.checkpoints[1]
    path = registry.manifest_path(entry.top_hash)
    packed = path.read_bytes()
    text = gzip.decompress(packed).replace(b'"metrics": {"loss": 0.75}', b'"metrics": {"loss": 0.25}')
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    path.chmod(0o644)
    path.write_bytes(packed[:10] + (packer.compress(text) + packer.flush())[10:])
    checkpoints = [*run.record.checkpoints]
    checkpoints[1] = msgspec.structs.replace(entry, metrics={"loss": 0.25})
    told = lied(run, checkpoints=checkpoints)
    fresh = LocalRegistry(registry.root)
    assert contradictions(told, LOCK, fresh, thorough=False) == []
    with pytest.raises(DataMismatchError, match=f"^Manifest {entry.top_hash[:12]} of .* is corrupt"):
        contradictions(told, LOCK, fresh)


@pytest.mark.parametrize(
    ("told", "count", "untold"),
    [
        ("ab", None, ""), ("a", None, "b"), ("", None, "ab"), ("", 2, ""), ("", 3, ""), ("", 1, "ab"), ("a", 1, ""),
        ("a", 0, "b"), ("ab", 0, ""),
    ],
)  # fmt: skip
def test_outputs_that_the_record_does_not_speak_of_are_no_more_than_it_says_that_it_left_out(
    registry: LocalRegistry, told: str, count: int | None, untold: str
) -> None:
    run = honest(registry)
    left = [LeftOut(what=what, count=9, digest="0" * 64) for what in ("undeclared",)]
    if count is not None:
        left.append(LeftOut(what="outputs", count=count, digest="0" * 64))
    outputs = [output for output in run.record.outputs if output.path in told]
    found = contradictions(lied(run, outputs=outputs, left_out=left), None, registry)
    why = "it is kept as an output, and the record does not speak of it"
    assert [what for what, how in found if how == why] == list(untold)


def test_a_checkpoint_of_another_lock_and_of_other_inputs_is_found_with_each_input(registry: LocalRegistry) -> None:
    pins = [DataPin(name=name, package="t/in", top_hash="6" * 64, path=name) for name in "hgfedcba"]
    run = made(registry, RUN, [Save()], lock=locked(data=pins))
    assert [how for what, how in contradictions(run, None, registry) if what == "epoch 0"] == []
    bare = contradictions(lied(run, data=[], lock_hash="0" * 64), None, registry)
    assert [how for what, how in bare if what == "epoch 0"] == [
        f"lock_hash is {'0' * 64} in the record, and {run.record.lock_hash} in the version",
        *(f"it was made from another {name} than the record says" for name in "abcdefgh"),
    ]


def test_a_metric_that_the_record_or_the_version_alone_has_is_found(registry: LocalRegistry) -> None:
    run = honest(registry)
    told = [msgspec.structs.replace(entry, metrics={"more": 1.0}) for entry in run.record.checkpoints[:1]]
    found = contradictions(lied(run, checkpoints=told), LOCK, registry)
    assert [how for what, how in found if what == "epoch 0"] == [
        "more is 1.0 in the record, and None in the version",
        "loss is None in the record, and 1.0 in the version",
    ]


def test_what_was_logged_is_held_against_its_digests_if_it_is_no_longer_than_what_is_compared(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = honest(registry)
    told = lied(run, logged={"loss": "0" * 64})
    size = run.manifest["metrics.jsonl"].size
    wrong = ("metric loss", "what the run logged of it is not what the record says")
    for limit, found in ((size, [wrong]), (size - 1, [])):
        for place in ("comparison.record_check", "runs.logged"):
            monkeypatch.setattr(f"reprokit.{place}.MAX_SERIES", limit)
        assert contradictions(told, LOCK, registry) == found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1.0, 1.0, True), (1.0, 1, True), (1.0, 2.0, False), (None, None, True), (None, 1.0, False), (0.0, None, False),
        (math.nan, math.nan, True), (math.nan, 1.0, False), (1.0, math.nan, False), (math.nan, None, False),
        (None, math.nan, False), (math.nan, 1, False), (math.inf, math.inf, True), (math.inf, -math.inf, False),
    ],
)  # fmt: skip
def test_numbers_are_the_same_if_they_are_equal_or_neither_is_one(one: Any, other: Any, same: bool) -> None:
    assert same_number(one, other) is same


def test_versions_of_the_same_entries_are_alike_wherever_these_lie(registry: LocalRegistry) -> None:
    one = make(registry, {"w": np.arange(4.0)})
    manifest = one.package.manifest
    moved = Checkpoint(Package(one.package.name, manifest.placed(["elsewhere"] * len(manifest.entries)), registry))
    shutil.rmtree(registry.root / "packs")  # nothing of either is read
    for left, right in ((one, one), (one, moved), (moved, one)):
        assert unlike(left, right) is None
        check_alike(left, right)


def spaced(files: Files, key: str) -> Files:
    """Return the same values of a file of JSON in other bytes."""
    data, meta = files[key]
    return {**files, key: (json.dumps(json.loads(data), indent=1).encode(), meta)}


def test_versions_that_spell_the_same_in_other_bytes_are_alike(registry: LocalRegistry) -> None:
    files = files_of({"w": np.arange(4.0), "big": np.arange(200_000.0), "optimizer:m": np.ones(3)})
    one, other = store(registry, files), store(registry, spaced(files, "model.safetensors.index.json"))
    assert one.facts.state_digest == other.facts.state_digest == stored_digest(one) == stored_digest(other)
    assert unlike(one, other) is None


@pytest.mark.parametrize("key", ["model/trainable.safetensors", "model/big.safetensors"])
def test_a_file_that_says_something_else_of_its_tensors_has_no_digest(registry: LocalRegistry, key: str) -> None:
    files = files_of({"w": np.arange(4.0), "big": np.arange(200_000.0)})
    data, meta = files[key]
    lying = store(registry, {**files, key: (data.replace(b'"F64"', b'"I64"'), meta)})
    with pytest.raises(DataMismatchError, match=f"^{key} of .* does not hold what the version's metadata says of it"):
        stored_digest(lying)


def test_of_two_versions_what_is_said_alike_of_other_bytes_is_read_and_nothing_else(registry: LocalRegistry) -> None:
    tensors = {"w": np.arange(4.0), "v": np.ones(3)}
    files = files_of(tensors, state={"a": 1}, files={"left.txt": b"1"})
    honest_ = store(registry, files)
    (key,) = (name for name in files if name.endswith(".safetensors"))
    data = bytearray(files[key][0])
    data[-1] ^= 1
    lying = store(registry, {**files, key: (bytes(data), files[key][1])})
    for left, right in ((honest_, lying), (lying, honest_)):
        with pytest.raises(DataMismatchError, match=f"^[vw] in {key} of {lying.package} is not what the version says"):
            check_alike(left, right)
    other = make(registry, {**tensors, "w": np.zeros(4)}, state={"a": 2}, files={"right.txt": b"1"})
    shutil.rmtree(registry.root / "packs")
    for left, right in ((honest_, other), (other, honest_)):
        check_alike(left, right)


class _Asked(LocalRegistry):
    """A registry that notes which versions it was asked to have ready, as one far away fetches them all at once."""

    asked: list[str]

    def fetch_versions(self, top_hashes: Iterable[str]) -> None:
        self.asked += top_hashes


def test_all_versions_that_will_be_read_are_asked_for_at_once(registry: LocalRegistry) -> None:
    run = honest(registry)
    first, second, third = run.record.checkpoints
    told = lied(run, checkpoints=[first, msgspec.structs.replace(second, dropped=True), third])
    asked = _Asked(registry.root)
    asked.asked = []
    contradictions(told, LOCK, asked, thorough=False)
    assert asked.asked == []
    contradictions(told, LOCK, asked)
    assert sorted(asked.asked) == sorted([first.top_hash, third.top_hash, run.manifest.top_hash])


def test_a_finished_record_that_was_replaced_is_found(registry: LocalRegistry) -> None:
    before, after = honest(registry), honest(registry, 0.25, fresh=False)
    versions = f"{before.manifest.top_hash[:12]} → {after.manifest.top_hash[:12]}"
    said = f"{versions}: other metrics, metrics.jsonl than the finished record before it"
    assert contradictions(after, LOCK, registry, thorough=False) == [("record", said)]


def test_a_header_that_says_something_else_of_the_run_is_found(registry: LocalRegistry) -> None:
    run = honest(registry)
    wrong = ("summary", "the header of the record's version says something else of the run")

    def found(record: Record, **header: Any) -> list[tuple[str, str]]:
        meta = meta_of(msgspec.structs.replace(run.record.summary(), **header))
        manifest = Manifest.make(list(run.manifest.entries), message=None, user_meta=meta)
        return contradictions(StoredRun(record, manifest), LOCK, registry, thorough=False)

    assert found(run.record) == []
    for header in ({"metrics": {"loss": 0.25}}, {"run": "20260102-030406-bbbbbb"}, {"status": "failed"}, {"name": "x"}):
        assert found(run.record, **header) == [wrong]
    stopped = msgspec.structs.replace(run.record, status="interrupted", metrics={})  # completed when it was read
    assert found(stopped, status="running") == []
    assert found(stopped, status="running", run="20260102-030406-bbbbbb") == [wrong]
    bare = Manifest.make(list(run.manifest.entries), message=None, user_meta={})
    assert contradictions(StoredRun(run.record, bare), LOCK, registry, thorough=False) == [wrong]
