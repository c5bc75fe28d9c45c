"""Train a new head for the digits 5 to 9 on a backbone that stays as it was; writes metrics.json.

Run it with `reprokit run examples/frozen_backbone/finetune.yaml`, after `pretrain.yaml`: the backbone is that of its
best checkpoint, which the recipe lays out at `base/`. The script sets no seed: reprokit does.
"""

from pathlib import Path

from handwriting import digits, network, train
from safetensors.torch import load_file
from torch import Tensor, nn

import reprokit


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
    parts = digits(5, each=params.pop("each"))
    model = network()
    model.backbone.load_state_dict(pretrained(Path("base")))
    if params.pop("frozen"):
        freeze(model.backbone)
    train(model, parts, **params)


if __name__ == "__main__":
    main()
