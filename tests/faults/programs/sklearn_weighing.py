"""A forest that grows, and what it gets wrong weighed more by hand in an array beside the checkpoint.

loses: weight
"""

import numpy as np
from ticking import tick

from reprokit.callbacks.sklearn import PackageCheckpoint
from sklearn.ensemble import ExtraTreesClassifier

x = np.random.default_rng(1).normal(size=(90, 6))
y = (x.sum(1) > 0).astype(int)
weight = np.ones(90)
model = ExtraTreesClassifier(n_estimators=0, warm_start=True, random_state=5, max_depth=2)
ckpt = PackageCheckpoint(estimator=model)
for turn in ckpt.epochs(6):
    model.set_params(n_estimators=3 * (turn + 1)).fit(x, y, sample_weight=weight)
    weight[model.predict(x) != y] *= 1.5
    tick()
    ckpt.save(score=model.score(x, y))
