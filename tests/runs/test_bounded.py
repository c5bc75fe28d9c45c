"""What is written can be read: the lists of a record end where it would not be, with a count and a digest."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from reprokit.core.canonical_json import canonical
from reprokit.runs import bounded
from reprokit.schema import bounds
from reprokit.schema.bounds import MAX_RECORD
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.record import Attempt, CheckpointEntry, CodeFacts, OutputFacts, Record, UndeclaredFile
from reprokit.schema.verdict import Cause, Comparison, Verdict

PLAIN = Record(
    run_id="20260102-030405-abcdef", name="n", status="finished", lock_hash=None, code=None, environment=None,
    started="2026-01-02T03:04:05.000Z",
)  # fmt: skip
LONG = "x" * 1000


@pytest.fixture
def hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of what a record has room for, so that a hundredth is too much."""
    for name in ("MAX_SHOWN", "LARGE"):
        less = getattr(bounds, name) // 100
        for module in (bounds, bounded):
            monkeypatch.setattr(module, name, less)


def _many(count: int, make: Any) -> list[Any]:
    return [make(number) for number in range(count)]


HUGE: dict[str, tuple[Any, str]] = {
    "undeclared": (_many(1500, lambda n: UndeclaredFile(path=f"/data/{n:06}", size=n, digest="0" * 64)), "path"),
    "refused": (_many(90, lambda n: f"{n:06}{LONG}"), ""),
    "warnings": (_many(90, lambda n: f"{n:06}{LONG}"), ""),
    "artifacts": (_many(90, lambda n: f"{n:06}{LONG}"), ""),
    "outputs": (_many(2000, lambda n: OutputFacts(path=f"out/{n:06}{LONG[:100]}", digest="0" * 64)), "path"),
}


@pytest.mark.parametrize("what", HUGE)
@pytest.mark.usefixtures("hundredth")
def test_a_long_list_ends_with_a_count_and_a_digest(what: str) -> None:
    items, _ = HUGE[what]
    cut = bounded.bounded(msgspec.structs.replace(PLAIN, **{what: items}))
    kept, (left,) = getattr(cut, what), cut.left_out
    assert kept == items[: len(kept)]
    assert (left.what, left.count) == (what, len(items) - len(kept))
    gone = hashlib.sha256(b"".join(canonical(msgspec.to_builtins(one)) + b"\n" for one in items[len(kept) :]))
    assert left.digest == gone.hexdigest()
    assert Record.decode(cut.encode(), what="it") == cut
    assert bounded.bounded(cut) == cut


def test_what_is_short_stays_as_it_is() -> None:
    assert bounded.bounded(PLAIN) == PLAIN


@pytest.mark.usefixtures("hundredth")
def test_of_checkpoints_and_attempts_the_first_and_the_last_stay() -> None:
    saved = _many(
        1500, lambda n: CheckpointEntry(package="t/m" * 30, top_hash=f"{n:064}", state_digest="s" * 90, epoch=n)
    )
    tried = _many(40, lambda n: Attempt(
        started=f"{n}", ended=None, status="failed", failure="f" * 5000, resumed="r", resumed_from="b",
        machine=Machine(gpus=["g" * 2000]),
    ))  # fmt: skip
    cut = bounded.bounded(msgspec.structs.replace(PLAIN, checkpoints=saved, attempts=tried))
    assert (cut.checkpoints[0], cut.checkpoints[-1]) == (saved[0], saved[-1])
    assert (cut.attempts[0].started, cut.attempts[-1].started) == ("0", "39")
    assert {one.what: one.count for one in cut.left_out} == {
        "attempts": 40 - len(cut.attempts),
        "checkpoints": 1500 - len(cut.checkpoints),
    }


@pytest.mark.usefixtures("hundredth")
def test_all_of_a_run_at_its_worst_can_be_read() -> None:
    """Everything that a run adds to its record, each beyond what fits."""
    worst = msgspec.structs.replace(
        PLAIN,
        **{what: items for what, (items, _) in HUGE.items()},
        checkpoints=_many(
            1500, lambda n: CheckpointEntry(package="t/m", top_hash=f"{n:064}", state_digest="s" * 99, metrics={"l": n})
        ),
        metrics={f"{n:06}{LONG}": 0.5 for n in range(90)},
        code=CodeFacts(tree="t", imported=HUGE["refused"][0], opened=HUGE["refused"][0]),
        machine=Machine(imported=[LONG] * 90),
        failure="\x00" * 160_000,
        verdicts=[
            Verdict(
                run_id="a", reproduces="b", verdict="BITWISE",
                comparisons=_many(990, lambda n: Comparison(what=f"{n}{LONG[:90]}", result="match")),
                explanations=[Cause(kind="code", what="code", text="t", lines=[LONG * 9] * 9)] * 3,
            )
        ],
    )  # fmt: skip
    data = bounded.bounded(worst).encode()
    assert len(data) < MAX_RECORD / 100 + 22_000
    read = Record.decode(data, what="it")
    assert {one.what for one in read.left_out} == {*HUGE, "checkpoints", "metrics", "code.imported", "code.opened"}
    assert "150,000 characters" in str(read.failure)
    assert read.machine.numeric == Numeric(unknown="what the script's process said of it takes 2 bytes")


def test_the_budgets_of_a_record_leave_room_for_the_rest() -> None:
    budgets = 2 * bounds.LARGE + 9 * bounds.MAX_SHOWN + 3 * bounds.MAX_SHOWN
    assert budgets < MAX_RECORD - 8 * 1024 * 1024


@pytest.mark.usefixtures("hundredth")
def test_a_verdict_on_very_much_says_how_much_it_does_not_list() -> None:
    many = _many(2000, lambda n: Comparison(what=f"output {n}", result="match", detail="123,456 bytes"))
    cut = bounded.bounded_verdict(Verdict(run_id="a", reproduces="b", verdict="BITWISE", comparisons=many))
    listed = cut.comparisons[:-1]
    assert listed == many[: len(listed)]
    assert cut.comparisons[-1].detail == f"{2000 - len(listed):,} more were compared than are listed"
    assert bounded.bounded_verdict(cut) == cut
