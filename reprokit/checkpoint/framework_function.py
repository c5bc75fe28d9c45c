"""Functions of callbacks and codecs that frameworks name by where they lie, loaded where they are called."""

from __future__ import annotations

import importlib
from typing import Any

from reprokit.core.own_extras import pip_words
from reprokit.errors import UsageError

__all__ = ["framework_function"]


def framework_function(place: str, *, extra: str, what: str) -> Any:
    """Return a function by `module:name`.

    Args:
        extra: Which of reprokit's extras brings what its module needs.
        what: What needs it, as a sentence begins.
    Raises:
        UsageError: A library is not installed; the extra is named.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UsageError(
            f"{what} needs a library that is not installed here: {error.name}.",
            hint=f"`pip install {pip_words(extra)}`",
        ) from None
