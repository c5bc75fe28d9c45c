"""Scripts of a few lines, killed and gone on with in this process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.resume.rehearsal import Rehearsal

Rehearse = Callable[..., Rehearsal]

_HEAD = """\
import itertools, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from reprokit.callbacks.pytorch import PackageCheckpoint

x = torch.linspace(-1, 1, 80).reshape(20, 4) ** 3
y = x.sum(1, keepdim=True)
mse = nn.functional.mse_loss
"""


@pytest.fixture
def rehearse(tmp_path: Path) -> Rehearse:
    """Return what makes a rehearsal of a script, saved every n steps, or each epoch."""
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")

    def seed() -> None:
        torch.manual_seed(7)
        random.seed(7)

    def make(source: str, steps: int | None = None) -> Rehearsal:
        every: dict[str, Any] | None = None if steps is None else {"unit": "step", "n": steps}
        return Rehearsal(_HEAD + source, tmp_path, every=every, seed=seed)

    return make
