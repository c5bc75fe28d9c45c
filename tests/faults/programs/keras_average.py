"""An average of the weights that a callback keeps by hand, swapped in for the validation.

every: 1 epoch
loses: Average.kept
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


class Average(keras.callbacks.Callback):
    def on_train_begin(self, *_, **__):
        self.kept = [weight.copy() for weight in self.model.get_weights()]

    def on_train_batch_end(self, *_, **__):
        self.kept = [0.9 * kept + 0.1 * now for kept, now in zip(self.kept, self.model.get_weights(), strict=True)]

    def on_epoch_end(self, *_, **__):
        self.model.set_weights(self.kept)


model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.02), "mse")
model.fit(x, y, batch_size=8, epochs=5, verbose=2, callbacks=[Average(), Ticks(), PackageCheckpoint()])
