"""Every private part of PyTorch that callbacks use: what is read or replaced, and why there is no public way.

`USED` names them; a test holds each against the release that is installed. Verified with PyTorch 2.13.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.data

__all__ = ["USED", "compiled", "end_workers", "sparse_parts", "version", "watch_iterators", "with_sampler"]

USED: tuple[tuple[str, str], ...] = (
    ("torch.utils.data.dataloader.DataLoader._iterator", "let go: the persistent workers of an epoch"),
    ("torch.utils.data.dataloader.DataLoader.__setattr__", "passed by: it refuses another sampler"),
    ("torch._dynamo.eval_frame.OptimizedModule._orig_mod", "the model inside torch.compile's"),
    ("torch.utils.data.dataloader._BaseDataLoaderIter", "wrapped: when an iterator is made, asked, and at its end"),
    ("torch.utils.data.dataloader._BaseDataLoaderIter._reset", "wrapped: persistent workers begin anew in it"),
    ("torch.Tensor._version", "counts the changes of a gradient in place"),
    ("torch.Tensor._indices", "of a sparse gradient that is not coalesced"),
    ("torch.Tensor._values", "of a sparse gradient that is not coalesced"),
)


def watch_iterators(
    made: Callable[[Any, Any], None], asked: Callable[[Any], None], ended: Callable[[Any], None]
) -> None:
    """Have all iterators over DataLoaders tell that they are made or begin anew, are asked for a batch, have ended."""
    kind = torch.utils.data.dataloader._BaseDataLoaderIter
    begin, reset, ask = kind.__init__, kind._reset, kind.__next__

    @functools.wraps(begin)
    def begins(self: Any, loader: Any) -> None:
        made(self, loader)
        begin(self, loader)

    @functools.wraps(reset)
    def resets(self: Any, loader: Any, *given: Any, **options: Any) -> None:
        made(self, loader)
        reset(self, loader, *given, **options)

    @functools.wraps(ask)
    def asks(self: Any) -> Any:
        asked(self)
        try:
            return ask(self)
        except StopIteration:
            ended(self)
            raise

    kind.__init__, kind._reset, kind.__next__ = begins, resets, asks


def version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place."""
    return int(tensor._version)


def sparse_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices and the values of a sparse tensor as they are; added up beforehand they could round."""
    return tensor._indices(), tensor._values()


def end_workers(loader: Any) -> None:
    """End a loader's persistent workers, so that the next epoch starts new ones; only a new loader would do it too."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def with_sampler(loader: Any, attribute: str, sampler: Any) -> Any:
    """Return a copy of a loader with another sampler; a loader of the same arguments need not be of the same class.

    Args:
        attribute: `sampler` or `batch_sampler`.
    """
    changed = copy.copy(loader)
    object.__setattr__(changed, attribute, sampler)
    return changed


def compiled(model: torch.nn.Module) -> Any:
    """Return the model inside what `torch.compile` made of it, None for any other; its tensors have other names."""
    return getattr(model, "_orig_mod", None)
