"""Weights by class and by row, a metric of its own, dropout, a split for validation.

every: 4 steps
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


class Above(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="above")
        self.seen = self.add_weight(name="seen", initializer="zeros")

    def update_state(self, true, guess, sample_weight=None):
        self.seen.assign_add(keras.ops.sum(keras.ops.cast(guess > true, "float32")))

    def result(self):
        return self.seen


model = keras.Sequential(
    [keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
)
model.compile(keras.optimizers.Nadam(0.01), "mse", metrics=[Above()])
model.fit(
    x, y, batch_size=8, epochs=4, sample_weight=np.linspace(0.5, 1.5, len(x)), validation_split=0.25, verbose=2,
    callbacks=[keras.callbacks.ReduceLROnPlateau(patience=0), Ticks(), PackageCheckpoint()],
)  # fmt: skip
