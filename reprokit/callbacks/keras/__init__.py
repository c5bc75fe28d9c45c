"""The callback for Keras."""

from reprokit.callbacks.keras.callback import PackageCheckpoint
from reprokit.callbacks.keras.data import Batches

__all__ = ["Batches", "PackageCheckpoint"]
