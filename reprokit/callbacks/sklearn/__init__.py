"""The callback for scikit-learn."""

from reprokit.callbacks.sklearn.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
