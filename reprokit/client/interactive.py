"""`with reprokit.start_run(name=…):` in a notebook or a console: what is saved inside becomes one run."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

from reprokit.client import ATTACHED
from reprokit.client.connection import Attached, attach, detach
from reprokit.client.writer import set_aside, take_up

__all__ = ["InteractiveRun"]


class InteractiveRun:
    """A run that begins and ends with a `with` block. Inside a run that a recipe started, the block is part of that.

    Attributes:
        run_id: Known inside the block, and after it.
    """

    def __init__(self, *, name: str, params: dict[str, Any], registry: str | None) -> None:
        self.name = name
        self.params = params
        self.run_id: str | None = None
        self._registry = registry
        self._attached: Attached | None = None
        self._before: Any = None

    def __enter__(self) -> InteractiveRun:
        if os.environ.get("REPROKIT_RUN_ID"):
            self.run_id = os.environ["REPROKIT_RUN_ID"]
            return self
        if ATTACHED:
            raise RuntimeError(f"reprokit: a run is being recorded already: {ATTACHED['run_id']}")
        told = {"name": self.name, "params": self.params, "registry": self._registry}
        self._attached = attach(told)
        self.run_id = self._attached.run_id
        self._before = set_aside()
        self._attached.tell({"cells": _cells()})
        ATTACHED.update(run_id=self.run_id, params=self.params)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._attached is None:
            return
        ATTACHED.clear()
        told: dict[str, Any] = {"cells": _cells(), "status": "finished"}
        if kind is not None:
            told |= {"status": "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"}
            told |= {"failure": f"{kind.__name__}: {error}"}
        try:
            take_up(self._before)  # which waits for what was handed over
        except RuntimeError as lost:
            told |= {"status": "failed", "failure": str(lost)}
            if kind is None:
                raise
        finally:
            self._attached.tell(told)
            detach(self._attached)


def _cells() -> list[str]:
    """Return the sources that this IPython session has executed so far, in that order; none elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return [] if shell is None else [str(source) for source in shell.history_manager.input_hist_raw[1:]]
