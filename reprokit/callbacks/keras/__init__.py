"""The callback for Keras."""

from reprokit.callbacks.keras.callback import Batches, PackageCheckpoint

__all__ = ["Batches", "PackageCheckpoint"]
