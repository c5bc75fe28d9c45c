"""The verdict on two runs, of every kind of thing that they can differ in: what differs is never called equal."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprokit.comparison.compare_runs import compare_runs, side_of
from reprokit.comparison.ladder import Terms, compare
from reprokit.comparison.record_check import contradictions
from reprokit.errors import DataMismatchError
from reprokit.packages.build import build
from reprokit.packages.purge import purge
from reprokit.registry.local import LocalRegistry
from reprokit.runs.logged import digests_of, read_logged
from reprokit.runs.store import StoredRun
from reprokit.schema.bounds import LeftOut, cut_metrics
from reprokit.schema.lock import CodeIdentity, DataPin, EnvironmentLock
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Tolerance
from reprokit.schema.record import Attempt, CodeFacts, OutputFacts, UndeclaredFile
from reprokit.schema.verdict import Verdict, exit_code
from tests.checkpoint.making import Tensor
from tests.comparison.making import Save, compared, locked, made

ONE, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"
INITIAL = Save(place={"kind": "initial"})
THREE = [Save(), Save(), Save()]


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def lines(verdict: Verdict) -> dict[str, tuple[str, str]]:
    return {line.what: (line.result, line.detail) for line in verdict.comparisons}


def verdict_on(
    registry: LocalRegistry, left: list[Save], right: list[Save], *, runs: dict[str, Any] | None = None, **terms: Any
) -> Verdict:
    told = runs or {}
    return compared(made(registry, ONE, left, **told), made(registry, OTHER, right, **told), registry, **terms)


def test_runs_that_are_equal_in_everything_are_bitwise(registry: LocalRegistry) -> None:
    runs = {"outputs": {"a": b"1"}, "logged": [{"loss": 0.5}]}
    found = verdict_on(registry, [INITIAL, *THREE], [INITIAL, *THREE], runs=runs)
    assert (found.verdict, found.first_divergence, found.explanations, found.relaxed) == ("BITWISE", None, [], [])
    assert (found.reproduces, found.run_id, found.until) == (ONE, OTHER, None)
    assert lines(found) == {
        "checkpoints": ("match", "4 of 4 equal in every bit"),
        "a": ("match", "1 bytes"),
        "metrics": ("match", "1 of 1 equal"),
    }


def test_equal_bits_of_something_relaxed_are_reproduced_and_not_bitwise(registry: LocalRegistry) -> None:
    found = verdict_on(registry, THREE, THREE, relaxed=["threads"])
    assert found.verdict != "BITWISE"
    assert (exit_code(found.verdict), found.relaxed, found.first_divergence) == (0, ["threads"], None)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_training_that_differs_from_one_epoch_on_diverged_there(registry: LocalRegistry, at: int) -> None:
    right = [Save(shift=0.25 * (number >= at)) for number in range(3)]
    found = verdict_on(registry, THREE, right)
    first = found.first_divergence
    assert (found.verdict, exit_code(found.verdict)) == ("DIVERGED", 7)
    assert first is not None
    assert (first.epoch, first.step, first.tensor, first.shape) == (at, 10 * (at + 1), "w", [3, 4])
    assert (first.elements, first.differing, first.max_abs, first.index) == (12, 12, 0.25, [0, 0])
    assert lines(found)["checkpoints"] == ("differs", f"{at} of 3 equal in every bit")
    told = lines(found)[f"epoch {at}"]
    assert told[0] == "differs" and told[1].startswith("w [3, 4], 12 of 12 elements differ, max |Δ| 0.25 at [0, 0]")
    assert [name for name in lines(found) if name.startswith("epoch")] == [f"epoch {n}" for n in range(at, 3)]
    assert found.explanations[0].weight == "likely" or found.explanations[0].kind == "unexplained"


@pytest.mark.parametrize(
    ("shift", "atol", "verdict"),
    [
        (0.25, 0.25, "TENSOR-TOLERANCE"),
        (-0.25, 0.25, "TENSOR-TOLERANCE"),
        (0.25, 0.125, "DIVERGED"),
        (0.25, 0.0, "DIVERGED"),
    ],
)
def test_tensors_that_differ_are_within_the_declared_tolerance_or_diverged(
    registry: LocalRegistry, shift: float, atol: float, verdict: str
) -> None:
    found = verdict_on(registry, [Save(), Save()], [Save(), Save(shift=shift)], atol=atol)
    assert found.verdict == verdict
    result = "tolerated" if verdict == "TENSOR-TOLERANCE" else "differs"
    assert lines(found)["checkpoints"] == (result, "1 of 2 equal in every bit")
    assert lines(found)["epoch 1"][0] == result


def test_a_relative_tolerance_is_a_tolerance_too(registry: LocalRegistry) -> None:
    weight: dict[str, Tensor] = {"w": np.full(4, 8.0)}
    near: dict[str, Tensor] = {"w": np.full(4, 8.5)}
    saves = [Save(tensors=weight)], [Save(tensors=near)]
    assert verdict_on(registry, *saves, rtol=0.0625, values=False).verdict == "TENSOR-TOLERANCE"
    assert verdict_on(registry, *saves, rtol=0.0624).verdict == "DIVERGED"


@pytest.mark.parametrize("beyond", [0, 1, 2])
def test_every_checkpoint_has_to_be_within(registry: LocalRegistry, beyond: int) -> None:
    right = [Save(shift=1.0 if number == beyond else 0.125) for number in range(3)]
    found = verdict_on(registry, THREE, right, atol=0.25)
    assert found.verdict == "DIVERGED"
    first = found.first_divergence
    assert first is not None and first.epoch == 0


@pytest.mark.parametrize("side", ["original", "repetition"])
def test_a_checkpoint_that_one_side_lacks_is_missing(registry: LocalRegistry, side: str) -> None:
    saves = (THREE[:2], THREE) if side == "original" else (THREE, THREE[:2])
    found = verdict_on(registry, *saves, atol=9.0)
    first = found.first_divergence
    assert found.verdict == "DIVERGED"
    assert first is not None and (first.epoch, first.missing) == (2, side)
    other = {"original": "the repetition", "repetition": "the original"}[side]
    assert lines(found)["epoch 2"] == ("missing", f"only {other} has it")
    assert lines(found)["checkpoints"] == ("differs", "2 of 3 equal in every bit")


def test_an_original_that_was_interrupted_lacks_what_it_did_not_live_to_save(registry: LocalRegistry) -> None:
    short = made(registry, ONE, THREE[:2], status="interrupted")
    found = compared(short, made(registry, OTHER, THREE, outputs={"a": b"1"}, logged=[{"loss": 1.0}]), registry)
    assert (found.verdict, lines(found)["checkpoints"]) == ("BITWISE", ("match", "2 of 2 equal in every bit"))


@pytest.mark.parametrize(
    ("left", "right"),
    [("finished", "failed"), ("finished", "interrupted"), ("running", "finished"), ("running", "running")],
)
def test_a_run_that_is_not_done_shows_nothing(registry: LocalRegistry, left: str, right: str) -> None:
    with registry.claim(ONE), registry.claim(OTHER):
        runs = made(registry, ONE, THREE, status=left), made(registry, OTHER, THREE, status=right)
        found = compared(*runs, registry)
    assert (found.verdict, exit_code(found.verdict)) == ("INCONCLUSIVE", 8)


def test_runs_with_nothing_to_compare_are_inconclusive(registry: LocalRegistry) -> None:
    assert verdict_on(registry, [], []).verdict == "INCONCLUSIVE"
    ignored = {"outputs": {"a": b"1"}, "told": [OutputFacts(path="a", compare="ignore")]}
    assert verdict_on(registry, [], [], runs=ignored).verdict == "INCONCLUSIVE"
    assert verdict_on(registry, [], [], runs={"outputs": {"a": b"1"}}).verdict == "BITWISE"
    assert verdict_on(registry, [Save()], [Save()]).verdict == "BITWISE"


def test_one_checkpoint_that_alone_differs_is_not_what_the_training_had(registry: LocalRegistry) -> None:
    right = [Save(), Save(shift=0.5), Save()]
    found = verdict_on(registry, THREE, right, atol=9.0)
    assert found.verdict == "DIVERGED"
    assert found.explanations[0].kind == "record"
    assert found.explanations[0].text.startswith("record: epoch 1 alone differs: ")
    until_the_end = [Save(), Save(shift=0.5), Save(shift=0.5)]
    assert verdict_on(registry, THREE, until_the_end, atol=9.0).verdict == "TENSOR-TOLERANCE"
    four = [*THREE, Save()]
    two = [Save(), Save(shift=0.5), Save(shift=0.5), Save()]
    assert verdict_on(registry, four, two, atol=9.0).verdict == "DIVERGED"


@pytest.mark.parametrize("until", [0, 1])
def test_what_comes_after_the_last_epoch_that_was_asked_for_is_not_looked_at(
    registry: LocalRegistry, until: int
) -> None:
    right = [Save(shift=0.25 * (number > until)) for number in range(3)]
    one = made(registry, ONE, THREE, outputs={"a": b"1"}, logged=[{"loss": 1.0}])
    other = made(registry, OTHER, right, outputs={"a": b"2"}, logged=[{"loss": 2.0}])
    found = compared(one, other, registry, until=until)
    assert (found.verdict, found.until) == ("BITWISE", until)
    assert lines(found) == {"checkpoints": ("match", f"{until + 1} of {until + 1} equal in every bit")}
    assert compared(one, other, registry, until=until + 1).verdict == "DIVERGED"


def test_metrics_of_epochs_are_compared_too(registry: LocalRegistry) -> None:
    def saves(*losses: float) -> list[Save]:
        return [Save(metrics={"loss": loss}) for loss in losses]

    assert verdict_on(registry, saves(3.0, 2.0), saves(3.0, 2.0)).verdict == "BITWISE"
    found = verdict_on(registry, saves(3.0, 2.0), saves(3.0, 2.5), until=1)
    first = found.first_divergence
    assert found.verdict != "BITWISE"
    assert first is not None and (first.epoch, first.metric, first.how) == (1, "loss", "2 → 2.5")
    ignored = verdict_on(registry, saves(3.0, 2.0), saves(3.0, 2.5), metrics={"loss": float("inf")})
    assert (ignored.verdict, ignored.first_divergence) == ("BITWISE", None)


def test_saves_pair_by_step_by_batch_and_by_order_and_those_by_chance_by_nothing(registry: LocalRegistry) -> None:
    places: list[dict[str, Any]] = [
        {"step": 5}, {"step": 10}, {"epoch": 0, "batch": 3, "step": 11}, {"epoch": 0, "step": 12},
        {"epoch": 0, "step": 13}, {"epoch": 1, "batch": 2},
    ]  # fmt: skip
    saves = [Save(place=place) for place in places]
    chance = [Save(place={"kind": kind, "epoch": 9, "step": 99}) for kind in ("signal", "exception")]
    found = verdict_on(registry, saves, [*saves, *chance])
    assert (found.verdict, lines(found)["checkpoints"]) == ("BITWISE", ("match", "6 of 6 equal in every bit"))
    for at, name in enumerate(
        ["step 5", "step 10", "epoch 0, batch 3", "epoch 0", "epoch 0, save 2", "epoch 1, batch 2"]
    ):
        other = [Save(place=place, shift=0.5 * (number == at)) for number, place in enumerate(places)]
        assert lines(verdict_on(registry, saves, other))[name][0] == "differs"


def test_the_initial_state_counts(registry: LocalRegistry) -> None:
    for saves, side in (([INITIAL, *THREE], "the original"), (_later(THREE), "the repetition")):
        found = verdict_on(registry, saves, _later(THREE) if saves[0] is INITIAL else [INITIAL, *THREE])
        assert found.verdict == "DIVERGED"
        assert lines(found)["initial state"] == ("missing", f"only {side} has it")
        assert found.first_divergence is not None and found.first_divergence.saved == "initial"
    shifted = Save(place={"kind": "initial"}, shift=0.5)
    found = verdict_on(registry, [INITIAL, *THREE], [shifted, *THREE])
    assert lines(found)["initial state"][0] == "differs"
    assert found.verdict == "DIVERGED"


def _later(saves: list[Save]) -> list[Save]:
    """Return saves that are those of a run whose first is its initial state, without that one."""
    return [
        Save(tensors={"w": np.arange(12, dtype="<f8").reshape(3, 4) + at}, more={"state": {"at": at}},
             place={"epoch": at, "step": 10 * (at + 1)})
        for at in range(1, len(saves) + 1)
    ]  # fmt: skip


STATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "state.json": ({"state": {"rng": 1}}, {"state": {"rng": 2}}),
    "a whole file": ({"files": {"model.bin": b"one"}}, {"files": {"model.bin": b"two"}}),
    "a file more": ({}, {"files": {"model.bin": b"two"}}),
    "another name of a tied weight": ({"aliases": {"b": "w"}}, {"aliases": {"c": "w"}}),
}


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_checkpoint_that_differs_in_no_tensor_is_not_bitwise(
    registry: LocalRegistry, what: str, turned: bool
) -> None:
    one, other = reversed(STATES[what]) if turned else STATES[what]
    found = verdict_on(registry, [Save(more=one)], [Save(more=other)])
    assert found.verdict != "BITWISE"
    assert found.first_divergence is not None and found.first_divergence.epoch == 0
    assert lines(found)["checkpoints"] == ("differs", "0 of 1 equal in every bit")
    assert lines(found)["epoch 0"][0] == "differs"
    if what != "state.json":
        assert found.verdict == "DIVERGED"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"w": np.ones(4)}, {"w": np.ones(4, "<f4")}),
        ({"w": np.ones(4)}, {"w": np.ones((2, 2))}),
        ({"w": np.ones(4)}, {"v": np.ones(4)}),
        ({"w": np.ones(4)}, {"w": np.ones(4), "v": np.ones(1)}),
        ({"w": np.ones(4)}, {"optimizer:w": np.ones(4)}),
        ({"w": ("F32", (1,), b"\0\0\x80?")}, {"w": ("I32", (1,), b"\0\0\x80?")}),
    ],
)
def test_no_tolerance_is_about_another_dtype_shape_name_or_section(
    registry: LocalRegistry, left: dict[str, Tensor], right: dict[str, Tensor]
) -> None:
    for one, other in ((left, right), (right, left)):
        found = verdict_on(registry, [Save(tensors=one)], [Save(tensors=other)], atol=9e9, rtol=9e9)
        assert found.verdict == "DIVERGED"
        assert found.first_divergence is not None and found.first_divergence.tensor is not None


OUTPUTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "other bytes": ({"outputs": {"a": b"1"}}, {"outputs": {"a": b"2"}}, "differs"),
    "the repetition has none": ({"outputs": {"a": b"1"}}, {}, "missing"),
    "the original has none": ({}, {"outputs": {"a": b"1"}}, "missing"),
    "it was not written": ({"outputs": {"a": b"1"}}, {"told": [OutputFacts(path="a", missing=True)]}, "missing"),
    "only the repetition wrote it": (
        {"told": [OutputFacts(path="a", missing=True)]},
        {"outputs": {"a": b"1"}},
        "missing",
    ),
}


@pytest.mark.parametrize("how", OUTPUTS)
def test_an_output_that_is_not_the_same_diverges(registry: LocalRegistry, how: str) -> None:
    left, right, result = OUTPUTS[how]
    found = compared(made(registry, ONE, THREE, **left), made(registry, OTHER, THREE, **right), registry)
    assert lines(found)["a"][0] == result
    assert found.verdict == "DIVERGED"
    assert found.first_divergence is not None and found.first_divergence.output == "a"


@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_an_output_that_could_not_be_kept_is_compared_with_nothing(
    registry: LocalRegistry, sides: tuple[bool, bool]
) -> None:
    unkept = {"told": [OutputFacts(path="a", unkept="it is a pipe")]}
    runs = [
        made(registry, run, THREE, **(unkept if side else {"outputs": {"a": b"1"}}))
        for run, side in zip((ONE, OTHER), sides, strict=True)
    ]
    found = compared(*runs, registry)
    whose = " and ".join(name for name, side in zip(("the original's", "the repetition's"), sides, strict=True) if side)
    assert lines(found)["a"] == ("ignored", f"{whose} could not be kept")
    assert not contradictions(runs[0], None, registry)


def test_an_output_is_compared_as_the_recipe_says(registry: LocalRegistry) -> None:
    def runs(mode: Any, *contents: bytes) -> list[StoredRun]:
        told = [OutputFacts(path="a.json", compare=mode)]
        return [
            made(registry, run, THREE, outputs={"a.json": content}, told=told)
            for run, content in zip((ONE, OTHER), contents, strict=True)
        ]

    found = compared(*runs("values", b'{"loss": 1}', b'{"loss": 1.0}'), registry)
    assert (found.verdict, lines(found)["a.json"][0]) == ("TENSOR-TOLERANCE", "tolerated")
    found = compared(*runs("values", b'{"loss": 1}', b'{"loss": 1.5}'), registry, metrics={"loss": 0.5})
    assert lines(found)["a.json"][0] == "tolerated"
    found = compared(*runs("values", b'{"loss": 1}', b'{"loss": 1.75}'), registry, metrics={"loss": 0.5})
    assert (found.verdict, lines(found)["a.json"][0]) == ("DIVERGED", "differs")
    found = compared(*runs("ignore", b"1", b"2"), registry)
    assert (found.verdict, lines(found)["a.json"][0]) == ("BITWISE", "ignored")
    assert compared(*runs("bytes", b'{"loss": 1}', b'{"loss": 1.0}'), registry).verdict == "DIVERGED"


@pytest.mark.parametrize(("left", "right"), [(1.0, 2.0), (1.0, None), (None, 1.0), (1.0, float("nan"))])
def test_a_metric_that_is_not_the_same_is_not_bitwise_and_said(
    registry: LocalRegistry, left: float | None, right: float | None
) -> None:
    runs = [
        made(registry, run, THREE, logged=[{"loss": value, "other": 0.0}] if value is not None else [{"other": 0.0}])
        for run, value in ((ONE, left), (OTHER, right))
    ]
    found = compared(*runs, registry)
    assert found.verdict != "BITWISE"
    assert found.first_divergence is not None and found.first_divergence.metric == "loss"
    assert lines(found)["metric loss"][0] == ("differs" if None not in (left, right) else "missing")
    assert compared(*runs, registry, metrics={"loss": float("inf")}).verdict == "BITWISE"
    beyond = compared(*runs, registry, metrics={"loss": 0.5})
    assert (beyond.verdict, exit_code(beyond.verdict)) == ("DIVERGED", 7)


def test_a_metric_that_is_no_number_equals_itself(registry: LocalRegistry) -> None:
    runs = [made(registry, run, THREE, logged=[{"a": float("nan"), "b": float("-inf")}]) for run in (ONE, OTHER)]
    assert compared(*runs, registry).verdict == "BITWISE"
    assert compared(*runs, registry, metrics={"a": 0.5}).verdict == "BITWISE"


def logged(registry: LocalRegistry, *values: float, run: str = ONE, steps: bool = True, **facts: Any) -> StoredRun:
    """Return a run that logged a loss three times, and its digest or not."""
    rows = [{"loss": value} for value in values]
    one = made(registry, run, THREE, logged=rows, steps=steps)
    told = digests_of(read_logged(one, registry), again=bool(facts.get("attempts")))
    return made(registry, run, THREE, logged=rows, steps=steps, **{"logged_digests": told, **facts})


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize(
    ("steps", "others", "limits", "expected"),
    [
        (True, (3.0, 2.0, 1.0), {}, None),
        (True, (3.0, 2.5, 1.0), {}, ("differs", "2 → 2.5 at step 1")),
        (True, (4.0, 2.5, 1.0), {}, ("differs", "3 → 4 at step 0 (and at 1 more)")),
        (True, (3.0, 2.0, 1.0, 1.0), {}, ("differs", "none → 1 at step 3")),
        (True, (3.0, 2.5, 1.0), {"loss": 0.5}, ("tolerated", "2 → 2.5 at step 1")),
        (True, (3.0, 2.5, 1.0), {"loss": 0.4}, ("differs", "2 → 2.5 at step 1")),
        (True, (3.0, 2.5, 1.0), {"loss": math.inf}, None),
        (False, (3.0, 2.5, 1.0), {}, ("differs", "2 → 2.5")),
        (True, (3.0, 2.0000000000000004, 1.0), {}, ("differs", "2 → 2.0000000000000004 at step 1")),
        (True, (3.5, 2.75, 1.0), {"loss": 0.5}, ("differs", "3 → 3.5 at step 0 (and at 1 more)")),
        (False, (3.25, 3.0, 1.0), {"loss": 0.5}, ("differs", "2 → 3")),
        (False, (3.75, 2.25, 1.0), {"loss": 0.5}, ("differs", "2 → 2.25")),
        (False, (2.0, 3.0, 1.0), {}, None),  # without steps, and from several processes, there is no order
    ],
)
def test_what_was_logged_on_the_way_is_compared_too(
    registry: LocalRegistry, steps: bool, others: tuple[float, ...], limits: dict[str, float],
    expected: tuple[str, str] | None, digests: bool,
) -> None:  # fmt: skip
    told = {} if digests else {"logged_digests": None}
    one = logged(registry, 3.0, 2.0, 1.0, steps=steps, **told)
    other = logged(registry, *others, run=OTHER, steps=steps, **told)
    assert contradictions(one, None, registry) == contradictions(other, None, registry) == []
    found = compared(one, other, registry, metrics=limits)
    assert lines(found).get("metric loss, as logged") == expected
    assert found.verdict == {None: "BITWISE", "differs": "DIVERGED"}.get(expected and expected[0], "TENSOR-TOLERANCE")
    if expected is not None:
        assert found.first_divergence is not None
        assert (found.first_divergence.metric, found.first_divergence.spot.place) == ("loss", None)


def test_what_was_logged_is_read_only_if_its_digests_differ(registry: LocalRegistry) -> None:
    one, other = logged(registry, 3.0, 2.0), logged(registry, 3.0, 2.0, run=OTHER)
    bare = []
    for run in (one, other):
        kept = [entry for entry in run.manifest.entries if entry.logical_key != "metrics.jsonl"]
        bare.append(StoredRun(run.record, Manifest.make(kept, message=None, user_meta=run.manifest.user_meta)))
    assert compared(*bare, registry).verdict == "BITWISE"
    assert lines(compared(one, other, registry))["metrics"] == ("match", "1 of 1 equal")
    record = msgspec.structs.replace(bare[1].record, logged={"loss": "0" * 64})
    assert (
        compared(bare[0], StoredRun(record, bare[1].manifest), registry, metrics={"loss": math.inf}).verdict
        == "BITWISE"
    )


def test_what_was_logged_and_purged_is_not_called_equal(registry: LocalRegistry) -> None:
    one, other = logged(registry, 3.0, 2.5, 2.0), logged(registry, 3.0, 2.0, run=OTHER)
    purge(registry, {other.manifest["metrics.jsonl"].digest}, cache=registry.root / "cache", reason="asked for")
    found = compared(one, other, registry)
    assert found.verdict == "DIVERGED"
    result, detail = lines(found)["metric loss, as logged"]
    assert result == "differs" and detail.startswith("its digests differ; ")


def test_a_run_that_went_on_logs_once_more_what_it_did_again(registry: LocalRegistry) -> None:
    attempts = [Attempt(started="a", ended=None, status="interrupted", resumed="b", resumed_from="epoch 0")]
    straight = made(registry, ONE, THREE, logged=[{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}], steps=True)
    again = made(registry, OTHER, THREE, logged=[{"loss": 3.0}, {"loss": 2.2}], steps=True, attempts=attempts)
    series = read_logged(again, registry)
    assert series == {"loss": {0: [3.0], 1: [2.2]}}
    for last, expected in ((2.0, "BITWISE"), (2.5, "DIVERGED")):
        series["loss"] = {0: [3.0], 1: [2.2, last], 2: [1.0], None: [7.0]}
        sides = [side_of(run, None, registry, thorough=False) for run in (straight, again)]
        sides[1] = replace(sides[1], logged=lambda: series)
        terms = Terms(tolerance=Tolerance(), relaxed=[])
        record = msgspec.structs.replace(again.record, metrics={"loss": 1.0})
        found = compare(sides[0], replace(sides[1], record=record), terms, causes=[])
        assert found.verdict == expected, lines(found)


def test_a_digest_of_what_was_logged_that_is_not_so_is_found(registry: LocalRegistry) -> None:
    honest = logged(registry, 3.0, 2.0, 1.0)
    assert contradictions(honest, None, registry) == []
    for told in ({}, {"loss": "0" * 64}, {**(honest.record.logged or {}), "more": "1" * 64}):
        lied = StoredRun(msgspec.structs.replace(honest.record, logged=told), honest.manifest)
        assert "what the run logged of it is not what the record says" in [
            how for _, how in contradictions(lied, None, registry)
        ]


def test_an_output_that_neither_run_wrote_is_said(registry: LocalRegistry) -> None:
    told = [OutputFacts(path="plot.png", missing=True)]
    one, other = (made(registry, run, THREE, told=told) for run in (ONE, OTHER))
    found = compared(one, other, registry)
    assert found.verdict == "BITWISE"
    assert lines(found)["plot.png"] == ("missing", "declared, and neither run wrote it")


# ── what a record says of what it points to ───────────────────────────────────────────────────────────────────────────


def whole(registry: LocalRegistry) -> StoredRun:
    saves = [INITIAL, *(Save(metrics={"loss": 1.0 - number / 4}) for number in range(3))]
    return made(registry, ONE, saves, outputs={"a": b"1"}, logged=[{"loss": 0.5}])


def test_an_honest_record_contradicts_nothing(registry: LocalRegistry) -> None:
    assert contradictions(whole(registry), None, registry) == []


CHECKPOINT_LIES = {
    "state_digest": "sha256-merkle-v1:" + "0" * 64,
    "epoch": 7,
    "step": 7,
    "batch": 7,
    "kind": "signal",
    "metrics": {"loss": 0.0},
    "dropped": True,
}


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("field", CHECKPOINT_LIES)
def test_whatever_a_record_says_of_a_checkpoint_is_held_against_its_header(
    registry: LocalRegistry, field: str, at: int
) -> None:
    run = whole(registry)
    checkpoints = [*run.record.checkpoints]
    checkpoints[at] = msgspec.structs.replace(checkpoints[at], **{field: CHECKPOINT_LIES[field]})
    lied = StoredRun(msgspec.structs.replace(run.record, checkpoints=checkpoints), run.manifest)
    found = contradictions(lied, None, registry)
    assert found, f"{field} of a checkpoint was edited"
    assert {what for what, _ in found} <= {str(checkpoints[at].place), str(run.record.checkpoints[at].place)}


def test_a_checkpoint_that_was_dropped_is_gone_from_the_history(registry: LocalRegistry) -> None:
    run = whole(registry)
    last = msgspec.structs.replace(run.record.checkpoints[-1], dropped=True)
    told = msgspec.structs.replace(run.record, checkpoints=[*run.record.checkpoints[:-1], last])
    dropped = StoredRun(told, run.manifest)
    there = f"the record says that it was dropped, and t/model@{last.top_hash[:8]} is there"
    assert [how for _, how in contradictions(dropped, None, registry) if "dropped" in how] == [there]
    registry.delete("t/model", last.top_hash)
    assert [how for _, how in contradictions(dropped, None, registry) if "dropped" in how] == []


def test_a_checkpoint_of_another_run_and_what_is_none_are_found(registry: LocalRegistry) -> None:
    run, other = whole(registry), made(registry, OTHER, THREE)
    for top_hash, said in (
        (other.record.checkpoints[0].top_hash, f"run is {ONE} in the record, and {OTHER} in the version"),
        (other.manifest.top_hash, f"t/model@{other.manifest.top_hash[:8]} is no checkpoint"),
    ):
        for initial in (True, False):
            if initial:
                assert run.record.initial is not None
                change: dict[str, Any] = {"initial": msgspec.structs.replace(run.record.initial, top_hash=top_hash)}
            else:
                first = msgspec.structs.replace(run.record.checkpoints[0], top_hash=top_hash)
                change = {"checkpoints": [first, *run.record.checkpoints[1:]]}
            lied = StoredRun(msgspec.structs.replace(run.record, **change), run.manifest)
            assert said in [how for _, how in contradictions(lied, None, registry)]


@pytest.mark.parametrize(
    "outputs",
    [
        [OutputFacts(path="a", size=1, digest="0" * 64)],
        [OutputFacts(path="a", missing=True)],
        [OutputFacts(path="a", size=2)],
        [OutputFacts(path="b", size=1, digest="0" * 64)],
    ],
)
def test_an_output_that_is_not_what_the_record_says_is_found(
    registry: LocalRegistry, outputs: list[OutputFacts]
) -> None:
    run = whole(registry)
    lied = StoredRun(msgspec.structs.replace(run.record, outputs=outputs), run.manifest)
    assert outputs[0].path in {what for what, _ in contradictions(lied, None, registry)}


@pytest.mark.parametrize("metrics", [{"loss": 0.25}, {}, {"loss": 0.5, "more": 1.0}, {"loss": float("nan")}])
def test_a_metric_that_the_run_did_not_log_is_found(registry: LocalRegistry, metrics: dict[str, float]) -> None:
    run = whole(registry)
    lied = StoredRun(msgspec.structs.replace(run.record, metrics=metrics), run.manifest)
    (name,) = metrics.keys() - {"loss"} or {"loss"}
    assert f"metric {name}" in {what for what, _ in contradictions(lied, None, registry)}


def test_a_record_that_does_not_list_everything_is_checked_all_the_same(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole(registry)
    name = run.record.outputs[0].path
    told = LeftOut(what="outputs", count=1, digest="0" * 64)
    cut = StoredRun(msgspec.structs.replace(run.record, outputs=[], left_out=[told]), run.manifest)
    assert name not in {what for what, _ in contradictions(cut, None, registry)}
    bare = StoredRun(msgspec.structs.replace(run.record, outputs=[]), run.manifest)
    assert name in {what for what, _ in contradictions(bare, None, registry)}
    monkeypatch.setattr("reprokit.schema.bounds.MAX_SHOWN", 1)
    _, left = cut_metrics(run.record.metrics)
    assert left is not None
    for gone, fine in ((left, True), (msgspec.structs.replace(left, digest="0" * 64), False), (None, False)):
        listed = msgspec.structs.replace(run.record, metrics={}, left_out=[gone] if gone else [])
        found = {what for what, _ in contradictions(StoredRun(listed, run.manifest), None, registry)}
        assert ("metrics" not in found) == fine


def test_a_contradiction_is_never_reproduced(registry: LocalRegistry) -> None:
    run, again = whole(registry), made(registry, OTHER, [])
    again = made(
        registry, OTHER, [INITIAL, *(Save(metrics={"loss": 1.0 - number / 4}) for number in range(3))],
        outputs={"a": b"1"}, logged=[{"loss": 0.5}],
    )  # fmt: skip
    assert compared(run, again, registry, thorough=True).verdict == "BITWISE"
    checkpoints = [msgspec.structs.replace(one, metrics={"loss": 9.0}) for one in run.record.checkpoints]
    lied = StoredRun(msgspec.structs.replace(run.record, checkpoints=checkpoints), run.manifest)
    found = compared(lied, again, registry, thorough=True)
    assert found.verdict == "DIVERGED"
    assert found.explanations[0].kind == "record"


def test_bytes_that_are_not_those_of_their_digest_are_not_believed(registry: LocalRegistry) -> None:
    """The version and the record say one digest, and the version holds other bytes, with every hash of them right."""
    one, other = made(registry, ONE, THREE), made(registry, OTHER, THREE)
    forged = made(registry, "20260102-030407-cccccc", [Save(), Save(shift=0.5), Save()])
    honest = registry.read_manifest(one.record.checkpoints[1].top_hash)
    shards = registry.read_manifest(forged.record.checkpoints[1].top_hash)
    lying = Manifest.make(list(shards.entries), message=None, user_meta=dict(honest.user_meta))
    registry.publish("t/model", lying)
    checkpoints = [*one.record.checkpoints]
    checkpoints[1] = msgspec.structs.replace(checkpoints[1], top_hash=lying.top_hash)
    lied = StoredRun(msgspec.structs.replace(one.record, checkpoints=checkpoints), one.manifest)
    found = compared(lied, other, registry, thorough=True)
    assert found.verdict == "DIVERGED"
    assert found.first_divergence is not None and found.first_divergence.epoch == 1


# ── what the two were to be ───────────────────────────────────────────────────────────────────────────────────────────


def two(registry: LocalRegistry, left: dict[str, Any], right: dict[str, Any], shift: float = 0.0) -> Verdict:
    """Compare two runs as they are: with their locks, and the tolerance that the left one's recipe declares."""
    shifted = [Save(shift=shift) for _ in THREE]
    return compare_runs(made(registry, ONE, THREE, **left), made(registry, OTHER, shifted, **right), registry=registry)


def test_two_runs_of_one_lock_are_bitwise_and_say_of_what(registry: LocalRegistry) -> None:
    found = two(registry, {"lock": locked()}, {"lock": locked()})
    assert (found.verdict, found.relaxed, found.explanations) == ("BITWISE", [], [])
    told = lines(found)
    assert told.pop("checkpoints") == ("match", "3 of 3 equal in every bit")
    assert told == {
        "code": ("match", "tree cccccccc"),
        "environment": ("match", "0 packages"),
        "data.in": ("match", "t/in@66666666"),
    }


OTHERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "the code": ({"code": CodeIdentity(tree="d" * 40)}, "code", "code"),
    "the environment": (
        {"environment": EnvironmentLock(python="3.12.1", implementation="CPython", platform="linux-x86_64")},
        "environment",
        "environment.python",
    ),
    "the data": ({"data": [DataPin(name="in", package="t/in", top_hash="7" * 64, path="in")]}, "data.in", "data.in"),
    "no data": ({"data": []}, "data.in", "data.in"),
    "a parameter": ({"params": {"rate": 0.2}}, "", "params.rate"),
    "the seed": ({"recipe": {"execution": {"seed": 8, "threads": 1}}}, "", "execution.seed"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_equal_bits_of_two_experiments_are_no_repetition(registry: LocalRegistry, what: str) -> None:
    change, corner, cause = OTHERS[what]
    for left, right in ((locked(), locked(**change)), (locked(**change), locked())):
        found = two(registry, {"lock": left, "code": {"train.py": b"1"}}, {"lock": right, "code": {"train.py": b"2"}})
        assert found.verdict != "BITWISE"
        assert len(found.relaxed) == 1
        shown = [name for name, (result, _) in lines(found).items() if result == "differs"]
        assert shown == ([corner] if corner and left.data else []), "corners are those of the original"
        differs = two(
            registry, {"lock": left, "code": {"train.py": b"1"}}, {"lock": right, "code": {"train.py": b"2"}}, 0.5
        )
        assert differs.verdict == "DIVERGED"
        assert differs.explanations[0].what == cause


def test_what_is_of_the_machine_alone_relaxes_nothing(registry: LocalRegistry) -> None:
    machines = [Machine(numeric=Numeric(cpu=cpu, isa=[cpu])) for cpu in ("one", "other")]
    undeclared = [[], [UndeclaredFile(path="/etc/x", size=1, digest="b" * 64)]]
    sides = [
        {"lock": locked(), "machine": machine, "undeclared": files}
        for machine, files in zip(machines, undeclared, strict=True)
    ]
    found = two(registry, *sides)
    assert (found.verdict, found.relaxed) == ("BITWISE", [])
    differs = two(registry, *sides, 0.5)
    assert {cause.kind for cause in differs.explanations} >= {"machine", "inputs"}


def test_the_tolerance_is_that_of_the_original(registry: LocalRegistry) -> None:
    kind = {"recipe": {"tolerance": {"weights": {"atol": 0.5}}}}
    assert two(registry, {"lock": locked(**kind)}, {"lock": locked(**kind)}, 0.5).verdict == "TENSOR-TOLERANCE"
    assert two(registry, {"lock": locked()}, {"lock": locked(**kind)}, 0.5).verdict == "DIVERGED"
    assert two(registry, {"lock": locked(**kind)}, {"lock": locked()}, 0.5).verdict == "TENSOR-TOLERANCE"
    assert two(registry, {"lock": locked(**kind)}, {"lock": locked(**kind)}, 0.75).verdict == "DIVERGED"


def test_a_run_without_a_lock_has_no_corners(registry: LocalRegistry) -> None:
    for left, right in (({"lock": locked()}, {}), ({}, {"lock": locked()}), ({}, {})):
        found = two(registry, left, right)
        assert list(lines(found)) == ["checkpoints"]
        assert found.verdict == "BITWISE"
        differs = two(registry, left, right, 0.5)
        assert differs.explanations[0].kind == "unexplained"


def test_files_of_the_code_are_compared_line_by_line_and_those_that_say_the_same_are_told_apart(
    registry: LocalRegistry,
) -> None:
    left = {"train.py": b"a = 1\nb = 2\n", "same.py": b"x = 1\n", "gone.py": b"y = 1\n", "data.bin": b"\xff"}
    right = {"train.py": b"a = 1\nb = 3\n", "same.py": b"x = 1  # one\n", "new.py": b"z = 1\n", "data.bin": b"\xfe"}
    facts = [CodeFacts(tree=tree, imported=["train.py", "same.py"], opened=[]) for tree in ("c" * 40, "d" * 40)]
    runs = [
        {"lock": locked(code=CodeIdentity(tree=one.tree)), "code": files}
        for one, files in zip(facts, (left, right), strict=True)
    ]
    one = made(registry, ONE, THREE, **runs[0])
    other = made(registry, OTHER, [Save(), Save(shift=0.5), Save(shift=0.5)], **runs[1])
    one, other = (
        StoredRun(msgspec.structs.replace(run.record, code=told), run.manifest)
        for run, told in zip((one, other), facts, strict=True)
    )
    found = compare_runs(one, other, registry=registry)
    (cause,) = [cause for cause in found.explanations if cause.kind == "code"]
    assert cause.weight == "likely"
    assert cause.lines[:2] == ["--- train.py", "+++ train.py"]
    assert {"-b = 2", "+b = 3", "+++ new.py", "+z = 1", "--- gone.py", "-y = 1", "+x = 1  # one"} <= set(cause.lines)
    assert not any("data.bin" in line for line in cause.lines)
    edited = {**left, "same.py": b"x = 1  # one\n"}
    comments = made(registry, OTHER, [Save(), Save(shift=0.5), Save(shift=0.5)], lock=runs[1]["lock"], code=edited)
    comments = StoredRun(msgspec.structs.replace(comments.record, code=facts[1]), comments.manifest)
    (idle,) = [cause for cause in compare_runs(one, comments, registry=registry).explanations if cause.kind == "code"]
    assert idle.weight == "unlikely"
    untold = StoredRun(msgspec.structs.replace(comments.record, code=None), comments.manifest)
    assert any(cause.kind == "code" for cause in compare_runs(one, untold, registry=registry).explanations)


def test_entries_of_data_that_differ_are_named(registry: LocalRegistry) -> None:
    hashes = [
        build(files, "t/in", registry=registry).top_hash for files in ({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3"})
    ]
    pins = [DataPin(name="in", package="t/in", top_hash=top_hash, path="in") for top_hash in hashes]
    found = two(registry, {"lock": locked(data=[pins[0]])}, {"lock": locked(data=[pins[1]])}, 0.5)
    (cause,) = [cause for cause in found.explanations if cause.kind == "data"]
    assert (cause.what, cause.lines) == ("data.in", ["~ b"])
    bare = two(registry, {"lock": locked(data=[pins[0]])}, {"lock": locked(data=[])}, 0.5)
    (lacking,) = [cause for cause in bare.explanations if cause.kind == "data"]
    assert (lacking.what, lacking.lines) == ("data.in", [])


def test_entries_of_each_input_are_compared_however_many_cannot_be(registry: LocalRegistry) -> None:
    """The versions of the first were deleted, the second is the same, and one run has the third alone."""
    hashes = [build({"a": text}, "t/in", registry=registry).top_hash for text in (b"1", b"2")]
    gone, same = ["6" * 64, "7" * 64], [hashes[0]] * 2
    data: list[list[DataPin]] = [[], []]
    for name, versions in (("gone", gone), ("same", same), ("lost", hashes[:1]), ("changed", hashes)):
        for pins, top_hash in zip(data, versions, strict=False):
            pins.append(DataPin(name=name, package="t/in", top_hash=top_hash, path=name))
    found = two(registry, {"lock": locked(data=data[0])}, {"lock": locked(data=data[1])}, 0.5)
    told = {cause.what: cause.lines for cause in found.explanations if cause.kind == "data"}
    assert told == {"data.gone": [], "data.lost": [], "data.changed": ["~ a"]}


def test_what_python_says_of_the_style_of_code_is_not_heard_and_whatever_is_said_next_is(
    registry: LocalRegistry,
) -> None:
    texts = [b'name = "\\d"\n', b'name = "\\d"  # digits\n']
    sides = [
        {"lock": locked(code=CodeIdentity(tree=tree)), "code": {"train.py": text}}
        for tree, text in zip(("c" * 40, "d" * 40), texts, strict=True)
    ]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = two(registry, *sides, 0.5)
        warnings.warn("something else", stacklevel=1)
    assert "code" in {cause.kind for cause in found.explanations}
    assert [str(one.message) for one in heard] == ["something else"]


# ── where the first difference is, which is what causes are weighed by ────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("right", "why"),
    [
        ([INITIAL, Save(), Save(shift=0.5), Save(shift=0.5)], "everything before epoch 2 is equal in every bit"),
        ([INITIAL, Save(), Save(), Save(shift=0.5)], "everything before epoch 3 is equal in every bit"),
        ([INITIAL, *(Save(shift=0.5) for _ in THREE)], "epoch 1 differs by more than rounding"),
        ([Save(place={"kind": "initial"}, shift=0.5), *THREE], "the initial state differs"),
        ([INITIAL, *THREE[:2]], "epoch 3 is missing from the repetition"),
        ([INITIAL, *THREE], "every checkpoint is equal in every bit"),
    ],
)
def test_a_cause_is_weighed_by_where_the_first_difference_is(
    registry: LocalRegistry, right: list[Save], why: str
) -> None:
    """Two parameters differ, so that none is likely for being alone."""
    locks = [locked(params={"rate": rate, "size": rate}) for rate in (0.1, 0.2)]
    outputs = [{"a": b"1"}, {"a": b"2"}]
    saves = [[INITIAL, *THREE], right]
    runs = [
        made(registry, run, own, lock=lock, outputs=files)
        for run, own, lock, files in zip((ONE, OTHER), saves, locks, outputs, strict=True)
    ]
    found = compare_runs(*runs, registry=registry)
    assert found.verdict == "DIVERGED"
    (cause,) = [cause for cause in found.explanations if cause.what == "params.rate"]
    assert why in cause.why or why in str(found.first_divergence and found.first_divergence.what)


def test_a_folder_where_a_file_was_is_said(registry: LocalRegistry) -> None:
    one, other = {"outputs": {"a": b"1", "c": b"1"}}, {"outputs": {"a/b": b"1", "c": b"1"}}
    found = compared(made(registry, ONE, THREE, **one), made(registry, OTHER, THREE, **other), registry)
    assert lines(found)["a"] == ("missing", "the repetition has a folder there")
    assert lines(found)["a/b"] == ("missing", "the original has a file a instead")
    found = compared(made(registry, ONE, THREE, outputs={"a": b"1"}), made(registry, OTHER, THREE), registry)
    assert lines(found)["a"] == ("missing", "the repetition does not have it")


def test_three_that_differ_in_the_middle_are_no_slip_of_a_record(registry: LocalRegistry) -> None:
    left = [Save() for _ in range(5)]
    right = [Save(), Save(shift=0.5), Save(shift=0.5), Save(shift=0.5), Save()]
    assert verdict_on(registry, left, right, atol=9.0).verdict == "TENSOR-TOLERANCE"


@pytest.mark.parametrize("line", [b"[]", b'{"values": []}', b'{"values": 3}', b"{}", b'"x"'])
def test_a_log_of_metrics_that_is_malformed_is_named_by_its_line(registry: LocalRegistry, line: bytes) -> None:
    run = whole(registry)
    with registry.staging() as sink:
        digest, size = sink.put_bytes(b'{"values": {"loss": 0.5}}\n' + line + b"\n")
    entries = [
        *(e for e in run.manifest.entries if e.logical_key != "metrics.jsonl"),
        Entry("metrics.jsonl", size, digest),
    ]
    with pytest.raises(DataMismatchError, match=rf"^Line 2 of metrics\.jsonl of run {ONE} is malformed: "):
        contradictions(StoredRun(run.record, Manifest.make(entries)), None, registry)
