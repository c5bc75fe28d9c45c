"""The callback for PyTorch."""

from reprokit.callbacks.pytorch.callback import PackageCheckpoint, remake_workers, samplers_of

__all__ = ["PackageCheckpoint", "remake_workers", "samplers_of"]
