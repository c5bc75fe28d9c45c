"""Curves lose no spike when they are thinned, and a malformed line costs nothing else."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from reprokit.export.report.data import extremes
from reprokit.web import series
from reprokit.web.series import MOST, Series, _parsed, as_chart, seconds_of
from tests.web.conftest import Lab


def _line(step: object, values: dict[str, object], time: object = 1.0) -> bytes:
    return json.dumps({"time": time, "step": step, "values": values}).encode() + b"\n"


def test_what_was_logged_is_read_by_step_and_time_whatever_else_stands_there() -> None:
    data = (
        _line(0, {"a": 1, "b": 0.5})
        + b"not json\n" + b'{"values": 3}\n' + b'{"values": {"a": [1]}}\n' + b"\n"
        + _line(None, {"a": 2.0}) + _line(2, {"a": "nan", "b": "inf"}) + _line(2**60, {"a": 3.0}) + b'{"trunc'
    )  # fmt: skip
    found = _parsed(data)
    assert list(found["a"].values) == [1.0, 2.0, 3.0]
    assert (found["a"].lost, found["b"].lost) == (1, 1)
    assert found["a"].steps[0] == 0.0
    assert found["a"].steps[1] != found["a"].steps[1]  # nobody said
    chart = as_chart("a", [("r", "run", found["a"])])
    assert chart["axes"] == ["time", "index"]  # one has no step
    assert as_chart("b", [("r", "run", found["b"])])["axes"] == ["step", "time", "index"]
    assert json.loads(json.dumps(chart, allow_nan=False)) == chart


def test_lines_of_many_blocks_are_all_read() -> None:
    data = b"".join(_line(step, {"loss": step * 1.0, "x" * 300: 1}) for step in range(20_000))
    assert len(data) > 4 * 1024 * 1024
    assert list(_parsed(data)["loss"].values) == [float(step) for step in range(20_000)]


def test_no_spike_is_lost_of_a_million_points() -> None:
    series = Series()
    values = [random.Random(0).random()] * 1_000_000
    values[123_456], values[987_654] = 50.0, -50.0
    for step, value in enumerate(values):
        series.add(value, step=float(step))
    (line,) = as_chart("loss", [("r", "run", series)])["lines"]
    assert len(line["y"]) <= MOST
    assert (max(line["y"]), min(line["y"])) == (50.0, -50.0)
    assert line["x"]["step"][line["y"].index(50.0)] == 123_456


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(2, 60))
def test_thinning_keeps_order_and_extremes(values: list[float], most: int) -> None:
    kept = list(extremes(values, most))
    assert kept == sorted(set(kept))
    assert len(kept) <= max(most, len(values) if len(values) <= most else most)
    if values:
        assert (min(values[i] for i in kept), max(values[i] for i in kept)) == (min(values), max(values))


def test_curves_of_several_runs_share_the_axes_that_all_have() -> None:
    one, other = Series(), Series()
    one.add(1.0, step=1, epoch=0)
    other.add(2.0, step=1, time=5.0)
    assert as_chart("a", [("1", "x", one), ("2", "y", other)])["axes"] == ["step", "index"]
    assert (seconds_of("1970-01-01T00:00:01Z"), seconds_of("?") == seconds_of("?")) == (1.0, False)


def test_a_log_that_is_too_long_is_said_and_not_read(
    lab: Lab, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/runs/{lab.hostile}/charts.json"
    whole = client.get(address).json()
    assert (len(whole["charts"]), whole["unread"]) == (2, [])
    monkeypatch.setattr(series, "_MOST_BYTES", 10)
    told = client.get(address).json()
    assert (told["charts"], told["unread"]) == ([], [f"{lab.hostile} logged more than is drawn here."])
