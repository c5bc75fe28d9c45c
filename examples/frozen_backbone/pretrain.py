"""Train backbone and head on the digits 0 to 4; writes metrics.json.

Run it with `reprokit run examples/frozen_backbone/pretrain.yaml`. The script sets no seed: reprokit does.
"""

from handwriting import digits, network, train

import reprokit


def main() -> None:
    params = reprokit.params(epochs=10, learning_rate=0.01, batch_size=32, each=120)
    parts = digits(0, each=params.pop("each"))
    train(network(), parts, **params)


if __name__ == "__main__":
    main()
