"""The callback for Lightning."""

from reprokit.callbacks.lightning.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
