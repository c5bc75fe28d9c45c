"""Where reprokit itself lies, for processes that it starts."""

from __future__ import annotations

from pathlib import Path

__all__ = ["IMPORT_ROOT", "PACKAGE"]

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder `reprokit`."""

IMPORT_ROOT = PACKAGE.parent
"""The folder that it is imported from."""
