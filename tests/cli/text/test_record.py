"""Checkpoints in a line: which one it is, where several are of one epoch too."""

from __future__ import annotations

from typing import Any

from reprokit.cli.text.record import checkpoint_line, run_text
from reprokit.schema.record import CheckpointEntry, Record


def _entry(**facts: Any) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash="a" * 64, state_digest="x", **facts)


def test_an_epochs_end_needs_no_step() -> None:
    entry = _entry(epoch=3, step=1200, metrics={"loss": 0.5})
    assert checkpoint_line(entry, among=[entry, _entry(epoch=2, step=800)]) == "epoch 3       t/m@aaaaaaaa  loss=0.5"
    assert checkpoint_line(_entry(step=7)) == "step 7        t/m@aaaaaaaa"
    unnamed = [_entry(metrics={"loss": loss}) for loss in (1, 2)]
    assert checkpoint_line(unnamed[1], among=unnamed) == "checkpoint 2  t/m@aaaaaaaa  loss=2"
    assert checkpoint_line(_entry(kind="initial", step=0)) == "initial state t/m@aaaaaaaa"


def test_checkpoints_of_one_epoch_say_their_steps() -> None:
    middle, end = _entry(epoch=3, step=1200, batch=200), _entry(epoch=3, step=1600)
    assert checkpoint_line(middle) == "epoch 3, batch 200, step 1200 t/m@aaaaaaaa"
    assert checkpoint_line(end) == "epoch 3       t/m@aaaaaaaa"
    assert checkpoint_line(end, among=[middle, end]) == "epoch 3, step 1600 t/m@aaaaaaaa"


def test_what_no_policy_asked_for_says_why_and_what_is_gone_says_so() -> None:
    assert checkpoint_line(_entry(epoch=1, step=5, kind="signal")) == "epoch 1, step 5 t/m@aaaaaaaa  on signal"
    dropped = _entry(epoch=0, step=2, dropped=True, metrics={"loss": 1})
    assert checkpoint_line(dropped) == "epoch 0       t/m@aaaaaaaa  dropped  loss=1"
    assert checkpoint_line(_entry(epoch=0), total=12_300) == "epoch 0       t/m@aaaaaaaa   12.3 KB"


def test_of_many_checkpoints_the_first_and_the_last_are_shown() -> None:
    def shown(count: int) -> list[str]:
        record = Record(
            run_id="20260101-000000-000000", name="n", status="finished", lock_hash=None, code=None, environment=None,
            started="2026-01-01T00:00:00Z", checkpoints=[_entry(epoch=number, step=number) for number in range(count)],
        )  # fmt: skip
        return [line.split()[1:3] for line in run_text(record).splitlines() if line.startswith("  checkpoint")]  # type: ignore[misc]

    assert shown(10) == [["epoch", str(number)] for number in range(10)]
    few = shown(40)
    assert few == [["epoch", number] for number in ("0", "1")] + [["…", "33"]] + [
        ["epoch", str(number)] for number in range(35, 40)
    ]
