"""A GAN with tapes and plain variables, momentum by hand for both nets.

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


class Both(tf.Module):
    def __init__(self):
        super().__init__()
        self.fakes, self.judge = Dense(4, 8), Dense(8, 1)
        self.speed = [tf.Variable(tf.zeros_like(one), trainable=False) for one in self.trainable_variables]


nets = Both()
noise = tf.random.Generator.from_seed(4)
data = tf.data.Dataset.from_tensor_slices(x).shuffle(48).batch(8)
ckpt = PackageCheckpoint(model=nets, dataset=data, generators={"noise": noise})
for _ in ckpt.epochs(4):
    for rows in ckpt.batches(data):
        with tf.GradientTape(persistent=True) as tape:
            fake = nets.fakes(noise.normal([len(rows), 4]))
            told = tf.reduce_mean(tf.nn.softplus(-nets.judge(rows)) + tf.nn.softplus(nets.judge(fake)))
            loss = -tf.reduce_mean(nets.judge(fake))
        for one, speed in zip(nets.trainable_variables, nets.speed, strict=True):
            mine = any(one is other for other in nets.fakes.trainable_variables)
            speed.assign(0.9 * speed + tape.gradient(loss if mine else told, one))
            one.assign_sub(0.01 * speed)
        tick()
    ckpt.save(loss=loss)
