"""What an extra of reprokit brings, as pip takes it: right wherever reprokit itself was installed from."""

from __future__ import annotations

import shlex

__all__ = ["pip_words"]

_OURS = "reprokit-runs"


def pip_words(extra: str) -> str:
    """Return what to give to `pip install` for an extra: its requirements, quoted for a shell.

    The extra itself, where nothing is known of what is installed here.
    """
    from importlib import metadata  # where something is missing, and no sooner

    from packaging.requirements import Requirement

    try:
        told = [Requirement(text) for text in metadata.requires(_OURS) or []]
    except metadata.PackageNotFoundError:
        told = []
    wanted = [
        f"{one.name}{one.specifier}"
        for one in told
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]
    return " ".join(map(shlex.quote, wanted or [f"{_OURS}[{extra}]"]))
