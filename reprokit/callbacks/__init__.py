"""One folder per framework; each loads its framework only when it is asked for."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

__all__ = sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'reprokit.callbacks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return importlib.import_module(f"reprokit.callbacks.{name}")
