"""Boosters of LightGBM, each with something else that its next round may depend on; `kind` chooses."""

import lightgbm
import numpy as np
from killing import maybe_die
from sklearn.datasets import load_digits

import reprokit
from reprokit.callbacks.lightgbm import PackageCheckpoint

params = reprokit.params(kind="early", rounds=12, every=3, marker="")
x, digits = load_digits(return_X_y=True)
x = np.where(np.random.default_rng(3).random(x.shape) < 0.1, np.nan, x)
odd, train, test = digits % 2, slice(0, 1200), slice(1200, None)


def logistic(margin, data):
    p = 1 / (1 + np.exp(-margin))
    return p - data.get_label(), p * (1 - p)


def die(env):
    maybe_die(params["marker"])


BINARY = {"objective": "binary"}
DRAWS = {"bagging_fraction": 0.7, "bagging_freq": 2, "feature_fraction": 0.6}
KINDS = {
    "plain": (BINARY, odd, {}),
    "early": ({"objective": "multiclass", "num_class": 10, "learning_rate": 0.7, **DRAWS}, digits, {"stop": 2}),
    "regression": ({"objective": "l1", **DRAWS}, digits + 0.5, {}),
    "goss": (BINARY | {"data_sample_strategy": "goss"}, odd, {}),
    "dart": (BINARY | {"boosting": "dart", "drop_rate": 0.5}, odd, {}),
    "forest": (BINARY | {"boosting": "rf", **DRAWS}, odd, {}),
    "custom": ({"objective": logistic, "metric": "auc"}, odd, {}),
    "ranking": ({"objective": "rank_xendcg"}, digits, {"group": [100] * 12}),
    "categories": (BINARY, odd, {"categorical_feature": [20, 21, 28]}),
    "estimator": (BINARY, odd, {}),
}
told, label, more = KINDS[params["kind"]]
told = {"num_threads": 1, "force_row_wise": True, "deterministic": True, "verbosity": -1, **told}
callbacks = [die, PackageCheckpoint(every=params["every"])]
if stop := more.pop("stop", 0):
    callbacks.append(lightgbm.early_stopping(stop, verbose=False))
if "categorical_feature" in more:
    x = np.nan_to_num(x)
if params["kind"] == "estimator":
    made = lightgbm.LGBMClassifier(n_estimators=params["rounds"], **told)
    made.fit(x[train], label[train], eval_set=[(x[test], label[test])], callbacks=callbacks)
    booster = made.booster_
else:
    group = more.pop("group", None)
    first = lightgbm.Dataset(x[train], label=label[train], group=group, params=told, **more)
    other = lightgbm.Dataset(x[test], label=label[test], group=group and [len(x) - 1200], reference=first)
    booster = lightgbm.train(told, first, params["rounds"], valid_sets=[first, other], callbacks=callbacks)
booster.save_model("final.txt")
