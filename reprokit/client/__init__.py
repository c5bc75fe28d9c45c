"""What a training script calls. Standard library only, until a first snapshot.

Inside a run these talk to the runner. Outside one (a notebook, a plain `python train.py`) a writer process is started
at the first save, and what it stores goes to the default registry.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from reprokit.client.connection import connect
from reprokit.client.facts.params import of_run

__all__ = ["ATTACHED", "connect", "context", "log", "log_artifact", "number", "params"]


ATTACHED: dict[str, Any] = {}
"""Inside `with reprokit.run(…)`, its ID and params; else empty."""


def context() -> dict[str, Any]:
    """Return what the runner tells the script: ID, params, when to save, what to resume from; empty outside a run."""
    path = os.environ.get("REPROKIT_CONTEXT")
    return _read(path) if path else dict(ATTACHED)


@functools.cache
def _read(path: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path(path).read_bytes())
    return value


def params(**defaults: Any) -> dict[str, Any]:
    """Return the run's parameters: the recipe's, and for names that it does not set, `defaults`.

    In a run that a recipe started it notes which of them are read; `dict(…)` makes a plain dictionary of it.
    """
    told = context().get("params", {})
    return of_run(told, defaults) if os.environ.get("REPROKIT_CONTEXT") else {**defaults, **told}


def log(*, step: int | None = None, **metrics: float) -> None:
    """Record `metrics`, at a `step` if given. Anything that `float()` takes is a value.

    Raises:
        TypeError: A value is not a number.
    """
    values = {name: number(name, value) for name, value in metrics.items()}
    connect().send({"type": "metrics", "step": None if step is None else int(step), "values": values})


def number(name: str, value: Any) -> float:
    """Return a metric as a float, or raise a TypeError that names it."""
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"reprokit: the metric {name!r} is {value!r}, which is not a number") from None


def log_artifact(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Keep a file as it is now, beside the run's record.

    Args:
        path: The file.
        name: It is kept as `artifacts/NAME`; by default the file's own name.
    Raises:
        FileNotFoundError: There is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"reprokit.log_artifact: {file} is not a file")
    connect().request({"type": "artifact", "path": str(file.absolute()), "name": name or file.name})
