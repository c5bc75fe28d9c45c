"""Faults of a reproduction, drawn by seed.

`draw(seed)` draws one of any kind, `draw(seed, kind)` one of this kind: which image, which digit, which epoch.
"""

from __future__ import annotations

import random

from tests.faults import code_faults, hidden_faults, recipe_faults
from tests.faults.drawing import KINDS, Expected, Fault

__all__ = ["KINDS", "Expected", "Fault", "draw"]

_ = (code_faults, hidden_faults, recipe_faults)  # each adds its kinds


def draw(seed: int, kind: str | None = None) -> Fault:
    """Return the fault that a seed draws."""
    chosen = kind or random.Random(seed).choice(list(KINDS))
    training, make = KINDS[chosen]
    detail, apply = make(random.Random(f"{chosen} {seed}"))
    return Fault(kind=chosen, seed=seed, training=training, detail=detail, apply=apply)
