"""Handwritten digits in two halves, a network of a backbone and a head, and the loop that trains what is not frozen."""

import json
from collections import OrderedDict
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

__all__ = ["digits", "network", "train"]


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


def train(
    model: nn.Sequential,
    parts: tuple[TensorDataset, TensorDataset],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
) -> None:
    """Train the parameters that are not frozen, with a checkpoint after each epoch; writes metrics.json.

    Args:
        parts: What to train on, and what to test on, as `digits` returns them.
    """
    data, test = parts
    loader = DataLoader(
        data,
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(torch.initial_seed()),  # the run's seed, a stream of its own
    )
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moving, lr=learning_rate)

    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, loader=loader)
    for epoch in ckpt.epochs(epochs):
        for images, labels in ckpt.batches(loader):
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val_loss, accuracy = evaluate(model, test)
        print(f"epoch {epoch}: loss {val_loss:.4f}, accuracy {accuracy:.4f}", flush=True)
        ckpt.save(val_loss=val_loss, accuracy=accuracy)

    val_loss, accuracy = evaluate(model, test)  # again: a resumed run may have had no epoch left to train
    Path("metrics.json").write_text(json.dumps({"accuracy": accuracy, "loss": val_loss}, indent=2) + "\n")
