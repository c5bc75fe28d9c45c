"""Every framework's callback in its real framework: the digits recipes, run and reproduced."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from reprokit.checkpoint.load import load_checkpoint
from reprokit.comparison.verify import verify
from reprokit.registry.local import LocalRegistry
from tests.conftest import LONG, ROOT, Project, context_of

pytestmark = pytest.mark.slow


def _needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed: install reprokit's extra for it")


@pytest.mark.parametrize(
    "framework",
    [
        pytest.param("torch", marks=[_needs("torch"), LONG]),
        pytest.param("keras", marks=[_needs("keras"), LONG]),
        pytest.param("sklearn", marks=[_needs("skops"), LONG]),
        pytest.param("xgboost", marks=[_needs("xgboost"), LONG]),
        pytest.param("lightgbm", marks=[_needs("lightgbm"), LONG]),
    ],
)
def test_digits_run_and_reproduce_bitwise_in_another_home(tmp_path: Path, framework: str) -> None:
    project = Project(tmp_path)
    shutil.copytree(ROOT / "recipes", project.root / "recipes")
    project.commit()
    record = project.json("run", f"recipes/digits-{framework}.yaml")
    boosted = framework in ("xgboost", "lightgbm")
    assert [entry["epoch"] for entry in record["checkpoints"]] == ([9, 19, 29] if boosted else [0, 1, 2])
    if boosted:
        assert record["metrics"]["validation_0-mlogloss" if framework == "xgboost" else "test-multi_logloss"] < 0.4
    else:
        assert record["metrics"]["accuracy"] > 0.8
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    verdict = project.json("reproduce", record["run_id"], home="other", cwd=elsewhere)
    assert verdict["verdict"] == "BITWISE"
    checkpoint = load_checkpoint(f"{record['run_id']}@last", registry=str(project.registry))
    assert checkpoint.names()
    for name in checkpoint.names():
        assert checkpoint.tensor(name).nbytes == checkpoint.stored(name).nbytes
    assert verify(everything=True, context=context_of(tmp_path, LocalRegistry(project.registry))).problems == []
