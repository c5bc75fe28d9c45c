"""A model that trains by a step of its own, with optimisers of its own, goes on with the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONG, ROOT

pytest.importorskip("keras", reason="the keras extra is not installed")
pytest.importorskip("torch", reason="the torch extra is not installed")
pytestmark = pytest.mark.slow

_GAN = """
import keras, numpy as np
from keras import layers, ops
from reprokit.callbacks.keras import PackageCheckpoint, fit

fit.Fit.count, fit.Fit.steps, fit.Fit.latest = 0, 0, None
keras.utils.clear_session()
keras.utils.set_random_seed(3)
on_torch = keras.config.backend() == "torch"

class Gan(keras.Model):
    def __init__(self):
        super().__init__()
        self.d = keras.Sequential([layers.Input((4,)), layers.Dense(4, activation="tanh"), layers.Dense(1)])
        self.g = keras.Sequential([layers.Input((2,)), layers.Dense(4)])
        self.seeds = keras.random.SeedGenerator(5)

    def compile(self, d_optimizer, others):
        super().compile()
        self.d_optimizer, self.others = d_optimizer, others

    def call(self, x):
        return self.d(x)

    def one(self, optimizer, weights, loss):
        if on_torch:  # no zero_grad: the gradients of each loss live on in both networks
            import torch
            value = loss()
            value.backward()
            gradients = [weight.value.grad for weight in weights]
            with torch.no_grad():
                optimizer.apply(gradients, weights)
            return value
        import tensorflow as tf
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
        return value

    def train_step(self, data):
        real = data[0] if isinstance(data, tuple) else data
        z = keras.random.normal((ops.shape(real)[0], 2), seed=self.seeds)
        apart = lambda: ops.mean(self.d(self.g(z))) - ops.mean(self.d(real))
        self.one(self.d_optimizer, self.d.trainable_weights, apart)
        loss = self.one(self.others["g"], self.g.trainable_weights, lambda: -ops.mean(self.d(self.g(z))))
        return {"loss": loss}

class Dies(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        die()

model = Gan()
model.compile(keras.optimizers.Adam(1e-2), {"g": keras.optimizers.Adam(1e-2)})
x = np.random.default_rng(1).normal(size=(24, 4)).astype("float32")
model.fit(x, epochs=3, batch_size=8, verbose=0, callbacks=[PackageCheckpoint(), Dies()])
"""

_WITHOUT_CALL = _GAN.replace("    def call(self, x):\n        return self.d(x)\n", "")
_SHAPELESS = (
    _WITHOUT_CALL.replace("layers.Input((4,)), ", "")
    .replace("layers.Input((2,)), ", "")
    .replace("        z = keras.random", "        self.d(real), self.g(real[:, :2])\n        z = keras.random")
)

_TRIAL = """
import sys
from pathlib import Path
if sys.argv[1] == "torch":
    sys.modules["tensorflow"] = None  # Keras would load it to spell a model
from tests.resume.rehearsal import Rehearsal
source, folder = Path(sys.argv[2]).read_text(), Path(sys.argv[2]).parent
for name, every in (("epochs", None), ("steps", {"unit": "step", "n": 2})):
    print(Rehearsal(source, folder / name, every=every, seed=lambda: None).differences([5, 8]))
"""


@pytest.mark.parametrize(
    ("backend", "source"),
    [
        pytest.param("torch", _GAN, id="torch"),
        pytest.param("tensorflow", _GAN, id="tensorflow", marks=LONG),
        pytest.param("tensorflow", _WITHOUT_CALL, id="tensorflow, never called itself", marks=LONG),
    ],
)
def test_a_gan_with_optimisers_of_its_own_goes_on_with_the_same_bits(backend: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "gan.py").write_text(source)
    ended = _rehearsed(backend, tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "[]\n[]\n"), ended.stderr


@LONG
def test_layers_that_only_the_first_batch_makes_are_named_when_saved(tmp_path: Path) -> None:
    (tmp_path / "gan.py").write_text(_SHAPELESS)
    ended = _rehearsed("tensorflow", tmp_path)
    assert (
        "cannot go on bit for bit from this checkpoint: the layer sequential is made by the first batch" in ended.stderr
    )


def _rehearsed(backend: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _TRIAL, backend, str(folder / "gan.py")],
        cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
