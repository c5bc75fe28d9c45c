"""Train a small convolutional network on CIFAR-10 with Keras; writes metrics.json.

Run it with `reprokit run examples/cifar10/keras.yaml`, or as plain Python from the root of the repository:
`python examples/cifar10/train_keras.py`. The script sets no seed: reprokit does, before the first import.
"""

import json
from pathlib import Path

import cifar10
import keras
from keras import layers

import reprokit
from reprokit.callbacks.keras import PackageCheckpoint


def network() -> keras.Model:
    """Three blocks and a dense layer: uint8 images [B, 32, 32, 3] → logits [B, 10]."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    for channels in (32, 64, 128):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # the default, 0.99, needs more steps than three epochs have
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def main() -> None:
    params = reprokit.params(epochs=3, learning_rate=0.002, batch_size=128, images=50000)

    x_train, y_train, x_test, y_test = cifar10.load(Path("data/cifar10"), images=params["images"])
    steps = params["epochs"] * -(-len(x_train) // params["batch_size"])
    model = network()
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(params["learning_rate"], steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(
        x_train,
        y_train,
        batch_size=params["batch_size"],
        epochs=params["epochs"],
        validation_data=(x_test, y_test),
        validation_batch_size=500,
        callbacks=[PackageCheckpoint(monitor="val_loss")],
        verbose=2,
    )
    loss, accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)
    reprokit.log(val_loss=loss, accuracy=accuracy)
    Path("metrics.json").write_text(json.dumps({"accuracy": accuracy, "loss": loss}, indent=2) + "\n")


if __name__ == "__main__":
    main()
