"""A tf.data pipeline that counts how it is read, so that a resumed run can bring it to where it was.

A shuffle draws its seeds when it is opened, and what is inside a pipeline may be opened only while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Pipeline"]


class Pipeline:
    """A tf.data pipeline that counts how often it was opened, and what was taken each time.

    Attributes:
        taken: Elements taken, the end counted as one, each time it was opened.
        counts: It counts elements itself; else whoever takes them does.
        draws: It shuffles, or may.
        variables: Seed generators that its functions draw from.
    """

    def __init__(self, dataset: Any, *, counts: bool) -> None:
        self._dataset = dataset
        self.counts = counts
        self.taken: list[int] = []
        self.draws = _draws(dataset)
        self.variables = list({id(one): one for one in _variables_of(dataset)}.values())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __iter__(self) -> Iterator[Any]:
        self.taken.append(0)
        return self._elements() if self.counts else iter(self._dataset)

    def _elements(self) -> Iterator[Any]:
        for element in self._dataset:
            self.taken[-1] += 1
            yield element
        self.taken[-1] += 1

    def replay(self, taken: list[int]) -> None:
        """Open the pipeline as often as it was, and take as much, so that it draws on from there."""
        reads = _moves_when_read(self._dataset)
        for count in taken:
            elements = iter(self._dataset)
            for _ in range(count if reads else 0):
                if next(elements, None) is None:
                    break
        self.taken = list(taken)


# Parts of a pipeline that open what is below them when they are opened, and those with nothing below.
_AT_ONCE = {
    "Batch", "DenseToRagged", "DirectedInterleave", "Filter", "Map", "Options", "PaddedBatch", "ParallelBatch",
    "ParallelMap", "Prefetch", "Restructured", "Shard", "Skip", "Take", "TakeWhile", "Unbatch", "Zip",
}  # fmt: skip
_SOURCES = {"FixedLengthRecord", "Range", "SparseTensorSlice", "TFRecord", "Tensor", "TensorSlice", "TextLine"}
_LATER = {"Cache", "Concatenate", "Repeat", "Shuffle", "Window"}


def _moves_when_read(dataset: Any) -> bool:
    """True if reading a pipeline, and not only opening it, moves what its next opening depends on.

    A shuffle draws its seeds when it is opened. One below another shuffle, a `repeat`, a `concatenate`, a `cache` is
    opened while the pipeline is read; what a function opens cannot be told.
    """
    name = _part(dataset)
    if name in _AT_ONCE:
        return any(_moves_when_read(one) for one in _inputs(dataset))
    if name in _LATER:
        return any(_draws(one) for one in _inputs(dataset))
    return name not in _SOURCES and name != "Random"


def _draws(dataset: Any) -> bool:
    name = _part(dataset)
    if name in _AT_ONCE or name in _LATER - {"Shuffle"}:
        return any(_draws(one) for one in _inputs(dataset))
    return name not in _SOURCES


def _part(dataset: Any) -> str:
    return type(dataset).__name__.strip("_").partition("Dataset")[0]


def _variables_of(dataset: Any) -> Iterator[Any]:
    from reprokit.callbacks.tensorflow import private  # as below

    for graph in private.graphs_of(dataset):
        yield from graph.variables
    for one in _inputs(dataset):
        yield from _variables_of(one)


def _inputs(dataset: Any) -> list[Any]:
    # not at the top: where Keras trains on torch, TensorFlow must load for its own data alone
    from reprokit.callbacks.tensorflow import private

    return private.inputs_of(dataset)
