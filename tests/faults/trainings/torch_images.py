"""A small convolutional network on a folder of images, in which every choice of its recipe shows in the bits."""

import json
from pathlib import Path

import numpy as np
import torch
from augmenting import augmented
from PIL import Image
from smoothing_demo import SMOOTHING
from torch import nn
from torch.utils.data import DataLoader, Dataset

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


class Images(Dataset):
    def __init__(self, folder: Path, labels: Path, steps: list[str], dtype: torch.dtype) -> None:
        files = sorted(folder.glob("*.png"))
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        self.x = torch.tensor(pixels).permute(0, 3, 1, 2).to(dtype) / 255
        self.y = torch.tensor([int(line) for line in labels.read_text().split()][: len(files)])
        self.steps = steps

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return augmented(self.x[index], self.steps), self.y[index]


def network(hidden: int, dropout: float) -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 8, 3, padding=1))
    net.add_module("norm", nn.BatchNorm2d(8))
    net.add_module("relu", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(4))
    net.add_module("flat", nn.Flatten())
    net.add_module("hidden", nn.Linear(128, hidden))
    net.add_module("drop", nn.Dropout(dropout))
    net.add_module("out", nn.Linear(hidden, 10))
    return net


def cooled(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= 0.9


def limited(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = min(group["lr"], 0.008)


def main() -> None:
    p = reprokit.params(
        epochs=3, rate=0.01, batch=24, hidden=16, dropout=0.2, decay=0.01, eps=1e-8, optimizer="AdamW",
        reduction="mean", dtype="float32", augment=["flip"], workers=0,
    )  # fmt: skip
    dtype = getattr(torch, p["dtype"])
    data = Images(Path("data/images"), Path("data/labels/labels.txt"), p["augment"], dtype)
    loader = DataLoader(
        data, batch_size=p["batch"], shuffle=True, num_workers=p["workers"], generator=torch.Generator().manual_seed(3)
    )
    net = network(p["hidden"], p["dropout"]).to(dtype)
    options = {"lr": p["rate"], "weight_decay": p["decay"]}
    if p["optimizer"] != "SGD":
        options["eps"] = p["eps"]
    optimizer = getattr(torch.optim, p["optimizer"])(net.parameters(), **options)
    measure = nn.CrossEntropyLoss(reduction=p["reduction"], label_smoothing=SMOOTHING)
    after_epoch = [cooled, limited]
    ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
    for epoch in ckpt.epochs(p["epochs"]):
        total = 0.0
        for x, y in ckpt.batches(loader):
            loss = measure(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        for act in after_epoch:
            act(optimizer)
        ckpt.save(loss=total)
        reprokit.log(step=epoch, total=total)
    with torch.no_grad():
        sums = net.eval()(data.x).sum(1)
    result = {"mean": sums.mean().item(), "largest": sums.max().item()}
    reprokit.log(**result)
    Path("metrics.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
