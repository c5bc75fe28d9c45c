"""What is written can be read: each writer is held to what its reader takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.errors import DataMismatchError, UsageError
from reprokit.schema import bounds
from reprokit.schema import record as records
from reprokit.schema.artefact import check_nesting, check_size
from reprokit.schema.bounds import cut_metrics
from reprokit.schema.lock import EnvironmentLock, LockedEnvironment
from reprokit.schema.metric_log import MAX_LINE, metric_lines
from reprokit.schema.record import Record
from reprokit.schema.verdict import RunLink, Verdict, VerdictRecord

PLAIN = Record(
    run_id="20260102-030405-abcdef", name="n", status="finished", lock_hash=None, code=None, environment=None,
    started="2026-01-02T03:04:05.000Z",
)  # fmt: skip


def test_metrics_that_a_record_does_not_list_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SHOWN", 100)
    metrics = {f"m{n}": n / 2 for n in range(20)}
    kept, left = cut_metrics(metrics)
    assert left is not None
    assert kept == {name: metrics[name] for name in sorted(metrics)[: len(kept)]}
    assert left.count == 20 - len(kept)
    assert cut_metrics(kept) == (kept, None)
    assert cut_metrics({**metrics, "m9": 0.0})[1] != left  # of one that is left out, another value


def test_what_would_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD", 2000)
    at_most = msgspec.structs.replace(PLAIN, params={"a": ""})
    fits = msgspec.structs.replace(PLAIN, params={"a": "x" * (2000 - len(at_most.encode()))})
    assert Record.decode(fits.encode(), what="it") == fits
    more = msgspec.structs.replace(fits, params={"a": f"{fits.params['a']}x"})
    with pytest.raises(UsageError, match="The record would be 2,001 bytes long; at most 2,000 are read"):
        more.encode()
    with pytest.raises(DataMismatchError, match="it is 2,001 bytes long; at most 2,000 are read"):
        Record.decode(fits.encode() + b" ", what="it")


def test_locks_and_verdicts_are_held_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, where it is written; `decode` reads no more either."""
    monkeypatch.setattr(check_size, "__kwdefaults__", {"max_bytes": 10})
    environment = EnvironmentLock(python="3.11", implementation="cpython", platform="linux-64")
    link = RunLink(run_id="a", top_hash="b", lock_hash=None)
    verdict = Verdict(run_id="a", reproduces="b", verdict="BITWISE")
    for kept in (
        LockedEnvironment(environment=environment),
        VerdictRecord(verdict=verdict, original=link, reproduction=link, by="", at=""),
    ):
        with pytest.raises(UsageError, match="at most 10 are read"):
            kept.encode()


def test_an_artefact_is_held_to_what_its_reader_takes() -> None:
    assert check_size(b"12", what="The lock", max_bytes=2) == b"12"
    with pytest.raises(UsageError, match="The lock would be 3 bytes long; at most 2 are read"):
        check_size(b"123", what="The lock", max_bytes=2)
    deep: list[Any] = []
    for _ in range(64):
        deep = [deep]
    check_nesting(deep[0], what="The lock")
    with pytest.raises(UsageError, match="The lock nests deeper than 64 levels"):
        check_nesting([deep], what="The lock")


def test_metrics_of_one_step_stand_in_as_many_lines_as_can_be_read() -> None:
    names = {"\U0001f600" * 65_536: 1.0, **{f"{n}" * 50_000: float(n) for n in range(60)}}
    lines = [*metric_lines(3, names, time=1.5)]
    assert len(lines) > 3
    assert max(map(len, lines)) <= MAX_LINE
    read = [msgspec.json.decode(line) for line in lines]
    assert {name: value for row in read for name, value in row["values"].items()} == names
    assert {(row["step"], row["time"]) for row in read} == {(3, 1.5)}
    assert [*metric_lines(None, {}, time=0.0)] == [b'{"time": 0.0, "step": null, "values": {}}\n']
