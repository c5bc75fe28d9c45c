"""Two runs side by side, part by part: what each part says where it is equal, differs, or is on one side alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprokit.comparison.compare_runs import open_checkpoint
from reprokit.comparison.run_diff import CheckpointsDiff, Pair, RunDiff, diff_checkpoints, diff_runs
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import CodeIdentity, DataPin, EnvironmentLock, PipPackage, RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Execution
from reprokit.schema.record import ExecutionFacts, OutputFacts
from tests.checkpoint.making import make, store
from tests.comparison.making import Save, locked, made

ONE, OTHER = "20260102-030405-aaaaaa", "20260102-030405-bbbbbb"
UNSET = msgspec.UNSET


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def diffed(
    registry: LocalRegistry, left: dict[str, Any], right: dict[str, Any], *, content: bool = False, values: bool = False
) -> RunDiff:
    runs = (made(registry, run_id, **facts) for run_id, facts in ((ONE, left), (OTHER, right)))
    return diff_runs(*runs, registry=registry, content=content, values=values)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, 1.0, False),
        (1, True, False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (math.nan, UNSET, False),
        (UNSET, math.nan, False),
        (math.nan, "nan", False),
        (None, UNSET, False),
        ([1], [1], True),
    ],
)
def test_a_pair_of_values_is_equal_in_type_and_value(left: Any, right: Any, equal: bool) -> None:
    assert Pair(left=left, right=right).equal is equal


def test_params_execution_and_metrics_are_held_against_each_other_by_name(registry: LocalRegistry) -> None:
    found = diffed(
        registry,
        {"lock": locked(params={"a": 1, "same": 2, "gone": None}), "logged": [{"loss": 1.0, "nan": math.nan}]},
        {
            "lock": locked(params={"a": 1.0, "same": 2, "new": 3}, execution=Execution(seed=7, threads=2)),
            "logged": [{"loss": 1.0, "nan": math.nan, "more": 2.0}],
        },
    )
    assert found.params == {"a": Pair(left=1, right=1.0), "gone": Pair(left=None), "new": Pair(right=3)}
    assert found.execution == {"threads": Pair(left=1, right=2)}
    assert list(found.metrics) == ["loss", "nan", "more"]
    assert found.metrics["loss"] == Pair(left=1.0, right=1.0)
    assert found.metrics["more"] == Pair(right=2.0)
    plain = found.plain()
    assert plain["metrics"]["more"] == {"right": 2.0}
    assert (plain["verdict"], plain["reproduces"], plain["run_id"]) == (found.verdict.verdict, ONE, OTHER)
    assert plain["causes"] == [cause.text for cause in found.verdict.explanations]
    assert plain["execution"] == {"threads": {"left": 1, "right": 2}}


def test_a_parameter_is_unused_that_neither_run_used(registry: LocalRegistry) -> None:
    left, right = ({"lock": locked(params=dict.fromkeys("abcd", value))} for value in (1, 2))
    found = diffed(registry, {**left, "unused": ["a", "b"]}, {**right, "unused": ["b", "c"]})
    assert (list(found.params), found.unused) == (["a", "b", "c", "d"], ["b"])
    assert diffed(registry, {**left, "unused": ["a"]}, {**left, "unused": ["a"]}).unused == []


def test_without_locks_the_records_say_how_runs_were_executed(registry: LocalRegistry) -> None:
    facts = ExecutionFacts(seed=1, threads=1, determinism="strict", inputs="warn", layout="bind", params="api")
    other = msgspec.structs.replace(facts, seed=2)
    found = diffed(registry, {"execution": facts}, {"execution": other})
    assert found.execution == {"seed": Pair(left=1, right=2)}
    assert diffed(registry, {}, {"execution": facts}).execution["seed"] == Pair(right=1)
    assert (found.environment.left, found.environment.right, found.environment.changes) == (None, None, [])
    assert (found.code.left, found.code.right) == (None, None)
    assert found.data == []


def test_environments_are_told_by_their_locks_and_without_these_by_the_records(registry: LocalRegistry) -> None:
    def lock(version: str) -> RunLock:
        return locked(
            environment=EnvironmentLock(
                python="3.11.7",
                implementation="CPython",
                platform="linux-x86_64",
                pip=[PipPackage(name="numpy", version=version), PipPackage(name="same", version="1")],
            )
        )

    old, new = lock("1.0"), lock("2.0")
    found = diffed(registry, {"lock": old}, {"lock": new}).environment
    assert (found.left, found.right) == (old.environment.hash, new.environment.hash)
    assert [(row.name, row.kind, row.left, row.right) for row in found.changes] == [("numpy", "pip", "1.0", "2.0")]
    assert diffed(registry, {"lock": old}, {"lock": old}).environment.changes == []
    run = made(registry, ONE, lock=old)
    entries = [entry for entry in run.manifest.entries if entry.logical_key != "lock.json"]
    lockless = Manifest.make(entries, message=None, user_meta=run.manifest.user_meta)
    registry.publish(f"runs/{ONE}", lockless)
    left, right = RunStore(registry).load(ONE), made(registry, OTHER, lock=new)
    for sides, hashes in (
        ((left, right), (old.environment.hash, new.environment.hash)),
        ((right, left), (new.environment.hash, old.environment.hash)),
    ):
        one_lacks = diff_runs(*sides, registry=registry).environment
        assert (one_lacks.left, one_lacks.right, one_lacks.changes) == (*hashes, [])
    none = made(registry, OTHER)
    assert diff_runs(left, none, registry=registry).environment.right is None


def test_code_is_told_by_its_files_and_in_lines_on_demand(registry: LocalRegistry) -> None:
    tree = [locked(code=CodeIdentity(tree=digit * 40)) for digit in "cd"]
    ours = {"a.py": b"x = 1\n", "gone.py": b"1", "same.py": b"2"}
    theirs = {"a.py": b"x = 2\n", "new.py": b"1", "same.py": b"2"}
    sides = {"lock": tree[0], "code": ours}, {"lock": tree[1], "code": theirs}
    found = diffed(registry, *sides).code
    assert (found.left, found.right) == ("c" * 40, "d" * 40)
    assert (found.added, found.removed, found.changed, found.content) == (["new.py"], ["gone.py"], ["a.py"], {})
    lines = diffed(registry, *sides, content=True).code.content
    assert list(lines) == ["a.py"]
    assert lines["a.py"][-2:] == ["-x = 1", "+x = 2"]
    same = diffed(registry, {"lock": tree[0], "code": ours}, {"lock": tree[0], "code": ours}, content=True).code
    assert (same.left, same.right, same.added, same.removed, same.changed) == ("c" * 40, "c" * 40, [], [], [])


def test_a_file_of_the_code_that_has_another_mode_alone_is_said_to(registry: LocalRegistry) -> None:
    runs = [
        made(registry, run_id, lock=locked(code=CodeIdentity(tree=digit * 40)), code={"a.sh": b"true\n"})
        for run_id, digit in ((ONE, "c"), (OTHER, "d"))
    ]
    entries = [
        Entry(entry.logical_key, entry.size, entry.digest, {"mode": "755"} if entry.logical_key == "code/a.sh" else {})
        for entry in runs[1].manifest.entries
    ]
    registry.publish(f"runs/{OTHER}", Manifest.make(entries, message=None, user_meta=runs[1].manifest.user_meta))
    found = diff_runs(runs[0], RunStore(registry).load(OTHER), registry=registry, content=True)
    assert (found.code.changed, found.code.content) == (["a.sh"], {"a.sh": ["nothing but its mode"]})


def pinned(name: str, package: str, registry: LocalRegistry, files: dict[str, bytes] | None, **facts: Any) -> DataPin:
    top_hash = "9" * 64
    if files is not None:
        with registry.staging() as sink:
            entries = [Entry(key, len(data), sink.put_bytes(data)[0]) for key, data in files.items()]
        manifest = Manifest.make(entries)
        registry.publish(package, manifest)
        top_hash = manifest.top_hash
    return DataPin(name=name, package=package, top_hash=top_hash, path=name, **facts)


def test_inputs_are_told_by_name_with_the_entries_that_differ(registry: LocalRegistry) -> None:
    ours = [
        pinned("same", "t/same", registry, {"x": b"1"}),
        pinned("in", "t/in", registry, {"x": b"1", "gone": b"2", "kept": b"3"}),
        pinned("lost", "t/lost", registry, None),
        pinned("left", "t/left", registry, {"x": b"1"}),
    ]
    theirs = [
        ours[0],
        pinned("in", "t/in", registry, {"x": b"2", "new": b"2", "kept": b"3"}),
        pinned("lost", "t/lost", registry, {"x": b"1"}),
        pinned("right", "t/right", registry, {"x": b"1"}),
    ]
    found = diffed(registry, {"lock": locked(data=ours)}, {"lock": locked(data=theirs)}).data
    told = {row.name: (row.equal, row.left, row.right, row.added, row.removed, row.changed) for row in found}
    assert list(told) == ["same", "in", "lost", "left", "right"]
    assert told["same"] == (True, str(ours[0]), str(ours[0]), [], [], [])
    assert told["in"] == (False, str(ours[1]), str(theirs[1]), ["new"], ["gone"], ["x"])
    assert told["lost"] == (False, str(ours[2]), str(theirs[2]), [], [], [])  # pulled without its data
    assert told["left"] == (False, str(ours[3]), None, [], [], [])
    assert told["right"] == (False, None, str(theirs[3]), [], [], [])


def test_outputs_are_told_by_their_digests(registry: LocalRegistry) -> None:
    ours = {"same": b"1", "changed": b"1", "left": b"1", "lost": b"1"}
    theirs = {"same": b"1", "changed": b"2", "right": b"1", "found": b"1"}
    gone = [
        [OutputFacts(path=path, missing=True) for path in paths] for paths in (("found", "never"), ("lost", "never"))
    ]
    unread = [OutputFacts(path="unread", size=1, compare="ignore")]  # of which no digest is known
    found = diffed(registry, {"outputs": ours, "told": gone[0] + unread}, {"outputs": theirs, "told": gone[1] + unread})
    assert {row.path: row.how for row in found.outputs} == {
        "same": "equal", "changed": "differs", "left": "only left", "right": "only right", "lost": "only left",
        "found": "only right", "never": "missing", "unread": "differs",
    }  # fmt: skip


def test_checkpoints_are_counted_and_the_first_that_differs_is_named(registry: LocalRegistry) -> None:
    def told(left: list[Save], right: list[Save]) -> CheckpointsDiff:
        return diffed(registry, {"saves": left}, {"saves": right}).checkpoints

    none = told([], [])
    assert (none.compared, none.equal, none.first, none.left, none.right) == (0, 0, None, None, None)
    same = told([Save(), Save()], [Save(), Save()])
    assert (same.compared, same.equal, same.first, same.left, same.right) == (2, 2, None, None, None)
    more = told([Save(), Save(), Save()], [Save(), Save(shift=1), Save(shift=1), Save()])
    assert (more.compared, more.equal, more.only_left, more.only_right) == (3, 1, [], ["epoch 3"])
    assert more.first == "epoch 1"
    records = [RunStore(registry).load(run_id).record for run_id in (ONE, OTHER)]
    versions = [f"t/model@{record.checkpoints[1].top_hash}" for record in records]
    assert [more.left, more.right] == versions and versions[0] != versions[1]
    fewer = told([Save(), Save()], [Save()])
    assert (fewer.compared, fewer.only_left, fewer.only_right) == (1, ["epoch 1"], [])


def test_tensors_are_those_of_the_first_checkpoint_that_differs(registry: LocalRegistry) -> None:
    sides = {"saves": [Save(), Save()]}, {"saves": [Save(), Save(shift=0.5)]}
    found = diffed(registry, *sides)
    assert found.tensors is not None and not found.values
    assert [(row.name, row.how, row.distance) for row in found.tensors.rows] == [("w", "differs", None)]
    read = diffed(registry, *sides, values=True)
    assert read.values and read.tensors is not None and read.tensors.rows[0].distance is not None
    assert read.tensors.rows[0].distance.max_abs == 0.5
    assert diffed(registry, sides[0], sides[0]).tensors is None
    assert diffed(registry, sides[0], sides[0], values=True).values
    (_, second) = RunStore(registry).load(OTHER).record.checkpoints
    runs = [made(registry, ONE, **sides[0]), made(registry, OTHER, **sides[1])]
    registry.manifest_path(runs[1].record.checkpoints[1].top_hash).unlink()
    gone = diff_runs(*runs, registry=registry)
    assert (gone.tensors, gone.checkpoints.first) == (None, "epoch 1")
    assert second.top_hash != runs[1].record.checkpoints[1].top_hash


def test_where_weights_are_tolerated_values_are_read_and_it_is_said(registry: LocalRegistry) -> None:
    lock = locked(recipe={"tolerance": {"weights": {"atol": 1.0}}, "outputs": []})
    found = diffed(registry, {"lock": lock, "saves": [Save()]}, {"lock": lock, "saves": [Save(shift=0.5)]})
    assert found.verdict.verdict == "TENSOR-TOLERANCE" and found.values
    assert found.tensors is not None and found.tensors.rows[0].distance is None
    equal = diffed(registry, {"lock": lock, "saves": [Save()]}, {"lock": lock, "saves": [Save()]})
    assert equal.verdict.verdict == "BITWISE" and not equal.values


def test_of_two_checkpoints_state_names_and_metrics_are_told(registry: LocalRegistry) -> None:
    weight = np.arange(3.0)
    one, same, other = (
        make(registry, {"w": weight}, state={"epoch": epoch, "b": {"c": epoch}, "same": 1}) for epoch in (0, 0, 1)
    )
    found = diff_checkpoints(one, other)
    assert (found.equal, found.state, found.aliases, found.values) == (False, ["epoch", "b.c"], {}, False)
    assert found.tensors.differing == 0
    assert (found.left.name, found.left.top_hash) == ("t/model", one.package.top_hash)
    assert (found.right.name, found.right.top_hash) == ("t/model", other.package.top_hash)
    assert found.right.facts == other.facts
    equal = diff_checkpoints(one, same, values=True)
    assert (equal.equal, equal.state, equal.aliases, equal.values) == (True, [], {}, True)
    many = [make(registry, {"w": weight}, state={str(n): side for n in range(30)}) for side in (0, 1)]
    assert diff_checkpoints(*many).state == [str(n) for n in range(20)]
    text = [make(registry, {"w": weight}, files={"model.txt": data}) for data in (b"1", b"2")]
    assert (diff_checkpoints(*text).state, diff_checkpoints(*text).equal) == ([], False)


def test_of_two_checkpoints_metrics_are_those_of_their_headers(registry: LocalRegistry) -> None:
    runs = [
        made(registry, run_id, [Save(metrics=metrics)]).record.checkpoints[0]
        for run_id, metrics in ((ONE, {"loss": 1.0, "same": 2.0}), (OTHER, {"loss": 1.5, "same": 2.0}))
    ]
    found = diff_checkpoints(*(open_checkpoint(entry, registry) for entry in runs))
    assert found.metrics == {"loss": Pair(left=1.0, right=1.5), "same": Pair(left=2.0, right=2.0)}
    assert found.plain()["metrics"]["loss"] == {"left": 1.0, "right": 1.5}


def test_what_says_another_digest_than_it_has_is_refused(registry: LocalRegistry) -> None:
    honest = make(registry, {"w": np.arange(3.0)})
    files = {
        entry.logical_key: (honest.package.entry(entry.logical_key).read(), entry.meta)
        for entry in honest.package.manifest.entries
    }
    key = next(key for key in files if key.endswith(".safetensors"))
    data = bytearray(files[key][0])
    data[-1] ^= 1
    lying = store(registry, {**files, key: (bytes(data), files[key][1])})
    with pytest.raises(DataMismatchError):
        diff_checkpoints(honest, lying)
