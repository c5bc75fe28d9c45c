"""The global random generators of Python and NumPy: their states as values, and back."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["generator_state", "rng_state", "set_generator_state", "set_rng_state"]


def rng_state() -> dict[str, Any]:
    """Return the state of the global generators of Python and NumPy, where they are in use."""
    state: dict[str, Any] = {}
    if (random := sys.modules.get("random")) is not None:
        state["python"] = random.getstate()
    if (generator := sys.modules.get("numpy.random")) is not None:
        state["numpy"] = generator.get_state(legacy=False)
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global generators of Python and NumPy back to where `rng_state` found them."""
    if "python" in state:
        importlib.import_module("random").setstate(state["python"])
    if "numpy" in state:
        importlib.import_module("numpy.random").set_state(state["numpy"])


def generator_state(generator: Any) -> Any:
    """Return the state of a generator that the user holds: random.Random, np.random.Generator or RandomState."""
    if hasattr(generator, "getstate"):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state(legacy=False)


def set_generator_state(generator: Any, state: Any) -> None:
    """Put a generator back to a state that `generator_state` gave.

    Raises:
        ValueError: The state is that of another kind of generator.
    """
    if hasattr(generator, "setstate"):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
