"""A perceptron on handwritten digits with scikit-learn, fitted in epochs; in an order that it draws by itself."""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import reprokit
from reprokit.callbacks.sklearn import PackageCheckpoint

p = reprokit.params(epochs=3, rate=0.01, hidden=16, alpha=1e-4, solver="adam", random_state=1, shift="")
x, y = load_digits(return_X_y=True)
x, y = x[:300] / 16, y[:300]
order = np.random.default_rng(3)
model = MLPClassifier(
    (p["hidden"],), learning_rate_init=p["rate"], alpha=p["alpha"], solver=p["solver"], random_state=p["random_state"]
)
ckpt = PackageCheckpoint(estimator=model, generators={"order": order})
for _ in ckpt.epochs(p["epochs"]):
    chosen = order.permutation(len(x))
    model.partial_fit(x[chosen], y[chosen], classes=range(10))
    ckpt.save(accuracy=float(model.score(x, y)), loss=float(model.loss_))
Path("metrics.json").write_text(json.dumps({"loss": float(model.loss_)}) + "\n")
