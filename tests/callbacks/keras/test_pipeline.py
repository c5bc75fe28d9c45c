"""A tf.data pipeline, opened again as often as it was, draws on from there."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")

from reprokit.callbacks.keras.pipeline import Pipeline  # noqa: E402 - needs what the line above looks for

Data = Any


def numbers(start: int = 0) -> Data:
    return tf.data.Dataset.range(start, start + 12)


def windows(data: Data) -> Data:
    return data.shuffle(12).window(3).flat_map(lambda window: window.batch(3))


def generated(data: Data) -> Data:
    shuffled = data.shuffle(12)
    return tf.data.Dataset.from_generator(
        lambda: shuffled.as_numpy_iterator(), output_signature=tf.TensorSpec([], tf.int64)
    )


# name → a pipeline, and whether opening it is enough
PIPELINES: dict[str, tuple[Callable[[], Data], bool]] = {
    "plain": (lambda: numbers(), True),
    "shuffle": (lambda: numbers().shuffle(12), True),
    "map, batch, prefetch": (lambda: numbers().shuffle(12).map(lambda x: x + 1).batch(4).prefetch(2), True),
    "parallel map": (lambda: numbers().shuffle(12).map(lambda x: x, num_parallel_calls=2), True),
    "zip": (lambda: tf.data.Dataset.zip(numbers().shuffle(12), numbers().shuffle(12)), True),
    "filter, take, skip": (lambda: numbers().shuffle(12).filter(lambda x: x > 1).skip(1).take(6), True),
    "repeat of nothing drawn": (lambda: numbers().repeat(2), True),
    "shuffle of files": (lambda: tf.data.Dataset.from_tensor_slices(["a", "b", "c", "d", "e"]).shuffle(5), True),
    "random": (lambda: tf.data.Dataset.random(rerandomize_each_iteration=True).take(4), True),
    "shuffle of shuffle": (lambda: numbers().shuffle(12).batch(2).shuffle(6), False),
    "repeat": (lambda: numbers().shuffle(12).repeat(2), False),
    "concatenate": (lambda: numbers().concatenate(numbers(50).shuffle(12)), False),
    "cache": (lambda: numbers().shuffle(12).cache().prefetch(1), False),
    "window": (lambda: windows(numbers()), False),
    "generator": (lambda: generated(numbers()), False),
    "interleave": (lambda: numbers().interleave(lambda _: numbers().shuffle(12), cycle_length=2), False),
}


def read(iterator: Any, count: int | None = None) -> list[Any]:
    found = []
    while count is None or len(found) < count:
        element = next(iterator, None)
        if element is None:
            break
        found.append(tf.nest.map_structure(lambda one: np.asarray(one.numpy()).tolist(), element))
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_opened_again_as_often_draws_on_from_there(name: str) -> None:
    make, opens = PIPELINES[name]
    for number, counts in enumerate([True, False]):
        draw = random.Random(f"{name} {number}")
        tf.random.set_seed(5)
        whole = Pipeline(make(), counts=counts)
        for _ in range(draw.randint(1, 4)):
            iterator = iter(whole)
            if opens and draw.random() < 0.5:  # not all of it, or nothing
                taken = len(read(iterator, draw.randint(1, 3)))
            else:
                taken = len(read(iterator)) + 1  # the end was asked for too
            if not counts:
                whole.taken[-1] += taken
        tf.random.set_seed(5)
        again = Pipeline(make(), counts=counts)
        again.replay(whole.taken)
        assert again.taken == whole.taken
        assert read(iter(again)) == read(iter(whole)), f"draw {number}"


def test_what_only_opening_moves_is_not_read_again() -> None:
    read_items: list[int] = []

    def note(x: Any) -> Any:
        tf.py_function(lambda value: read_items.append(int(value)), [x], [])
        return x

    tf.random.set_seed(5)
    again = Pipeline(numbers().map(note).shuffle(12).batch(4), counts=False)
    again.replay([4, 0, 4, 0])
    assert read_items == []


def test_seed_generators_that_a_pipeline_draws_from_are_found() -> None:
    generator = tf.random.Generator.from_seed(3)
    found = Pipeline(numbers().map(lambda _: generator.normal([])).batch(2), counts=False)
    assert [variable is generator.state for variable in found.variables] == [True]
