"""What a notebook's kernel does before its first cell, so that cells behave as a script of the run does."""

from __future__ import annotations

import atexit
import os
import random
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["keep", "prepare"]

_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], None]
_KEPT: list[_Hook] = []
_PATIENCE = (
    0.5  # seconds; ipykernel 7.4 may flush once more when nothing takes output any longer, and would wait for 10
)


def keep(hook: _Hook | None) -> None:
    """Keep what a callback made `sys.excepthook`: IPython puts back its own before a cell's exception gets to it."""
    _KEPT[:] = [] if hook is None else [hook]


def prepare(shell: Any, folder: str) -> None:
    """Make an IPython shell ready for a run.

    Modules beside the notebook are imported as those beside a script are. Python's random numbers begin at the run's
    seed, whatever the kernel drew since it started. What callbacks do on an exception is done for a cell that raises.
    Output is waited for, not dropped, where the process that keeps it cannot keep up.

    Args:
        folder: The notebook's.
    """
    sys.path.insert(0, folder)
    if os.environ.get("REPROKIT_DETERMINISM", "off") != "off":
        random.seed(int(os.environ["REPROKIT_SEED"]))
    shell.excepthook = _shown_by_ipython
    shell.events.register("post_run_cell", _after_cell)
    for stream in (sys.stdout, sys.stderr):
        setattr(stream, "flush_timeout", _PATIENCE)  # noqa: B010 - of ipykernel's streams, no others
    # at exit ipykernel waits for its sockets without a limit; the end of the process closes them too
    atexit.unregister(shell.kernel.parent.close)
    line = shell.kernel.iopub_thread
    line.schedule(lambda: setattr(line.socket, "xpub_nodrop", 1))


def _shown_by_ipython(*_: object) -> None:
    """Print no traceback: the cell's output has it."""


def _after_cell(result: Any) -> None:
    error = result.error_in_exec
    if error is not None and not isinstance(error, SystemExit):
        for hook in [*_KEPT]:
            hook(type(error), error, error.__traceback__)
        _KEPT.clear()
