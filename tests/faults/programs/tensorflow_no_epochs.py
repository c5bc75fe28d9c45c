"""No epochs: rows are drawn by NumPy at each turn, the rate is a variable that fades."""

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


net = Dense(8, 1)
net.rate = tf.Variable(0.05, trainable=False)
ckpt = PackageCheckpoint(model=net, generators={"drawn": drawn})
for _ in ckpt.epochs(15):
    chosen = drawn.integers(0, len(x), 8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((net(x[chosen]) - y[chosen]) ** 2)
    for one, gradient in zip((net.w, net.b), tape.gradient(loss, (net.w, net.b)), strict=True):
        one.assign_sub(net.rate * gradient)
    net.rate.assign(net.rate * 0.97)
    tick()
    ckpt.save(loss=loss)
