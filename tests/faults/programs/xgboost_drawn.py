"""XGBoost with drawn rows and columns, stopped early."""

import numpy as np
import xgboost
from ticking import tick

from reprokit.callbacks.xgboost import PackageCheckpoint


class Ticks(xgboost.callback.TrainingCallback):
    def after_iteration(self, *_):
        tick()
        return False


drawn = np.random.default_rng(1)
x = drawn.normal(size=(300, 6))
y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)
train, test = xgboost.DMatrix(x[:200], y[:200]), xgboost.DMatrix(x[200:], y[200:])
told = {"objective": "binary:logistic", "subsample": 0.6, "colsample_bytree": 0.5, "nthread": 1, "eta": 0.5}
callbacks = [Ticks(), PackageCheckpoint(every=3)]
xgboost.train(told, train, 24, [(test, "test")], early_stopping_rounds=4, callbacks=callbacks, verbose_eval=False)
