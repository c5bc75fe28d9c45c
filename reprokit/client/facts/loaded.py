"""Shared libraries that this process has loaded. None is loaded by asking."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["loaded", "mapped"]


def mapped(*names: str) -> list[Path]:
    """Return the libraries mapped into this process whose file names have one of `names` in them."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and len(line.split(maxsplit=5)) == 6}
    return [Path(path) for path in sorted(paths) if any(name in Path(path).name for name in names)]


def loaded(path: Path) -> ctypes.CDLL | None:
    """Return a library that this process has loaded; None if it has not."""
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except (OSError, AttributeError):
        return None
