"""Keras's `fit` through real runs: killed, stopped and resumed; and what cannot be resumed is named."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONG, SCALE, Project, lean

pytest.importorskip("keras", reason="the keras extra is not installed")
pytest.importorskip("torch", reason="the torch extra is not installed")
pytestmark = pytest.mark.slow

# What a run of it does beyond training stands in a file outside the repository, so that an attempt can do otherwise.
_SCRIPT = """\
import os, pathlib, signal, sys

params = __import__("reprokit").params(orders="", data="arrays", backend="torch")
orders = pathlib.Path(params["orders"])
order = orders.read_text() if orders.exists() else ""
os.environ["KERAS_BACKEND"] = "tensorflow" if order == "other backend" else params["backend"]
if os.environ["KERAS_BACKEND"] == "torch":
    sys.modules["tensorflow"] = None  # as where it is not installed: Keras would load it to spell a model

import keras
import numpy as np
from reprokit.callbacks.keras import PackageCheckpoint

x, y = np.random.default_rng(1).normal(size=(24, 4)).astype("float32"), np.arange(24.0)[:, None]


class Acts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.batches = getattr(self, "batches", 0) + 1  # state of its own, which nobody saves
        if self.batches == 9 and order == "stop":
            orders.unlink()
            os.kill(os.getpid(), signal.SIGTERM)
        if self.batches == 9 and order == "fail":
            raise OSError("as it was told")


class Forgetful(keras.utils.PyDataset):
    names = []

    def __init__(self):
        super().__init__()
        self.names = [str(number) for number in range(24)]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        chosen = [int(name) for name in self.names[index * 8 : index * 8 + 8]]
        return x[chosen], y[chosen]

    def on_epoch_end(self):
        np.random.shuffle(self.names)


class Drawing(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return x + tf.random.normal(tf.shape(x))


def endless():
    while True:
        yield x[:4], y[:4]


extra = [Drawing()] if params["data"] == "kernel" else []
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5 if order == "other model" else 3), *extra,
                          keras.layers.Dropout(0.5), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.05), "mse")
first = keras.callbacks.EarlyStopping(monitor="loss", patience=9, restore_best_weights=True)
callbacks = [PackageCheckpoint(), Acts()] + ([] if order == "other callbacks" else [first])
if order == "two at once":
    callbacks.append(keras.callbacks.BackupAndRestore("backup"))
data = {"x": x, "y": y, "batch_size": 4}
if params["data"] == "forgetful":
    data = {"x": endless(), "steps_per_epoch": 6, "validation_data": Forgetful()}
if params["data"] == "twice":
    model.fit(**data, epochs=1, verbose=0, callbacks=[PackageCheckpoint()])
history = model.fit(**data, epochs=4, verbose=0, callbacks=callbacks).history
if order == "die":
    orders.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
print("result", history["loss"], [float(weight.sum()) for weight in model.get_weights()])
"""


class Training:
    """A project with the script above, and what it is told for its next attempt."""

    def __init__(self, base: Path, **params: str) -> None:
        self.project = Project(base)
        self.orders = base / "orders"
        self.project.write("train.py", lean(_SCRIPT))
        given = "".join(f", {name}: {value}" for name, value in params.items())
        self.project.write(
            "recipe.yaml",
            f"name: k\ncode: {{entrypoint: train.py}}\nparams: {{orders: '{self.orders}'{given}}}\n"
            "execution: {seed: 3, threads: 1, inputs: off}\n",
        )
        self.project.commit()

    def start(self, *arguments: str, order: str = "") -> subprocess.CompletedProcess[str]:
        if order:
            self.orders.write_text(order)
        done = subprocess.run(
            self.project.command(*arguments),
            cwd=self.project.root,
            env=self.project.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        self.orders.unlink(missing_ok=True)
        return done

    def record(self) -> Any:
        return self.project.json("show", "latest")

    def digests(self) -> dict[Any, str]:
        done = self.record()["checkpoints"]
        return {(one["epoch"], one["step"]): one["state_digest"] for one in done if one["kind"] == "checkpoint"}


def result(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout
    return next(line for line in done.stdout.splitlines() if line.startswith("result"))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("keras"))


@pytest.fixture(scope="module")
def whole(training: Training) -> tuple[str, dict[Any, str]]:
    return result(training.start("run", "recipe.yaml")), training.digests()


def test_a_signal_saves_at_the_next_batch_and_the_run_goes_on_from_there(
    training: Training, whole: tuple[str, dict[Any, str]]
) -> None:
    stopped = training.start("run", "recipe.yaml", order="stop")
    assert stopped.returncode != 0
    last = training.record()["checkpoints"][-1]
    assert (last["epoch"], last["step"], last["batch"], last["kind"]) == (1, 9, 3, "signal")
    assert (result(training.start("resume", "latest")), training.digests()) == whole


@LONG
def test_killed_after_the_last_epoch_the_result_is_still_that_of_the_whole_run(
    training: Training, whole: tuple[str, dict[Any, str]]
) -> None:
    assert training.start("run", "recipe.yaml", order="die").returncode != 0
    assert (result(training.start("resume", "latest")), training.digests()) == whole


def test_a_reproduction_stops_after_the_epoch_that_it_is_asked_for(
    training: Training, whole: tuple[str, dict[Any, str]]
) -> None:
    # of whichever run came before, resumed ones too: the verdict names no other cause than what was asked for
    verdict = training.project.json("reproduce", "latest", "--until", "epoch=1")
    assert (verdict["relaxed"], verdict["causes"]) == (["until epoch=1"], [])
    assert set(training.digests()) < set(whole[1])


def test_what_is_not_the_run_s_own_is_refused_by_name(training: Training) -> None:
    failed = training.start("run", "recipe.yaml", order="fail")
    assert "the callback Acts changes batches, which is not saved" in failed.stdout
    for order, words in {
        "other model": "model variable 'sequential/dense/kernel' is float32 [4, 5] here, F32 [4, 3] in the checkpoint",
        "other callbacks": "the checkpoint has the callbacks",
        "other backend": "the checkpoint was saved on Keras's backend torch, this is tensorflow",
        "two at once": "BackupAndRestore and PackageCheckpoint both resume",
    }.items():
        if order in ("other backend", "two at once") and SCALE <= 1:
            continue  # a start of Keras for each
        refused = training.start("resume", "latest", order=order)
        assert refused.returncode == 6
        assert words in refused.stdout
    result(training.start("resume", "latest"))


def test_data_without_a_place_to_come_back_to_are_named_when_saving_and_refused_on_resume(tmp_path: Path) -> None:
    training = Training(tmp_path, data="forgetful")
    failed = training.start("run", "recipe.yaml", order="fail")
    named = [
        "Generator has no place to come back to",
        "steps_per_epoch leaves data open from epoch to epoch",
        "Forgetful changes names, and has no state_dict() and load_state_dict()",
    ]
    for words in named:
        assert any("no resume" in line and words in line for line in failed.stdout.splitlines()), (
            "the run's end says it"
        )
    assert "cannot be resumed" in failed.stdout and "goes on from its last checkpoint" not in failed.stdout
    refused = training.start("resume", "latest")
    assert refused.returncode == 3
    assert f"with the same bits: {'; '.join(named)}." in refused.stdout


def test_a_checkpoint_of_the_second_fit_of_a_script_is_refused(tmp_path: Path) -> None:
    training = Training(tmp_path, data="twice")
    training.start("run", "recipe.yaml", order="fail")
    steps = [entry["step"] for entry in training.record()["checkpoints"]]
    assert steps == [6, 12]
    refused = training.start("resume", "latest")
    assert "it is of call 2 of model.fit in the script" in refused.stdout
    assert refused.stdout.rstrip().endswith("@step=6.")


def test_random_operations_of_tensorflow_that_count_by_themselves_are_named_and_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")
    training = Training(tmp_path, data="kernel", backend="tensorflow")
    failed = training.start("run", "recipe.yaml", order="fail")
    named = "the operation RandomStandardNormal keeps its own state"
    assert named in failed.stdout
    refused = training.start("resume", "latest")
    assert refused.returncode == 3
    assert named in refused.stdout
