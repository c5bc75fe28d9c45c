"""The same forest, its weights in `ckpt.state`."""

import numpy as np
from ticking import tick

from reprokit.callbacks.sklearn import PackageCheckpoint
from sklearn.ensemble import ExtraTreesClassifier

x = np.random.default_rng(1).normal(size=(90, 6))
y = (x.sum(1) > 0).astype(int)
model = ExtraTreesClassifier(n_estimators=0, warm_start=True, random_state=5, max_depth=2)
ckpt = PackageCheckpoint(estimator=model)
ckpt.state["weight"] = np.ones(90)
for turn in ckpt.epochs(6):
    model.set_params(n_estimators=3 * (turn + 1)).fit(x, y, sample_weight=ckpt.state["weight"])
    ckpt.state["weight"] = np.where(model.predict(x) != y, 1.5, 1.0) * ckpt.state["weight"]
    tick()
    ckpt.save(score=model.score(x, y))
