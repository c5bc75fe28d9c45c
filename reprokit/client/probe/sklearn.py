"""The state that scikit-learn estimators carry. Loads nothing: looks at what is loaded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from reprokit.client.probe.digests import UnreadableError
from reprokit.client.probe.places import Living, Objects
from reprokit.client.probe.source import Given, Parts, Source, read, told

__all__ = ["facts", "find"]

_FORESTS = ("sklearn.ensemble", "sklearn.tree")


def find(_names: Mapping[int, str], objects: Objects, _given: Given, _living: Living) -> Iterator[Source]:
    """Yield the estimators that learn step by step."""
    for name, thing in objects if "sklearn" in sys.modules else ():
        if hasattr(type(thing), "partial_fit") and hasattr(type(thing), "get_params"):
            yield Source("estimator", type(thing).__name__, name, None, read(_fitted, thing))


def _fitted(estimator: Any) -> Parts:
    items: dict[str, str] = {}
    for name, value in vars(estimator).items():
        with contextlib.suppress(UnreadableError):
            items[name] = told(value)
    return {"estimator": items}


def facts(_names: Mapping[int, str], objects: Objects, _held: list[Any], _living: Living) -> dict[str, Any]:
    """Return the forests without a seed."""
    if "sklearn" not in sys.modules:
        return {}
    return {
        "unseeded": [
            f"{type(thing).__name__} ({name})"
            for name, thing in objects
            if type(thing).__module__.startswith(_FORESTS)
            and not name.endswith(".estimator`")  # the pattern that a forest's trees are made after
            and getattr(thing, "__dict__", {}).get("random_state", 0) is None
        ]
    }
