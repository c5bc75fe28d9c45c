"""Which variables of a script training moves and a restore does not bring back, told from handmade looks."""

from __future__ import annotations

from typing import Any

import pytest

from reprokit.doctor.findings import Finding, Looks
from reprokit.doctor.variables import moved_variables, without_clocks

_KEEP = "keep it in ckpt.state, and take it from there in the loop"


def _look(value: object) -> dict[str, Any]:
    seen = {} if value is None else {"x": {"digest": str(value), "shown": str(value)}}
    return {"by_hand": True, "sources": [], "variables": seen}


def _found(*values: object, equal: bool, **more: Any) -> list[tuple[bool, str]]:
    """Return what is found of `x` by its values: initially, at the checkpoint, the next, after the restore, at last."""
    initial, first, second, restored, last = map(_look, values)
    looks = Looks(
        initial=initial, first=first, second=second, start=initial, restored=restored, next=last, equal=equal, **more
    )
    return [(finding.certain, str(finding)) for finding in moved_variables(looks)]


@pytest.mark.parametrize(
    "values",
    [
        (0, 1, 2, 0, 2),  # computed anew in time
        (5, 5, 5, 6, 6),  # never moved: two starts differ
        (None, 1, 1, None, 1),  # set in the loop
        (0, 1, 2, 1, 2),  # came back
    ],
)
def test_what_is_the_same_again_is_not_told(values: tuple[object, ...]) -> None:
    assert _found(*values, equal=True) == []


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0, 1, 2, 0, 1), "2 → 1"),  # a counter, a list of losses
        ((20, 20, 80, 20, 20), "80 → 20"),  # a rate that moved only later
        ((None, 1, 2, None, 1), "2 → 1"),  # kept from epoch to epoch, and first set inside
        ((None, None, 7, None, 8), "7 → 8"),
        ((None, 1, 1, None, None), "1 → (absent)"),  # made in the first epoch alone
    ],
)
def test_what_training_moves_and_a_resumed_process_ends_with_otherwise_is_lost(
    values: tuple[object, ...], shown: str
) -> None:
    assert _found(*values, equal=True) == [(True, f"own variable x: differs at the next checkpoint: {shown}; {_KEEP}")]


def test_after_a_divergence_what_was_there_before_the_loop_and_did_not_come_back_is_the_reason() -> None:
    carried = [(True, f"own variable x: training moves it, and it did not come back: 1 → 0; {_KEEP}")]
    assert _found(0, 1, 2, 0, 2, equal=False) == carried  # a batch drawn ahead is the same again one step later
    assert _found(0, 1, 2, 0, 9, equal=False) == carried
    assert _found(None, 1, 2, None, 9, equal=False) == []  # then everything that is computed differs
    assert _found(0, 1, 2, 1, 9, equal=False) == []


@pytest.mark.parametrize(("equal", "certain"), [(False, True), (True, False)])
def test_a_variable_that_lags_by_the_batches_done_counts_anew(equal: bool, certain: bool) -> None:
    ((told, text),) = _found(None, 4, 19, None, 14, equal=equal, done=5)
    assert told is certain
    assert text.startswith("loop variable x: counts anew in the resumed epoch: 19 → 14; count with ckpt.batch, which ")
    assert (_found(None, 4, 19, None, 13, equal=equal, done=5) == []) is not equal


def test_what_differs_only_until_the_epochs_end_is_a_note() -> None:
    ((certain, text),) = _found(0, 5, 3, 0, 3, equal=True, passing=[(_look(9), _look(4))])
    assert (certain, "is the same again later" in text) == (False, True)


def test_a_clock_is_a_note() -> None:
    lost = [Finding(part="own variable", where="x", problem="differs")]
    assert without_clocks(lost, _look(1), _look(1)) == lost
    (clock,) = without_clocks(lost, _look(1), _look(2))
    assert (clock.certain, clock.hint) == (False, None) and "differs between two trainings" in clock.problem
    assert without_clocks(lost, _look(1), None) == lost


def test_what_each_turn_sets_before_it_uses_it_is_not_lost_where_this_turn_has_not_come_to_it() -> None:
    def found(anew: list[str]) -> list[Finding]:
        initial, first, second, restored, last = map(_look, (None, 1, 2, None, None))
        looks = Looks(
            initial=initial, first=first, second={**second, "anew": anew}, start=initial, restored=restored, next=last,
            equal=True,
        )  # fmt: skip
        return moved_variables(looks)

    assert found(["x"]) == []
    assert [finding.where for finding in found(["y"])] == ["x"]


@pytest.mark.parametrize("anew", [True, False])
def test_what_each_turn_takes_from_the_checkpoint_is_no_reason_for_a_divergence(anew: bool) -> None:
    initial, first, second, restored, last = map(_look, (0, 1, 2, 0, 3))
    looks = Looks(
        initial=initial, first=first, second={**second, "anew": ["x"] if anew else []}, start=initial,
        restored=restored, next=last, equal=False,
    )  # fmt: skip
    assert [finding.where for finding in moved_variables(looks)] == ([] if anew else ["x"])
