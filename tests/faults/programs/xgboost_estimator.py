"""XGBoost through its estimator, with rates by round and a metric of its own."""

import numpy as np
import xgboost
from ticking import tick

from reprokit.callbacks.xgboost import PackageCheckpoint


class Ticks(xgboost.callback.TrainingCallback):
    def after_iteration(self, *_):
        tick()
        return False


def off(true, guess):
    return float(np.abs(true - guess).mean())


drawn = np.random.default_rng(1)
x = drawn.normal(size=(300, 6))
y = x[:, 0] + x[:, 1] ** 2
rates = xgboost.callback.LearningRateScheduler(lambda turn: 0.3 * 0.9**turn)
model = xgboost.XGBRegressor(
    n_estimators=15, n_jobs=1, eval_metric=off, callbacks=[Ticks(), rates, PackageCheckpoint(every=2)]
)
model.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
