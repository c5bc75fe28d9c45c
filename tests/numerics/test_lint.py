"""What decides bits and was left open is named; what the recipe settles is not."""

from __future__ import annotations

from typing import Any

import pytest

from reprokit.locking.recipe_lock import lock_run
from reprokit.numerics.lint import lint
from reprokit.schema.lock import CodeIdentity, EnvironmentLock, RecipeLock, RunLock
from reprokit.schema.recipe import from_plain

_SETTLED = {"threads": 1, "variables": {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}}
_TORCH = {"cuda": False, "tf32": [], "benchmark": False, "deterministic": True, "precision": "highest"}
_LOADER = {"name": "t.py `l`", "workers": 2, "persistent": False, "held": True, "generators": [], "worker_init": False}


def _lock(**execution: Any) -> RunLock:
    recipe = from_plain({"name": "t", "code": {"entrypoint": "t.py"}, "execution": execution})
    environment = EnvironmentLock(python="3.11", implementation="cpython", platform="linux")
    pins = RecipeLock(declares="", environment=environment, data=[])
    return lock_run(recipe, CodeIdentity(tree="0" * 40), pins)


def test_a_settled_recipe_with_a_plain_script_is_fine() -> None:
    assert lint(_lock(**_SETTLED), {"torch": _TORCH, "loaders": [_LOADER], "unseeded": []}) == []
    told = {"num_threads": 2, "deterministic": False, "histograms": "by row"}
    assert lint(_lock(**_SETTLED), {"lightgbm": told}) == []


@pytest.mark.parametrize(
    ("execution", "facts", "begins"),
    [
        ({"variables": _SETTLED["variables"]}, {}, "execution.threads is not set: it is "),
        ({"threads": 1}, {"torch": _TORCH}, "MKL_CBWR and ATEN_CPU_CAPABILITY are not set: "),
        ({**_SETTLED, "determinism": "off"}, {}, "execution.determinism is off: PYTHONHASHSEED is unset"),
        ({**_SETTLED, "determinism": "seeded"}, {}, "execution.determinism is seeded: "),
        ({**_SETTLED, "determinism": "off"}, {"torch": {**_TORCH, "tf32": ["a.b"]}}, "TF32 is on (a.b): "),
        (_SETTLED, {"torch": {**_TORCH, "benchmark": True}}, "torch.backends.cudnn.benchmark is on: "),
        (_SETTLED, {"torch": {**_TORCH, "precision": "high"}}, "torch.set_float32_matmul_precision is 'high': "),
        (_SETTLED, {"torch": {**_TORCH, "cuda": True, "deterministic": False}}, "The script turned torch.use_"),
        (_SETTLED, {"loaders": [{**_LOADER, "persistent": True, "held": False}]}, "The DataLoader t.py `l` has pers"),
        (_SETTLED, {"loaders": [{**_LOADER, "generators": ["t.py `g`"]}]}, "Each of the 2 workers of t.py `l` draws"),
        (_SETTLED, {"keras": {"backend": "tensorflow", "shuffles_arrays": True}}, "Keras on TensorFlow shuffles arr"),
        (
            _SETTLED,
            {"lightgbm": {"num_threads": 0, "deterministic": False, "histograms": "as the clock says"}},
            "LightGBM tries at its start whether it is faster by row or by column",
        ),
        (_SETTLED, {"unseeded": ["RandomForestClassifier (t.py `rf`)"]}, "Without random_state, what is drawn dep"),
    ],
)
def test_what_is_left_open_is_named(execution: dict[str, Any], facts: dict[str, Any], begins: str) -> None:
    found = lint(_lock(**execution), facts)
    assert any(line.startswith(begins) for line in found), found
