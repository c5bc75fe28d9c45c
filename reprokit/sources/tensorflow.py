"""A `tf.data.Dataset` over the files of a package version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from reprokit.sources import open_source

__all__ = ["dataset"]

_CHUNK = 256  # files that cross from Python to TensorFlow at once: the crossing costs more than a small file


def dataset(
    package: Any,
    folder: str = "",
    *,
    with_keys: bool = False,
    batch_size: int | None = None,
    registry: Any = None,
) -> Any:
    """Return the files below `folder`, in the order of their keys, as a `tf.data.Dataset` of scalar strings.

    Reads straight from the packs of the registry, each file verified.

    Args:
        package: `ns/name`, `ns/name:tag`, `ns/name@hash` or an open `Package`; inside a run, a declared input.
        with_keys: Give pairs of key (relative to `folder`) and content.
        batch_size: Give vectors of so many, the last one shorter; cheaper than `.batch()` afterwards.
        registry: A registry or its address; the one configured if None.
    """
    source = open_source(package, folder, registry=registry)
    count = len(source.keys)
    step = batch_size or _CHUNK

    def chunks() -> Iterator[Any]:
        for start in range(0, count, step):
            numbers = range(start, min(start + step, count))
            contents = np.array([source.read(number) for number in numbers], dtype=object)
            yield (np.array(source.keys[start : numbers.stop], dtype=object), contents) if with_keys else contents

    signature = tf.TensorSpec([None], tf.string)
    made = tf.data.Dataset.from_generator(chunks, output_signature=(signature, signature) if with_keys else signature)
    made = made.prefetch(2)  # the crossing of one chunk goes on beside the use of another
    if batch_size is not None:
        return made.apply(tf.data.experimental.assert_cardinality(-(-count // step)))
    return made.unbatch().apply(tf.data.experimental.assert_cardinality(count))
