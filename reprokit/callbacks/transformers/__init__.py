"""The callback for Hugging Face's Trainer."""

from reprokit.callbacks.transformers.callback import PackageCheckpoint

__all__ = ["PackageCheckpoint"]
