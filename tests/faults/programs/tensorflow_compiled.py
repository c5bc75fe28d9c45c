"""A compiled step, a Keras model with dropout, Keras metrics that run over the epochs.

every: 3 steps
"""

import numpy as np
import tensorflow as tf
from ticking import tick

from reprokit.callbacks.tensorflow import PackageCheckpoint

drawn = np.random.default_rng(1)
x = drawn.normal(size=(48, 8)).astype("float32")
y = x.sum(1, keepdims=True) + x[:, :1] ** 2


class Dense(tf.Module):
    def __init__(self, wide, out):
        super().__init__()
        self.w, self.b = tf.Variable(tf.random.normal([wide, out], stddev=0.3)), tf.Variable(tf.zeros(out))

    def __call__(self, rows):
        return rows @ self.w + self.b


import keras

net = keras.Sequential(
    [keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
)
optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecayRestarts(0.05, 7), momentum=0.9)
mean = keras.metrics.Mean()
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(48).batch(8).prefetch(2)


@tf.function
def learn(rows, target):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((net(rows, training=True) - target) ** 2)
    optimizer.apply_gradients(zip(tape.gradient(loss, net.trainable_weights), net.trainable_weights, strict=True))
    mean.update_state(loss)
    return loss


ckpt = PackageCheckpoint(model={"net": net, "mean": mean}, optimizer=optimizer, dataset=data)
for _ in ckpt.epochs(4):
    for rows, target in ckpt.batches(data):
        learn(rows, target)
        tick()
    ckpt.save(loss=float(mean.result()))
