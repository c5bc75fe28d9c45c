"""A TensorFlow loop in which every part of the state matters: see `main`'s parameters for what a case switches on."""

import random

import numpy as np
import tensorflow as tf
from killing import maybe_die

import reprokit
from reprokit.callbacks.tensorflow import PackageCheckpoint


class Layer(tf.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = tf.Variable(tf.random.normal([inputs, outputs], stddev=0.3))
        self.b = tf.Variable(tf.zeros(outputs))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x @ self.w + self.b


class Net(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [Layer(6, 16), Layer(16, 3)]
        self.seen = tf.Variable(0, trainable=False)
        self.mean = tf.Variable(tf.zeros(16), trainable=False)
        self.noise = tf.random.Generator.from_seed(4)
        self.half = tf.Variable(tf.ones(3, tf.bfloat16), trainable=False)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        hidden = tf.nn.relu(self.layers[0](x))
        self.seen.assign_add(1)
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(hidden, axis=0))
        self.half.assign(self.half * tf.cast(1.01, tf.bfloat16))
        kept = tf.cast(self.noise.uniform(tf.shape(hidden)) > 0.3, tf.float32)
        scale = 1 + 1e-3 * tf.cast(self.seen, tf.float32) + 1e-3 * tf.cast(self.half[0], tf.float32)
        return self.layers[1]((hidden - self.mean) * kept) * scale


class Momentum(tf.Module):
    """An optimiser of one's own, its variables made before the loop."""

    def __init__(self, variables: list[tf.Variable]) -> None:
        super().__init__()
        self.moments = [tf.Variable(tf.zeros_like(one)) for one in variables]
        self.rate = tf.Variable(0.05, trainable=False)

    def apply(self, gradients: list[tf.Tensor], variables: list[tf.Variable]) -> None:
        for gradient, moment, variable in zip(gradients, self.moments, variables, strict=True):
            moment.assign(0.9 * moment + gradient)
            variable.assign_sub(self.rate * moment)
        self.rate.assign(self.rate * 0.99)


def augmented(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return x + tf.random.normal(tf.shape(x), stddev=0.1), y


def make_dataset(kind: str) -> tf.data.Dataset:
    x = tf.cast(tf.reshape(tf.range(240), [40, 6]), tf.float32) / 240
    dataset = tf.data.Dataset.from_tensor_slices((x, tf.range(40) % 3))
    if kind == "in order":
        return dataset.map(augmented).batch(4)
    if kind == "plain":
        return dataset.shuffle(40).batch(4)
    if kind == "cached":
        return dataset.map(augmented).cache().shuffle(11).batch(4).prefetch(tf.data.AUTOTUNE)
    parts = tf.data.Dataset.range(4).shuffle(4).flat_map(lambda part: dataset.shard(4, part).shuffle(5))
    return parts.shuffle(7).map(augmented, num_parallel_calls=2).batch(4).prefetch(tf.data.AUTOTUNE)


def main() -> None:
    p = reprokit.params(marker="", epochs=4, data="nested", optimizer="own", function=True, batches=True, inside=False)
    tf.random.set_global_generator(tf.random.Generator.from_seed(9))
    net = Net()
    variables = list(net.trainable_variables)
    if p["optimizer"] == "own":
        optimizer = Momentum(variables)
    else:
        import keras

        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9))
    train, held_out = make_dataset(p["data"]), make_dataset("plain")
    order = np.random.default_rng(3)

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            x = x + tf.random.get_global_generator().normal(tf.shape(x), stddev=0.01)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, net(x)))
        gradients = tape.gradient(loss, variables)
        if p["optimizer"] == "own":
            optimizer.apply(gradients, variables)
        else:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    step = tf.function(step) if p["function"] else step
    plain = make_dataset("in order")
    datasets = {"train": train, "held out": held_out} if p["batches"] else None
    ckpt = PackageCheckpoint(model=net, optimizer=optimizer, dataset=datasets, generators={"order": order})
    for _ in ckpt.epochs(p["epochs"]):
        net.seen.assign_add(100)  # must not count twice where an epoch is gone on with
        for x, y in ckpt.batches(train) if p["batches"] else plain:
            x = x * float(order.uniform(0.99, 1.01)) + random.random() * 1e-3 + float(np.random.rand()) * 1e-3
            loss = step(x + tf.random.normal([6], stddev=0.01), y)
            ckpt.state["total"] = ckpt.state.get("total", 0.0) + float(loss)
            ckpt.state["last"] = loss
            maybe_die(p["marker"])
            if p["inside"] and int(net.seen) % 7 == 0:
                ckpt.save(loss=loss)
        for x, _ in ckpt.batches(held_out) if p["batches"] else plain:
            ckpt.state["total"] += float(tf.reduce_mean(net(x)))
        ckpt.save(loss=loss)


if __name__ == "__main__":
    main()
