"""Train a small network on handwritten digits with scikit-learn; writes metrics.json.

Run it with `reprokit run recipes/digits-sklearn.yaml`, or as plain Python: `python recipes/digits_sklearn.py`.
"""

import json
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import reprokit
from reprokit.callbacks.sklearn import PackageCheckpoint

TRAIN = 1400  # of 1797 images; the rest is held out


def main() -> None:
    params = reprokit.params(epochs=3, learning_rate=0.01, hidden=64, random_state=42)

    digits = load_digits()
    x, y = digits.data / 16, digits.target  # [1797, 64], 0…1
    model = MLPClassifier(
        hidden_layer_sizes=(params["hidden"],),
        learning_rate_init=params["learning_rate"],
        random_state=params["random_state"],
    )
    accuracy = 0.0
    ckpt = PackageCheckpoint(estimator=model)
    for epoch in ckpt.epochs(params["epochs"]):
        model.partial_fit(x[:TRAIN], y[:TRAIN], classes=range(10))
        accuracy = model.score(x[TRAIN:], y[TRAIN:])
        print(f"epoch {epoch}: accuracy {accuracy:.4f}", flush=True)
        ckpt.save(accuracy=accuracy, loss=model.loss_)

    Path("metrics.json").write_text(json.dumps({"accuracy": accuracy}, indent=2) + "\n")


if __name__ == "__main__":
    main()
