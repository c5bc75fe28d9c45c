"""Which rung two records are on, by what they declare and measured."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict

from reprokit.checkpoint.reader import Checkpoint
from reprokit.cli.text.record import verdict_text
from reprokit.comparison.ladder import Side, Terms, compare
from reprokit.errors import NotFoundError
from reprokit.schema.recipe import Tolerance
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record
from reprokit.schema.verdict import Cause, Verdict, exit_code


def _side(
    metrics: dict[str, float], digest: str | None, *, early: dict[str, float] | None = None, output: str = "0" * 64
) -> Side:
    """Return a run with one checkpoint, metrics at it and an output; without a digest, with metrics alone."""
    needed = {"name": "n", "status": "finished", "lock_hash": None, "code": None, "environment": None}
    if digest is not None:
        entry = CheckpointEntry(package="t/m", top_hash="0" * 64, state_digest=digest, dropped=True)
        first = CheckpointEntry(**{**asdict(entry), "epoch": 0, "kind": "checkpoint", "metrics": early or {}})
        outputs = [OutputFacts(path="a.bin", digest=output, size=9, compare="bytes", missing=False)]
        needed |= {"initial": entry, "checkpoints": [first], "outputs": outputs}
    record = Record(run_id="20260102-030405-aaaaaa", started="2026-01-02T03:04:05.000Z", metrics=metrics, **needed)

    def load(entry: CheckpointEntry) -> Checkpoint:
        raise NotFoundError(f"{entry.package} was dropped.")

    def read(path: str) -> bytes:
        return {"0": b"one", "1": b"two"}[output[0]]

    return Side(record=record, lock=None, load=load, listed=load, output=read)


def _compared(left: dict[str, float], right: dict[str, float], **limits: float) -> Verdict:
    """Compare two runs whose tensors differ, and cannot be read."""
    sides = _side(left, "one"), _side(right, "other")
    return compare(*sides, Terms(tolerance=Tolerance(metrics=limits), relaxed=[]), causes=[])


@pytest.mark.parametrize(("right", "result", "rung"), [
    (1.25, "tolerated", "METRIC-TOLERANCE"),
    (0.75, "tolerated", "METRIC-TOLERANCE"),
    (1.25 + 2**-50, "differs", "DIVERGED"),
    (0.75 - 2**-50, "differs", "DIVERGED"),
    (float("nan"), "differs", "DIVERGED"),
])  # fmt: skip
def test_a_metric_off_by_just_its_tolerance_is_within(right: float, result: str, rung: str) -> None:
    found = _compared({"loss": 1.0}, {"loss": right}, loss=0.25)
    assert {c.what: c.result for c in found.comparisons}["metric loss"] == result
    assert found.verdict == rung


@pytest.mark.parametrize("beyond", ["a", "b"])
def test_each_of_two_declared_metrics_decides(beyond: str) -> None:
    left = {"a": 1.0, "b": 1.0}
    assert _compared(left, {"a": 1.1, "b": 1.1}, a=0.25, b=0.25).verdict == "METRIC-TOLERANCE"
    assert _compared(left, {"a": 1.1, "b": 1.1, beyond: 2.0}, a=0.25, b=0.25).verdict == "DIVERGED"
    assert _compared(left, {**left, beyond: 2.0}, a=0.25, b=0.25).verdict == "DIVERGED", "whatever the equal one says"


def test_a_checkpoint_that_was_dropped_and_differs_is_not_within() -> None:
    found = _compared({"loss": 1.0}, {"loss": 1.0})
    assert (found.verdict, found.comparisons[0].detail) == ("DIVERGED", "0 of 2 equal in every bit")
    assert {c.what: c.detail for c in found.comparisons}["initial state"] == (
        "its version was deleted: no tensors to compare"
    )


_CAUSE = Cause(kind="params", what="params.rate", text="params.rate 0.1 → 0.2")


def _judged(left: Side, right: Side, relaxed: list[str] | None = None, **limits: Any) -> Verdict:
    terms = Terms(tolerance=Tolerance(metrics=limits), relaxed=relaxed or [])
    found = compare(left, right, terms, causes=[_CAUSE])
    assert exit_code(found.verdict) == {"DIVERGED": 7, "INCONCLUSIVE": 8}.get(found.verdict, 0)
    return found


def test_equal_bits_under_relaxed_conditions_are_a_rung_of_their_own_and_have_no_causes() -> None:
    sides = _side({"loss": 1.0}, "one"), _side({"loss": 1.0}, "one")
    assert _judged(*sides).verdict == "BITWISE"
    found = _judged(*sides, ["threads=2"])
    assert (found.verdict, found.explanations, found.first_divergence) == ("EQUAL-RELAXED", [], None)
    said = verdict_text(found, title="reproduce")
    assert "EQUAL, RELAXED" in said and "tolerance" not in said and "cause" not in said
    assert all(line.result != "tolerated" for line in found.comparisons)
    assert "params.rate  match     0.1 → 0.2 changes nothing: every bit is equal" in said


@pytest.mark.parametrize(("left", "right", "how"), [
    ({"time": 8.5e6}, {"time": 1.5e6}, "differs"),
    ({"time": 1.0}, {"time": 1.0 + 2**-50}, "differs"),
    ({"time": 8.5e6, "loss": 1.0}, {"loss": 1.0}, "missing"),
    ({"loss": 1.0}, {"time": 8.5e6, "loss": 1.0}, "missing"),
    ({"time": float("nan")}, {"time": 1.0}, "differs"),
])  # fmt: skip
@pytest.mark.parametrize("digest", ["one", None])
def test_a_metric_that_is_not_declared_diverges_beside_equal_bits_and_alone(
    left: dict[str, float], right: dict[str, float], how: str, digest: str | None
) -> None:
    sides = _side(left, digest), _side(right, digest)
    found = _judged(*sides)
    assert (found.verdict, {c.what: c.result for c in found.comparisons}["metric time"]) == ("DIVERGED", how)
    assert found.first_divergence is not None and found.first_divergence.what == "metric time"
    assert _judged(*sides, loss=9.0).verdict == "DIVERGED", "a tolerance of another one"
    unexplained = compare(*sides, Terms(tolerance=Tolerance(), relaxed=[]), causes=[]).explanations[0].why
    assert (digest is None) != ("the training's bits are equal" in unexplained), "nothing is said of what is not there"
    ignored = _judged(*sides, time="ignore").verdict
    assert ignored == ("BITWISE" if digest else "INCONCLUSIVE")


def test_metrics_alone_can_be_within_and_do_not_make_a_run_bitwise() -> None:
    one, near, far = (_side({"loss": value}, None) for value in (1.0, 1.1, 2.0))
    assert _judged(one, near, loss=0.25).verdict == "METRIC-TOLERANCE"
    assert _judged(one, far, loss=0.25).verdict == "DIVERGED"
    same = _judged(one, one)
    assert (same.verdict, same.comparisons[-1].detail, same.explanations) == ("INCONCLUSIVE", "1 of 1 equal", [])


def test_a_metric_counts_at_each_checkpoint_too() -> None:
    one, near, far, gone = (
        _side({"loss": 1.0}, "one", early=early) for early in ({"loss": 3.0}, {"loss": 3.1}, {"loss": 4.0}, {})
    )
    told = {c.what: (c.result, c.detail) for c in _judged(one, far).comparisons}
    assert told["metric loss, by checkpoint"] == ("differs", "3 → 4 at epoch 0")
    assert [_judged(one, other).verdict for other in (near, far, gone)] == ["DIVERGED"] * 3
    assert _judged(one, near, loss=0.25).verdict == "TENSOR-TOLERANCE"
    assert [_judged(one, other, loss=0.25).verdict for other in (far, gone)] == ["DIVERGED"] * 2
    assert _judged(one, gone, loss="ignore").verdict == "BITWISE"


def test_declared_metrics_do_not_stand_for_an_output() -> None:
    one, other = _side({"loss": 1.0}, "one"), _side({"loss": 1.0}, "one", output="1" * 64)
    assert _judged(one, other, loss=0.25).verdict == "DIVERGED"
    assert _judged(_side({"loss": 1.0}, "one"), _side({"loss": 1.0}, "two"), loss=0.25).verdict == "METRIC-TOLERANCE"
