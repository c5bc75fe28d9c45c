"""Train a small network on handwritten digits with PyTorch; writes metrics.json.

Run it with `reprokit run recipes/digits-torch.yaml`, or as plain Python: `python recipes/digits_torch.py`.
The script sets no seed: reprokit does, before the first import.
"""

import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

TRAIN = 1400  # of 1797 images; the rest is held out


def main() -> None:
    params = reprokit.params(epochs=3, learning_rate=0.05, batch_size=64, hidden=64)

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)  # [1797, 64], 0…1
    y = torch.tensor(digits.target, dtype=torch.int64)
    loader = DataLoader(
        TensorDataset(x[:TRAIN], y[:TRAIN]),
        batch_size=params["batch_size"],
        shuffle=True,
        generator=torch.Generator().manual_seed(torch.initial_seed()),  # the run's seed, a stream of its own
    )
    model = nn.Sequential(nn.Linear(64, params["hidden"]), nn.ReLU(), nn.Linear(params["hidden"], 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=params["learning_rate"], momentum=0.9)

    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, loader=loader)
    for epoch in ckpt.epochs(params["epochs"]):
        for some, target in ckpt.batches(loader):
            loss = cross_entropy(model(some), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = model(x[TRAIN:])
        result = ckpt.state["result"] = {  # a run that resumes after its last epoch writes metrics.json too
            "val_loss": cross_entropy(logits, y[TRAIN:]).item(),
            "accuracy": (logits.argmax(1) == y[TRAIN:]).float().mean().item(),
        }
        print(f"epoch {epoch}: loss {result['val_loss']:.4f}, accuracy {result['accuracy']:.4f}", flush=True)
        ckpt.save(**result)

    Path("metrics.json").write_text(json.dumps(ckpt.state["result"], indent=2) + "\n")


if __name__ == "__main__":
    main()
