"""What the XGBoost callback stores, refuses and brings back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.codecs.convert import convert
from reprokit.checkpoint.load import load_checkpoint
from reprokit.errors import DataMismatchError, NotFoundError, UsageError
from reprokit.registry.local import LocalRegistry
from tests.checkpoint.making import make
from tests.conftest import LONG, Project
from tests.resume.trials import Case, Trial

pytest.importorskip("xgboost", reason="the xgboost extra is not installed")

import numpy as np
import xgboost

from reprokit.callbacks.xgboost import PackageCheckpoint
from reprokit.callbacks.xgboost.model import arrays_of, why_again

_CONTINUED = ["plain", "regression", "schedule", "forest", "ranking", "categories", "estimator", "empty"]
_AGAIN = ["sampled", "dart", "custom", "unbiased"]
_X = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
_Y = (_X[:, 0] > 0).astype(int)


def _case(kind: str) -> Case:
    return Case(f"xgboost-{kind}", "xgboost_rounds.py", 12, params={"kind": kind, "rounds": 12, "every": 3})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["early", *(pytest.param(one, marks=LONG) for one in [*_CONTINUED, *_AGAIN])])
def test_a_killed_training_ends_as_one_that_was_left_alone(tmp_path: Path, kind: str) -> None:
    trial = Trial(_case(kind), tmp_path)
    said = trial.killed_and_resumed(7)  # after the best round of `early`
    assert ("rounds are trained again" in said) is (kind in _AGAIN), said
    run = trial.record()["run_id"]
    if kind == "early":
        assert [epoch for epoch, _, _ in trial.whole] == [2, 5, 6], "it stopped early"
        _opened_again(trial.project, run, tmp_path)
        verdict = trial.project.json("reproduce", run, home="other", cwd=tmp_path)
        assert verdict["verdict"] == "BITWISE"


def _opened_again(project: Project, run: str, place: Path) -> None:
    checkpoint = load_checkpoint(f"{run}@last", registry=str(project.registry))
    booster = checkpoint.model()
    stored = checkpoint.package.entry("model.ubj").read()
    assert bytes(booster.save_raw("ubj")) == stored
    assert booster.best_iteration < booster.num_boosted_rounds() - 1, "the best round is kept with it"
    values = checkpoint.tensor("trees.split_conditions")
    assert values.dtype == np.float32 and len(values) == len(checkpoint.tensor("trees.left_children"))
    (file,) = convert(checkpoint, "xgboost-json", place / "json")
    assert bytes(xgboost.Booster(model_file=file).save_raw("ubj")) == stored
    (file,) = convert(checkpoint, "ubj", place / "ubj")
    assert file.read_bytes() == stored


def _trained(params: dict[str, Any], rounds: int = 4, **more: Any) -> Any:
    return xgboost.train({"nthread": 1, **params}, xgboost.DMatrix(_X, label=_Y), rounds, **more)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({}, []),
        ({"tree_method": "exact"}, []),
        ({"tree_method": "approx"}, []),
        ({"seed_per_iteration": True, "subsample": 0.5}, ["subsample is 0.5"]),
        ({"colsample_bytree": 0.5, "colsample_bynode": 0.5}, ["colsample_bytree is 0.5", "colsample_bynode is 0.5"]),
        ({"booster": "dart"}, ["the booster is dart"]),
        ({"booster": "gblinear"}, ["the booster is gblinear"]),
    ],
)  # fmt: skip
def test_what_the_next_round_draws_on_is_named(params: dict[str, Any], why: list[str]) -> None:
    assert why_again(_trained(params))[0] == why


@pytest.mark.parametrize(
    "params",
    [{}, {"booster": "dart", "rate_drop": 0.5}, {"booster": "gblinear"},
     {"objective": "multi:softprob", "num_class": 2, "multi_strategy": "multi_output_tree"}],
)  # fmt: skip
def test_the_numbers_of_a_model_are_arrays_that_show_another_training(params: dict[str, Any]) -> None:
    one, same, other = (arrays_of(_trained({**params, "eta": eta})) for eta in (0.3, 0.3, 0.31))
    assert one.keys() == same.keys() and all((one[name] == same[name]).all() for name in one)
    assert any(one[name].shape != other[name].shape or (one[name] != other[name]).any() for name in one)
    assert json.dumps({name: str(array.dtype) for name, array in one.items()})


def test_what_is_no_training_of_one_booster_is_refused() -> None:
    data = xgboost.DMatrix(_X, label=_Y)
    with pytest.raises(TypeError, match=r"^reprokit: PackageCheckpoint saves what train\(…\) trains; cv\(…\) trains"):
        xgboost.cv({}, data, 2, callbacks=[PackageCheckpoint()])
    with pytest.raises(ValueError, match=r"^reprokit: every is 0; it is a number of rounds, at least 1$"):
        xgboost.train({}, data, 2, callbacks=[PackageCheckpoint(every=0)])


REFUSED = """\
import numpy as np, xgboost
from reprokit.callbacks.xgboost import PackageCheckpoint
x = np.random.default_rng(0).normal(size=(100, 3)); data = xgboost.DMatrix(x, label=x[:, 0])
for number in range(2):
    xgboost.train({"nthread": 1}, data, 2, callbacks=[PackageCheckpoint(package="t/model")])
raise SystemExit(3)
"""


@pytest.mark.slow
def test_a_later_training_of_a_script_is_saved_and_is_not_resumed(project: Project) -> None:
    project.python = sys.executable  # which has the framework
    project.write("train.py", REFUSED)
    project.commit()
    failed = project.reprokit("run", "recipe.yaml", expect=6)
    assert "exit" in failed.stdout + failed.stderr
    record = project.json("show", "latest")
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0, 1, 0, 1]
    done = project.reprokit("resume", record["run_id"], expect=3)
    assert "it is of training 2 of the script, and what those before it made is not in it" in done.stdout + done.stderr
    bad = load_checkpoint(record["checkpoints"][0]["package"] + "@" + record["checkpoints"][0]["top_hash"],
                          registry=str(project.registry))  # fmt: skip
    assert bad.model().num_boosted_rounds() == 1


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    bad = make(registry, {"w": _X}, framework="xgboost", files={"model.ubj": b"{nonsense"}).package
    with pytest.raises(DataMismatchError, match=r"^model\.ubj of .* is no model that XGBoost [\d.]+ reads: "):
        load_checkpoint(f"{bad.name}@{bad.top_hash}", registry=registry).model()
    none = make(registry, {"w": _X}, framework="xgboost", files={"other": b"{}"}).package
    with pytest.raises(NotFoundError, match=r" holds no model of XGBoost\."):
        load_checkpoint(f"{none.name}@{none.top_hash}", registry=registry).model()
    other = make(registry, {"w": _X}, framework="torch").package
    with pytest.raises(UsageError, match=r"^A model is not made of .* alone\."):
        load_checkpoint(f"{other.name}@{other.top_hash}", registry=registry).model()


@pytest.mark.slow
@LONG
def test_a_training_that_draws_only_later_is_not_continued_from_before(tmp_path: Path) -> None:
    trial = Trial(_case("thinner"), tmp_path)
    run = trial.killed_at(7)["run_id"]
    done = trial.project.reprokit("resume", run, expect=6)
    assert "cannot be continued from its checkpoint of round 6: subsample is 0.5, which was not so there" in (
        done.stdout + done.stderr
    )
