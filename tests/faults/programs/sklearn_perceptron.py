"""A perceptron that warm-starts, scaled by what was seen so far, with noise from the global generator."""

import numpy as np
from ticking import tick

from reprokit.callbacks.sklearn import PackageCheckpoint
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

x = np.random.default_rng(1).normal(size=(80, 6))
y = x.sum(1)
scale, model = StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=0.01)
ckpt = PackageCheckpoint(estimator={"scale": scale, "model": model})
for _ in ckpt.epochs(6):
    for at in range(0, 80, 20):
        rows = x[at : at + 20] + np.random.normal(size=(20, 6)) * 0.1
        scale.partial_fit(rows)
        model.partial_fit(scale.transform(rows), y[at : at + 20])
        tick()
    ckpt.save(score=model.score(scale.transform(x), y))
