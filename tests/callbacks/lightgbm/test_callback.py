"""What the LightGBM callback stores, refuses and brings back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.codecs.convert import convert
from reprokit.checkpoint.load import load_checkpoint
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from tests.checkpoint.making import make
from tests.conftest import LONG, Project
from tests.resume.trials import Case, Trial

pytest.importorskip("lightgbm", reason="the lightgbm extra is not installed")

import lightgbm
import numpy as np

from reprokit.callbacks.lightgbm import PackageCheckpoint
from reprokit.callbacks.lightgbm.model import arrays_of, facts_of

_KINDS = ["plain", "regression", "goss", "dart", "forest", "custom", "ranking", "categories", "estimator"]
_X = np.random.default_rng(0).normal(size=(200, 4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["early", *(pytest.param(one, marks=LONG) for one in _KINDS)])
def test_a_killed_training_ends_as_one_that_was_left_alone(tmp_path: Path, kind: str) -> None:
    params = {"kind": kind, "rounds": 12, "every": 5 if kind == "early" else 3}  # saved after the best round
    trial = Trial(Case(f"lightgbm-{kind}", "lightgbm_rounds.py", 12, params=params), tmp_path)
    said = trial.killed_and_resumed(6)
    assert "rounds are trained again, and compared with the checkpoint" in said
    run = trial.record()["run_id"]
    if kind == "early":
        assert [epoch for epoch, _, _ in trial.whole] == [4, 5], "it stopped early"
        _opened_again(trial.project, run, tmp_path)
        assert trial.project.json("reproduce", run, home="other", cwd=tmp_path)["verdict"] == "BITWISE"


def _opened_again(project: Project, run: str, place: Path) -> None:
    checkpoint = load_checkpoint(f"{run}@last", registry=str(project.registry))
    stored = checkpoint.package.entry("model.txt").read()
    booster = checkpoint.model()
    assert booster.model_to_string(num_iteration=-1).encode() == stored
    values = checkpoint.tensor("trees.leaf_value")
    assert values.dtype == np.float64 and len(values) > booster.num_trees()
    assert {"valid_1-multi_logloss", "training-multi_logloss"} == set(checkpoint.facts.metrics)
    (file,) = convert(checkpoint, "lightgbm", place / "text")
    assert file.read_bytes() == stored


def _trained(callbacks: list[Any], **params: Any) -> Any:
    told = {"num_threads": 1, "verbosity": -1, "objective": "regression", **params}
    return lightgbm.train(told, lightgbm.Dataset(_X, label=_X[:, 0], params=told), 3, callbacks=callbacks)


def test_the_numbers_of_a_model_are_arrays_that_show_another_training() -> None:
    one, same, other = (arrays_of(_trained([], learning_rate=rate).model_to_string()) for rate in (0.1, 0.1, 0.11))
    assert {"trees.leaf_value", "trees.threshold", "trees.split_feature"} <= set(one)
    assert all((one[name] == same[name]).all() for name in one)
    assert (one["trees.leaf_value"] != other["trees.leaf_value"]).any()


def test_what_is_no_training_of_one_booster_is_refused() -> None:
    data = lightgbm.Dataset(_X, label=_X[:, 0])
    with pytest.raises(TypeError, match=r"^reprokit: PackageCheckpoint saves what train\(…\) trains; cv\(…\) trains"):
        lightgbm.cv({"verbosity": -1}, data, 2, nfold=2, stratified=False, callbacks=[PackageCheckpoint()])
    with pytest.raises(ValueError, match=r"^reprokit: every is '3'; it is a number of rounds, at least 1$"):
        _trained([PackageCheckpoint(every="3")])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "facts"),
    [
        ({}, {"num_threads": 0, "deterministic": False, "histograms": "as the clock says"}),
        (
            {"n_jobs": 2, "deterministic": True, "force_col_wise": True},
            {"num_threads": 2, "deterministic": True, "histograms": "by column"},
        ),
    ],
)
def test_what_decides_the_bits_of_a_training_is_told(params: dict[str, Any], facts: dict[str, Any]) -> None:
    assert facts_of({"objective": "binary", **params}) == (facts, ["binary"])


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    files = {"model.txt": b"tree\nversion=v4\nnonsense"}
    bad = make(registry, {"w": _X}, framework="lightgbm", files=files).package
    with pytest.raises(DataMismatchError, match=r"^model\.txt of .* is no model that LightGBM [\d.]+ reads: "):
        load_checkpoint(f"{bad.name}@{bad.top_hash}", registry=registry).model()
