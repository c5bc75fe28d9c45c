"""What may follow a run's record, and what is an amendment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.registry.local import LocalRegistry
from reprokit.runs.history import amendments
from reprokit.schema.record import Attempt, EnvironmentFacts
from reprokit.schema.verdict import Verdict
from tests.conftest import put_run

RUN, OTHER = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb"
ATTEMPT = [Attempt(started="a", ended="b", status="failed", resumed="c", resumed_from="epoch 1")]
GIVEN = [Verdict(run_id=RUN, reproduces=OTHER, verdict="BITWISE")]
REPEATS = {"reproduces": OTHER}
ENVIRONMENT = EnvironmentFacts(hash="0" * 64, packages=3, python="3.11.7")
START: dict[str, Any] = {"status": "running"}
FINISHED: dict[str, Any] = {"metrics": {"loss": 0.5}, "ended": "2026-01-02T04:00:00.000Z"}


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path)


def told(registry: LocalRegistry, *versions: dict[str, Any]) -> list[str]:
    """Publish versions of a record, and return how they do not go on from each other."""
    for facts in versions:
        put_run(registry, RUN, **facts)
    return [one.how for one in amendments(RUN, registry)]


@pytest.mark.parametrize(
    "versions",
    [
        [START, FINISHED],
        [START, {"status": "failed"}, {**START, "attempts": ATTEMPT}, {**FINISHED, "attempts": ATTEMPT}],
        [START, {"status": "interrupted"}, {**FINISHED, "attempts": ATTEMPT}],  # pulled before and after
        [{**START, **REPEATS}, {**FINISHED, **REPEATS}, {**FINISHED, **REPEATS, "verdicts": GIVEN}],
        [{**REPEATS, "status": "failed"}, {**REPEATS, "status": "failed", "verdicts": GIVEN}],
        [FINISHED, FINISHED],
        [],
    ],
)
def test_what_goes_on_is_no_amendment(registry: LocalRegistry, versions: list[dict[str, Any]]) -> None:
    assert told(registry, *versions) == []


@pytest.mark.parametrize(
    ("versions", "how"),
    [
        ([FINISHED, {**FINISHED, "metrics": {"loss": 0.4}}], "other metrics than the finished record before it"),
        ([FINISHED, {**FINISHED, "warnings": ["x"]}], "other warnings than the finished record before it"),
        ([FINISHED, {**START, "attempts": ATTEMPT}], "other status, metrics, ended, attempts than the finished"),
        ([FINISHED, {**FINISHED, "attempts": ATTEMPT}], "other attempts than the finished record before it"),
        ([{"status": "failed"}, {"status": "finished"}], "other status than the failed record before it"),
        ([START, {**FINISHED, "lock_hash": "1"}], "other lock_hash than the running record before it"),
        ([START, {**FINISHED, "params": {"a": 1}}], "other params than the running record before it"),
        ([START, {**FINISHED, "name": "b"}], "other name than the running record before it"),
        ([START, {**FINISHED, "started": "x"}], "other started than the running record before it"),
        ([START, {**FINISHED, **REPEATS}], "other reproduces than the running record before it"),
        ([START, {**FINISHED, "relaxed": ["x"]}], "other relaxed than the running record before it"),
        ([START, {**FINISHED, "environment": ENVIRONMENT}], "other environment than the running record before it"),
        ([FINISHED, {**FINISHED, "outputs": {"a": b"1"}}], "other outputs, outputs/a than the finished record"),
        ([FINISHED, {**FINISHED, "verdicts": GIVEN}], "other verdicts than the finished record before it"),
        (
            [{**FINISHED, **REPEATS}, {**FINISHED, **REPEATS, "verdicts": GIVEN * 2}],
            "other verdicts than the finished record before it",
        ),
        (
            [{**FINISHED, **REPEATS, "verdicts": GIVEN}, {**FINISHED, **REPEATS}],
            "other verdicts than the finished record before it",
        ),
    ],
)
def test_what_does_not_go_on_is_one(registry: LocalRegistry, versions: list[dict[str, Any]], how: str) -> None:
    (found,) = told(registry, *versions)
    assert found.startswith(how)


def test_a_version_alone_is_not_deleted_nor_is_a_run_set_back(registry: LocalRegistry) -> None:
    assert told(registry, START, FINISHED) == []
    name = f"runs/{RUN}"
    first, last = registry.top_hashes(name)
    registry.rollback(name, first)
    (found,) = amendments(RUN, registry)
    assert (found.before, found.after, found.how) == (last, first, "the run was set back to an older record")
    registry.rollback(name, last)
    assert amendments(RUN, registry) == []
    registry.tag(name, first, ("seen",))
    assert amendments(RUN, registry) == []  # `latest` says what is in force
    registry.delete(name, first)
    (found,) = amendments(RUN, registry)
    assert str(found) == f"{first[:12]} → (deleted): it was deleted, and the others were not"
    registry.delete(name, last)
    assert amendments(RUN, registry) == []  # as a whole


def test_a_run_that_was_deleted_comes_back_as_it_was_or_as_an_amendment(registry: LocalRegistry) -> None:
    assert told(registry, START, FINISHED) == []
    for top_hash in registry.top_hashes(f"runs/{RUN}"):
        registry.delete(f"runs/{RUN}", top_hash)
    assert told(registry, FINISHED) == []
    for top_hash in registry.top_hashes(f"runs/{RUN}"):
        registry.manifest_path(top_hash).unlink()
        registry.delete(f"runs/{RUN}", top_hash)
    assert told(registry, {**FINISHED, "metrics": {}}) == ["the run was deleted, and this is another record"]
