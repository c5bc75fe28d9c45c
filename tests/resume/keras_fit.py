"""Keras's `model.fit`, where every part of the state matters: see `main`'s parameters for what a case switches on."""

import random

import keras
import numpy as np
from killing import maybe_die

import reprokit
from reprokit.callbacks.keras import Batches, PackageCheckpoint

ITEMS, WIDTH, BATCH = 44, 5, 4  # eleven batches an epoch


class Counting(keras.utils.PyDataset):
    """Batches that depend on a count of epochs, an order kept from epoch to epoch, and generators of two kinds."""

    def __init__(self, x: np.ndarray, y: np.ndarray, draws: bool, **options: int) -> None:
        super().__init__(**options)
        self.x, self.y, self.draws = x, y, draws
        self.epoch = 0
        self.order = np.arange(len(x))
        self.own = np.random.default_rng(3)

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        noise = np.random.default_rng((7, self.epoch, index)).normal(size=(len(chosen), WIDTH))
        if self.draws:
            noise = noise + self.own.normal() + random.random() + np.random.rand()
        return self.x[chosen] + noise.astype("float32"), self.y[chosen]

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self.own.shuffle(self.order)


class Kill(keras.callbacks.Callback):
    """Counts batches, those of the validation too."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        maybe_die(self.marker)

    def on_test_batch_end(self, *_: object, **__: object) -> None:
        maybe_die(self.marker)


def native() -> keras.layers.Layer:
    """A layer of the framework below Keras, with state of its own that Keras does not know."""
    if keras.config.backend() == "torch":
        import torch

        return keras.layers.TorchModuleWrapper(torch.nn.Sequential(torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2)))
    import tensorflow as tf

    class Noise(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.generator = tf.random.Generator.from_seed(6)
            self.seen = tf.Variable(0.0, trainable=False)

        def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
            if not training:
                return x
            self.seen.assign_add(1.0)
            return x * (1 + 1e-3 * self.seen) + self.generator.normal(tf.shape(x), stddev=0.1)

        def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return shape

    return Noise()


def pipeline(x: np.ndarray, y: np.ndarray, kind: str) -> object:
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(ITEMS)
    if kind == "tf.data-read":  # what a cache and a second shuffle hold moves while it is read
        data = data.cache().shuffle(ITEMS)
    if kind == "tf.data-generated":  # of unknown length
        shuffled = data
        data = tf.data.Dataset.from_generator(lambda: shuffled.as_numpy_iterator(), output_signature=data.element_spec)
    if kind == "tf.data-augmented":
        flip = keras.layers.RandomFlip("horizontal", seed=4)  # whose seed generator belongs to no model

        def augment(row: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            flipped = flip(tf.reshape(row, [1, WIDTH, 1]), training=True)
            return tf.reshape(flipped, [WIDTH]) + tf.random.normal([WIDTH], stddev=0.1), label

        data = data.map(augment)
    if kind == "tf.data-steps":
        data = data.repeat()
    return data.batch(BATCH).prefetch(1)


def loader(x: np.ndarray, y: np.ndarray, workers: int) -> object:
    import torch

    class Noisy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
            return torch.from_numpy(x[index]) + torch.randn(WIDTH) * 0.1 + random.random(), y[index]

    generator = torch.Generator().manual_seed(3)
    return torch.utils.data.DataLoader(
        Noisy(), batch_size=BATCH, shuffle=True, num_workers=workers, generator=generator
    )


def main() -> None:
    p = reprokit.params(
        marker="", epochs=4, data="arrays", workers=1, draws=True, built=True, mixed=False, eager=False, native=False
    )
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ITEMS, WIDTH)).astype("float32")
    y = rng.integers(0, 3, size=(ITEMS, 1))
    kind, extra = p["data"], {}
    given: tuple[object, ...]
    if kind == "arrays":
        given, extra = (x, y), {"batch_size": BATCH}
    elif kind == "batches":
        given = (Batches(x, y, batch_size=BATCH, seed=2),)
    elif kind == "dataset":
        given = (Counting(x, y, p["draws"], workers=p["workers"]),)
    elif kind == "loader":
        given = (loader(x, y, p["workers"]),)
    else:
        given = (pipeline(x, y, kind),)
        extra = {"steps_per_epoch": 8} if kind == "tf.data-steps" else {}
    validation: object = (x[:8], y[:8])
    if kind.startswith("tf.data"):
        validation = pipeline(x[:8], y[:8], "tf.data")
    elif kind in ("dataset", "batches"):
        validation = Counting(x[:8], y[:8], p["draws"])
    layers = [
        keras.layers.Dense(8, activation="relu"),
        native() if p["native"] else keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers] if p["built"] else layers)
    optimizer = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=2)
    model.compile(
        optimizer=keras.optimizers.LossScaleOptimizer(optimizer, dynamic_growth_steps=5) if p["mixed"] else optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=p["eager"],
    )
    callbacks = [
        PackageCheckpoint(monitor="val_loss"),  # first in the list: it saves after the others all the same
        keras.callbacks.LearningRateScheduler(lambda _, rate: rate * 0.95),
        keras.callbacks.ReduceLROnPlateau(patience=0, factor=0.7, cooldown=1, min_delta=0.5),
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        keras.callbacks.SwapEMAWeights(),
        keras.callbacks.CSVLogger("log.csv"),
        Kill(p["marker"]),
    ]
    history = model.fit(*given, epochs=p["epochs"], validation_data=validation, verbose=2, callbacks=callbacks, **extra)
    print("final", history.epoch, history.history["loss"], [float(np.sum(weight)) for weight in model.get_weights()])


if __name__ == "__main__":
    main()
