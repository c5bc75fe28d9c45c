"""LightGBM that drops trees, through its estimator."""

import lightgbm
import numpy as np
from ticking import tick

from reprokit.callbacks.lightgbm import PackageCheckpoint

drawn = np.random.default_rng(1)
x = drawn.normal(size=(300, 6))
y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)


def ticks(_):
    tick()


model = lightgbm.LGBMClassifier(boosting_type="dart", n_estimators=16, n_jobs=1, verbose=-1, drop_seed=7)
model.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], callbacks=[ticks, PackageCheckpoint(every=4)])
