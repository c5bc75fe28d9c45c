"""Train a small convolutional network on CIFAR-10 with PyTorch; writes metrics.json.

Run it with `reprokit run examples/cifar10/torch.yaml`, or as plain Python from the root of the repository:
`python examples/cifar10/train_torch.py`. The script sets no seed: reprokit does, before the first import.
"""

import json
from collections import OrderedDict
from pathlib import Path

import cifar10
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """[B, channels_in, H, W] → [B, channels_out, H/2, W/2]."""
    layers = OrderedDict(
        conv=nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        norm=nn.BatchNorm2d(channels_out),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(2),
    )
    return nn.Sequential(layers)


def network() -> nn.Sequential:
    """Images [B, 3, 32, 32] scaled to 0…1 → logits [B, 10]. The names are those of the tensors in a checkpoint."""
    layers = OrderedDict(
        block1=block(3, 32),
        block2=block(32, 64),
        block3=block(64, 128),
        flatten=nn.Flatten(),
        classify=nn.Linear(128 * 4 * 4, 10),
    )
    return nn.Sequential(layers)


def prepare(images: Tensor) -> Tensor:
    """uint8 [B, 3, 32, 32] → float32 of the same shape, 0…1."""
    return images.float().div_(255)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy (nats) and accuracy (0…1) over all of `images` uint8 [N, 3, 32, 32]."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for some, target in zip(images.split(500), labels.split(500), strict=True):
            logits = model(prepare(some))
            loss += cross_entropy(logits, target, reduction="sum").item()
            correct += int((logits.argmax(1) == target).sum())
    model.train()
    return loss / len(labels), correct / len(labels)


def main() -> None:
    params = reprokit.params(epochs=3, learning_rate=0.005, batch_size=128, images=50000)

    arrays = cifar10.load(Path("data/cifar10"), images=params["images"])
    x_train, y_train, x_test, y_test = map(torch.from_numpy, arrays)
    # A permuted view of [N, 32, 32, 3] is PyTorch's channels_last: the fast layout on a CPU, without a copy.
    x_train, x_test = x_train.permute(0, 3, 1, 2), x_test.permute(0, 3, 1, 2)

    loader = DataLoader(
        TensorDataset(x_train, y_train),
        batch_size=params["batch_size"],
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(torch.initial_seed()),  # the run's seed, a stream of its own
    )
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=params["learning_rate"])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=params["learning_rate"], epochs=params["epochs"], steps_per_epoch=len(loader)
    )

    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
    for epoch in ckpt.epochs(params["epochs"]):
        for images, labels in ckpt.batches(loader):
            loss = cross_entropy(model(prepare(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if ckpt.step % 50 == 0:
                reprokit.log(step=ckpt.step, loss=loss.item())
        val_loss, accuracy = evaluate(model, x_test, y_test)
        print(f"epoch {epoch}: test loss {val_loss:.4f}, accuracy {accuracy:.4f}", flush=True)
        ckpt.save(val_loss=val_loss, accuracy=accuracy)

    val_loss, accuracy = evaluate(model, x_test, y_test)  # again: a resumed run may have had no epoch left to train
    reprokit.log(val_loss=val_loss, accuracy=accuracy)
    Path("metrics.json").write_text(json.dumps({"accuracy": accuracy, "loss": val_loss}, indent=2) + "\n")


if __name__ == "__main__":
    main()
