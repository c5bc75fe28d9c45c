"""When a checkpoint is due."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reprokit.client import policy
from reprokit.client.policy import Policy


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def tell(**context: Any) -> Policy:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps(context))
        monkeypatch.setenv("REPROKIT_CONTEXT", str(file))
        return Policy()

    return tell


def test_epochs_count_from_the_first_and_the_last_is_always_due(told: Any) -> None:
    made = told(every={"n": 2, "unit": "epoch"})
    assert [made.due_after_epoch(epoch, 6) for epoch in range(7)] == [False, True, False, True, False, True, True]
    assert not made.due_after_batch(0, 1, 100)


def test_steps_are_due_when_a_multiple_was_passed_since_the_last_save(told: Any) -> None:
    made = told(every={"n": 3, "unit": "step"})
    due = []
    for step in (1, 2, 3, 4, 7, 8, 9):
        due.append(made.due_after_batch(0, step, step))
        if due[-1]:
            made.saved(step)
    assert due == [False, False, True, False, True, False, True]
    assert made.due_after_epoch(0)


def test_a_resumed_run_counts_on_from_its_checkpoint(told: Any) -> None:
    made = told(every={"n": 3, "unit": "step"})
    made.resumed(7)
    assert [made.due_after_batch(0, step, step) for step in (8, 9)] == [False, True]


def test_minutes_count_from_the_last_save(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(policy.time, "monotonic", lambda: now[0])
    made = told(every={"n": 2, "unit": "minute"})
    now[0] += 119
    assert not made.due_after_batch(0, 5, 5)
    now[0] += 1
    assert made.due_after_batch(0, 6, 6)
    made.saved(6)
    assert not made.due_after_batch(0, 7, 7)


def test_a_repetition_saves_where_the_clock_had_the_original_save_and_nowhere_else(told: Any) -> None:
    made = told(every={"n": 1, "unit": "minute"}, at=[[0, 4], [1, 2]])
    places = [(0, 3), (0, 4), (1, 2), (1, 3)]
    assert [made.due_after_batch(epoch, batch, 9) for epoch, batch in places] == [False, True, True, False]
    assert not told(every={"n": 1, "unit": "minute"}, at=[]).due_after_batch(0, 1, 1)


def test_processes_that_train_together_do_not_save_by_the_clock(told: Any) -> None:
    with pytest.raises(RuntimeError, match="minutes` cannot be used with several processes"):
        told(every={"n": 1, "unit": "minute"}).agree()


def test_stop_after_counts_checkpoints(told: Any) -> None:
    made = told(stop_after=2)
    assert [made.saved(1), made.saved(2)] == [False, True]


def test_where_an_original_saved_by_the_clock_a_repetition_saves_and_at_the_same_ends(told: Any) -> None:
    made = told(every={"n": 1, "unit": "minute"}, at=[[0, 3], [1, None]])
    assert [made.due_after_batch(0, batch, batch) for batch in (2, 3)] == [False, True]
    assert [made.due_at_end(epoch, 8, 8) for epoch in (0, 1)] == [False, True]
    assert made.inside_epochs
    steps = told(every={"n": 4, "unit": "step"})
    assert [steps.due_at_end(0, batch, batch) for batch in (3, 8)] == [False, True]
    assert not told(every={"n": 1, "unit": "epoch"}, at=[[1, None]]).inside_epochs
