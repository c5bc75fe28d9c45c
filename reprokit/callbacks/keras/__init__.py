"""The callback for Keras."""

from reprokit.callbacks.keras.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
