"""The callback for PyTorch."""

from reprokit.callbacks.pytorch.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
