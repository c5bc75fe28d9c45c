"""What a notebook's kernel does before its first cell, so that cells behave as a script of the run does."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

__all__ = ["prepare"]


def prepare(shell: Any, folder: str) -> None:
    """Make an IPython shell ready for a run.

    Modules beside the notebook are imported as those beside a script are. Python's random numbers begin at the run's
    seed, whatever the kernel drew since it started. `sys.excepthook`, through which callbacks save on an exception, is
    called for a cell that raises; IPython itself does not call it.

    Args:
        folder: The notebook's.
    """
    sys.path.insert(0, folder)
    if os.environ.get("REPROKIT_DETERMINISM", "off") != "off":
        random.seed(int(os.environ["REPROKIT_SEED"]))
    sys.excepthook = _shown_by_ipython
    shell.events.register("post_run_cell", _after_cell)


def _shown_by_ipython(*_: object) -> None:
    """Print no traceback: the cell's output has it."""


def _after_cell(result: Any) -> None:
    error = result.error_in_exec
    if error is not None and not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
