"""Curves in a line: honest with what is no number, no wider than the terminal, in letters that the encoding has."""

from __future__ import annotations

import math
import subprocess
from typing import Any

import pytest

from reprokit.cli.text.sparks import ASCII, UNICODE, curve_lines, marks_of, spark, strip
from reprokit.cli.text.two_runs import both_text
from reprokit.schema.record import CheckpointEntry, Record
from tests.conftest import Project


def _record(*entries: CheckpointEntry) -> Record:
    return Record(
        run_id="20260102-030405-aaaaaa", name="t", status="finished", lock_hash=None, code=None, environment=None,
        started="", checkpoints=list(entries),
    )  # fmt: skip


def _entry(epoch: int, digest: str = "a", **metrics: float) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash="0" * 64, state_digest=digest, epoch=epoch, metrics=metrics)


def test_values_are_heights_and_what_is_no_number_is_shown_as_such() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7], 80) == "▁▂▃▄▅▆▇█"
    assert spark([1.0, math.nan, None, math.inf, 2.0], 80) == "▁×·×█"
    assert spark([3.0, 3.0], 80) == "▄▄"
    assert spark([1e308, -1e308, 5e-324], 80) == "█▁▅"
    assert spark([math.nan], 80) == "×"
    assert spark([], 80) == ""
    assert spark([0.0, 1.0], 80, beside=[2.0]) == "▁▅"


def test_many_values_share_places_and_hide_nothing_that_is_no_number() -> None:
    line = spark([float(n) for n in range(1000)], 50)
    assert len(line) == 50
    assert line[0] == "▁"
    assert line[-1] == "█"
    assert list(line) == sorted(line)
    assert spark([1.0] * 999 + [math.nan], 10).endswith("×")


def test_a_strip_shows_the_worst_of_what_shares_a_place() -> None:
    states = ["equal"] * 500 + ["differs"] + ["equal"] * 498 + ["missing"]
    assert strip(states[:3] + states[500:501] + ["missing"], 80) == "===≠·"
    line = strip(states, 10)
    assert line == "=====≠===·"


def test_an_encoding_that_lacks_the_blocks_gets_letters() -> None:
    assert [marks_of(name) for name in ("utf-8", "UTF-16", "ascii", "latin-1", None, "no such")] == [
        UNICODE, UNICODE, ASCII, ASCII, ASCII, ASCII,
    ]  # fmt: skip
    assert spark([0.0, 1.0], 80, ASCII) == "_@"
    assert strip(["equal", "differs"], 80, ASCII) == "=!"


def test_lines_are_as_wide_as_the_terminal_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [_entry(n, "ab"[n > 700], loss=1 / (n + 1), **{"a name \u202e" + "x" * 300: 1e300}) for n in range(1000)]
    for columns in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = [f"{'':15}{line}" for line in curve_lines(_record(*entries), indent=15)]
        other = _record(*(_entry(n, "a", loss=1 / (n + 2 - (n < 500))) for n in range(1000)))
        lines += both_text(_record(*entries), other).splitlines()
        assert len(lines) == 7
        assert max(map(len, lines)) <= columns
        assert not any("\u202e" in line for line in lines)


def test_two_runs_stand_over_each_other() -> None:
    left = _record(_entry(0, loss=4.0, same=1.0), _entry(1, loss=2.0, same=2.0), _entry(2, loss=0.0, same=math.nan))
    right = _record(_entry(0, loss=4.0, same=1.0), _entry(1, "b", loss=3.0, same=2.0))
    assert both_text(left, right).splitlines() == [
        "  checkpoints  =≠·  epoch 0 → epoch 2",
        "  loss         █▅▁  4 → 0",
        "               █▆·  4 → 3  from epoch 1 on",
        "  same         ▁█×  1 → nan",
        "               ▁█·  1 → 2  from epoch 2 on",
    ]
    assert both_text(left, left).splitlines()[1:] == [
        "  loss         █▅▁  4 → 0  both",
        "  same         ▁█×  1 → nan  both",
    ]
    assert both_text(_record(), _record()) == ""


def test_of_few_or_many_metrics_the_first_are_shown() -> None:
    assert curve_lines(_record(_entry(0, loss=1.0)), indent=0) == []
    many = [_entry(n, **{f"m{i}": 1.0 for i in range(100)}) for n in range(3)]
    lines = curve_lines(_record(*many), indent=0)
    assert len(lines) == 13
    assert lines[-1] == "and 88 more (--json has all)"
    assert both_text(_record(*many), _record(*many)).splitlines()[-1].strip() == "and 92 more metrics (--json has all)"


def test_show_and_diff_draw_curves_as_text_and_not_as_json(project: Project) -> None:
    first = project.json("run", "recipe.yaml")["run_id"]
    changed: dict[str, Any] = project.json("reproduce", first, "--with", "param.rate=0.2", expect=7)
    shown = project.reprokit("show", first).stdout
    assert any(line.startswith("  curve        loss  ") and " → " in line for line in shown.splitlines())
    compared = project.reprokit("diff", first, changed["run_id"]).stdout.splitlines()
    assert compared[0] == "  checkpoints  ≠≠≠  epoch 0 → epoch 2"
    assert compared[-1].strip().startswith("verdict")
    repeated = project.reprokit("reproduce", first, "--with", "param.rate=0.2", "-q", expect=7).stdout.splitlines()
    assert repeated[0] == compared[0]
    assert repeated[-1].strip().startswith("verdict")
    environment = {**project.environment(), "PYTHONIOENCODING": "latin-1"}
    for command, seen in ((["show", first], b" -> "), (["diff", first, changed["run_id"]], b"!!!")):
        done = subprocess.run(project.command(*command), env=environment, check=True, capture_output=True)
        assert seen in done.stdout
