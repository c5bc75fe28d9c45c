"""Two fits in one script: the head first, then everything with a smaller rate.

every: 1 epoch
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


body = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()])
model = keras.Sequential([body, keras.layers.Dense(1)])
body.trainable = False
model.compile(keras.optimizers.Adam(0.02), "mse")
model.fit(x, y, batch_size=8, epochs=3, verbose=2, callbacks=[Ticks(), PackageCheckpoint()])
body.trainable = True
model.compile(keras.optimizers.Adam(0.002), "mse")
model.fit(x, y, batch_size=8, epochs=3, verbose=2, callbacks=[Ticks(), PackageCheckpoint()])
