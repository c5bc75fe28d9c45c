"""Handwritten digits in two halves, and a network of a backbone and a head. Trains nothing."""

from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

__all__ = ["digits", "evaluate", "network"]


def digits(first: int, *, each: int) -> tuple[TensorDataset, TensorDataset]:
    """Return five of the ten digits: some to train on, and the last 60 of each digit to test on.

    Args:
        first: 0 for the digits 0 to 4, 5 for 5 to 9; the labels are 0…4 in either case.
        each: How many of each digit to train on at most; there are some 120.
    Returns:
        Images float32 [N, 1, 8, 8], 0…1, and labels int64 [N], of either part.
    """
    found = load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(found.target, dtype=torch.int64) - first
    places = [torch.nonzero(labels == label).flatten() for label in range(5)]
    train = torch.cat([place[:-60][:each] for place in places])
    test = torch.cat([place[-60:] for place in places])
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def network() -> nn.Sequential:
    """Images [B, 1, 8, 8] → features [B, 128] of the backbone → logits [B, 5] of the head."""
    backbone = OrderedDict(block1=block(1, 16), block2=block(16, 32), flatten=nn.Flatten())
    return nn.Sequential(OrderedDict(backbone=nn.Sequential(backbone), head=nn.Linear(32 * 2 * 2, 5)))


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """[B, channels_in, H, W] → [B, channels_out, H/2, W/2]."""
    layers = OrderedDict(
        conv=nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        norm=nn.BatchNorm2d(channels_out),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
    )
    return nn.Sequential(layers)


def evaluate(model: nn.Module, test: TensorDataset) -> tuple[float, float]:
    """Return mean cross-entropy (nats) and accuracy (0…1); leaves each part in training or not, as it was."""
    images, labels = test.tensors
    training = {name: part.training for name, part in model.named_modules()}
    model.eval()
    with torch.no_grad():
        logits = model(images)
    for name, part in model.named_modules():
        part.training = training[name]
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
