"""A callback with a count of its own, which turns the rate.

every: 1 epoch
loses: Turning.seen
"""

import os

os.environ["KERAS_BACKEND"] = "torch"
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


class Turning(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def on_train_batch_end(self, *_, **__):
        self.seen += 1
        self.model.optimizer.learning_rate = 0.05 / (1 + self.seen)


model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
model.fit(x, y, batch_size=8, epochs=4, verbose=2, callbacks=[Turning(), Ticks(), PackageCheckpoint()])
