"""LightGBM with bagging and drawn features, early stopping and rates by round."""

import lightgbm
import numpy as np
from ticking import tick

from reprokit.callbacks.lightgbm import PackageCheckpoint

drawn = np.random.default_rng(1)
x = drawn.normal(size=(300, 6))
y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)


def ticks(_):
    tick()


told = {
    "objective": "binary",
    "bagging_freq": 2,
    "bagging_fraction": 0.6,
    "feature_fraction": 0.5,
    "num_threads": 1,
    "verbose": -1,
}
more = [
    lightgbm.early_stopping(6, verbose=False),
    lightgbm.reset_parameter(learning_rate=lambda turn: 0.3 * 0.95**turn),
]
lightgbm.train(
    told, lightgbm.Dataset(x[:200], y[:200]), 20, [lightgbm.Dataset(x[200:], y[200:])],
    callbacks=[ticks, *more, PackageCheckpoint(every=3)],
)  # fmt: skip
