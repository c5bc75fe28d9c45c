"""Two threads against one on a training whose bits hang on it: the rung that the declared tolerance allows.

The everyday run has one of these among the faults of `test_verdicts`, without a tolerance.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.reproducing import Bench, Verdict

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_SCALE <= 1, reason="trains fourteen times; REPROKIT_TEST_SCALE=2"),
]
pytest.importorskip("torch", reason="the torch extra is not installed")

_WITHIN = dict.fromkeys(["loss", "total", "mean", "largest"], 0.01)
_OUTPUTS = [{"path": "metrics.json", "compare": "values"}]


def _changes(tolerance: dict[str, Any], outputs: list[Any] = _OUTPUTS) -> dict[str, Any]:
    """Return a training that threads change only in the last digits: plain gradient descent, few epochs."""
    params = {"optimizer": "SGD", "epochs": 2, "dropout": 0.0}
    return {"params": params, "tolerance": tolerance, "outputs": outputs}


_CASES = {
    "none declared": (_changes({}), "DIVERGED"),
    "weights": (_changes({"weights": {"atol": 1e-4}, "metrics": _WITHIN}), "TENSOR-TOLERANCE"),
    "weights, too small": (_changes({"weights": {"atol": 1e-12}}), "DIVERGED"),
    "weights, but the output is compared by bytes": (
        _changes({"weights": {"atol": 1e-4}}, ["metrics.json"]), "DIVERGED",
    ),
    "metrics": (_changes({"metrics": _WITHIN}), "METRIC-TOLERANCE"),
    "weights too small, metrics": (_changes({"weights": {"atol": 1e-12}, "metrics": _WITHIN}), "METRIC-TOLERANCE"),
    "weights, a metric too small": (
        _changes(
            {"weights": {"atol": 1e-4}, "metrics": {"mean": 1e-12, "largest": 1e-12}},
            [{"path": "metrics.json", "compare": "ignore"}],
        ),
        "DIVERGED",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(bench: Bench) -> dict[str, Verdict]:
    def with_two_threads(name: str) -> Verdict:
        run = bench.original("torch", changes=_CASES[name][0])
        return bench.reproduce(run, "threads=2")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(_CASES, pool.map(with_two_threads, _CASES), strict=True))


@pytest.mark.parametrize("name", _CASES)
def test_two_threads_against_one_give_the_rung_that_was_declared(name: str, verdicts: dict[str, Verdict]) -> None:
    verdict, rung = verdicts[name], _CASES[name][1]
    assert verdict["verdict"] == rung
    assert verdict["exit"] == (7 if rung == "DIVERGED" else 0)
    assert verdict["relaxed"] == ["threads=2"]
    first = verdict["first_divergence"]
    assert first["what"] == "epoch 0"
    assert 0 < first["max_abs"] < 1e-4, "the bits have to differ, and only in the last digits"
    assert verdict["explanations"][0]["what"] == "execution.threads"
