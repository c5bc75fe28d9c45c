"""Runs are chosen, ordered, grouped and measured against one of them, from memory, and none is missed for long."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from reprokit.registry.local import LocalRegistry
from reprokit.runs.listing import ls
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Record
from reprokit.web import run_table
from reprokit.web.run_table import PAGE, RunTable, View


def _put(registry: LocalRegistry, number: int, **facts: object) -> str:
    run_id = f"20260101-{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}-{number:06x}"
    record = Record(
        run_id=run_id, name=f"name{number % 3}", status="finished", lock_hash=None, code=None, environment=None,
        started="2026-01-01T00:00:00.000Z", ended="2026-01-01T00:00:01.000Z",
    )  # fmt: skip
    record = msgspec.structs.replace(record, **facts)
    with registry.staging() as sink:
        digest, size = sink.put_bytes(record.encode())
    made = Manifest.make([Entry("record.json", size, digest)], user_meta=meta_of(record.summary()))
    registry.publish(f"runs/{run_id}", made)
    return run_id


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def test_a_link_holds_the_whole_view() -> None:
    view = View(
        where="metrics.a < 1 and name == 'x&y'", sort="-metrics.a", columns=("metrics.a", "params.b"),
        baseline="20260101-000000-000000", group="name", page=3,
    )  # fmt: skip
    query = dict(__import__("urllib.parse", fromlist=["parse_qsl"]).parse_qsl(view.address().partition("?")[2]))
    assert View.of(query) == view
    assert View.of({}).address() == "/runs"
    assert View.of({"columns": ""}) == View(columns=())
    assert View.of({"page": "-1", "group": "nothing", "columns": "a,,a,b"}) == View(columns=("a", "b"))
    assert [view.ordered_by("metrics.a"), View(sort="run").ordered_by("run"), View().ordered_by("run")] == [
        view.address(sort="metrics.a", page=0), "/runs", "/runs?sort=-run",
    ]  # fmt: skip


def test_the_newest_comes_first_a_hundred_at_a_time(registry: LocalRegistry) -> None:
    runs = [_put(registry, number, metrics={"loss": float(number)}, params={"n": number}) for number in range(PAGE + 5)]
    table = RunTable(registry)
    first, second = table.listed(View()), table.listed(View(page=1))
    assert [row.run for row, _ in first.rows + second.rows] == runs[::-1]
    assert (first.total, first.of, first.more, second.more) == (PAGE + 5, PAGE + 5, True, False)
    assert first.columns == ("metrics.loss", "params.n")
    assert table.listed(View(page=9)).rows == []


def test_it_chooses_and_orders_as_ls_does_and_says_what_is_wrong_in_place(registry: LocalRegistry) -> None:
    values = [3.0, 1.0, float("nan"), 2.0]
    for number, value in enumerate(values):
        _put(registry, number, metrics={"loss": value} if number else {"other": 1.0, "loss": value}, params={"x": "a"})
    bare = _put(registry, 9)
    table = RunTable(registry)
    for where in ("metrics.loss < 2.5", "not metrics.loss", "metrics.loss is None", "name == 'name1'", ""):
        listed = {row.run for row, _ in table.listed(View(where=where)).rows}
        assert listed == {row.run for row in ls(where=where or None, registry=registry).runs}
    order = [row.run for row, _ in table.listed(View(sort="metrics.loss")).rows]
    assert [int(run[-6:], 16) for run in order] == [1, 3, 0, 2, 9]
    assert order[-1] == bare
    assert [int(row.run[-6:], 16) for row, _ in table.listed(View(sort="-metrics.loss")).rows][-1] == 9
    for view, why in (
        (View(where="metrics.lost < 1"), "No run has metrics.lost."),
        (View(sort="params.y"), "No run has params.y."),
        (View(where="1 +"), "1 +: invalid syntax. Such as: metrics.accuracy > 0.9"),
    ):
        listed_all = table.listed(view)
        assert listed_all.wrong.startswith(why)
        assert listed_all.total == 5  # nothing is hidden by a slip


def test_groups_stand_in_the_order_of_their_newest_run_and_say_how_many(registry: LocalRegistry) -> None:
    runs = [_put(registry, number) for number in range(5)]
    registry.tag(f"runs/{runs[0]}", registry.head(f"runs/{runs[0]}").top_hash, ("base",))  # type: ignore[union-attr]
    listed = RunTable(registry).listed(View(group="name"))
    assert [(row.name, head) for row, head in listed.rows] == [
        ("name1", "name1 (2)"), ("name1", ""), ("name0", "name0 (2)"), ("name0", ""), ("name2", "name2 (1)"),
    ]  # fmt: skip
    assert {head for _, head in RunTable(registry).listed(View(group="tag")).rows} == {"no tag (4)", "", "base (1)"}


def test_what_is_new_shows_soon_and_nobody_waits_for_it(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_table, "_FRESH", 0.05)
    _put(registry, 0)
    table = RunTable(registry)
    before = table.now()
    _put(registry, 1)
    time.sleep(0.1)
    assert table.now() is before  # as it was a moment ago; somebody looks now
    for _ in range(200):
        if len(table.now().rows) == 2:
            break
        time.sleep(0.05)
    after = table.now()
    assert (len(after.rows), after.stamp != before.stamp) == (2, True)
    time.sleep(0.2)
    assert table.now().stamp == after.stamp  # a look that finds nothing new changes nothing


def test_an_empty_registry_is_a_table_without_rows(registry: LocalRegistry) -> None:
    listed = RunTable(registry).listed(View(where="metrics.a > 1", sort="metrics.a"))
    assert (listed.rows, listed.total, listed.wrong, listed.columns) == ([], 0, "", ())
