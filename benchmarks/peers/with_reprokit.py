"""The training of benchmarks/checkpoints.py with reprokit's checkpoints, written as a user writes it.

The benchmark commits this file and training.py to a repository and calls `reprokit run recipe.yaml` there.
"""

import json
from pathlib import Path

import torch
import training

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


def main() -> None:
    params = reprokit.params(kind="full", dim=1440, epochs=10, steps=12, reference=None)
    model, optimizer, step = training.make(params["kind"], params["dim"])
    ckpt = PackageCheckpoint(model=model, optimizer=optimizer)
    clocks = training.clocked(ckpt.epochs(params["epochs"]), params["steps"], step, lambda loss: ckpt.save(loss=loss))
    clocks["stalls"].insert(0, clocks["entered"])
    Path("clocks.json").write_text(json.dumps(clocks | training.sizes(model, optimizer)))
    if params["reference"]:  # for the benchmark of loading: the same state for the peers
        torch.save(training.state(model, optimizer), params["reference"])


if __name__ == "__main__":
    main()
