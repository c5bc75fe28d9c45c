"""Train backbone and head on the digits 0 to 4; writes metrics.json.

Run it with `reprokit run examples/frozen_backbone/pretrain.yaml`. The script sets no seed: reprokit does.
"""

import json
from pathlib import Path

import torch
from handwriting import digits, evaluate, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


def main() -> None:
    params = reprokit.params(epochs=10, learning_rate=0.01, batch_size=32, each=120)
    train, test = digits(0, each=params["each"])
    loader = DataLoader(
        train,
        batch_size=params["batch_size"],
        shuffle=True,
        generator=torch.Generator().manual_seed(torch.initial_seed()),  # the run's seed, a stream of its own
    )
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=params["learning_rate"])

    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, loader=loader)
    for epoch in ckpt.epochs(params["epochs"]):
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


if __name__ == "__main__":
    main()
