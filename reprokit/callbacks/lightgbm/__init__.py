"""The callback for LightGBM."""

from reprokit.callbacks.lightgbm.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
