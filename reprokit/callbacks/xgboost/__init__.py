"""The callback for XGBoost."""

from reprokit.callbacks.xgboost.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
