"""One module per framework; each loads its framework only when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["keras", "lightning", "pytorch", "sklearn", "tensorflow", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'reprokit.callbacks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return importlib.import_module(f"reprokit.callbacks.{name}")
