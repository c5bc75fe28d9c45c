"""Do the processes that train one model hold the same? DDP makes their gradients equal; what else they do is their own.

A checkpoint has the model and the optimiser of one of them. Where another's differ, a resumed run would not go on as
the run did, and nothing that is stored would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["apart", "mark_of"]

_REMEDY = (
    "a checkpoint has one of them. What steps by a metric, such as ReduceLROnPlateau, needs one that is the same in "
    "all processes: reduce it, in Lightning with self.log(…, sync_dist=True)"
)


def mark_of(
    tensors: Iterable[tuple[str, torch.Tensor]], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Return what is equal in two processes whose parameters and settings of optimisers are.

    A sum over the bits of each parameter: it may miss a difference, and never finds one that is not there. Buffers are
    left out, for those of BatchNorm are each process's own until the next step.
    """
    weights = {name: _sum(one) for name, one in tensors if isinstance(one, torch.nn.Parameter)}
    settings = {
        f"{name} of group {number}" + (f" of {key}" if len(optimizers) > 1 else ""): repr(value)
        for key, optimizer in optimizers.items()
        for number, group in enumerate(optimizer.param_groups)
        for name, value in group.items()
        if isinstance(value, int | float | bool | tuple | str)
    }
    return {"settings": settings, "weights": weights}


def _sum(tensor: torch.Tensor) -> int:
    if tensor.layout != torch.strided or tensor.is_quantized or isinstance(tensor, torch.nn.UninitializedParameter):
        return 0
    whole = tensor.detach().contiguous().view(-1).view(torch.uint8)
    even = whole.numel() - whole.numel() % 4
    return int(whole[:even].view(torch.int32).sum(dtype=torch.int64)) + int(whole[even:].sum(dtype=torch.int64))


def apart(marks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in a sentence where processes differ, given each one's mark by rank; nothing if none does."""
    first = marks[0]
    for rank, other in enumerate(marks[1:], 1):
        for kind, what in (("settings", "optimiser"), ("weights", "model")):
            mine, theirs = first[kind], other[kind]
            differing = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            if not differing:
                continue
            name = differing[0]
            how = f" ({mine.get(name)} and {theirs.get(name)})" if kind == "settings" else ""
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            return [f"the processes do not hold the same {what}: {name}{how}{more} of rank {rank} differs; {_REMEDY}"]
    return []
