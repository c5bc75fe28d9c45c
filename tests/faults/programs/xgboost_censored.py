"""Survival times with a distribution of another scale, stopped early by a metric that takes that scale.

every: 1 epoch
"""

import numpy as np
import xgboost as xgb
from ticking import tick

from reprokit.callbacks.xgboost import PackageCheckpoint


class Ticks(xgb.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        tick()
        return False


drawn = np.random.default_rng(1)
x = drawn.normal(size=(60, 5))
times = np.exp(x[:, 0] + drawn.normal(size=60))


def rows(part):
    data = xgb.DMatrix(x[part])
    data.set_float_info("label_lower_bound", times[part])
    data.set_float_info("label_upper_bound", times[part])
    return data


train, held = rows(slice(0, 40)), rows(slice(40, 60))
told = {
    "objective": "survival:aft", "eval_metric": "aft-nloglik", "aft_loss_distribution_scale": 1.2, "nthread": 1,
    "learning_rate": 0.2, "max_depth": 2,
}  # fmt: skip
xgb.train(
    told, train, 16, evals=[(held, "held")], early_stopping_rounds=4, verbose_eval=False,
    callbacks=[Ticks(), PackageCheckpoint()],
)  # fmt: skip
