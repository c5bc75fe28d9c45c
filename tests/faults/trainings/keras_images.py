"""A small network on a folder of images with Keras: callbacks that change the learning rate, and a held-out part."""

import json
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import reprokit
from reprokit.callbacks.keras import PackageCheckpoint


class Cooled(keras.callbacks.Callback):
    def on_epoch_end(self, *_: object) -> None:
        self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * 0.9


class Limited(keras.callbacks.Callback):
    def on_epoch_end(self, *_: object) -> None:
        self.model.optimizer.learning_rate = min(float(self.model.optimizer.learning_rate), 0.04)


def main() -> None:
    p = reprokit.params(
        epochs=3, rate=0.05, batch=16, hidden=16, dropout=0.2, momentum=0.9, activation="relu", shuffle=True,
        loss_reduction="sum_over_batch_size",
    )  # fmt: skip
    files = sorted(Path("data/images").glob("*.png"))
    x = np.stack([np.asarray(Image.open(file).convert("L").resize((8, 8))) for file in files]).astype("float32") / 255
    y = np.array([int(line) for line in Path("data/labels/labels.txt").read_text().split()][: len(files)])
    layers = [
        keras.Input((8, 8)),
        keras.layers.Flatten(),
        keras.layers.Dense(p["hidden"], activation=p["activation"], name="hidden"),
        keras.layers.Dropout(p["dropout"]),
        keras.layers.Dense(10, name="out"),
    ]
    model = keras.Sequential(layers)
    model.compile(
        optimizer=keras.optimizers.SGD(p["rate"], momentum=p["momentum"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=p["loss_reduction"]),
    )
    callbacks = [Cooled(), Limited(), PackageCheckpoint(monitor="loss")]
    model.fit(x, y, epochs=p["epochs"], batch_size=p["batch"], shuffle=p["shuffle"], verbose=0, callbacks=callbacks)
    loss = model.evaluate(x, y, verbose=0)
    Path("metrics.json").write_text(json.dumps({"loss": float(loss)}) + "\n")


if __name__ == "__main__":
    main()
