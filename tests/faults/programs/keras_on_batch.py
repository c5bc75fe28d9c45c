"""A loop of one's own with `train_on_batch`, rows in an order drawn each epoch.

every: 1 epoch
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import numpy as np
from ticking import tick


drawn = np.random.default_rng(1)
x = drawn.normal(size=(48, 8)).astype("float32")
y = x.sum(1, keepdims=True) + x[:, :1] ** 2


class Ticks(keras.callbacks.Callback):
    def on_train_batch_end(self, *_, **__):
        tick()


from reprokit.callbacks.tensorflow import PackageCheckpoint as Loop

model = keras.Sequential(
    [keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
)
model.compile(keras.optimizers.Adam(0.01), "mse")
ckpt = Loop(model=model, optimizer=model.optimizer, generators={"drawn": drawn})
for _ in ckpt.epochs(4):
    order = drawn.permutation(len(x))
    for at in range(0, len(x), 8):
        loss = model.train_on_batch(x[order[at : at + 8]], y[order[at : at + 8]])
        tick()
    ckpt.save(loss=float(loss))
