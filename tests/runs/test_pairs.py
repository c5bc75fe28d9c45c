"""Which checkpoint of one run stands against which of another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.runs.pairs import checkpoint_pairs
from reprokit.schema.record import CheckpointEntry, Record


def run(*places: dict[str, Any], initial: str | None = None, **facts: Any) -> Record:
    def entry(place: dict[str, Any]) -> CheckpointEntry:
        needed = {"package": "t/m", "top_hash": "0" * 64, "state_digest": "same"}
        return CheckpointEntry(**{**needed, **place})

    needed: dict[str, Any] = {"name": "n", "status": "finished", "lock_hash": None, "code": None, "environment": None}
    return Record(
        run_id="20260102-030405-aaaaaa",
        started="2026-01-02T03:04:05.000Z",
        checkpoints=[entry(place) for place in places],
        initial=entry({"state_digest": initial, "kind": "initial"}) if initial is not None else None,
        **{**needed, **facts},
    )


def told(left: Record, right: Record, until: int | None = None) -> list[tuple[str, str]]:
    return [(str(pair.place), pair.state) for pair in checkpoint_pairs(left, right, until)]


def test_a_pair_is_equal_differs_or_lacks_a_side() -> None:
    left = run({"epoch": 0}, {"epoch": 1, "state_digest": "one"}, {"epoch": 2})
    right = run({"epoch": 0}, {"epoch": 1, "state_digest": "other"}, {"epoch": 3})
    assert told(left, right) == [
        ("epoch 0", "equal"),
        ("epoch 1", "differs"),
        ("epoch 2", "missing"),
        ("epoch 3", "missing"),
    ]
    stopped = msgspec.structs.replace(left, status="interrupted")
    assert told(stopped, right) == [("epoch 0", "equal"), ("epoch 1", "differs"), ("epoch 2", "missing")]
    missing = checkpoint_pairs(left, right)[2:]
    assert [(pair.left is None, pair.right is None) for pair in missing] == [(False, True), (True, False)]


def test_an_initial_state_that_one_run_alone_has_is_missing_of_the_other() -> None:
    for one, other, expected in (("a", "a", "equal"), ("a", "b", "differs")):
        assert told(run(initial=one), run(initial=other)) == [("initial state", expected)]
    assert told(run(initial="a"), run()) == told(run(), run(initial="a")) == [("initial state", "missing")]
    assert told(run(), run()) == told(run(status="interrupted"), run(initial="a")) == []  # it did not live to save it
    assert told(run(initial="a", status="interrupted"), run()) == [("initial state", "missing")]
    assert told(run({"epoch": 0}, initial="a"), run({"epoch": 0}, initial="a"))[0][0] == "initial state"


@pytest.mark.parametrize("until", [0, 1, 2, None])
def test_epochs_after_the_last_that_counts_are_left_out_and_steps_are_not(until: int | None) -> None:
    left = run({"epoch": 0}, {"epoch": 1}, {"epoch": 2}, {"step": 5})
    names = [name for name, _ in told(left, left, until)]
    assert names == [f"epoch {n}" for n in range(3) if until is None or n <= until] + ["step 5"]


def test_what_was_saved_by_chance_is_set_against_nothing() -> None:
    left = run({"epoch": 0}, {"epoch": 1, "kind": "signal"}, {"epoch": 1, "kind": "exception"})
    assert told(left, run({"epoch": 0})) == told(run({"epoch": 0}), left) == [("epoch 0", "equal")]


def test_several_of_one_place_are_told_apart_by_their_order() -> None:
    left = run({"epoch": 0, "state_digest": "a"}, {"epoch": 0, "state_digest": "b"}, {"epoch": 0, "batch": 3})
    right = run({"epoch": 0, "state_digest": "a"}, {"epoch": 0, "state_digest": "c"}, {"epoch": 0, "batch": 3})
    assert told(left, right) == [("epoch 0", "equal"), ("epoch 0, save 2", "differs"), ("epoch 0, batch 3", "equal")]
    swapped = run({"epoch": 0, "state_digest": "b"}, {"epoch": 0, "state_digest": "a"}, {"epoch": 0, "batch": 3})
    assert [state for _, state in told(left, swapped)] == ["differs", "differs", "equal"]


def test_an_epoch_may_take_another_number_of_steps() -> None:
    assert told(run({"epoch": 0, "step": 10}), run({"epoch": 0, "step": 12})) == [("epoch 0", "equal")]
    assert told(run({"step": 10}), run({"step": 12})) == [("step 10", "missing"), ("step 12", "missing")]
