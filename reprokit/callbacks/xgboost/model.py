"""What an XGBoost model consists of, and whether its next round depends on it and the data alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

__all__ = ["arrays_of", "put_back", "rounds_of", "why_again"]

_ARRAYS = {
    "split_conditions": "float32",  # thresholds, and the values of leaves
    "base_weights": "float32",
    "split_indices": "int32",
    "left_children": "int32",
    "right_children": "int32",
    "default_left": "uint8",
    "categories": "int32",
}
_SAMPLING = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")
# measured to go on to the same bits; others are trained again, which is checked
_UPDATERS = {"grow_quantile_histmaker", "grow_histmaker", "grow_colmaker,prune"}


def rounds_of(model: Any) -> int:
    """Return the rounds that a model holds."""
    return int(model.num_boosted_rounds())


def put_back(model: Any, stored: bytes) -> None:
    """Give a booster that is being trained the rounds of a stored model.

    Loading a model puts parameters of the training, such as `max_depth`, to their defaults; they are put back too.
    """
    before = json.loads(model.save_config())["learner"]
    model.load_model(bytearray(stored))
    config = json.loads(model.save_config())
    after = config["learner"]
    before["learner_model_param"] = after["learner_model_param"]
    before["gradient_booster"]["gbtree_model_param"] = after["gradient_booster"]["gbtree_model_param"]
    model.load_config(json.dumps({**config, "learner": before}))


def arrays_of(model: Any) -> dict[str, Any]:
    """Return the numbers of a model, those of all trees in one array each: a tree's nodes follow the one's before."""
    learner = json.loads(model.save_raw("json"))["learner"]
    booster = learner["gradient_booster"]
    found = {"base_score": np.atleast_1d(np.array(_numbers(learner["learner_model_param"]["base_score"]), "float32"))}
    if "weight_drop" in booster:
        found["weight_drop"] = np.array(booster["weight_drop"], "float32")
    inner = booster.get("gbtree", booster)["model"]
    if "weights" in inner:
        found["weights"] = np.array(inner["weights"], "float32")
    trees = inner.get("trees", [])
    for name, dtype in _ARRAYS.items():
        values = [value for tree in trees for value in tree[name]]
        if values:
            found[f"trees.{name}"] = np.array(values, dtype)
    return found


def _numbers(text: str) -> Any:
    return json.loads(text)


def why_again(model: Any) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return why the rounds before could not be passed over: what the next one draws on and no model file holds.

    XGBoost keeps no state of its random numbers, and `seed_per_iteration` does not reach that of the columns.

    Returns:
        The reasons; what decides the bits of the training; and what it consists of.
    """
    learner = json.loads(model.save_config())["learner"]
    booster, generic = learner["gradient_booster"], learner["generic_param"]
    name, objective = str(booster["name"]), str(learner["learner_train_param"]["objective"])
    facts = {"nthread": int(generic["nthread"]), "device": str(generic["device"])}
    found = [f"the booster is {name}"] if name != "gbtree" else []
    if facts["device"] != "cpu":
        found.append(f"device is {facts['device']}")
    measured = [str(one["name"]) for one in learner.get("metrics", []) if isinstance(one, dict) and len(one) > 1]
    if measured:  # a configuration that is loaded gives them parameters that those of a fresh training ignore
        found.append(f"{', '.join(measured)} has parameters of its own, and would be measured otherwise")
    ranking = learner["objective"].get("lambdarank_param", {})
    if str(ranking.get("lambdarank_unbiased", "0")) not in ("0", "false"):
        found.append("lambdarank_unbiased keeps what it learned of positions")
    if name == "gbtree":
        told, trained = booster["tree_train_param"], booster["gbtree_train_param"]
        facts["tree_method"] = str(trained["tree_method"])
        found += [f"{key} is {told[key]}" for key in _SAMPLING if float(told[key]) != 1.0]
        if trained["process_type"] != "default":
            found.append(f"process_type is {trained['process_type']}")
        if trained["updater_seq"] not in _UPDATERS:
            found.append(f"updater is {trained['updater_seq']}")
    return found, facts, [name, objective]
