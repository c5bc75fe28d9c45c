"""Pickles that may be a stranger's: data and named types, nothing executed."""

from __future__ import annotations

from reprokit.checkpoint.safe_pickle.load import load_pickled

__all__ = ["load_pickled"]
