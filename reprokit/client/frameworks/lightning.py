"""Lightning, which trains with PyTorch."""

from __future__ import annotations

from reprokit.client.frameworks import Framework, Numbers, Stored
from reprokit.client.frameworks.torch import FRAMEWORK as TORCH

__all__ = ["FRAMEWORK"]

FRAMEWORK = Framework(
    name="lightning",
    rank=50,
    extra="lightning",
    numbers=Numbers(trained_by=TORCH.numbers.trained_by),
    stored=Stored(opening=TORCH.stored.opening, made_by=TORCH.stored.made_by),
)
