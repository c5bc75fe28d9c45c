"""A GAN in Keras with a `train_step` of its own and two optimisers.

every: 1 epoch
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import numpy as np
from ticking import tick

from reprokit.callbacks.keras import PackageCheckpoint

drawn = np.random.default_rng(1)
x = drawn.normal(size=(48, 8)).astype("float32")
y = x.sum(1, keepdims=True) + x[:, :1] ** 2


class Ticks(keras.callbacks.Callback):
    def on_train_batch_end(self, *_, **__):
        tick()


import tensorflow as tf


class Gan(keras.Model):
    def __init__(self):
        super().__init__()
        self.fakes = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
        self.judge = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
        self.noise = keras.random.SeedGenerator(3)

    def compile(self, d_optimizer, g_optimizer):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def train_step(self, data):
        seeds = keras.random.normal((len(x) // 6, 4), seed=self.noise)
        with tf.GradientTape() as tape:
            told = tf.reduce_mean(tf.nn.softplus(-self.judge(data)) + tf.nn.softplus(self.judge(self.fakes(seeds))))
        weights = self.judge.trainable_weights
        self.d_optimizer.apply_gradients(zip(tape.gradient(told, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.judge(self.fakes(seeds)))
        weights = self.fakes.trainable_weights
        self.g_optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"told": told, "loss": loss}


model = Gan()
model.compile(keras.optimizers.Adam(1e-2), keras.optimizers.RMSprop(1e-2))
model.fit(x, batch_size=8, epochs=4, verbose=2, callbacks=[Ticks(), PackageCheckpoint()])
