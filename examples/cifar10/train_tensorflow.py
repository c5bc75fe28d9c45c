"""Train a small convolutional network on CIFAR-10 in a TensorFlow loop of one's own; writes metrics.json.

Run it with `reprokit run examples/cifar10/tensorflow.yaml`, or as plain Python from the root of the repository:
`python examples/cifar10/train_tensorflow.py`. The script sets no seed: reprokit does, before the first import.
"""

import json
from collections.abc import Callable
from pathlib import Path

import cifar10
import keras
import tensorflow as tf
from train_keras import network

import reprokit
from reprokit.callbacks.tensorflow import PackageCheckpoint

Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Measure = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")  # in nats


def compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> tuple[Step, Measure]:
    """Return a step of training and a measurement as graphs; both take uint8 [B, 32, 32, 3] and labels int64 [B]."""

    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = cross_entropy(labels, model(images, training=True)) / tf.cast(tf.size(labels), tf.float32)
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss  # [], the mean

    def measure(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model(images, training=False)
        return cross_entropy(labels, logits), tf.math.count_nonzero(tf.argmax(logits, axis=1) == labels)

    return tf.function(step), tf.function(measure)


def evaluate(measure: Measure, test: tf.data.Dataset, count: int) -> tuple[float, float]:
    """Return mean cross-entropy (nats) and accuracy (0…1) over the `count` images of `test`."""
    loss, correct = 0.0, 0
    for images, labels in test:
        its_loss, its_correct = measure(images, labels)
        loss += float(its_loss)
        correct += int(its_correct)
    return loss / count, correct / count


def main() -> None:
    params = reprokit.params(epochs=3, learning_rate=0.002, batch_size=128, images=50000)

    x_train, y_train, x_test, y_test = cifar10.load(Path("data/cifar10"), images=params["images"])
    train = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(len(x_train)).batch(params["batch_size"])
    test = tf.data.Dataset.from_tensor_slices((x_test, y_test)).batch(500)

    steps = params["epochs"] * len(train)
    rate = keras.optimizers.schedules.CosineDecay(params["learning_rate"], steps)
    model = network()
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)  # variables cannot be made while a step is compiled again
    step, measure = compiled(model, optimizer)

    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, dataset=train)
    for epoch in ckpt.epochs(params["epochs"]):
        for images, labels in ckpt.batches(train):
            loss = step(images, labels)
            if ckpt.step % 50 == 0:
                reprokit.log(step=ckpt.step, loss=float(loss))
        val_loss, accuracy = evaluate(measure, test, len(x_test))
        print(f"epoch {epoch}: test loss {val_loss:.4f}, accuracy {accuracy:.4f}", flush=True)
        ckpt.save(val_loss=val_loss, accuracy=accuracy)

    val_loss, accuracy = evaluate(measure, test, len(x_test))  # again: a resumed run may have had no epoch left
    reprokit.log(val_loss=val_loss, accuracy=accuracy)
    Path("metrics.json").write_text(json.dumps({"accuracy": accuracy, "loss": val_loss}, indent=2) + "\n")


if __name__ == "__main__":
    main()
