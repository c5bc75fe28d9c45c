"""Notebooks that tests write."""

from __future__ import annotations

import json
from typing import Any

RECIPE = """\
name: nb
code: {notebook: train.ipynb}
params: {epochs: 3, rate: 0.1}
execution: {seed: 7, threads: 1}
checkpoints: {package: t/model}
outputs: [metrics.json]
"""

TRAIN = (
    ("epochs, rate = 1, 0.5", "parameters"),
    "import os\nimport numpy as np\nimport reprokit\nrng = np.random.default_rng(int(os.environ['PYTHONHASHSEED']))",
    "weights = rng.normal(size=(4, 3))\n"
    "for epoch in range(epochs):\n"
    "    weights = weights - rate * rng.normal(size=weights.shape)\n"
    "    reprokit.save_checkpoint({'w': weights}, epoch=epoch, loss=float(np.square(weights).mean()))\n"
    "    print('epoch', epoch)",
    "open('metrics.json', 'w').write(str(weights.sum()));",
)


def notebook(*cells: str | tuple[str, ...], minor: int = 5, **metadata: Any) -> str:
    """Return a notebook of code cells; a tuple is a source and its tags."""
    made = []
    for number, cell in enumerate(cells):
        source, *tags = (cell,) if isinstance(cell, str) else cell
        made.append(
            {
                "cell_type": "code",
                "metadata": {"tags": tags} if tags else {},
                "execution_count": None,
                "outputs": [],
                "source": source,
                **({"id": f"cell-{number}"} if minor >= 5 else {}),
            }
        )
    return json.dumps({"nbformat": 4, "nbformat_minor": minor, "metadata": metadata, "cells": made})


def executed(text: str, *, counts: list[int], printed: str = "x") -> str:
    """Return a notebook as Jupyter saves it after its cells ran: with counts, outputs and times."""
    plain = json.loads(text)
    for cell, count in zip(plain["cells"], counts, strict=True):
        cell["execution_count"] = count
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [printed]}]
        cell["metadata"]["execution"] = {"iopub.status.busy": "2026-01-01T00:00:00Z"}
    plain["metadata"]["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return json.dumps(plain, indent=1)
