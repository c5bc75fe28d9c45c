"""What all imports share: IDs that stay, digests as a run's own, limits that are said."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from reprokit.comparison.compare_runs import compare_runs
from reprokit.recording.foreign import runs
from reprokit.recording.foreign.runs import ForeignRun, Found, ImportedRuns, Tool, record_runs
from reprokit.registry.local import LocalRegistry
from reprokit.runs.logged import digest_of_rows, digests_of, read_logged, series_of
from reprokit.runs.store import RunStore
from tests.conftest import context_of

START = 1_790_000_000_123
TOOL = Tool("Other", "other")


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def taken(registry: LocalRegistry, *given: ForeignRun, tool: Tool = TOOL) -> ImportedRuns:
    found = [Found(id=str(number), started=run.started, load=lambda run=run: run) for number, run in enumerate(given)]
    context = context_of(registry.root.parent, registry)
    return record_runs(found, tool=tool, total=len(found), context=context, imported=ImportedRuns())


def made(**facts: object) -> ForeignRun:
    return ForeignRun(**{"name": "one", "status": "finished", "started": START, **facts})  # type: ignore[arg-type]


def test_its_digests_are_those_of_a_run_that_logged_the_same(registry: LocalRegistry) -> None:
    draw, run = random.Random(3), made()
    rows = []
    for _ in range(500):
        name, step = draw.choice("ab"), draw.randrange(-5, 40)
        value = draw.choice([0.0, -0.0, math.nan, math.inf, -math.inf, draw.random(), 1e-300])
        run.log(name, step, START / 1000 + draw.randrange(3), value)
        rows.append({"step": step, "values": {name: value}})
    there = RunStore(registry).load(taken(registry, run).runs["0"])
    assert there.record.logged == digests_of(series_of(rows), again=False)
    assert there.record.logged == digests_of(read_logged(there, registry), again=False)


def test_a_digest_of_no_or_many_rows_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(step, step / 7) for step in range(10_000)]
    assert digest_of_rows(many) == digests_of({"a": {step: [value] for step, value in many}}, again=False)["a"]
    assert digest_of_rows([]) == digests_of({"a": {}}, again=False)["a"]


def test_tools_that_use_the_same_id_do_not_meet(registry: LocalRegistry) -> None:
    one, other = taken(registry, made()), taken(registry, made(), tool=Tool("More", "more"))
    assert one.runs["0"][:15] == other.runs["0"][:15] and one.runs != other.runs and not other.known
    verdict = compare_runs(*(RunStore(registry).load(each.runs["0"]) for each in (one, other)), registry=registry)
    assert verdict.verdict == "INCONCLUSIVE"


def test_a_run_without_a_name_has_that_of_its_tool(registry: LocalRegistry) -> None:
    given = taken(registry, made(name="\x1b[31m…"), made(name="…"), made(name="x" * 300))
    assert [RunStore(registry).load(run_id).record.name for run_id in given.runs.values()] == [
        "31m",
        "other",
        "x" * 100,
    ]


def test_what_is_too_much_is_said(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_POINTS", 3)
    monkeypatch.setattr(runs, "MAX_METRICS", 2)
    run = made()
    for name in "ab":
        run.log(name, 0, 1.0, 1.0)
    with pytest.raises(ValueError, match="it has more than 2 metrics"):
        run.log("c", 0, 1.0, 1.0)
    run.log("a", 1, 1.0, 1.0)
    with pytest.raises(ValueError, match="it has more than 3 values"):
        run.log("a", 2, 1.0, 1.0)
    with pytest.raises(ValueError, match="a metric's name has 0 characters"):
        run.log("", 2, 1.0, 1.0)
    monkeypatch.setattr(runs, "_MAX_PARAMS", 2)
    given = taken(registry, made(params={"a": 1, "b": 2, "c": 3, "d": 4}))
    assert RunStore(registry).load(given.runs["0"]).record.params == {"a": 1, "b": 2}
    assert given.notes[0].endswith("left out 2 of 4 parameters: too many, or names that are too long")


def test_a_log_that_is_too_long_to_be_compared_is_kept_and_said(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_SERIES", 50)
    run = made()
    for step in range(3):
        run.log("a", step, 1.0, float(step))
    record = RunStore(registry).load(taken(registry, run).runs["0"]).record
    assert record.logged is None and record.metrics == {"a": 2.0}
    assert [one.what for one in record.left_out] == ["bytes of logged values"]


def test_what_is_told_of_it_has_no_secret(registry: LocalRegistry) -> None:
    given_away = "ghp_" + "0123456789abcdefghij" * 2
    tags = {"ok": "1", "list": ["a", given_away], **dict.fromkeys(["api_key"], "abcd1234")}
    told = {"run": "x", "note": given_away, "tags": tags}
    given = taken(registry, made(told=told))
    run = RunStore(registry).load(given.runs["0"])
    data = registry.read_object(run.manifest["artifacts/other.json"], what="it")
    assert data == b'{\n "run": "x",\n "tags": {\n  "ok": "1"\n }\n}'
