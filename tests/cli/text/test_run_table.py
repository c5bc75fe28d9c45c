"""Runs as a table: what is asked for, in columns that fit, and no text of a stranger's that forges a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.cli.text.run_table import run_table
from reprokit.errors import UsageError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.listing import Contents, ls
from reprokit.runs.query import RunRow
from reprokit.runs.store import RunStore
from tests.conftest import put_run

IDS = [f"2026112{day}-101500-7c1e9f" for day in range(5)]
FACTS = [
    {"name": "cnn", "metrics": {"loss": 0.5, "val/acc": 0.25}, "params": {"lr": 0.1, "net": "small"}},
    {"name": "a-name-that-is-long", "metrics": {"loss": 0.125}, "params": {"lr": 0.01}},
    {"name": "rnn", "metrics": {"loss": float("nan")}, "params": {"lr": "auto"}},
    {"name": "rnn", "metrics": {"other": 7.0}, "params": {}, "status": "failed"},
    {"name": "x\ny", "metrics": {"loss": 2.0}, "params": {"lr": 1}},
]


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    made = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    for run, facts in zip(IDS, FACTS, strict=True):
        put_run(made, run, **facts)
    return made


def listed(registry: LocalRegistry, **asked: object) -> list[RunRow]:
    found = ls(registry=registry, **asked)  # type: ignore[arg-type]
    assert isinstance(found, Contents)
    return found.runs


def days(rows: list[RunRow]) -> list[int]:
    return [IDS.index(row.run) for row in rows]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("metrics.loss", [1, 0, 4, 2, 3]),
        ("-metrics.loss", [2, 4, 0, 1, 3]),
        ("metrics['val/acc']", [0, 1, 2, 3, 4]),
        ("params.lr", [1, 0, 4, 2, 3]),
        ("-run", [4, 3, 2, 1, 0]),
        ("name", [1, 0, 2, 3, 4]),
        ("status", [3, 0, 1, 2, 4]),
        ("reproduced", [0, 1, 2, 3, 4]),
    ],
)
def test_runs_are_ordered_by_what_they_have_and_those_without_come_last(
    registry: LocalRegistry, sort: str, expected: list[int]
) -> None:
    assert days(listed(registry, sort=sort)) == expected


def test_a_limit_keeps_the_newest_or_the_first_of_what_is_sorted(registry: LocalRegistry) -> None:
    assert days(listed(registry, limit=2)) == [3, 4]
    assert days(listed(registry, limit=99)) == [0, 1, 2, 3, 4]
    assert days(listed(registry, sort="metrics.loss", limit=2)) == [1, 0]
    assert days(listed(registry, where="metrics.loss < 1", limit=1)) == [1]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"sort": "loss"}, "--sort: loss is nothing that a run has"),
        ({"sort": "metrics.lost"}, "--sort: no run has metrics.lost. Did you mean metrics.loss?"),
        ({"sort": "metrics.loss + 1"}, "is nothing that a run has"),
        ({"sort": "__import__('os')"}, "is nothing that a run has"),
        ({"sort": "("}, "is nothing that a run has"),
        ({"sort": ""}, "is nothing that a run has"),
        ({"limit": 0}, "--limit is a number of runs, 1 or more, not 0"),
        ({"ref": "latest", "limit": 1}, "--limit counts runs; what is in one is listed whole"),
        ({"ref": "latest", "sort": "name"}, "--sort orders runs; what is in one is listed whole"),
    ],
)
def test_what_cannot_be_asked_is_said(registry: LocalRegistry, asked: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        ls(registry=registry, **asked)  # type: ignore[arg-type]
    assert told in caught.value.message


def test_columns_fit_and_those_that_nothing_is_in_are_left_out(registry: LocalRegistry) -> None:
    rows = listed(registry)
    told = run_table(rows, RunStore(registry))
    assert [line for line, _ in told] == [
        "RUN                     STATUS    NAME                 CKPT  METRICS",
        f"{IDS[0]}  finished  cnn                     0  loss=0.5  val/acc=0.25",
        f"{IDS[1]}  finished  a-name-that-is-long     0  loss=0.125",
        f"{IDS[2]}  finished  rnn                     0  loss=nan",
        f"{IDS[3]}  failed    rnn                     0  other=7",
        f"{IDS[4]}  finished  x\\ny                    0  loss=2",
    ]
    assert [colour for _, colour in told] == ["bold", None, None, None, "red", None]
    assert [len(line) for line, _ in run_table(rows, RunStore(registry), width=60)] == [60, 60, 60, 60, 60, 60]
    assert all(line.endswith("…") for line, _ in run_table(rows, RunStore(registry), width=60)[1:])
    assert run_table(rows, RunStore(registry), width=400) == told


def test_columns_are_those_that_were_asked_for(registry: LocalRegistry) -> None:
    told = run_table(
        listed(registry), RunStore(registry), columns="run, params.lr,metrics.loss,metrics['val/acc'],params"
    )
    assert [line for line, _ in told] == [
        "RUN                     params.lr  metrics.loss  metrics['val/acc']  PARAMS",
        f"{IDS[0]}  0.1        0.5           0.25                lr=0.1  net=small",
        f"{IDS[1]}  0.01       0.125         -                   lr=0.01",
        f"{IDS[2]}  auto       nan           -                   lr=auto",
        f"{IDS[3]}  -          -             -",
        f"{IDS[4]}  1          2             -                   lr=1",
    ]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (" , ", "--columns names none"),
        ("run,loss", "--columns: loss is nothing"),
        ("metrics.x", "--columns: no run has"),
    ],
)
def test_columns_that_are_none_are_said(registry: LocalRegistry, columns: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        run_table(listed(registry), RunStore(registry), columns=columns)
