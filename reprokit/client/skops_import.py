"""skops, imported without the frameworks that scikit-learn could work with: for a list of estimators it walks through
all of scikit-learn, whose adapters to PyTorch, CuPy and Dask would each load theirs, if it is installed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["skops_io"]

_ADAPTERS = tuple(f"sklearn.externals.array_api_compat.{name}" for name in ("torch", "cupy", "dask"))


def _skops_io() -> Any:
    passed_over = [name for name in _ADAPTERS if name not in sys.modules]
    for name in passed_over:
        sys.modules[name] = None  # type: ignore[assignment]  # an ImportError, which the walk ignores
    try:
        return importlib.import_module("skops.io")
    finally:
        for name in passed_over:
            if sys.modules.get(name, name) is None:
                del sys.modules[name]


skops_io = _skops_io()
