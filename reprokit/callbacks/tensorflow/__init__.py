"""The callback for TensorFlow."""

from reprokit.callbacks.tensorflow.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
