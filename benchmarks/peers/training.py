"""The training that every runner of benchmarks/checkpoints.py does: a model, its state, a loop that clocks its saves.

`full` trains all of 12 layers, `finetune` a small head on a frozen backbone of 11. Needs torch and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

Step = Callable[[], torch.Tensor]
LAYERS, BATCH = 12, 64


def make(kind: str, dim: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, Step]:
    """Return a model of layers of dim × dim, its AdamW, and a training step; one step was done already.

    Without that step there would be no optimiser state, and the threads of torch would start in the first epoch.
    """
    torch.manual_seed(0)
    layers = [m for _ in range(LAYERS) for m in (torch.nn.Linear(dim, dim), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers)
    width = dim
    if kind == "finetune":
        width = max(dim * 36 // 100, 1)  # 3 MB to a backbone of 91 MB, at 1440
        model = torch.nn.Sequential(*layers[:-2], torch.nn.Linear(dim, width))
        for parameter in model[:-1].parameters():
            parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    x = torch.randn(BATCH, dim)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = ((model(x) - x[:, :width]) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step()
    return model, optimizer, step


def state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what a checkpoint holds, as PyTorch users write it."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def flat(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return all tensors of nested dictionaries and lists by dotted name."""
    if torch.is_tensor(value):
        return {prefix: value}
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {
        name: tensor
        for key, child in children
        for name, tensor in flat(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def clocked(epochs: Iterable[int], steps: int, step: Step, save: Callable[[torch.Tensor], object]) -> dict[str, Any]:
    """Train `steps` steps an epoch, save after each, and return the clocks in seconds, `began` and `ended` monotonic.

    `entered` is what passed before the first epoch, where reprokit saves the state that the training starts from.
    """
    stalls = []
    entered = None
    began = time.monotonic()
    for _ in epochs:
        if entered is None:
            entered = time.monotonic() - began
        for _ in range(steps):
            loss = step()
        before = time.monotonic()
        save(loss)
        stalls.append(time.monotonic() - before)
    return {"began": began, "ended": time.monotonic(), "entered": entered, "stalls": stalls}


def sizes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Return the bytes of the whole state, and of that part of it which never changes."""
    every = sum(tensor.numel() * tensor.element_size() for tensor in flat(state(model, optimizer)).values())
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return {"state_bytes": every, "frozen_bytes": frozen}
