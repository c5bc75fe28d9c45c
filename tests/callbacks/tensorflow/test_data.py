"""A tf.data pipeline of the same making is brought to the place that another one was at, or refused by name."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")

import numpy as np  # noqa: E402

from reprokit.callbacks.tensorflow.data import Reading, fingerprint  # noqa: E402

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_EPOCHS = 4
_AUTOTUNE = tf.data.AUTOTUNE
_range = tf.data.Dataset.range
_zip = tf.data.Dataset.zip


def _noisy(x: Any) -> Any:
    return tf.cast(x, tf.float32) + tf.random.uniform([])


def _generated() -> Any:
    for i in range(20):
        yield i + random.random() + np.random.rand()


def _from_generator() -> Any:
    return tf.data.Dataset.from_generator(_generated, output_signature=tf.TensorSpec([], tf.float64))


def _shared() -> Any:
    base = _range(12).shuffle(12)
    return _zip(base.take(6), base.skip(6))


PIPELINES: dict[str, Callable[[], Any]] = {
    "files": lambda: (
        _range(4)
        .shuffle(4)
        .interleave(lambda i: _range(i * 10, i * 10 + 5).shuffle(2), cycle_length=2, num_parallel_calls=2)
        .shuffle(6)
        .map(_noisy, num_parallel_calls=2)
        .batch(3)
        .prefetch(_AUTOTUNE)
    ),
    "cache": lambda: _range(10).shuffle(10).map(_noisy).cache().shuffle(5).batch(3),
    "concatenate": lambda: _range(6).shuffle(3).concatenate(_range(6).map(lambda x: x + 100).shuffle(4)).batch(3),
    "shared": lambda: _shared().batch(2),
    "random": lambda: _zip(_range(9), tf.data.Dataset.random(rerandomize_each_iteration=True)).batch(4),
    "generator": lambda: _from_generator().shuffle(5).batch(4),
    "plain": lambda: _range(20).batch(4),
    "fixed": lambda: _range(20).shuffle(8, seed=3, reshuffle_each_iteration=False).batch(4),
    "repeated below": lambda: _range(10).repeat(2).shuffle(5).batch(4),
    "three": lambda: _range(20).shuffle(8).map(lambda x: x * 2).shuffle(4).batch(2).shuffle(3),
    "zipped": lambda: _zip(_range(4).shuffle(5), _range(10).shuffle(5)).batch(2),
    "sampled": lambda: tf.data.Dataset.sample_from_datasets([_range(10).shuffle(3), _range(9)], [0.5, 0.5]).batch(4),
    "chosen": lambda: tf.data.Dataset.choose_from_datasets(
        [_range(5).shuffle(5), _range(5).map(lambda x: x + 50).shuffle(5)], _range(2).repeat(5)
    ).batch(2),
    "taken": lambda: _range(20).shuffle(20).take(7).shuffle(3).batch(2),
    "filtered": lambda: _range(20).shuffle(20).skip(3).filter(lambda x: x % 2 == 0).batch(2),
    "windows": lambda: _range(12).shuffle(6).window(3).flat_map(lambda window: window.batch(3)),
    "grouped": lambda: _range(12).shuffle(6).group_by_window(lambda x: x % 2, lambda _, w: w.batch(3), window_size=3),
    "unbatched": lambda: _range(12).shuffle(6).batch(3).unbatch().shuffle(3).batch(2),
    "scanned": lambda: _range(12).shuffle(6).scan(np.int64(0), lambda s, x: (s + x, s + x)).batch(3),
    "rebatched": lambda: _range(12).shuffle(6).batch(4).rebatch(3),
    "enumerated": lambda: _range(12).shuffle(6).enumerate().batch(4),
    "parallel": lambda: _range(12).shuffle(6).map(_noisy, num_parallel_calls=2).batch(4, num_parallel_calls=2),
    "unique": lambda: _range(12).map(lambda x: x % 6).shuffle(6).unique().batch(2),
    "while": lambda: _range(12).shuffle(6).take_while(lambda x: x != 7).batch(2),
    "options": lambda: _range(12).shuffle(6).with_options(tf.data.Options()).batch(2),
    "shard": lambda: _range(12).shuffle(6).shard(2, 0).batch(2),
    "padded": lambda: _range(6).shuffle(6).map(tf.range).padded_batch(2),
    "ragged": lambda: _range(12).shuffle(4).ragged_batch(3),
    "errors": lambda: _range(6).shuffle(6).ignore_errors().batch(2),
    "python": lambda: (
        _range(6).shuffle(6).map(lambda x: tf.numpy_function(lambda v: np.float64(v * 2), [x], tf.float64)).batch(2)
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _deterministic() -> None:
    tf.config.experimental.enable_op_determinism()


def _new(name: str) -> Reading:
    """Return a pipeline as a fresh process would make it."""
    tf.random.set_seed(7)
    random.seed(1)
    np.random.seed(1)
    return Reading(name, PIPELINES[name]())


def _all(dataset: Any) -> list[str]:
    return [fingerprint(batch) for batch in dataset]


@pytest.mark.parametrize("name", [*PIPELINES][: round(6 * _SCALE)])
def test_the_orders_after_any_epoch_are_those_of_a_process_that_was_never_stopped(name: str) -> None:
    reading, orders, states = _new(name), [], []
    for _ in range(_EPOCHS):
        states.append((reading.state(), random.getstate(), np.random.get_state()))
        orders.append(_all(reading.dataset))
        reading.was_read(whole=True)
    assert not reading.refused
    for epoch in range(1, _EPOCHS):
        again = _new(name)
        counts, python, numpy = states[epoch]
        again.restore(counts)
        random.setstate(python)
        np.random.set_state(numpy)
        assert [_all(again.dataset) for _ in range(epoch, _EPOCHS)] == orders[epoch:]


def test_a_pipeline_that_shuffles_anew_gives_another_order_each_epoch() -> None:
    reading = _new("three")
    assert len({str(_all(reading.dataset)) for _ in range(_EPOCHS)}) == _EPOCHS
    assert len(reading.state()) == 3


@pytest.mark.parametrize(
    ("make", "whole", "why"),
    [
        (
            lambda: _range(8).shuffle(8).repeat(2).batch(2), True,
            "it has Repeat above Shuffle: leave repeat out, ckpt.epochs repeats",
        ),
        (
            lambda: _range(8).shuffle(8).concatenate(_range(3)).batch(2), False,
            "it was not read to its end, and has Concatenate above a shuffle",
        ),
        (
            lambda: _range(8).shuffle(8).cache().batch(2), False,
            "it was not read to its end, and has Cache above a shuffle",
        ),
        (
            lambda: _range(8).with_options(_any_order()).batch(2), True,
            "its options say deterministic = False",
        ),
    ],
)  # fmt: skip
def test_what_nobody_can_bring_back_is_refused_by_name(make: Callable[[], Any], whole: bool, why: str) -> None:
    tf.random.set_seed(7)
    reading = Reading("d", make())
    reading.was_read(whole=whole)
    assert reading.refused == [why]


def _any_order() -> Any:
    options = tf.data.Options()
    options.deterministic = False
    return options


def test_a_generator_inside_a_dataset_is_seen_to_run_ahead() -> None:
    generator = tf.random.Generator.from_seed(1)
    reading = Reading("d", _range(8).map(lambda x: x + generator.uniform([], maxval=9, dtype=tf.int64)).batch(2))
    assert any(name.startswith("Rng") for name in reading.runs_ahead)
    assert not _new("python").runs_ahead


def test_the_fingerprint_tells_batches_of_every_kind_apart() -> None:
    text, ragged = tf.constant(["a", "b"]), tf.ragged.constant([[1], [2, 3]])
    (window,) = tf.data.Dataset.range(2).window(2)
    kinds = [
        text,
        tf.constant(["a", "c"]),
        ragged,
        ragged + 1,
        {"x": ragged, "y": text},
        tf.zeros([0, 2]),
        (window, 1.0),
    ]
    assert len({fingerprint(tf.nest.map_structure(tf.identity, one)) for one in kinds[:-1]}) == len(kinds) - 1
    assert fingerprint((window, tf.constant(1.0))) == fingerprint((tf.data.Dataset.range(9), tf.constant(1.0)))


def test_other_things_than_datasets_are_refused() -> None:
    with pytest.raises(TypeError, match=r"dataset 'train' is a builtins.list, no tf.data.Dataset"):
        Reading("train", [1, 2])
