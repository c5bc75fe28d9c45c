"""A Python generator that goes on over the epochs and draws as it goes.

every: 1 epoch
refused: Generator has no place to come back to
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


def endless():
    while True:
        chosen = drawn.permutation(len(x))[:8]
        yield x[chosen] + drawn.normal(size=(8, 8)).astype("float32") * 0.1, y[chosen]


model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.01), "mse")
model.fit(endless(), steps_per_epoch=5, epochs=4, verbose=2, callbacks=[Ticks(), PackageCheckpoint()])
