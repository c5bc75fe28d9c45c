"""Train a small network on handwritten digits with Keras; writes metrics.json.

Run it with `reprokit run recipes/digits-keras.yaml`, or as plain Python: `python recipes/digits_keras.py`.
The script sets no seed: reprokit does, before the first import.
"""

import json
from pathlib import Path

import keras
from sklearn.datasets import load_digits

import reprokit
from reprokit.callbacks.keras import PackageCheckpoint

TRAIN = 1400  # of 1797 images; the rest is held out


def main() -> None:
    params = reprokit.params(epochs=3, learning_rate=0.05, batch_size=64, hidden=64)

    digits = load_digits()
    x = (digits.data / 16).astype("float32")  # [1797, 64], 0…1
    y = digits.target
    layers = [
        keras.Input((64,)),  # with an Input the model is built at once, and its initial state is saved too
        keras.layers.Dense(params["hidden"], activation="relu"),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential(layers)
    model.compile(
        optimizer=keras.optimizers.SGD(params["learning_rate"], momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        x[:TRAIN],
        y[:TRAIN],
        validation_data=(x[TRAIN:], y[TRAIN:]),
        epochs=params["epochs"],
        batch_size=params["batch_size"],
        verbose=2,
        callbacks=[PackageCheckpoint(monitor="val_loss")],
    )
    loss, accuracy = model.evaluate(x[TRAIN:], y[TRAIN:], verbose=0)
    Path("metrics.json").write_text(json.dumps({"val_loss": loss, "accuracy": accuracy}, indent=2) + "\n")


if __name__ == "__main__":
    main()
