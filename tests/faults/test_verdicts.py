"""Each of many faults, on real training: the rung, the first divergence and the cause that the verdict names.

The everyday run commits a few; REPROKIT_TEST_SCALE=10 commits one of every kind, with what each of two seeds draws.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase

import pytest

from tests.faults.drawing import Expected, Fault
from tests.faults.reproducing import NEEDS, Bench, Verdict
from tests.faults.verdict_faults import KINDS, draw

pytestmark = pytest.mark.slow

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_SEED = int(os.environ.get("REPROKIT_TEST_SEED", "1"))
_EVERYDAY = [
    "torch: one pixel",
    "torch: an extra draw",
    "torch: threads",
    "torch: a stored weight moved by an ulp",
    "torch: a metric edited in the record",
]
_SEEDS = range(_SEED, _SEED + max(1, round(_SCALE / 5)))
_DRAWN = [draw(seed, kind) for seed in _SEEDS for kind in (KINDS if _SCALE > 1 else _EVERYDAY)]

_Result = tuple[Verdict, Expected]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, bench: Bench) -> Iterator[dict[str, Future[_Result]]]:
    """Commit the faults of all tests that are to run, two at a time."""
    specs = [item.callspec for item in request.session.items if getattr(item, "callspec", None) is not None]
    faults: list[Fault] = [spec.params["fault"] for spec in specs if isinstance(spec.params.get("fault"), Fault)]
    with ThreadPoolExecutor(2) as pool:
        yield {fault.name: pool.submit(fault.apply, bench) for fault in faults if not _missing(fault)}
        pool.shutdown(cancel_futures=True)


def _missing(fault: Fault) -> list[str]:
    return [module for module in NEEDS[fault.training] if importlib.util.find_spec(module) is None]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in _DRAWN])
def test_a_fault_gives_the_right_verdict_cause_epoch_and_tensor(
    fault: Fault, results: dict[str, Future[_Result]]
) -> None:
    if missing := _missing(fault):
        pytest.skip(f"{missing[0]} is not installed: install reprokit's extra for it")
    verdict, expected = results[fault.name].result()
    first = verdict["first_divergence"] or {}
    found = [(cause["weight"], cause["kind"], cause["what"]) for cause in verdict["explanations"]]
    print(fault.detail, "|", verdict["verdict"], "|", first.get("what"), "|", first.get("tensor"), "|", found[:3])
    assert verdict["verdict"] == expected.rung
    assert verdict["exit"] == (7 if expected.rung == "DIVERGED" and verdict["by"] == "reproduce" else 0)
    assert fnmatchcase(str(first.get("what")), expected.where)
    assert expected.tensor is None or fnmatchcase(str(first.get("tensor")), expected.tensor)
    assert {name: first[name] for name in expected.first} == expected.first
    if expected.differing:
        apart = [line["what"] for line in verdict["comparisons"] if line["what"].startswith(("epoch ", "initial "))]
        assert tuple(apart) == expected.differing
    kind, what = expected.cause
    assert found[0][:2] == ("likely" if kind != "unexplained" else found[0][0], kind)
    assert fnmatchcase(found[0][2], what)
    assert verdict["causes"] == [cause["text"] for cause in verdict["explanations"]]
    assert all(any(part in line for line in verdict["explanations"][0]["lines"]) for part in expected.lines)
    assert not [cause for cause in found if cause[1] in expected.unlikely and cause[0] == "likely"]


def test_a_seed_draws_the_same_fault_again_and_another_one_another() -> None:
    assert [draw(seed).name for seed in range(20)] == [draw(seed).name for seed in range(20)]
    assert len({draw(seed).kind for seed in range(200)}) > 30
    details = {draw(seed, "torch: one pixel").detail for seed in range(20)}
    assert len(details) == 20
