"""reprokit: reproducible builds for machine learning.

Importing this loads nothing but the standard library; each public name loads its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from reprokit._version import __version__

if TYPE_CHECKING:
    from reprokit import callbacks, vfs
    from reprokit.checkpoint.load import load_checkpoint
    from reprokit.client import log, log_artifact, params
    from reprokit.client.snapshot import save_checkpoint
    from reprokit.errors import Error
    from reprokit.execution.run import run, start_run
    from reprokit.packages.build import build
    from reprokit.packages.package import Package

__all__ = [
    "Error",
    "Package",
    "__version__",
    "build",
    "callbacks",
    "load_checkpoint",
    "log",
    "log_artifact",
    "params",
    "run",
    "save_checkpoint",
    "start_run",
    "vfs",
]

_HOMES = {
    "Error": "reprokit.errors",
    "Package": "reprokit.packages.package",
    "build": "reprokit.packages.build",
    "load_checkpoint": "reprokit.checkpoint.load",
    "load_ipython_extension": "reprokit.cli.magic",
    "log": "reprokit.client",
    "log_artifact": "reprokit.client",
    "params": "reprokit.client",
    "run": "reprokit.execution.run",
    "save_checkpoint": "reprokit.client.snapshot",
    "start_run": "reprokit.execution.run",
}


def __getattr__(name: str) -> Any:
    if name in ("callbacks", "vfs"):
        return importlib.import_module(f"reprokit.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'reprokit' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
