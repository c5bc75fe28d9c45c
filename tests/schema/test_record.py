"""What a record says of its run: where it goes on, which checkpoint a selector names, what listings get of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.schema import record as module
from reprokit.schema.place import INITIAL, Place
from reprokit.schema.record import (
    Attempt,
    CheckpointEntry,
    DataFacts,
    OutputFacts,
    Record,
    VariableRead,
)
from reprokit.schema.verdict import Divergence, Verdict

RUN, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"


def saved(number: int, **facts: Any) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash=f"{number}" * 64, state_digest="d", **facts)


def record(*checkpoints: CheckpointEntry, **facts: Any) -> Record:
    needed = {"name": "n", "status": "finished", "lock_hash": None, "code": None, "environment": None, "started": "s"}
    return Record(run_id=RUN, checkpoints=list(checkpoints), **{**needed, **facts})


def test_parameters_that_never_reached_the_script_are_not_used() -> None:
    told = record(params={"rate": 0.1, "size": 2, "words": ["a"]}, unused=["size", "gone"])
    assert told.used_params == {"rate": 0.1, "words": ["a"]}
    assert record(params={"rate": 0.1}).used_params == {"rate": 0.1}


def test_a_header_has_what_was_used_and_what_was_not() -> None:
    verdicts = [Verdict(run_id=RUN, reproduces=OTHER, verdict=rung) for rung in ("DIVERGED", "BITWISE")]
    attempt = Attempt(
        started="a", ended="b", status="failed", resumed="c", resumed_from="x", resumed_at=Place(epoch=1, batch=3)
    )
    told = record(
        saved(1), saved(2), params={"rate": 0.1, "size": 2}, unused=["size"], metrics={"loss": 0.5}, ended="e",
        data=[DataFacts(name="in", package="t/in", top_hash="6" * 64, path="in")], attempts=[attempt],
        verdicts=verdicts, reproduces=OTHER, checkpoint_package="t/m", lock_hash="3" * 64,
    ).summary()  # fmt: skip
    assert msgspec.structs.asdict(told) == {
        "kind": "run", "run": RUN, "name": "n", "status": "finished", "started": "s", "ended": "e",
        "lock_hash": "3" * 64, "checkpoint_package": "t/m", "checkpoints": 2, "inputs": [("t/in", "6" * 64)],
        "metrics": {"loss": 0.5}, "params": {"rate": 0.1}, "unused": ["size"], "reproduces": OTHER,
        "resumed": ["epoch 1, batch 3"], "verdict": "BITWISE",
    }  # fmt: skip
    bare = record().summary()
    assert (bare.params, bare.unused, bare.verdict, bare.resumed) == ({}, [], None, [])


def test_parameters_that_are_too_long_for_a_header_are_in_the_record_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = record(params={"a": "x" * 30, "b": 1}, unused=["b"])
    length = len(json.dumps([told.params, told.unused], separators=(",", ":")))
    monkeypatch.setattr(module, "_SHORT", length)
    assert (told.summary().params, told.summary().unused) == ({"a": "x" * 30}, ["b"])
    monkeypatch.setattr(module, "_SHORT", length - 1)
    assert (told.summary().params, told.summary().unused) == (None, [])


def test_it_is_printed_as_it_is_kept_with_the_words_of_its_verdicts() -> None:
    verdict = Verdict(
        run_id=RUN,
        reproduces=OTHER,
        verdict="BITWISE",
        provisos=["Something."],
        first_divergence=Divergence(output="a"),
    )
    told = record(
        saved(1, epoch=0, metrics={"loss": float("nan")}), metrics={"loss": float("-inf")}, verdicts=[verdict]
    )
    plain = told.plain()
    kept = json.loads(told.encode())
    assert plain.keys() == kept.keys()
    assert {name: value for name, value in plain.items() if name != "verdicts"} == {
        name: value for name, value in kept.items() if name != "verdicts"
    }
    assert (plain["run_id"], plain["metrics"], plain["checkpoints"][0]["metrics"]) == (
        RUN, {"loss": "-inf"}, {"loss": "nan"},
    )  # fmt: skip
    assert plain["verdicts"] == [verdict.plain()]
    assert plain["verdicts"][0]["verdict"] == "BITWISE, with provisos"


INFINITE = {"loss": float("inf"), "least": float("-inf"), "whole": 1.0}


def test_metrics_that_are_not_finite_come_back_wherever_they_stand() -> None:
    told = record(
        saved(1, epoch=0, metrics=INFINITE), saved(2, epoch=1), metrics=INFINITE,
        initial=saved(3, kind="initial", metrics=INFINITE),
    )  # fmt: skip
    assert Record.decode(told.encode(), what="it") == told
    bare = record(metrics={"loss": float("nan")})
    assert Record.decode(bare.encode(), what="it").metrics["loss"] != bare.metrics["loss"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"exit_code": "0"}, r"Expected `int \| null`, got `str` - at `\$\.exit_code`"),
        ({"metrics": {"loss": "0.5"}}, r"Expected `float`, got `str` - at `\$\.metrics\[\.\.\.\]`"),
        ({"metrics": ["inf"]}, r"Expected `object`, got `array` - at `\$\.metrics`"),
        ({"checkpoints": {"metrics": 1}}, r"Expected `array`, got `object` - at `\$\.checkpoints`"),
        ({"checkpoints": [3]}, r"Expected `object`, got `int` - at `\$\.checkpoints\[0\]`"),
        ({"initial": "x"}, r"Expected `object \| null`, got `str` - at `\$\.initial`"),
        ({"status": "done"}, r"Invalid enum value 'done' - at `\$\.status`"),
        ({"extra": 1}, "Object contains unknown field `extra`"),
        *(
            ({field: [{"path": "a", "extra": 1}]}, rf"Object contains unknown field `extra` - at `\$\.{field}\[0\]`")
            for field in ("outputs", "undeclared", "programs")
        ),
    ],
)
def test_what_has_not_the_form_of_a_record_is_named_by_where(change: dict[str, Any], said: str) -> None:
    plain = json.loads(record(saved(1)).encode())
    with pytest.raises(DataMismatchError, match=rf"^record\.json is malformed: {said}"):
        Record.decode(json.dumps({**plain, **change}).encode(), what="record.json")


@pytest.mark.parametrize("data", [b"[]", b"3", b"null"])
def test_what_is_no_mapping_is_no_record(data: bytes) -> None:
    with pytest.raises(DataMismatchError, match=r"^record\.json is malformed: Expected `object`"):
        Record.decode(data, what="record.json")


def test_a_run_goes_on_from_its_last_checkpoint_that_is_there_and_was_no_failure() -> None:
    initial = saved(9, kind="initial")
    first, second = saved(1, epoch=0), saved(2, epoch=1, batch=3, kind="signal")
    failed = saved(3, epoch=1, batch=5, kind="exception")
    assert record(first, second, failed, initial=initial).last == second
    assert record(first, msgspec.structs.replace(second, dropped=True), initial=initial).last == first
    assert record(failed, initial=initial).last == initial
    assert record(msgspec.structs.replace(first, dropped=True), initial=initial).last == initial
    assert record(first, second).last == second
    assert record(initial=initial).last == initial
    assert record(failed).last is record().last is None


def test_of_several_checkpoints_of_an_epoch_its_end_is_meant_and_of_its_ends_the_last() -> None:
    middle, end, again = saved(1, epoch=0, batch=3), saved(2, epoch=0), saved(3, epoch=0, batch=4)
    other, alone, failed = saved(4, epoch=1, batch=1), saved(5, epoch=1, batch=2), saved(6, epoch=2, kind="exception")
    told = record(middle, end, again, other, alone, failed)
    later = msgspec.structs.replace(end, top_hash="7" * 64)
    assert told.select("epoch=0", best={}) == end
    assert record(end, later, again).select("epoch=0", best={}) == later
    assert told.select("epoch=1", best={}) == alone
    assert told.select("last", best={}) == told.select(None, best={}) == alone
    assert told.select("exception", best={}) == failed


def test_a_checkpoint_has_the_selector_that_finds_it_and_no_other() -> None:
    middle, end, step, unnamed = saved(1, epoch=0, batch=3, step=5), saved(2, epoch=0), saved(3, step=7), saved(4)
    hidden, initial = saved(5, epoch=0, batch=4), saved(9, kind="initial", step=0)
    told = record(middle, hidden, end, step, unnamed)
    assert [told.selector_of(one) for one in told.checkpoints] == ["step=5", None, "epoch=0", "step=7", None]
    assert (told.selector_of(initial), record(initial=initial).selector_of(initial)) == (None, "initial")
    assert record(end, initial=initial).selector_of(end) == "epoch=0"


def test_the_best_is_told_by_the_recipe_or_by_the_name_of_a_metric() -> None:
    names = {"a:b": (2.0, 1.0, 3.0), "loss": (2.0, 1.0, 3.0), "error": (2.0, 1.0, 3.0), "nan": (float("nan"), 1.0, 2.0)}
    told = record(
        *(saved(at, epoch=at, metrics={name: some[at] for name, some in names.items()}) for at in range(3)), saved(9)
    )
    for selector, best, epoch in (
        ("best", {"a:b": "min", "loss": "max"}, 1),  # the first of the recipe's
        ("best:a:b", {}, 2),
        ("best:a:b", {"a:b": "min"}, 1),
        ("best:loss", {}, 1),
        ("best:loss", {"loss": "max"}, 2),
        ("best:error", {}, 1),
        ("best:nan", {}, 2),
        ("best:nan", {"nan": "min"}, 1),
    ):
        assert told.select(selector, best=best).epoch == epoch, (selector, best)


def test_a_checkpoint_that_is_not_there_is_told_beside_those_that_are() -> None:
    told = record(*(saved(1, epoch=epoch) for epoch in range(12)), saved(2, step=7), saved(3))
    with pytest.raises(NotFoundError) as caught:
        told.select("epoch=99", best={})
    assert caught.value.message == f"Run {RUN} has no checkpoint 'epoch=99'."
    assert caught.value.hint == f"It has 14: {', '.join(f'epoch={epoch}' for epoch in range(12))}."
    for few, hint in (
        (record(saved(2, step=7), saved(3)), "It has 2: step=7, checkpoint 1."),
        (record(), "It has 0: none."),
    ):
        with pytest.raises(NotFoundError) as caught:
            few.select("best", best={})
        assert (caught.value.message, caught.value.hint) == (f"Run {RUN} has no checkpoint 'best'.", hint)
    with pytest.raises(NotFoundError, match=f"^Run {RUN} has no checkpoint 'last'"):
        record().select(None, best={})


def test_a_checkpoint_that_was_dropped_is_told_beside_those_that_are_left() -> None:
    told = record(
        saved(1, epoch=0), saved(2, epoch=1, dropped=True), saved(3, step=7), saved(4), saved(5, dropped=True)
    )
    assert told.select("epoch=0", best={}).epoch == 0
    for selector, name in (("epoch=1", "epoch=1"), (None, "last")):
        with pytest.raises(NotFoundError) as caught:
            told.select(selector, best={})
        assert caught.value.message == (
            f"The checkpoint '{name}' of run {RUN} was dropped, as `checkpoints.keep` says."
        )
        assert caught.value.hint == "Those that are left: epoch=0, step=7, checkpoint 1."


NAMES = [f"v{number}" for number in range(9)]


@pytest.mark.parametrize(
    ("facts", "at", "text"),
    [
        ({"resumed_from": "the beginning"}, "its beginning", "resumed at its beginning, on r"),
        (
            {"resumed_from": "epoch 1", "resumed_at": Place(epoch=2)},
            "epoch 2",
            "resumed at epoch 2, from epoch 1, on r",
        ),
        (
            {"resumed_from": "epoch 1", "resumed_at": Place(epoch=2), "restored": False},
            "its beginning",
            "resumed at its beginning, from epoch 1, which its script did not restore, on r",
        ),
        (
            {"resumed_from": "epoch 1", "resumed_at": Place(epoch=2), "lost": NAMES[:8]},
            "epoch 2",
            "resumed at epoch 2, from epoch 1, without v0, v1, v2, v3, v4, v5, v6, v7 of its script, on r",
        ),
        (
            {"resumed_from": "epoch 1", "resumed_at": Place(epoch=2), "lost": NAMES},
            "epoch 2",
            "resumed at epoch 2, from epoch 1, without v0, v1, v2, v3, v4, v5, v6, v7, … of its script, on r",
        ),
    ],
)
def test_where_a_run_went_on_in_words(facts: dict[str, Any], at: str, text: str) -> None:
    attempt = Attempt(started="a", ended=None, status="interrupted", resumed="r", **facts)
    assert (attempt.told_at, str(attempt)) == (at, text)


def test_variables_that_began_anew_are_named_up_to_eight() -> None:
    def said(count: int) -> str:
        attempt = Attempt(
            started="a", ended=None, status="failed", resumed="r", resumed_from="epoch 1", resumed_at=Place(epoch=2),
            lost=NAMES[:count],
        )  # fmt: skip
        return attempt.not_restored

    assert said(1).startswith(
        "Resumed at epoch 2, but variables of the script began anew that had moved before: `v0`. "
    )
    assert "`v6`, `v7`. No checkpoint holds them" in said(8)
    assert "`v7` and 1 more. No checkpoint holds them" in said(9)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [({}, True), ({"hidden": True}, True), *(({name: True}, False) for name in ("unset", "taken", "platform"))],
)
def test_a_variable_is_an_input_if_it_was_there_and_read_by_its_name(facts: dict[str, bool], expected: bool) -> None:
    assert VariableRead(name="LR", **facts).is_input is expected


@pytest.mark.parametrize(
    ("facts", "kept"), [({}, True), ({"missing": True}, False), ({"unkept": "a pipe"}, False), ({"unkept": ""}, False)]
)
def test_an_output_is_kept_if_it_was_written_and_could_be(facts: dict[str, Any], kept: bool) -> None:
    assert OutputFacts(path="a", **facts).is_kept is kept


def test_inputs_and_checkpoints_are_named_by_where_they_are() -> None:
    told = DataFacts(name="in", package="t/in", top_hash="6" * 64, path="in")
    assert (str(told), str(msgspec.structs.replace(told, within="a/b"))) == ("t/in@66666666", "t/in@66666666:a/b")
    assert saved(1, kind="initial").place == INITIAL
    place = Place(kind="signal", epoch=1, step=2, batch=3)
    assert saved(1, kind="signal", epoch=1, step=2, batch=3).place == place
