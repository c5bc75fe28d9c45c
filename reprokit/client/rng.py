"""The global random generators of Python and NumPy: their states as values, and back."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["generator_state", "rng_state", "same", "set_generator_state", "set_rng_state"]

_TWISTER = 624  # numbers in the state of a Mersenne Twister


def rng_state() -> dict[str, Any]:
    """Return the state of the global generators of Python and NumPy, where they are in use."""
    state: dict[str, Any] = {}
    if (random := sys.modules.get("random")) is not None:
        state["python"] = random.getstate()
    if (generator := sys.modules.get("numpy.random")) is not None:
        state["numpy"] = generator.get_state(legacy=False)
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global generators of Python and NumPy back to where `rng_state` found them.

    Raises:
        ValueError: It is the state of no generator.
    """
    if "python" in state:
        importlib.import_module("random").setstate(state["python"])
    if "numpy" in state:
        importlib.import_module("numpy.random").set_state(_sound(state["numpy"]))


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
        generator.bit_generator.state = _sound(state)
    else:
        generator.set_state(_sound(state))


def same(one: Any, other: Any) -> bool:
    """True if two states, of one or several generators, are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "tobytes") and hasattr(other, "tobytes"):
        return bool(one.tobytes() == other.tobytes())
    return bool(one == other)


def _sound(state: Any) -> Any:
    """Return a state of NumPy's; it does not look where in its numbers a Mersenne Twister is, and may read beyond."""
    try:
        position = state["state"]["pos"] if state["bit_generator"] == "MT19937" else 0
    except (TypeError, KeyError, IndexError):
        raise ValueError("reprokit: the state of a NumPy generator is malformed") from None
    if type(position) is not int or not 0 <= position <= _TWISTER:
        raise ValueError(f"reprokit: the state of a NumPy generator is malformed: its position is {position}")
    return state
