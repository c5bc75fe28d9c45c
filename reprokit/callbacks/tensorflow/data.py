"""Where a `tf.data` pipeline is in its random orders, and how to bring a new one of the same making there.

A dataset that shuffles anew at each reading has a generator of seeds inside, which TensorFlow lets nobody read; what
moves it is that a reading begins. So those are counted, and a resumed run begins as many, without taking an element.
TensorFlow's own checkpoint of an iterator would not do: it copies the whole shuffle buffer, holds what prefetching
happened to have read ahead, and forgets the generators of parts that were not begun, such as a shuffle below a shuffle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from reprokit.callbacks.tensorflow import private

__all__ = ["Reading", "fingerprint"]

_FINGERPRINT = 1024 * 1024  # bytes of each tensor that are looked at

# nodes that begin their inputs once in a reading; below any other one, nobody can say how often a shuffle was begun
_ONCE = frozenset(
    {
        "AssertCardinality", "Batch", "Concatenate", "DenseToRagged", "DirectedInterleave", "Filter", "FlatMap",
        "GroupByWindow", "IgnoreErrors", "Interleave", "Map", "Options", "PaddedBatch", "ParallelBatch",
        "ParallelInterleave", "ParallelMap", "Prefetch", "Rebatch", "Restructured", "Scan", "Shard", "Shuffle", "Skip",
        "Take", "TakeWhile", "Unbatch", "Unique", "Window", "Zip",
    }
)  # fmt: skip
_WHOLE = frozenset({"Concatenate", "Cache"})  # what they begin is known only where a reading came to its end
_WRITERS = ("Assign", "ResourceApply", "ResourceScatter", "Rng", "Stateful")


class Reading:
    """Counts how often the parts of a dataset that shuffle anew were begun.

    Attributes:
        dataset: As the script made it.
        refused: Why a resumed process could not give the same elements; empty if it can.
        runs_ahead: What in it changes a variable: the training cannot say at which element that is now.
    """

    def __init__(self, name: str, dataset: Any) -> None:
        if not isinstance(dataset, tf.data.Dataset):
            kind = type(dataset)
            raise TypeError(
                f"reprokit: dataset {name!r} is a {kind.__module__}.{kind.__qualname__}, no tf.data.Dataset"
            )
        self.name = name
        self.dataset = dataset
        self.refused: list[str] = []
        self.runs_ahead = sorted(_changing(dataset))
        self._counts: dict[str, int] = {}
        self._nodes: dict[str, Any] = {}
        self._above: dict[str, list[str]] = {}
        if dataset.options().deterministic is False:
            self.refuse("its options say deterministic = False")
        self._look(dataset, "0", [])

    def state(self) -> dict[str, int]:
        """Return how often each part was begun, by its place in the pipeline."""
        return dict(self._counts)

    def restore(self, counts: dict[str, int]) -> None:
        """Begin each part as often as it had been when the state was taken.

        Raises:
            RuntimeError: This is another pipeline.
        """
        if counts.keys() != self._counts.keys():
            raise RuntimeError(
                f"reprokit: dataset {self.name!r} shuffles in {len(self._counts)} places here, in {len(counts)} in the "
                "checkpoint, or in others"
            )
        for place, count in counts.items():
            for _ in range(count - self._counts[place]):
                iter(self._nodes[place])
            self._counts[place] = count

    def was_read(self, *, whole: bool) -> None:
        """Note a reading of at least one element; `whole` if it came to its end."""
        for place in self._counts:
            above = self._above[place]
            if not whole and (hurried := [kind for kind in above if kind in _WHOLE]):
                self.refuse(f"it was not read to its end, and has {hurried[0]} above a shuffle")
            self._counts[place] += "Cache" not in above  # a cache is filled again in a new process, in the same order

    def refuse(self, why: str) -> None:
        if why not in self.refused:
            self.refused.append(why)

    def _look(self, node: Any, place: str, above: list[str]) -> None:
        kind = _kind(node)
        if private.seeds_of(node) is not None:
            self._look_at_seeds(node, kind, place, above)
        for number, below in enumerate(private.inputs_of(node)):
            self._look(below, f"{place}.{number}", [*above, kind])

    def _look_at_seeds(self, node: Any, kind: str, place: str, above: list[str]) -> None:
        if kind not in ("Shuffle", "Random"):
            self.refuse(f"nobody knows how to bring {kind} back to where it is")
            return
        if private.seeds_of(node) == (0, 0):
            self.refuse(f"{kind} has no seed: call tf.random.set_seed before making the dataset, or give it one")
        if not private.reshuffles(node, shuffle=kind == "Shuffle"):
            return
        unknown = [one for one in above if one not in _ONCE and one not in _WHOLE]
        if unknown:
            hint = ": leave repeat out, ckpt.epochs repeats" if "Repeat" in unknown else ""
            self.refuse(f"it has {unknown[-1]} above {kind}{hint}")
            return
        self._counts[place], self._nodes[place], self._above[place] = 0, node, above


def _kind(node: Any) -> str:
    """Return a node's kind, without what TensorFlow's versions put around the name."""
    return type(node).__name__.strip("_").removesuffix("V1").removesuffix("V2").removesuffix("Dataset")


def _changing(dataset: Any) -> Iterator[str]:
    """Yield the operations in a pipeline's functions that change a variable."""
    for graph in private.graphs_of(dataset):
        for name in _operations(graph.as_graph_def()):
            if name.startswith(_WRITERS) and name != "StatefulPartitionedCall":
                yield name
    for below in private.inputs_of(dataset):
        yield from _changing(below)


def _operations(graph: Any) -> set[str]:
    """Return the names of the operations in a graph and in the functions that it brings along."""
    found = {node.op for node in graph.node}
    for function in graph.library.function:
        found |= {node.op for node in function.node_def}
    return found


def fingerprint(batch: Any) -> str:
    """Return what tells one batch from another: a digest over the beginning of each of its tensors."""
    digest = hashlib.sha256()
    for tensor in tf.nest.flatten(batch, expand_composites=True):
        if tensor.dtype == tf.variant:  # a dataset inside the dataset, such as a window
            continue
        array = np.asarray(tensor)
        digest.update(f"{array.dtype} {array.shape}".encode())
        if array.dtype == object:
            digest.update(repr(array.reshape(-1)[:1000].tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8)[:_FINGERPRINT].data)
    return digest.hexdigest()
