"""Train a new head for the digits 5 to 9 on a backbone that stays as it was; writes metrics.json.

Run it with `reprokit run examples/frozen_backbone/finetune.yaml`, after `pretrain.yaml`: the backbone is that of its
best checkpoint, which the recipe lays out at `base/`. The script sets no seed: reprokit does.
"""

import json
from pathlib import Path

import torch
from handwriting import digits, evaluate, network
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


def pretrained(checkpoint: Path) -> dict[str, Tensor]:
    """Return the tensors of the backbone in a checkpoint, by their names below it."""
    found: dict[str, Tensor] = {}
    for shard in sorted((checkpoint / "model").glob("*.safetensors")):
        found |= load_file(shard)
    return {name.removeprefix("backbone."): tensor for name, tensor in found.items() if name.startswith("backbone.")}


def freeze(backbone: nn.Module) -> None:
    """Keep parameters as they are, and the means and variances of batch normalisation, which no gradient moves."""
    backbone.requires_grad_(False)
    backbone.eval()


def main() -> None:
    params = reprokit.params(epochs=10, learning_rate=0.01, batch_size=16, each=20, frozen=True)
    train, test = digits(5, each=params["each"])
    loader = DataLoader(
        train,
        batch_size=params["batch_size"],
        shuffle=True,
        generator=torch.Generator().manual_seed(torch.initial_seed()),  # the run's seed, a stream of its own
    )
    model = network()
    model.backbone.load_state_dict(pretrained(Path("base")))
    if params["frozen"]:
        freeze(model.backbone)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moving, lr=params["learning_rate"])

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
