"""The lines of a comparison: what each part of two runs is said to be, and what follows from it for the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison import ladder
from reprokit.comparison.ladder import Side, Terms, compare
from reprokit.errors import NotFoundError, PurgedError
from reprokit.registry.local import LocalRegistry
from reprokit.schema.lock import CodeIdentity, DataPin, EnvironmentLock, RunLock
from reprokit.schema.recipe import Tolerance, WeightTolerance
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record
from reprokit.schema.verdict import Cause, Verdict
from tests.checkpoint.making import make
from tests.comparison.making import locked

ONE, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"
CODE = Cause(kind="code", what="code", text="code: a.py changed")
MACHINE = Cause(kind="machine", what="machine.cpu", text="machine: cpu one → other")
INPUT = Cause(kind="inputs", what="inputs./f", text="inputs: /f changed")


def saved(digest: str = "d", epoch: int | None = 0, **facts: Any) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash="0" * 64, state_digest=digest, epoch=epoch, **facts)


def output(path: str = "o", digest: str | None = "1", **facts: Any) -> OutputFacts:
    return OutputFacts(path=path, size=facts.pop("size", 1), digest=digest, **facts)


def gone(entry: CheckpointEntry) -> Checkpoint:
    raise NotFoundError(f"{entry.package} was deleted.")


def side(
    run_id: str = ONE,
    lock: RunLock | None = None,
    *,
    load: Callable[[CheckpointEntry], Checkpoint] = gone,
    listed: Callable[[CheckpointEntry], object] = lambda entry: entry.state_digest,
    read: Callable[[str], bytes] = lambda path: path.encode(),
    told: list[tuple[str, str]] | None = None,
    **facts: Any,
) -> Side:
    needed = {"name": "n", "status": "finished", "lock_hash": None, "code": None, "environment": None, "started": "s"}
    record = Record(run_id=run_id, **{**needed, "checkpoints": [saved()], **facts})
    return Side(record=record, lock=lock, load=load, listed=listed, output=read, contradictions=told or [])


def judged(
    left: Side, right: Side, *, causes: list[Cause] | None = None, atol: float = 0.0, rtol: float = 0.0, **terms: Any
) -> Verdict:
    tolerance = Tolerance(weights=WeightTolerance(atol=atol, rtol=rtol), metrics=terms.pop("metrics", {}))
    return compare(left, right, Terms(**{"tolerance": tolerance, "relaxed": [], **terms}), causes=causes or [])


def lines(verdict: Verdict) -> list[tuple[str, str, str]]:
    return [(line.what, line.result, line.detail) for line in verdict.comparisons]


def test_every_metric_has_a_line_that_says_how_it_compares() -> None:
    limits = {"any": "ignore", "same": 0.5, "never": 0.5, "near": 0.5, "far": 0.25, "lost": 9.0, "infinite": 1.0}
    left = {
        "same": 1.0,
        "near": 1.0,
        "far": 1.0,
        "any": 1.0,
        "lost": 1.0,
        "other": 1.0,
        "equal": 2.0,
        "infinite": math.inf,
    }
    right = {"same": 1.0, "near": 1.5, "far": 1.5, "any": 7.0, "found": 3.0, "other": 1 + 2**-40, "equal": 2.0,
             "infinite": math.inf}  # fmt: skip
    found = judged(side(metrics=left), side(OTHER, metrics=right), metrics=limits)
    assert lines(found) == [
        ("checkpoints", "match", "1 of 1 equal in every bit"),
        ("metric any", "ignored", "as the recipe declares"),
        ("metric same", "match", "1 → 1, allowed 0.5"),
        ("metric never", "missing", "declared, and neither run has it"),
        ("metric near", "tolerated", "1 → 1.5, allowed 0.5"),
        ("metric far", "differs", "1 → 1.5, allowed 0.25"),
        ("metric lost", "missing", "1 → none, allowed 9"),
        ("metric infinite", "match", "inf → inf, allowed 1"),
        ("metric other", "differs", "1 → 1.0000000000009095"),
        ("metric found", "missing", "none → 3"),
        ("metrics", "match", "3 of 10 equal"),
    ]
    assert found.verdict == "DIVERGED"
    assert found.first_divergence is not None
    assert (found.first_divergence.metric, found.first_divergence.how) == ("near", "1 → 1.5")


def test_metrics_of_checkpoints_are_told_where_they_differ_first_and_how_often() -> None:
    def at(**metrics: list[float | None]) -> list[CheckpointEntry]:
        return [
            saved(
                epoch=epoch, step=epoch * 5, metrics={n: v[epoch] for n, v in metrics.items() if v[epoch] is not None}
            )
            for epoch in range(3)
        ]

    left = side(checkpoints=at(a=[1.0, 2.0, 3.0], b=[1.0, 1.0, 1.0], c=[1.0, 1.0, 1.0], any=[1.0, 1.0, 1.0]))
    right = side(OTHER, checkpoints=at(a=[1.0, 2.5, 3.5], b=[1.0, 1.0, 9.0], c=[1.0, None, 1.0], any=[5.0, 5.0, 5.0]))
    found = judged(left, right, metrics={"a": 0.5, "any": "ignore"})
    assert lines(found)[1:4] == [
        ("metric a, by checkpoint", "tolerated", "2 → 2.5 at epoch 1 (and at 1 more)"),
        ("metric c, by checkpoint", "differs", "1 → none at epoch 1"),
        ("metric b, by checkpoint", "differs", "1 → 9 at epoch 2"),
    ]
    assert found.verdict == "DIVERGED"
    first = found.first_divergence
    assert first is not None and (first.metric, first.epoch, first.step) == ("a", 1, 5)
    within = judged(left, side(OTHER, checkpoints=at(a=[1.0, 2.5, 3.5], b=[1.0] * 3, c=[1.0] * 3)), metrics={
        "a": 0.5, "any": "ignore",
    })  # fmt: skip
    assert within.verdict == "TENSOR-TOLERANCE"
    far = side(OTHER, checkpoints=at(a=[1.0, 2.5, 9.0], b=[1.0] * 3, c=[1.0] * 3, any=[1.0] * 3))
    two = judged(left, far, metrics={"a": 0.5})
    assert lines(two)[1] == ("metric a, by checkpoint", "differs", "2 → 2.5 at epoch 1 (and at 1 more)")
    until = judged(left, side(OTHER, checkpoints=at(a=[1.0, 2.0, 9.0], b=[1.0] * 3, c=[1.0] * 3)), until=1)
    assert [line for line in lines(until) if "a, by" in line[0]] == []


@pytest.mark.parametrize(("left", "right"), [("failed", "finished"), ("finished", "failed")])
def test_what_a_run_measured_that_did_not_finish_is_not_held_against_it(left: str, right: str) -> None:
    found = judged(side(status=left, metrics={"a": 1.0}), side(OTHER, status=right, metrics={"a": 2.0}))
    assert [line[0] for line in lines(found)] == ["checkpoints"]
    assert found.verdict == ("BITWISE" if right == "finished" else "INCONCLUSIVE")


PIN = DataPin(name="in", package="t/in", top_hash="6" * 64, path="in")
IMAGE = f"sha256:{'1' * 64}"


def test_the_corners_of_two_locks_are_told_and_make_no_difference_by_themselves() -> None:
    pins = [PIN, msgspec.structs.replace(PIN, name="more"), msgspec.structs.replace(PIN, name="lost")]
    contained = EnvironmentLock(python="3", implementation="CPython", platform="linux-x86_64", container=IMAGE)
    one = locked(data=pins, environment=contained)
    other = locked(
        code=CodeIdentity(tree="d" * 40),
        data=[PIN, msgspec.structs.replace(PIN, name="more", top_hash="7" * 64)],
    )
    found = judged(side(lock=one), side(OTHER, other))
    assert lines(found)[:5] == [
        ("code", "differs", "tree dddddddd"),
        ("environment", "differs", IMAGE),
        ("data.in", "match", "t/in@66666666"),
        ("data.more", "differs", "t/in@66666666"),
        ("data.lost", "differs", "t/in@66666666"),
    ]
    assert (found.verdict, found.first_divergence) == ("BITWISE", None)
    same = judged(side(lock=one), side(OTHER, one))
    assert [line[1] for line in lines(same)] == ["match"] * 6
    plain = locked()
    assert lines(judged(side(lock=plain), side(OTHER, plain)))[1] == ("environment", "match", "0 packages")
    for sides in ((side(lock=one), side(OTHER)), (side(), side(OTHER, one))):
        assert [line[0] for line in lines(judged(*sides))] == ["checkpoints"]


def test_every_output_has_a_line_by_its_mode() -> None:
    left = [
        output("same"), output("changed", size=1200), output("skipped", compare="ignore"),
        output("never", None, missing=True), output("lost"), output("found", None, missing=True),
        output("unread", None), output("folder"), output("a"),
    ]  # fmt: skip
    right = [
        output("same"), output("changed", "2", size=1300), output("skipped", "2", compare="ignore"),
        output("never", None, missing=True), output("found"), output("unread", None), output("folder/x"),
        output("a/b/c"),
    ]  # fmt: skip
    read = {"changed": b"1", "unread": b"1"}.__getitem__
    found = judged(
        side(outputs=left, read=read), side(OTHER, outputs=right, read={"changed": b"2", "unread": b"1"}.get)
    )
    assert lines(found)[1:] == [
        ("same", "match", "1 bytes"),
        ("changed", "differs", "1 and 1 bytes, the first difference at byte 0 (from 0)"),
        ("skipped", "ignored", "as the recipe declares"),
        ("never", "missing", "declared, and neither run wrote it"),
        ("lost", "missing", "the repetition does not have it"),
        ("found", "missing", "the original does not have it"),
        ("unread", "match", "1 bytes"),
        ("folder", "missing", "the repetition has a folder there"),
        ("a", "missing", "the repetition has a folder there"),
        ("folder/x", "missing", "the original has a file folder instead"),
        ("a/b/c", "missing", "the original has a file a instead"),
    ]
    assert found.verdict == "DIVERGED"
    assert found.first_divergence is not None and found.first_divergence.output == "changed"
    back = judged(
        side(outputs=right, read={"changed": b"2", "unread": b"1"}.__getitem__), side(OTHER, outputs=left, read=read)
    )
    assert {what: (result, detail) for what, result, detail in lines(back)[1:]} == {
        "same": ("match", "1 bytes"),
        "changed": ("differs", "1 and 1 bytes, the first difference at byte 0 (from 0)"),
        "skipped": ("ignored", "as the recipe declares"),
        "never": ("missing", "declared, and neither run wrote it"),
        "found": ("missing", "the repetition does not have it"),
        "unread": ("match", "1 bytes"),
        "folder/x": ("missing", "the repetition has a file folder instead"),
        "a/b/c": ("missing", "the repetition has a file a instead"),
        "lost": ("missing", "the original does not have it"),
        "folder": ("missing", "the original has a folder there"),
        "a": ("missing", "the original has a folder there"),
    }


def test_outputs_alone_show_bits_too_and_are_not_looked_at_where_only_epochs_were_asked_for() -> None:
    bare = {"checkpoints": []}
    one, other = side(outputs=[output()], **bare), side(OTHER, outputs=[output()], **bare)
    assert judged(one, other).verdict == "BITWISE"
    assert judged(one, other, relaxed=["x"]).verdict == "EQUAL-RELAXED"
    ignored = [output(compare="ignore")]
    nothing = side(outputs=ignored, **bare), side(OTHER, outputs=ignored, **bare)
    assert judged(*nothing).verdict == "INCONCLUSIVE"
    changed = side(OTHER, outputs=[output(digest="2")], read=lambda _: b"2")
    assert judged(side(outputs=[output()]), changed, until=0).verdict == "BITWISE"
    assert judged(side(outputs=[output()]), changed).verdict == "DIVERGED"


def test_an_original_that_failed_lacks_outputs_and_a_repetition_of_it_may_have_them() -> None:
    failed = side(status="failed", outputs=[output("lost", None, missing=True)])
    found = judged(failed, side(OTHER, outputs=[output("lost"), output("more")]))
    assert (found.verdict, [line[0] for line in lines(found)]) == ("BITWISE", ["checkpoints"])
    wrote = side(status="failed", outputs=[output()])
    assert judged(wrote, side(OTHER, outputs=[output()])).verdict == "BITWISE"
    assert judged(wrote, side(OTHER)).verdict == "DIVERGED"


def test_outputs_too_large_to_read_are_told_by_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "MAX_OUTPUT", 1200)
    for sizes, read in (((1200, 1200), True), ((1200, 1201), False), ((1201, 1200), False)):
        sides = [
            side(run_id, outputs=[output(digest=run_id[-1], size=size)], read=lambda _, text=run_id: text.encode())
            for run_id, size in zip((ONE, OTHER), sizes, strict=True)
        ]
        told = lines(judged(*sides))[1]
        assert told[1] == "differs"
        assert (told[2] == f"{sizes[0]:,} and {sizes[1]:,} bytes, too many to read") is not read


def test_checkpoints_are_counted_and_what_was_deleted_is_said() -> None:
    left = side(checkpoints=[saved(epoch=epoch) for epoch in range(4)])
    right = side(OTHER, checkpoints=[saved(), saved("x", 1), saved("x", 2)])
    found = judged(left, right)
    assert lines(found) == [
        ("checkpoints", "differs", "1 of 4 equal in every bit"),
        ("epoch 1", "differs", "its version was deleted: no tensors to compare"),
        ("epoch 2", "differs", ""),
        ("epoch 3", "missing", "only the original has it"),
    ]
    more = judged(right, left)
    assert lines(more)[-1] == ("epoch 3", "missing", "only the repetition has it")
    assert found.first_divergence is not None and found.first_divergence.what == "epoch 1"
    fewer = judged(side(checkpoints=[saved(), saved(epoch=1)]), side(OTHER))
    assert fewer.first_divergence is not None
    assert (fewer.first_divergence.what, fewer.first_divergence.missing) == (
        "epoch 1 is missing from the repetition", "repetition",
    )  # fmt: skip
    assert fewer.verdict == "DIVERGED"


def test_a_checkpoint_that_can_no_longer_be_read_counts_by_its_digest() -> None:
    unlisted = side(OTHER, listed=gone)
    for sides in ((side(), unlisted), (side(listed=gone), side(OTHER))):
        found = judged(*sides)
        detail = "1 of 1 equal in every bit; 1 by its digest alone, for its version was deleted"
        assert (found.verdict, lines(found)) == ("BITWISE", [("checkpoints", "match", detail)])


@pytest.mark.parametrize(("error", "dropped", "raised"), [
    (NotFoundError("not here"), False, True), (NotFoundError("not here"), True, False),
    (PurgedError("erased"), False, False),
])  # fmt: skip
def test_tensors_that_are_missing_are_an_error_unless_they_were_dropped_or_purged(
    tmp_path: Path, error: NotFoundError, dropped: bool, raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    checkpoint = make(LocalRegistry(tmp_path), {"w": np.ones(2)})
    for place in ("first_difference", "unlike"):
        monkeypatch.setattr(ladder, place, fail)
    for digest, dropped_right in (("d", False), ("d", True), ("x", False), ("x", True)):
        entries = saved(dropped=dropped and not dropped_right), saved(digest, dropped=dropped and dropped_right)
        sides = [
            side(run_id, checkpoints=[entry], load=lambda _: checkpoint, listed=lambda _: math.nan)
            for run_id, entry in zip((ONE, OTHER), entries, strict=True)
        ]
        if raised:
            with pytest.raises(NotFoundError, match="not here"):
                judged(*sides)
        else:
            assert judged(*sides).verdict == ("BITWISE" if digest == "d" else "DIVERGED")


def test_what_a_record_contradicts_is_a_line_a_cause_and_the_end_of_it() -> None:
    told = [("record", "it was replaced"), ("epoch 0", "its digest is another")]
    found = judged(side(told=told[:1]), side(OTHER, told=told[1:]), causes=[CODE])
    assert lines(found)[:2] == [
        ("record", "differs", "it was replaced (of the original)"),
        ("epoch 0", "differs", "its digest is another (of the repetition)"),
    ]
    assert found.verdict == "DIVERGED"
    assert [(cause.kind, cause.what, cause.text, cause.weight) for cause in found.explanations] == [
        ("record", "record.record", "record: record: it was replaced (of the original)", "likely"),
        ("record", "record.epoch 0", "record: epoch 0: its digest is another (of the repetition)", "likely"),
    ]
    differing = judged(side(told=told), side(OTHER, checkpoints=[saved("x")]), causes=[CODE])
    assert [cause.what for cause in differing.explanations] == ["record.epoch 0", "record.record", "code"]


def test_bytes_that_are_not_those_of_their_digest_are_contradicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "unlike", lambda *_: "what the original stored is another")
    checkpoint = make(LocalRegistry(tmp_path), {"w": np.ones(2)})
    left, right = (side(i, load=lambda _: checkpoint, listed=lambda _: math.nan) for i in (ONE, OTHER))
    found = judged(left, right)
    assert found.verdict == "DIVERGED"
    assert lines(found) == [
        ("checkpoints", "differs", "0 of 1 equal in every bit"),
        ("epoch 0", "differs", "what the original stored is another"),
    ]
    assert found.first_divergence is not None and found.first_divergence.how == "what the original stored is another"
    assert found.explanations[0].text == "record: epoch 0: what the original stored is another"


@pytest.mark.parametrize(
    ("digests", "alone"),
    [
        ("ddd", ""), ("dxd", "epoch 1"), ("xdd", "epoch 0"), ("xxd", "epoch 0, epoch 1"), ("xdxd", "epoch 0, epoch 2"),
        ("ddx", ""), ("dxx", ""), ("xxxd", ""), ("xdx", ""),
    ],
)  # fmt: skip
def test_one_or_two_that_alone_differ_are_not_what_the_training_had(digests: str, alone: str) -> None:
    left = side(checkpoints=[saved(epoch=epoch) for epoch in range(len(digests))])
    right = side(OTHER, checkpoints=[saved(digest, epoch) for epoch, digest in enumerate(digests)])
    found = [cause for cause in judged(left, right).explanations if cause.kind == "record"]
    assert [cause.what for cause in found] == ([f"record.{alone}"] if alone else [])
    for cause in found:
        assert cause.text.startswith(f"record: {alone} alone differs: what came after it is equal in every bit")
    longer = side(checkpoints=[*left.record.checkpoints, saved(epoch=9)])
    assert {cause.what for cause in judged(longer, right).explanations if cause.kind == "record"} == {
        cause.what for cause in found
    }, "one that is missing is none that is equal again"


def test_what_is_relaxed_is_what_the_locks_differ_in_unless_it_is_told() -> None:
    causes = [CODE, MACHINE, INPUT]
    assert judged(side(), side(OTHER), causes=causes, relaxed=None).relaxed == [CODE.text]
    assert judged(side(), side(OTHER), causes=causes, relaxed=None).verdict == "EQUAL-RELAXED"
    assert judged(side(), side(OTHER), causes=causes[1:], relaxed=None).verdict == "BITWISE"
    assert judged(side(), side(OTHER), causes=causes, relaxed=[]).verdict == "BITWISE"
    told = judged(side(), side(OTHER), causes=causes, relaxed=["mine"], until=3)
    assert (told.relaxed, told.until, told.reproduces, told.run_id) == (["mine"], 3, ONE, OTHER)


def test_of_what_shows_nothing_causes_are_told_as_they_are_if_something_differs() -> None:
    failed = side(OTHER, status="failed", checkpoints=[saved("x")])
    found = judged(side(), failed, causes=[CODE])
    assert (found.verdict, found.explanations) == ("INCONCLUSIVE", [CODE])
    assert judged(side(), side(OTHER, status="failed"), causes=[CODE]).explanations == []
    running = judged(side(status="running"), side(OTHER))
    assert running.verdict == "INCONCLUSIVE"
    off = locked(recipe={"execution": {"determinism": "off", "threads": 1}})
    unseeded = judged(side(lock=off), side(OTHER, checkpoints=[saved("x")]))
    assert "execution.determinism is off" in unseeded.explanations[-1].why
    seeded = judged(side(lock=locked()), side(OTHER, checkpoints=[saved("x")]))
    assert "execution.determinism is off" not in seeded.explanations[-1].why


def test_without_values_no_tensor_is_read_unless_a_tolerance_of_weights_asks_for_it(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    one, other = make(registry, {"w": np.zeros(2)}), make(registry, {"w": np.full(2, 0.5)})
    sides = side(load=lambda _: one), side(OTHER, checkpoints=[saved("x")], load=lambda _: other)
    unread = judged(*sides, values=False)
    assert unread.first_divergence is not None and unread.first_divergence.tensor == "w"
    assert (unread.first_divergence.max_abs, unread.verdict) == (None, "DIVERGED")
    read = judged(*sides)
    assert read.first_divergence is not None and read.first_divergence.max_abs == 0.5
    for tolerance in ({"atol": 0.5}, {"rtol": 1.0}):
        within = judged(*sides, values=False, **tolerance)
        assert within.first_divergence is not None and within.first_divergence.max_abs == 0.5
        assert within.verdict == ("TENSOR-TOLERANCE" if "atol" in tolerance else "DIVERGED")


def test_declared_metrics_stand_for_checkpoints_that_differ_and_for_nothing_else() -> None:
    left, right = side(metrics={"a": 1.0}), side(OTHER, checkpoints=[saved("x")], metrics={"a": 1.0})
    assert judged(left, right).verdict == "DIVERGED"
    assert judged(left, right, metrics={"a": 0.5}).verdict == "METRIC-TOLERANCE"
    assert judged(left, right, metrics={"b": 0.5}).verdict == "DIVERGED"  # neither run has it
    assert judged(left, right, metrics={"a": "ignore"}).verdict == "DIVERGED"
    assert judged(left, side(OTHER, metrics={"a": 1.25}), metrics={"a": 0.5}).verdict == "TENSOR-TOLERANCE"


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (0.1, 0.2, "0.1 → 0.2"),
        (0.1, 0.1 + 2**-54, "0.10000000000000001 → 0.10000000000000006"),
        (0.1, None, "0.1 → none"),
    ],
)
def test_numbers_have_as_many_digits_as_tell_them_apart(one: float, other: float | None, told: str) -> None:
    metrics = {} if other is None else {"a": other}
    found = judged(side(metrics={"a": one}), side(OTHER, metrics=metrics))
    assert lines(found)[1][2] == told
