"""Gradients accumulated in variables over three batches of a length that three does not divide.

every: 2 steps
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

net = Dense(8, 1)
kept = [tf.Variable(tf.zeros_like(one), trainable=False) for one in (net.w, net.b)]
count = tf.Variable(0, trainable=False)
net.kept, net.count = kept, count
optimizer = keras.optimizers.Adam(0.01)
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(48).batch(7)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, dataset=data)
for _ in ckpt.epochs(4):
    for rows, target in ckpt.batches(data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((net(rows) - target) ** 2)
        for one, more in zip(kept, tape.gradient(loss, [net.w, net.b]), strict=False):
            one.assign_add(more)
        count.assign_add(1)
        if int(count) % 3 == 0:
            optimizer.apply_gradients(zip(kept[:2], [net.w, net.b], strict=True))
            for one in kept:
                one.assign(tf.zeros_like(one))
        tick()
    ckpt.save(loss=loss)
