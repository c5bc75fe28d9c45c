"""Boosters of XGBoost, each with something else that its next round may depend on; `kind` chooses."""

import numpy as np
import xgboost
from killing import maybe_die
from sklearn.datasets import load_digits

import reprokit
from reprokit.callbacks.xgboost import PackageCheckpoint

params = reprokit.params(kind="early", rounds=12, every=3, marker="")
x, digits = load_digits(return_X_y=True)
x = np.where(np.random.default_rng(3).random(x.shape) < 0.1, np.nan, x)
odd, value = digits % 2, digits + x[:, 20] / 8
value = np.nan_to_num(value)


def logistic(margin, data):
    p = 1 / (1 + np.exp(-margin))
    return p - data.get_label(), p * (1 - p)


class Die(xgboost.callback.TrainingCallback):
    def after_iteration(self, *_):
        maybe_die(params["marker"])
        return False


class Thinner(xgboost.callback.TrainingCallback):
    """Draws rows from a round on."""

    def before_iteration(self, model, epoch, _log):
        model.set_param("subsample", 0.5 if epoch >= 7 else 1)
        return False


BINARY = {"objective": "binary:logistic", "eval_metric": ["error", "logloss"]}
KINDS = {
    "plain": (BINARY, odd, {}),
    "early": ({"objective": "multi:softprob", "num_class": 10, "eta": 2.5}, digits, {"early_stopping_rounds": 2}),
    "regression": ({"objective": "reg:absoluteerror"}, value, {}),
    "schedule": (BINARY, odd, {"rates": True}),
    "forest": (BINARY | {"num_parallel_tree": 3}, odd, {}),
    "sampled": (BINARY | {"subsample": 0.7, "colsample_bynode": 0.6}, odd, {}),
    "thinner": (BINARY, odd, {"thinner": True}),
    "dart": (BINARY | {"booster": "dart", "rate_drop": 0.3}, odd, {}),
    "custom": ({"eval_metric": "logloss", "base_score": 0.5}, odd, {"obj": logistic}),
    "ranking": ({"objective": "rank:ndcg", "lambdarank_pair_method": "mean"}, digits, {}),
    "unbiased": ({"objective": "rank:ndcg", "lambdarank_unbiased": True}, digits, {}),
    "categories": (BINARY | {"max_cat_to_onehot": 2}, odd, {"categories": True}),
    "estimator": (BINARY, odd, {}),
    "empty": ({"objective": "binary:logistic"}, odd, {"no_evals": True}),
}  # fmt: skip
told, label, more = KINDS[params["kind"]]
told = {"nthread": 1, "max_depth": 4, **told}
callbacks = [Die(), PackageCheckpoint(every=params["every"])]
if more.pop("rates", False):
    callbacks.append(xgboost.callback.LearningRateScheduler(lambda round_: 0.5 * 0.9**round_))
if more.pop("thinner", False):
    callbacks.append(Thinner())
if params["kind"] == "estimator":
    made = xgboost.XGBClassifier(n_estimators=params["rounds"], callbacks=callbacks, **told)
    made.fit(x[:1200], label[:1200], eval_set=[(x[1200:], label[1200:])], verbose=False)
    booster = made.get_booster()
else:
    if more.pop("categories", False):
        columns = [*(["q"] * 8), *(["c"] * 8)]
        whole = np.c_[x[:, 16:24], np.nan_to_num(x[:, 24:32])]
        sets = [xgboost.DMatrix(whole[s], label=label[s], feature_types=columns, enable_categorical=True)
                for s in (slice(0, 1200), slice(1200, None))]  # fmt: skip
    else:
        sets = [xgboost.DMatrix(x[s], label=label[s]) for s in (slice(0, 1200), slice(1200, None))]
    if params["kind"] in ("ranking", "unbiased"):
        sets[0].set_group([100] * 12)
        sets[1].set_group([len(x) - 1200])
    evals = [] if more.pop("no_evals", False) else [(sets[0], "train"), (sets[1], "test")]
    booster = xgboost.train(
        told, sets[0], params["rounds"], evals=evals, callbacks=callbacks, verbose_eval=False, **more
    )
booster.save_model("final.ubj")
