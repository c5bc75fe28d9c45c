"""Hugging Face's Trainer, which trains with PyTorch."""

from __future__ import annotations

from reprokit.client.frameworks import Framework, Numbers, Stored
from reprokit.client.frameworks.torch import FRAMEWORK as TORCH

__all__ = ["FRAMEWORK"]

FRAMEWORK = Framework(
    name="transformers",
    rank=60,
    extra="transformers",
    numbers=Numbers(trained_by=TORCH.numbers.trained_by),
    stored=Stored(opening=TORCH.stored.opening, made_by=TORCH.stored.made_by),
)
