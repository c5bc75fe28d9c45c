"""What the TensorFlow callback stores, refuses and brings back, in the real framework."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.load import load_checkpoint
from tests.conftest import Project, lean
from tests.resume.trials import Case, Trial

tf = pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")

from reprokit.callbacks.tensorflow import state as tensorflow_state  # noqa: E402
from reprokit.callbacks.tensorflow.random import functions_that_draw  # noqa: E402
from reprokit.callbacks.tensorflow.survey import Survey  # noqa: E402
from reprokit.client.snapshot import Snapshot  # noqa: E402

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))

_KINDS = """\
import keras
import numpy as np
import tensorflow as tf
import reprokit
from reprokit.callbacks.tensorflow import PackageCheckpoint

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.layers = [tf.Variable([[1.0, 2.0]]), {"deep": tf.Variable(3, dtype=tf.int8, trainable=False)}]
        self.tied = self.layers[0]
        self.half = tf.Variable([1.5, -2.25], dtype=tf.bfloat16)
        self.small = tf.Variable([0.5], dtype=tf.float16)
        self.flags = tf.Variable([True, False], trainable=False)
        self.complex = tf.Variable([1 + 2j], dtype=tf.complex64)
        self.empty = tf.Variable(tf.zeros([0, 3]))
        self.generator = tf.random.Generator.from_seed(3)
        self.dense = keras.layers.Dense(2)
        self.dense.build((None, 3))
        self.drop = keras.layers.Dropout(0.5, seed=3)
        self.metrics = [keras.metrics.Mean()]
        self.static = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)

class Scheduler:
    lowest = 1.0
    def state_dict(self):
        return {"lowest": self.lowest}
    def load_state_dict(self, state):
        self.lowest = state["lowest"]

tf.random.set_global_generator(tf.random.Generator.from_seed(5))
net = Net()
trained = [net.tied, *net.dense.trainable_variables]
optimizer = keras.optimizers.Adam()
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, stateful={"scheduler": Scheduler()},
                         generators={"own": tf.random.Generator.from_seed(6), "numpy": np.random.default_rng(1)})
for epoch in ckpt.epochs(2):
    optimizer.apply_gradients([(tf.ones_like(one), one) for one in trained])
    net.metrics[0].update_state(2.0)
    ckpt.state["tensor"] = tf.constant([1, 2], tf.uint16)
    ckpt.save(loss=tf.constant(0.5))
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Project:
    pytest.importorskip("keras", reason="the keras extra is not installed")
    return _run(tmp_path_factory.mktemp("tensorflow"), _KINDS)


def _run(base: Path, script: str, *, determinism: str = "strict", expect: int = 0) -> Project:
    made = Project(base)
    made.write("train.py", lean(script))
    made.write(
        "recipe.yaml",
        "name: t\ncode: {entrypoint: train.py}\n"
        f"execution: {{seed: 1, threads: 1, inputs: 'off', determinism: '{determinism}'}}\n",
    )
    made.commit()
    made.reprokit("run", "recipe.yaml", "-q", expect=expect)
    return made


@pytest.mark.slow
def test_every_variable_is_named_by_the_path_to_it_and_comes_back_as_it_was(kinds: Project) -> None:
    checkpoint = load_checkpoint("latest@last", registry=str(kinds.registry))
    names = set(checkpoint.names())
    assert {"tied", "half", "small", "flags", "complex", "empty", "layers/1/deep", "generator/_state_var"} <= names
    assert {name for name in names if name.startswith(("dense", "drop", "metrics"))} == {
        "dense/dense/kernel", "dense/dense/bias", "drop/seed_generator/seed_generator_state",
        "metrics/0/mean/total", "metrics/0/mean/count",
    }  # fmt: skip
    assert checkpoint.aliases() == {"layers/0": "tied"}
    assert checkpoint.stored("half").dtype == "BF16"
    assert checkpoint.tensor("half").tolist() == [1.5, -2.25]
    assert checkpoint.tensor("flags").tolist() == [True, False]
    assert checkpoint.tensor("complex").tolist() == [1 + 2j]
    assert checkpoint.tensor("empty").shape == (0, 3)
    assert checkpoint.tensor("layers/1/deep").shape == ()
    assert checkpoint.tensor("metrics/0/mean/total").item() == 4.0


@pytest.mark.slow
def test_slots_of_an_optimiser_are_named_after_the_variables(kinds: Project) -> None:
    checkpoint = load_checkpoint("latest@last", registry=str(kinds.registry))
    assert set(checkpoint.names("optimizer")) == {
        "adam/iteration", "adam/learning_rate",
        *(f"{name}.{slot}" for name in ("tied", "dense/dense/kernel", "dense/dense/bias")
          for slot in ("momentums", "velocities")),
    }  # fmt: skip
    state = checkpoint.state
    assert state["optimizer"]["0"]["variables"] == ["tied", "dense/dense/kernel", "dense/dense/bias"]
    assert state["step"] == 2, "steps of the optimiser, where no batches are counted"
    assert state["parts"] == {"scheduler": {"lowest": 1.0}}
    assert {"python", "numpy", "tensorflow", "keras", "held"} == state["rng"].keys()
    assert {"seed", "operations", "global"} == state["rng"]["tensorflow"].keys()
    assert checkpoint.raw_state["user"]["tensor"] == {"$tensor": {"name": "state.user.tensor", "kind": "tensorflow"}}


def _module(**attributes: Any) -> Any:
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def _mirrored() -> Any:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return _module(w=tf.Variable(1.0))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: _module(words=tf.Variable(["a"])), "model tensor 'words' has the dtype string, which is not stored"),
        (
            lambda: _module(wide=tf.Variable(tf.zeros(2, tf.complex128))),
            "model tensor 'wide' has the dtype complex128, which is not stored",
        ),
        (
            lambda: _module(q=tf.Variable(tf.zeros(2, tf.int8).numpy().view("i1"), dtype=tf.qint8)),
            "model tensor 'q' has the dtype qint8, which is not stored",
        ),
        (
            lambda: _module(table=tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)),
            "'table' is a tensorflow.python.ops.lookup_ops.MutableHashTable, whose contents are not stored; keep them "
            "in ckpt.state",
        ),
        (
            lambda: _module(batches=iter(tf.data.Dataset.range(3))),
            "'batches' is a tensorflow.python.data.ops.iterator_ops.OwnedIterator, whose contents are not stored; keep "
            "them in ckpt.state",
        ),
        (_mirrored, "model tensor 'w' is a MirroredVariable, which is not stored"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_faithfully_is_refused_by_name(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(TypeError) as caught:
        tensorflow_state.add_model(Snapshot(framework="tensorflow"), Survey({"0": make()}))
    assert str(caught.value) == f"reprokit: {why}"


def test_an_optimiser_of_a_variable_that_is_not_saved_is_refused() -> None:
    keras = pytest.importorskip("keras", reason="the keras extra is not installed")
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build([tf.Variable([1.0, 2.0])])
    with pytest.raises(TypeError, match=r"a variable of shape \(2,\) that belongs to no model that is saved"):
        tensorflow_state.add_optimizers(Snapshot(framework="tensorflow"), {"0": optimizer}, {})
    with pytest.raises(TypeError, match=r"'optimizer' is an optimiser inside the model; give it"):
        Survey({"0": _module(optimizer=optimizer)})


def test_functions_that_draw_from_hidden_states_are_named() -> None:
    tf.random.set_seed(1)
    generator = tf.random.Generator.from_seed(1)
    known = set(functions_that_draw())

    @tf.function
    def readable(x: Any) -> Any:
        return x + generator.normal([]) + tf.random.stateless_normal([], seed=[1, 2])

    @tf.function
    def hidden(x: Any) -> Any:
        return tf.cond(x > 0, lambda: tf.nn.dropout(tf.ones(4), 0.5), lambda: tf.zeros(4))

    readable(1.0)
    list(tf.data.Dataset.range(3).map(lambda x: tf.cond(x > 1, lambda: tf.random.uniform([]), lambda: 0.0)))
    assert set(functions_that_draw()) == known
    hidden(tf.constant(1.0))
    assert set(functions_that_draw()) - known == {"hidden (RandomUniform)"}


_MISUSED = """\
import tensorflow as tf
from reprokit.callbacks.tensorflow import PackageCheckpoint

def refusal(action):
    try:
        action()
    except (RuntimeError, TypeError) as error:
        return str(error)

net = tf.Module()
net.w = tf.Variable(0.0)
data = tf.data.Dataset.range(4).batch(2)
shuffled = tf.data.Dataset.range(4).shuffle(4)
ckpt = PackageCheckpoint(model=net, dataset=shuffled)
assert "belongs inside" in refusal(lambda: next(ckpt.batches(data)))
for epoch in ckpt.epochs(2):
    assert "dataset=train" in refusal(lambda: next(ckpt.batches(data.shuffle(2))))
    for _ in ckpt.batches(data):
        assert "zip the datasets" in refusal(lambda: next(ckpt.batches(data)))
    for _ in ckpt.batches(data):
        assert "save after them" in refusal(lambda: ckpt.save())
    ckpt.save()
"""


@pytest.mark.slow
def test_misuse_is_refused_by_name(tmp_path: Path) -> None:
    project = _run(tmp_path, _MISUSED, determinism="off")
    state = load_checkpoint("latest@last", registry=str(project.registry)).state
    assert state["refused"] == [
        "dataset '0': Shuffle has no seed: call tf.random.set_seed before making the dataset, or give it one",
        "dataset '0': it shuffles anew at each reading, and was not read with ckpt.batches",
    ]
    assert "Shuffle has no seed" in project.reprokit("show", "latest").stdout
    assert "cannot be resumed" not in project.reprokit("logs", "latest").stdout


_AHEAD = """\
import os, pathlib, signal
import numpy as np
import tensorflow as tf
from reprokit.callbacks.tensorflow import PackageCheckpoint

net = tf.Module()
net.w = tf.Variable(0.0, dtype=tf.float64)
data = tf.data.Dataset.range(6).map(
    lambda x: tf.numpy_function(lambda v: v + np.random.rand(), [tf.cast(x, tf.float64)], tf.float64)
)
ckpt = PackageCheckpoint(model=net)
died = pathlib.Path(MARKER)
for epoch in ckpt.epochs(2):
    for n, x in enumerate(ckpt.batches(data)):
        net.w.assign_add(tf.reshape(x, []))
        if n == 3 and epoch == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    ckpt.save()
"""


@pytest.mark.slow
def test_a_checkpoint_whose_future_would_have_other_bits_is_not_resumed_from_and_says_why(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("train.py", lean(_AHEAD.replace("MARKER", repr(str(tmp_path / "died")))))
    project.write(
        "recipe.yaml",
        "name: t\ncode: {entrypoint: train.py}\ncheckpoints: {every: 2 steps}\n"
        "execution: {seed: 1, threads: 1, inputs: 'off'}\n",
    )
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q", expect=130)
    refused = project.reprokit("resume", "latest", "-q", expect=3).stderr
    assert (
        "with the same bits: dataset 'dataset' draws from NumPy's global generator while TensorFlow reads ahead; "
        "resume from the end of an epoch.\nIt can be resumed from "
    ) in refused
    project.reprokit("resume", "latest@epoch=0", "-q")  # where nothing was read ahead


CASES = [
    Case("nested", "tensorflow_loop.py", 40, "2 steps"),
    Case("keras", "tensorflow_loop.py", 40, "3 steps", {"data": "cached", "optimizer": "keras"}, needs=("keras",)),
    Case("eager", "tensorflow_loop.py", 40, "2 steps", {"data": "plain", "function": False, "inside": True}),
    Case("epochs", "tensorflow_loop.py", 40, "1 epoch", {"batches": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES[: None if _SCALE > 1 else 1]])
def test_killed_and_resumed_ends_with_the_bits_of_a_run_left_alone(case: Case, tmp_path: Path) -> None:
    if any(importlib.util.find_spec(module) is None for module in case.needs):
        pytest.skip("Keras is not installed: install reprokit's extra for it")
    trial = Trial(case, tmp_path)
    if not case.params.get("inside"):  # where the script itself saves within its epochs
        assert not any(batch == 10 for _, _, batch in trial.whole), (
            "after the last batch, the epoch's end is saved alone"
        )
    draw = random.Random(case.name)
    for number in range(max(1, round(_SCALE))):
        how = trial.killed(draw)
        record = trial.resume_until_done(draw, kills=draw.choice([0, 0, 1]))
        assert trial.digests(record) == trial.whole, f"kill {number} ({how})"
