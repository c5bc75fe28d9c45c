"""What a run logged, read back and digested."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.runs import logged
from reprokit.runs.logged import counted, digests_of, last_logged, logged_apart, read_logged, series_of
from reprokit.runs.store import StoredRun
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.metric_log import MAX_LINE
from reprokit.schema.record import Attempt, Record
from tests.conftest import LONG

RUN = "20260102-030405-aaaaaa"
ROWS: list[dict[str, Any]] = [
    {"step": 2, "values": {"loss": 3.0, "bad": "nan"}},
    {"step": None, "values": {"loss": 7.0}},
    {"step": 1, "values": {"loss": -0.0}},
    {"step": 2, "values": {"loss": 1.0}},
    {"step": -1, "values": {"loss": 9}},
    {"step": 0, "values": {"loss": 4.0}},
]
ATTEMPT = Attempt(started="a", ended=None, status="failed", resumed="b", resumed_from="c")


def record(**facts: Any) -> Record:
    needed: dict[str, Any] = {"name": "n", "status": "finished", "lock_hash": None, "code": None, "environment": None}
    return Record(run_id=RUN, started="2026-01-02T03:04:05.000Z", **{**needed, **facts})


def kept(tmp_path: Path, text: bytes) -> tuple[StoredRun, LocalRegistry]:
    registry = LocalRegistry(tmp_path / "registry")
    with registry.staging() as sink:
        digest, size = sink.put_bytes(text)
    return StoredRun(record(), Manifest.make([Entry("metrics.jsonl", size, digest)])), registry


def test_a_digest_is_that_of_the_values_by_step_as_the_format_has_it() -> None:
    series = series_of(ROWS)
    by_step = [[None, ["7.0"]], [-1, ["9.0"]], [0, ["4.0"]], [1, ["0.0"]], [2, ["1.0", "3.0"]]]
    text = json.dumps(by_step, separators=(",", ":")).encode()
    assert digests_of(series, again=False)["loss"] == hashlib.sha256(text).hexdigest()
    assert digests_of(series, again=False)["bad"] == hashlib.sha256(b'[[2,["nan"]]]').hexdigest()
    text = json.dumps([[-1, ["9.0"]], [0, ["4.0"]], [1, ["0.0"]], [2, ["1.0"]]], separators=(",", ":")).encode()
    assert digests_of(series, again=True)["loss"] == hashlib.sha256(text).hexdigest()


def test_what_was_logged_last_is_last_whatever_its_step(tmp_path: Path) -> None:
    for count, last in ((5, 9), (4, 1.0)):
        run, registry = kept(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in ROWS[:count]))
        assert last_logged(run.manifest["metrics.jsonl"], registry, what="it")["loss"] == last
    assert counted(series_of(ROWS)["loss"], again=True) == {1: [0.0], 2: [1.0], -1: [9], 0: [4.0]}


def test_what_is_read_is_what_was_logged(tmp_path: Path) -> None:
    run, registry = kept(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    assert digests_of(read_logged(run, registry), again=False) == digests_of(series_of(ROWS), again=False)
    assert read_logged(StoredRun(run.record, Manifest.make([])), registry) == {}


@pytest.mark.parametrize(
    "row",
    [
        {"step": "1", "values": {"a": 1.0}},
        {"step": True, "values": {"a": 1.0}},
        {"step": 1, "values": {"a": 1.0, "b": "x"}},
        {"step": 1, "values": {"a": 1.0, "b": 2**63}},
        {"step": 1, "values": [1.0]},
    ],
)
def test_a_line_that_nothing_can_be_made_of_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    run, registry = kept(tmp_path, b'{"step":1,"values":{"a":1}}\n' + json.dumps(row).encode())
    with pytest.raises(DataMismatchError, match=f"Line 2 of metrics.jsonl of run {RUN} is malformed"):
        read_logged(run, registry)


def test_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, registry = kept(tmp_path, b'{"step":1,"values":{"a":1}}\n')
    size = run.manifest["metrics.jsonl"].size
    monkeypatch.setattr(logged, "MAX_SERIES", size)
    assert read_logged(run, registry) == {"a": {1: [1]}}
    monkeypatch.setattr(logged, "MAX_SERIES", size - 1)
    with pytest.raises(DataMismatchError, match=f"is {size} bytes long; at most {size - 1} are compared"):
        read_logged(run, registry)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"logged": {"a": "1", "b": "2"}}, {"logged": {"a": "1", "b": "2"}}, []),
        ({"logged": {"a": "1", "b": "2"}}, {"logged": {"a": "1", "c": "3"}}, ["b", "c"]),
        ({"logged": None}, {"logged": {"a": "1"}}, None),
        ({"logged": {"a": "1"}}, {"logged": None}, None),
        ({"logged": {"a": "1"}, "status": "failed"}, {"logged": {"a": "1"}}, None),
        ({"logged": {"a": "1"}}, {"logged": {"a": "1"}, "status": "failed"}, None),
        ({"logged": {"a": "1"}, "attempts": [ATTEMPT]}, {"logged": {"a": "1"}}, []),
        ({"logged": {"a": "1"}, "attempts": [ATTEMPT]}, {"logged": {"a": "2"}}, None),
        ({"logged": {"a": "1"}}, {"logged": {"a": "2"}, "attempts": [ATTEMPT]}, None),
    ],
)
def test_digests_tell_what_differs_where_they_can(
    one: dict[str, Any], other: dict[str, Any], expected: list[str] | None
) -> None:
    assert logged_apart(record(**one), record(**other)) == expected


def _kept(registry: LocalRegistry, file: Path) -> Entry:
    with registry.staging() as sink, file.open("rb") as handle:
        digest, size = sink.put_stream(handle, file.stat().st_size)
    return Entry("metrics.jsonl", size, digest)


@LONG
def test_metrics_of_more_than_256_mib_are_read_in_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    block = b"".join(json.dumps({"step": n, "values": {"loss" + "x" * 500_000: n}}).encode() + b"\n" for n in range(60))
    with file.open("wb") as handle:
        for _ in range(10):
            handle.write(block)
        handle.write(b'{"step": 9, "values": {"loss": "nan", "last": 7}}\n')
    assert file.stat().st_size > 256 * 1024 * 1024
    registry = LocalRegistry(tmp_path / "registry")
    entry = _kept(registry, file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = last_logged(entry, registry, what="it")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 100 * 1024
    assert (found.pop("last"), str(found.pop("loss"))) == (7, "nan")
    assert [*found.values()] == [59]


def test_the_last_value_of_each_metric_is_what_was_logged(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"values": {"a": 1, "b": "nan"}}\n{"values": {"a": 2.5}}\n')
    registry = LocalRegistry(tmp_path / "registry")
    found = last_logged(_kept(registry, file), registry, what="it")
    assert (found.pop("a"), str(found.pop("b")), found) == (2.5, "nan", {})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{}\n", "Line 2 of it is malformed"),
        (b'{"values": 7}\n', "Line 2 of it is malformed"),
        (b'{"values": {"' + b"x" * MAX_LINE + b'": 7}}\n', "at most 1,048,576 are read"),
    ],
)
def test_a_line_that_no_run_writes_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"values": {"a": 1}}\n' + line)
    registry = LocalRegistry(tmp_path / "registry")
    with pytest.raises(DataMismatchError, match=said):
        last_logged(_kept(registry, file), registry, what="it")
