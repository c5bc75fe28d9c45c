"""Which verdicts two records bear out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.registry.local import LocalRegistry
from reprokit.runs.provisos import provisos
from reprokit.runs.store import RunStore
from reprokit.runs.support import Support, contradicted
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record
from reprokit.schema.verdict import Rung, RunLink, Verdict, VerdictRecord
from tests.comparison.making import Save, locked, made

LEFT, RIGHT = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb"


def entry(epoch: int, digest: str = "d", **facts: Any) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash="0" * 64, state_digest=digest, epoch=epoch, **facts)


def record(run_id: str, **facts: Any) -> Record:
    needed = {"name": "n", "status": "finished", "lock_hash": "l", "code": None, "environment": None, "started": "s"}
    made: dict[str, Any] = {"checkpoints": [entry(0), entry(1)], "metrics": {"loss": 1.0, "nan": float("nan")}}
    made["logged"] = {"loss": "a", "seconds": run_id}
    made["outputs"] = [OutputFacts(path="o", size=1, digest="1"), OutputFacts(path="i", compare="ignore", digest="1")]
    return Record(run_id=run_id, **{**needed, **made, **facts})


def why(
    rung: Rung, *, left: dict[str, Any] | None = None, claimed: list[str] | None = None, **right: Any
) -> str | None:
    until = right.pop("until", None)
    verdict = Verdict(run_id=RIGHT, reproduces=LEFT, verdict=rung, relaxed=claimed or [], until=until)
    other = record(RIGHT, **{"reproduces": LEFT, **right})
    return contradicted(verdict, record(LEFT, **(left or {})), other, frozenset({"seconds"}))


@pytest.mark.parametrize(
    "right",
    [
        {},
        {"outputs": [OutputFacts(path="o", size=1, digest="1"), OutputFacts(path="i", compare="ignore", digest="2")]},
        {"metrics": {"loss": 1.0, "nan": float("nan"), "seconds": 4.0}},
        {"until": 0, "checkpoints": [entry(0), entry(1, "other")], "metrics": {}, "outputs": []},
        {"outputs": [OutputFacts(path="o", size=1, digest="1"), OutputFacts(path="never", missing=True)]},
        {"metrics": {"nan": float("nan"), "loss": 1.0}},  # in whatever order
        {"checkpoints": [entry(0), entry(1, metrics={"seconds": 1.0})]},
    ],
)
def test_what_is_equal_is_bitwise(right: dict[str, Any]) -> None:
    assert why("BITWISE", **right) is None


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ({"checkpoints": [entry(0), entry(1, "other")]}, "the records differ in epoch 1"),
        ({"checkpoints": [entry(0)]}, "the records differ in epoch 1"),
        ({"checkpoints": [entry(0), entry(1), entry(2)]}, "the records differ in epoch 2"),
        ({"checkpoints": [entry(0), entry(1, metrics={"a": 1.0})]}, "the records differ in the metrics of epoch 1"),
        ({"outputs": [OutputFacts(path="o", size=1, digest="2")]}, "the records differ in the output o"),
        ({"outputs": []}, "the records differ in the output o"),
        ({"outputs": [OutputFacts(path="o", missing=True)]}, "the records differ in the output o"),
        (
            {"outputs": [OutputFacts(path="o", size=1, digest="1"), OutputFacts(path="more", size=1, digest="1")]},
            "the records differ in the output more",
        ),
        ({"metrics": {"loss": -0.0, "nan": float("nan")}}, "the records differ in a metric"),
        ({"until": 0, "checkpoints": [entry(0, "other"), entry(1)]}, "the records differ in epoch 0"),
        ({"metrics": {"loss": 1.5, "nan": float("nan")}}, "the records differ in a metric"),
        ({"metrics": {"loss": 1.0}}, "the records differ in a metric"),
        ({"until": 1, "checkpoints": [entry(0), entry(1, "other")]}, "the records differ in epoch 1"),
        ({"status": "failed"}, "of a run that did not finish"),
        ({"lock_hash": "other"}, "of two runs that do not have one lock"),
        ({"relaxed": ["param.rate=1"]}, "was executed with something else relaxed than it says"),
        ({"reproduces": RIGHT}, "does not say that it repeats run"),
        ({"reproduces": None}, "does not say that it repeats run"),
        ({"logged": {"loss": "b"}}, "the records differ in what was logged of loss"),
    ],
)
def test_what_is_not_is_not(right: dict[str, Any], said: str) -> None:
    assert said in str(why("BITWISE", **right))


def test_outputs_alone_can_be_equal() -> None:
    without: dict[str, Any] = {"checkpoints": [], "metrics": {}, "logged": {}}
    assert why("BITWISE", left=without, **without) is None
    missing = {**without, "outputs": [OutputFacts(path="o", missing=True)]}
    assert "there is nothing in them that could be compared" in str(why("BITWISE", left=missing, **missing))
    assert why("BITWISE", left={"outputs": []}, outputs=[]) is None  # nor have checkpoints to have outputs beside them


def honest(left: dict[str, Any], right: dict[str, Any]) -> str | None:
    """Return what is in the way of `BITWISE` where the verdict names each proviso that the two records give."""
    sides = record(LEFT, **left), record(RIGHT, **{"reproduces": LEFT, **right})
    verdict = Verdict(run_id=RIGHT, reproduces=LEFT, verdict="BITWISE", provisos=provisos(*sides))
    return contradicted(verdict, *sides, frozenset({"seconds"}))


KEPT, OTHER_BYTES = (OutputFacts(path="o", size=1, digest=digest) for digest in "12")
UNKEPT, MISSING = OutputFacts(path="o", unkept="it is a pipe"), OutputFacts(path="o", missing=True)


def test_an_output_that_either_side_did_not_keep_is_not_compared() -> None:
    for ours, theirs in ((KEPT, UNKEPT), (UNKEPT, KEPT), (UNKEPT, UNKEPT)):
        assert honest({"outputs": [ours]}, {"outputs": [theirs]}) is None
    alone: dict[str, Any] = {"checkpoints": [], "metrics": {}, "logged": {}, "outputs": [UNKEPT]}
    assert "there is nothing in them that could be compared" in str(honest(alone, alone))


def test_an_output_that_neither_side_wrote_is_equal_whoever_names_it() -> None:
    assert honest({"outputs": [MISSING]}, {"outputs": []}) is None
    assert honest({"outputs": []}, {"outputs": [MISSING]}) is None
    assert honest({"outputs": [MISSING]}, {"outputs": [MISSING]}) is None
    assert str(honest({"outputs": [MISSING]}, {"outputs": [KEPT]})).endswith("differ in the output o")


def test_an_original_that_failed_may_lack_outputs_and_metrics_and_not_differ_in_what_it_wrote() -> None:
    failed: dict[str, Any] = {"status": "failed", "metrics": {}}
    assert honest({**failed, "outputs": [MISSING]}, {"outputs": [KEPT]}) is None
    assert honest({**failed, "outputs": []}, {"outputs": [KEPT]}) is None
    assert honest({**failed, "outputs": [KEPT]}, {"outputs": [KEPT]}) is None
    assert str(honest({**failed, "outputs": [OTHER_BYTES]}, {"outputs": [KEPT]})).endswith("differ in the output o")


def test_what_was_relaxed_or_goes_on_or_compares_nothing_is_not_bitwise() -> None:
    assert "do not have one lock" in str(why("BITWISE", claimed=["param.rate=1"], relaxed=["param.rate=1"]))
    assert "did not finish" in str(why("BITWISE", left={"status": "running"}))
    nothing: dict[str, Any] = {"checkpoints": [], "outputs": []}
    assert "there is nothing in them that could be compared" in str(why("BITWISE", left=nothing, **nothing))


def test_what_is_equal_under_changed_conditions_says_which() -> None:
    assert why("EQUAL-RELAXED", claimed=["threads"], relaxed=["threads"]) is None
    assert why("EQUAL-RELAXED") == "EQUAL-RELAXED of a run of which nothing was relaxed"


def test_other_rungs_are_not_refuted_by_what_differs() -> None:
    differing = [entry(0), entry(1, "other")]
    for rung in ("TENSOR-TOLERANCE", "METRIC-TOLERANCE", "DIVERGED", "INCONCLUSIVE"):
        assert why(rung, checkpoints=differing) is None  # type: ignore[arg-type]
    assert "did not finish" in str(why("TENSOR-TOLERANCE", status="interrupted"))
    assert why("INCONCLUSIVE", status="interrupted") is None


def test_an_original_that_failed_lacks_what_it_did_not_live_to_write() -> None:
    failed: dict[str, Any] = {"status": "failed", "outputs": [], "metrics": {}}
    assert "the two records give 1 provisos (The original failed: 2 of 2" in str(why("BITWISE", left=failed))
    relaxed = str(why("EQUAL-RELAXED", left=failed, claimed=["x"], relaxed=["x"]))
    assert "the two records give 1 provisos (The original failed: 2 of 2" in relaxed
    assert "in the output o" in str(why("BITWISE", left={**failed, "status": "finished"}))
    wrote = {**failed, "outputs": [OutputFacts(path="o", size=1, digest="2")]}
    assert why("BITWISE", left=wrote) is not None
    nothing: dict[str, Any] = {"checkpoints": [], "outputs": []}
    assert "it saved none" in str(why("BITWISE", left={**failed, **nothing}, **nothing))
    zero = {"metrics": {"loss": 0.0}}
    assert why("BITWISE", left=zero, **zero) is None
    assert "in a metric" in str(why("BITWISE", left=zero, metrics={"loss": -0.0}))


def test_equal_and_relaxed_is_refuted_as_bitwise_is_and_may_have_other_locks() -> None:
    relaxed: dict[str, Any] = {"claimed": ["x"], "relaxed": ["x"]}
    assert why("EQUAL-RELAXED", **relaxed, lock_hash="other") is None
    assert "in epoch 1" in str(why("EQUAL-RELAXED", **relaxed, checkpoints=[entry(0), entry(1, "other")]))
    assert "with something else relaxed" in str(why("EQUAL-RELAXED", claimed=["x"], relaxed=["x", "y"]))
    assert "with something else relaxed" in str(why("DIVERGED", claimed=["x"]))
    assert "does not say that it repeats" in str(why("DIVERGED", reproduces=None))


# Verdicts in a registry, with the records that they are about


class Lab:
    """A run, a repetition of it, and verdicts on the two."""

    def __init__(self, base: Path) -> None:
        self.registry = LocalRegistry(base)
        self.lock = locked(recipe={"tolerance": {"metrics": {"seconds": "ignore", "loss": 0.5}}, "outputs": []})
        self.left = made(self.registry, LEFT, [Save(), Save()], logged=[{"loss": 1.0, "seconds": 1.0}], lock=self.lock)
        self.repeated()

    def repeated(self, shift: float = 0.0, **facts: Any) -> None:
        told = {"lock": self.lock, "logged": [{"loss": 1.0, "seconds": 2.0}], "reproduces": LEFT, **facts}
        self.right = made(self.registry, RIGHT, [Save(), Save(shift=shift)], **told)

    def verdict(self, rung: Rung = "BITWISE", **facts: Any) -> Verdict:
        return Verdict(**{"run_id": RIGHT, "reproduces": LEFT, "verdict": rung, **facts})

    def kept(self, rung: Rung = "BITWISE", **facts: Any) -> VerdictRecord:
        links = (RunLink(run_id=i, top_hash="0" * 64, lock_hash=self.lock.hash) for i in (LEFT, RIGHT))
        original, reproduction = links
        told = {
            "verdict": self.verdict(rung),
            "original": original,
            "reproduction": reproduction,
            "by": "a@b",
            "at": "t",
        }
        return VerdictRecord(**{**told, **facts})

    def said(self, kept: VerdictRecord) -> str | None:
        """Return why the newest verdict is not borne out."""
        VerdictStore(self.registry).add(kept)
        return self.support().reproductions(LEFT)[-1].unsupported

    def support(self) -> Support:
        return Support(RunStore(self.registry))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_an_honest_verdict_is_borne_out_and_listed_as_it_was_given(lab: Lab) -> None:
    assert lab.support().reproductions(LEFT) == []
    assert lab.said(lab.kept()) is None
    (found,) = lab.support().reproductions(LEFT)
    assert (found.verdict, found.original, found.reproduction) == ("BITWISE", LEFT, RIGHT)
    assert (found.by, found.at, found.relaxed) == ("a@b", "t", [])
    assert lab.support().reproductions(LEFT, unchanged=True) == [found]
    relaxed = lab.kept(verdict=lab.verdict("DIVERGED", relaxed=["x"]))
    assert "with something else relaxed" in str(lab.said(relaxed))
    assert [one.verdict for one in lab.support().reproductions(LEFT)] == ["BITWISE", "DIVERGED"]
    assert lab.support().reproductions(LEFT, unchanged=True) == [found]


def test_a_verdict_whose_header_says_otherwise_is_unsupported(lab: Lab) -> None:
    kept = lab.kept("DIVERGED")
    with lab.registry.staging() as sink:
        digest, size = sink.put_bytes(kept.encode())
    said = meta_of(lab.kept("BITWISE").summary())
    manifest = Manifest.make([Entry("verdict.json", size, digest)], user_meta=said)
    lab.registry.publish(f"verdicts/{LEFT}", manifest)
    (found,) = lab.support().reproductions(LEFT)
    assert found.unsupported == "the header of its version says something else than verdict.json"
    assert found.verdict == "DIVERGED"  # what it holds, which is what is verified


def test_a_verdict_that_cannot_be_read_is_one_of_nothing(lab: Lab) -> None:
    with lab.registry.staging() as sink:
        digest, size = sink.put_bytes(b"{}")
    lab.registry.publish(f"verdicts/{LEFT}", Manifest.make([Entry("verdict.json", size, digest)]))
    (found,) = lab.support().reproductions(LEFT)
    assert (found.verdict, found.original, found.reproduction) == ("?", LEFT, "?")
    assert found.unsupported is not None and "verdict.json of verdicts/" in found.unsupported


OTHER_RUN = "20260103-000000-cccccc"


@pytest.mark.parametrize("change", [{"run_id": OTHER_RUN}, {"reproduces": OTHER_RUN}])
def test_the_verdict_and_what_it_lies_in_name_the_same_two_runs(lab: Lab, change: dict[str, Any]) -> None:
    assert lab.said(lab.kept(verdict=lab.verdict(**change))) == "it names other runs than the verdict in it"


@pytest.mark.parametrize("side", ["original", "reproduction"])
def test_the_locks_are_those_that_the_runs_have(lab: Lab, side: str) -> None:
    run_id = LEFT if side == "original" else RIGHT
    lying = RunLink(run_id=run_id, top_hash="0" * 64, lock_hash="1" * 64)
    said = f"run {run_id} has the lock {lab.lock.hash[:12]}, not {'1' * 12}"
    assert lab.said(lab.kept(**{side: lying})) == said


def test_a_run_that_is_not_there_bears_nothing_out(lab: Lab) -> None:
    for run_id, how in ((OTHER_RUN, OTHER_RUN), ("../x\x1b", r"../x\x1b")):
        link = RunLink(run_id=run_id, top_hash="0" * 64, lock_hash=lab.lock.hash)
        for rung in ("BITWISE", "TENSOR-TOLERANCE", "DIVERGED"):
            said = lab.said(lab.kept(reproduction=link, verdict=lab.verdict(rung, run_id=run_id)))
            assert said == f"run {how} is not in {lab.registry.url}"
        assert (
            lab.support().own(msgspec.structs.replace(lab.left.record, verdicts=[lab.verdict(run_id=run_id)])) == said
        )
    for top_hash in lab.registry.top_hashes(f"runs/{LEFT}"):
        lab.registry.delete(f"runs/{LEFT}", top_hash)
    for rung in ("BITWISE", "TENSOR-TOLERANCE", "DIVERGED"):
        assert lab.said(lab.kept(rung)) == f"run {LEFT} is not in {lab.registry.url}"


@pytest.mark.parametrize(
    ("tolerance", "borne"),
    [
        ({"weights": {"atol": 1.0, "rtol": 0.0}}, True),
        ({"weights": {"rtol": 1e-9}}, True),
        ({"weights": {"atol": 0.0, "rtol": 0}}, False),
        ({"weights": {"atol": "1"}}, False),
        ({"weights": [1.0]}, False),
        ({"metrics": {"loss": 0.1}}, False),
        ({}, False),
    ],
)
def test_tensors_within_a_tolerance_need_one(lab: Lab, tolerance: dict[str, Any], borne: bool) -> None:
    lab.repeated(shift=0.25)
    said = lab.said(lab.kept("TENSOR-TOLERANCE", tolerance=tolerance))
    assert said == (
        None if borne else "TENSOR-TOLERANCE, but no tolerance was applied, and the records differ in epoch 1"
    )


def test_where_all_checkpoints_are_equal_it_is_something_else_that_was_tolerated(lab: Lab) -> None:
    assert lab.said(lab.kept("TENSOR-TOLERANCE")) is None
    lab.repeated(shift=0.25)
    until = lab.verdict("TENSOR-TOLERANCE", until=0)
    assert lab.said(lab.kept(verdict=until)) is None


def test_what_the_repetition_says_of_itself_counts(lab: Lab) -> None:
    lab.repeated(shift=0.25, verdicts=[lab.verdict("DIVERGED")])
    assert lab.said(lab.kept("DIVERGED")) is None
    assert lab.said(lab.kept("METRIC-TOLERANCE")) == f"the record of run {RIGHT} says otherwise: DIVERGED"
    assert lab.support().own(lab.right.record) is None
    assert lab.support().own(lab.left.record) is None
    lab.repeated(shift=0.25, verdicts=[lab.verdict("BITWISE")])
    assert lab.support().own(lab.right.record) == "BITWISE, but the records differ in epoch 1"
    assert lab.said(lab.kept("BITWISE")) == "BITWISE, but the records differ in epoch 1"


def test_metrics_that_the_original_s_lock_ignores_may_be_anything(lab: Lab) -> None:
    assert lab.said(lab.kept()) is None  # of other seconds
    lab.repeated(logged=[{"loss": 1.25, "seconds": 1.0}])
    assert lab.said(lab.kept()) == "BITWISE, but the records differ in a metric"


def test_a_record_that_was_replaced_bears_out_that_nothing_was_shown(lab: Lab) -> None:
    lab.repeated(fresh=False, warnings=["another"])
    for rung in ("BITWISE", "EQUAL-RELAXED", "TENSOR-TOLERANCE", "METRIC-TOLERANCE"):
        said = str(lab.said(lab.kept(rung)))
        assert said.startswith(f"the record of run {RIGHT} was replaced: "), rung
        assert said.endswith("other warnings than the finished record before it")
    assert lab.said(lab.kept("DIVERGED")) is None
    assert lab.said(lab.kept("INCONCLUSIVE")) is None
    other = Lab(lab.registry.root.parent / "other")
    made(other.registry, LEFT, [Save(), Save()], lock=other.lock, fresh=False)
    assert str(other.said(other.kept())).startswith(f"the record of run {LEFT} was replaced: ")
